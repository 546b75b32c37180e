"""The rules of CONTRIBUTING.md that a machine can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "millstream"
TESTS = ROOT / "tests"

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_SCRIPT_LINES = 60
ALLOWED_SLEEP = "# the work itself"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def scripts() -> list[Path]:
    return sorted((SOURCE / "protocol" / "lua").glob("*.lua"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def findings(files: Iterable[Path], check: Callable[[str], list[Any]]) -> dict[str, list[Any]]:
    """What a check finds, of each file in which it finds something."""
    found = {relative(file): check(file.read_text("utf-8")) for file in files}
    return {name: some for name, some in found.items() if some}


def too_long(limit: int, text: str) -> list[str]:
    count = len(text.splitlines())
    return [f"{count} lines"] if count > limit else []


def functions_in(text: str) -> Iterator[Function]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            yield node


def long_functions(text: str) -> list[str]:
    lengths = [(f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions_in(text)]
    return [f"{name}: {n} lines" for name, n in lengths if n > MAX_FUNCTION_LINES]


def undocumented_tests(text: str) -> list[str]:
    tests = (f for f in functions_in(text) if f.name.startswith("test_"))
    return [f.name for f in tests if not ast.get_docstring(f)]


def sleeps(text: str) -> list[int]:
    """The lines that wait for a guessed time. sleep(0) only lets others run."""
    if "sleep" not in text:
        return []
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        if ast.unparse(node.func) not in {"time.sleep", "asyncio.sleep", "sleep"}:
            continue
        zero = isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if not zero and not lines[node.lineno - 1].rstrip().endswith(ALLOWED_SLEEP):
            found.append(node.lineno)
    return found


def header(script: str) -> str:
    """The comment lines at the top of a Lua script."""
    match = re.match(r"(?:\s*--[^\n]*\n)*", script)
    return match[0] if match else ""


def missing_in_header(script: str) -> list[str]:
    top = header(script).lower()
    return [word for word in ("keys", "argv", "returns") if word not in top]


def names_of_tested_scripts() -> set[str]:
    """The scripts that the modules of tests/lua say they are for, in their docstrings."""
    texts = (module.read_text("utf-8") for module in modules_of(TESTS / "lua"))
    docstrings = (ast.get_docstring(ast.parse(text)) or "" for text in texts)
    return {name for text in docstrings for name in re.findall(r"\b\w+\.lua\b", text)}


def test_modules_are_small() -> None:
    """A module that outgrows its limit is split, by noun."""
    assert findings(modules_of(SOURCE), partial(too_long, MAX_MODULE_LINES)) == {}


def test_functions_are_small() -> None:
    """So is a function."""
    assert findings(modules_of(SOURCE), long_functions) == {}


def test_every_test_says_what_it_expects() -> None:
    """Each test has a docstring: the sentence that is false when it fails."""
    assert findings(modules_of(TESTS), undocumented_tests) == {}


def test_no_test_sleeps() -> None:
    """Tests wait for conditions (tests/support/wait.py), not for a time somebody guessed."""
    modules = [one for one in modules_of(TESTS) if TESTS / "support" not in one.parents]

    assert findings(modules, sleeps) == {}


def test_scripts_are_small() -> None:
    """A Lua script is short."""
    assert findings(scripts(), partial(too_long, MAX_SCRIPT_LINES)) == {}


def test_scripts_say_what_they_take() -> None:
    """The header of a Lua script names KEYS, ARGV and what it returns."""
    assert findings(scripts(), missing_in_header) == {}


def test_every_script_has_tests_of_its_own() -> None:
    """The docstring of a module in tests/lua names each script, and none that is not there."""
    assert names_of_tested_scripts() == {script.name for script in scripts()}


def test_the_checks_find_violations() -> None:
    """The checks above are not blind."""
    body = "\n    pass" * MAX_FUNCTION_LINES

    assert too_long(2, "a\nb\nc") == ["3 lines"]
    assert too_long(3, "a\nb\nc") == []
    assert missing_in_header("-- KEYS: a\n-- ARGV: b\n") == ["returns"]
    assert long_functions(f"def f():{body}") == [f"f: {MAX_FUNCTION_LINES + 1} lines"]
    assert undocumented_tests("class T:\n    async def test_x(self): ...") == ["test_x"]
    assert sleeps("import time\ntime.sleep(0.1)\ntime.sleep(n)") == [2, 3]
    assert sleeps("await asyncio.sleep(0)\ntime.sleep(1)  # the work itself") == []
    assert header("-- KEYS: a\n-- ARGV: b\nlocal x = 1 -- returns\n") == "-- KEYS: a\n-- ARGV: b\n"
