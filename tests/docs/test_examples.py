"""Every example in README.md and docs/ runs.

A file's blocks run in order in one namespace, as a reader would paste them into one session:

- ```python: may use top-level await. A block whose first line is a comment with a file name
  (`# tasks.py`) is also saved under that name, for later blocks to import or run.
- ```console: each line that starts with `$ ` is a shell command that must succeed; a line that
  ends in a backslash goes on in the next. Other lines are output, for the reader only.
- `<!-- not run: reason -->` before a block skips it. The reason is mandatory.

$MILLSTREAM_URL leads to an empty server (for the pages on Sentinels and clusters, to such), the current
directory is an empty one.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.support.cluster import Cluster
from tests.support.sentinel import SentinelSetup
from tests.support.servers import Server

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<kind>python|console)\b[^\n]*\n(?P<body>.*?)^[ ]*```[ ]*$",
    re.DOTALL | re.MULTILINE,
)
NOT_RUN = re.compile(r"<!--\s*not run\b:?(?P<reason>[^>]*?)-->\s*\Z")
FILE_NAME = re.compile(r"# ([\w./-]+\.py)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced example."""

    kind: Literal["python", "console"]
    text: str
    line: int  # of its first line in the file


def blocks_of(markdown: str) -> Iterator[Block]:
    """The blocks to run, in order."""
    for match in FENCE.finditer(markdown):
        line = markdown.count("\n", 0, match.start("body")) + 1
        if skip := NOT_RUN.search(markdown, 0, match.start()):
            assert skip["reason"].strip(), f"line {line}: why is this block not run?"
            continue
        kind: Literal["python", "console"] = "python" if match["kind"] == "python" else "console"
        yield Block(kind, textwrap.dedent(match["body"]), line)


def pages() -> list[Path]:
    """The files with examples."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    own = [p for p in found if p.exists() and ROOT / "docs" / "adr" not in p.parents]
    return [p for p in own if any(FENCE.finditer(p.read_text("utf-8")))]


def run_python(block: Block, page: str, module: types.ModuleType, runner: asyncio.Runner) -> None:
    """Run one block; a traceback shows the page's own lines."""
    if name := FILE_NAME.match(block.text):
        path = Path(name[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, "utf-8")
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    outcome = eval(code, module.__dict__)  # noqa: S307 - running our own documentation is the point
    if inspect.iscoroutine(outcome):
        runner.run(outcome)


def commands_in(console: str) -> list[str]:
    """The commands of a console block, without the prompt."""
    joined = re.sub(r"\\\n(?:> )?", "", console)
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def run_console(block: Block, page: str) -> None:
    """Run the commands of one block with the `millstream` of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands_in(block.text):
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=150,  # a worker that is waited for starts late on a busy machine
            check=False,
        )
        assert done.returncode == 0, f"{page}:{block.line}: {command}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def docs_server() -> Iterator[Server]:
    """A server of its own: examples use the default namespace."""
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def docs_cluster() -> Iterator[Cluster]:
    """What the page on clusters runs on."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def session(
    docs_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[types.ModuleType]:
    """An empty `__main__` module in an empty directory, with an empty server."""
    docs_server.admin().flushall()
    monkeypatch.setenv("MILLSTREAM_URL", docs_server.url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = types.ModuleType("__main__")
    # Type hints of classes in the examples are looked up through sys.modules.
    monkeypatch.setitem(sys.modules, "__main__", module)
    yield module
    for name, imported in list(sys.modules.items()):
        if (getattr(imported, "__file__", None) or "").startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]


def run_page(markdown: str, page: str, session: types.ModuleType) -> None:
    """Run all blocks of one page."""
    with asyncio.Runner() as runner:
        for block in blocks_of(markdown):
            if block.kind == "python":
                run_python(block, page, session, runner)
            else:
                run_console(block, page)


# Each command of a page is a process of its own, and docs/cli.md has dozens.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_examples_run(
    page: Path,
    session: types.ModuleType,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The examples of a page run as they stand."""
    with contextlib.ExitStack() as stack:
        if page.name == "sentinel.md":
            setup = stack.enter_context(SentinelSetup())
            monkeypatch.setenv("MILLSTREAM_URL", setup.url)
        if page.name == "cluster.md":
            url = request.getfixturevalue("docs_cluster").admin_url
            monkeypatch.setenv("MILLSTREAM_URL", url)
        run_page(page.read_text("utf-8"), str(page), session)


PAGE = """
```python
# tasks.py
import asyncio
import os
from dataclasses import dataclass

@dataclass
class Order:
    id: "int"
```

1. In a list:

   ```python
   import typing, tasks
   assert typing.get_type_hints(Order) == {"id": int} == typing.get_type_hints(tasks.Order)
   assert __name__ == "__main__"
   await asyncio.sleep(0)
   ```

<!-- not run: it would fail -->

```python
raise SystemExit
```

```console
$ test -f tasks.py && \\
> test -n "$MILLSTREAM_URL" && python -c 'import tasks'
nothing
```
"""


def test_how_examples_run(session: types.ModuleType) -> None:
    """Blocks share a namespace, may await, can be saved, skipped, and be shell commands."""
    run_page(PAGE, "page.md", session)

    assert session.__dict__["Order"].__module__ == "__main__"


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("```python\n1 / 0\n```", ZeroDivisionError),
        ("```console\n$ false\n```", AssertionError),
        ("<!-- not run -->\n```python\n```", AssertionError),
        ("<!-- not run: -->\n```python\n```", AssertionError),
    ],
)
def test_bad_examples_fail(page: str, error: type[Exception], session: types.ModuleType) -> None:
    """An example that raises, a command that fails, or a skip without a reason fails the page."""
    with pytest.raises(error):
        run_page(page, "page.md", session)
