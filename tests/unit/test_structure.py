"""The rules of CONTRIBUTING.md that a machine can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def names_of_tested_scripts() -> set[str]:
    """The scripts that the modules of tests/lua say they are for, in their docstrings."""
    texts = (module.read_text("utf-8") for module in modules_of(TESTS / "lua"))
    docstrings = (ast.get_docstring(ast.parse(text)) or "" for text in texts)
    return {name for text in docstrings for name in re.findall(r"\b\w+\.lua\b", text)}


@pytest.mark.parametrize("module", modules_of(SOURCE), ids=relative)
def test_modules_and_functions_are_small(module: Path) -> None:
    """A module or function that outgrows its limit is split, by noun."""
    text = module.read_text("utf-8")

    assert len(text.splitlines()) <= MAX_MODULE_LINES
    assert long_functions(text) == []


@pytest.mark.parametrize("module", modules_of(TESTS), ids=relative)
def test_every_test_says_what_it_expects(module: Path) -> None:
    """Each test has a docstring: the sentence that is false when it fails."""
    assert undocumented_tests(module.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "module", [m for m in modules_of(TESTS) if TESTS / "support" not in m.parents], ids=relative
)
def test_no_test_sleeps(module: Path) -> None:
    """Tests wait for conditions (tests/support/wait.py), not for a time somebody guessed."""
    assert sleeps(module.read_text("utf-8")) == []


@pytest.mark.parametrize("script", scripts(), ids=relative)
def test_scripts_are_small_and_say_what_they_take(script: Path) -> None:
    """A Lua script is short, and its header names KEYS, ARGV and what it returns."""
    text = script.read_text("utf-8")
    top = header(text).lower()

    assert len(text.splitlines()) <= MAX_SCRIPT_LINES
    assert [word for word in ("keys", "argv", "returns") if word not in top] == []


def test_every_script_has_tests_of_its_own() -> None:
    """The docstring of a module in tests/lua names each script, and none that is not there."""
    assert names_of_tested_scripts() == {script.name for script in scripts()}


def test_the_checks_find_violations() -> None:
    """The checks above are not blind."""
    body = "\n    pass" * MAX_FUNCTION_LINES

    assert long_functions(f"def f():{body}") == [f"f: {MAX_FUNCTION_LINES + 1} lines"]
    assert undocumented_tests("class T:\n    async def test_x(self): ...") == ["test_x"]
    assert sleeps("import time\ntime.sleep(0.1)\ntime.sleep(n)") == [2, 3]
    assert sleeps("await asyncio.sleep(0)\ntime.sleep(1)  # the work itself") == []
    assert header("-- KEYS: a\n-- ARGV: b\nlocal x = 1 -- returns\n") == "-- KEYS: a\n-- ARGV: b\n"
