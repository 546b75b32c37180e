"""Counts what is in Python source files. Handlers call it, and so does a plain loop."""

from __future__ import annotations

import ast
import gc
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Figures", "add_up", "count_alone", "count_file", "count_source", "source_files"]

STATEMENT_LISTS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where statements hold other statements. Expressions hold nothing that is counted here."""

NOT_STANDARD = frozenset({"site-packages", "dist-packages"})
"""Folders in the standard library's folder that belong to other packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was counted, in one file or in many.

    Attributes:
        files: source files, the unparsable ones included.
        functions: ``def`` and ``async def``, methods included.
        classes: class statements.
        imports: import statements.
        lines: lines of text, of unparsable files, too.
        unparsable: files that are no valid source text for this interpreter. The test suite of
            Python has some on purpose.
    """

    files: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0
    lines: int = 0
    unparsable: int = 0


def add_up(many: Sequence[Figures]) -> Figures:
    """Return the totals."""
    return Figures(
        files=sum(one.files for one in many),
        functions=sum(one.functions for one in many),
        classes=sum(one.classes for one in many),
        imports=sum(one.imports for one in many),
        lines=sum(one.lines for one in many),
        unparsable=sum(one.unparsable for one in many),
    )


def source_files(root: Path | None = None) -> list[Path]:
    """List the source files below a folder, sorted. Default: the standard library's."""
    start = sysconfig.get_path("stdlib") if root is None else root
    found = []
    for folder, folders, names in os.walk(start):
        folders[:] = [name for name in folders if name not in NOT_STANDARD]
        paths = (Path(folder, name) for name in names if name.endswith(".py"))
        # Some systems ship links to files that only another package brings.
        found += [path for path in paths if path.is_file()]
    return sorted(found)


def count_file(path: Path) -> Figures:
    """Count what is in a file. One that cannot be read counts as unparsable, without lines."""
    try:
        source = path.read_bytes()
    except OSError:
        return Figures(files=1, unparsable=1)
    return count_source(source)


def count_source(source: bytes) -> Figures:
    """Count what is in a source text."""
    lines = len(source.splitlines())
    collecting = gc.isenabled()
    # A tree has no cycles. The collector would look through it again and again, for a quarter of
    # the time that all this takes.
    gc.disable()
    try:
        kinds = [type(node) for node in _statements(ast.parse(source))]
    except (SyntaxError, ValueError, RecursionError):
        # It would not be better the next time, so this is a result like any other.
        return Figures(files=1, lines=lines, unparsable=1)
    finally:
        if collecting:
            gc.enable()
    return Figures(
        files=1,
        functions=kinds.count(ast.FunctionDef) + kinds.count(ast.AsyncFunctionDef),
        classes=kinds.count(ast.ClassDef),
        imports=kinds.count(ast.Import) + kinds.count(ast.ImportFrom),
        lines=lines,
    )


def count_alone(files: Sequence[Path], advance: Callable[[int], None]) -> Figures:
    """Count files in a plain loop.

    Args:
        files: to count.
        advance: is told after each file how many are done.
    """
    counted = []
    # What the parser thinks of other people's style is no news here.
    with warnings.catch_warnings(action="ignore"):
        for number, path in enumerate(files, 1):
            counted.append(count_file(path))
            advance(number)
    return add_up(counted)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk through the statements only: most nodes are expressions."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        for name in STATEMENT_LISTS:
            left.extend(getattr(node, name, ()))
