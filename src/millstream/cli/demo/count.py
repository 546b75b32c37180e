"""Counts what is in Python source files. Handlers call it, and so does a plain loop."""

from __future__ import annotations

import ast
import gc
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "LONGEST",
    "Contents",
    "Figures",
    "Function",
    "add_up",
    "count_alone",
    "count_file",
    "count_source",
    "longest_of",
    "source_files",
]

LONGEST = 5
"""So many of the longest functions are kept."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function.

    Attributes:
        name: as it stands after ``def``.
        file: path of the file.
        line: number of the line with ``def``, from 1.
        lines: from that line to its last one. What decorates it stands above.
    """

    name: str
    file: str
    line: int
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is in one file, or in many.

    Attributes:
        figures: what was counted.
        longest: the longest functions, at most ``LONGEST``, the longest first.
        by_file: what is in each of many files.
    """

    figures: Figures
    longest: list[Function]
    by_file: Mapping[str, Figures] = field(default_factory=dict)


def longest_of(functions: Iterable[Function]) -> list[Function]:
    """Return the longest; among equals, the first by file and line, whoever has found them."""
    return sorted(functions, key=lambda one: (-one.lines, one.file, one.line))[:LONGEST]


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


def count_file(path: Path) -> Contents:
    """Count what is in a file. One that cannot be read counts as unparsable, without lines."""
    try:
        source = path.read_bytes()
    except OSError:
        return Contents(figures=Figures(files=1, unparsable=1), longest=[])
    return count_source(source, str(path))


def count_source(source: bytes, file: str) -> Contents:
    """Count what is in a source text that stands in a file."""
    lines = len(source.splitlines())
    collecting = gc.isenabled()
    # A tree has no cycles. The collector would look through it again and again, for a quarter of
    # the time that all this takes.
    gc.disable()
    try:
        nodes = list(_statements(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        # It would not be better the next time, so this is a result like any other.
        return Contents(figures=Figures(files=1, lines=lines, unparsable=1), longest=[])
    finally:
        if collecting:
            gc.enable()
    functions = [
        Function(name=one.name, file=file, line=one.lineno, lines=_length(one))
        for one in nodes
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    kinds = [type(node) for node in nodes]
    figures = Figures(
        files=1,
        functions=len(functions),
        classes=kinds.count(ast.ClassDef),
        imports=kinds.count(ast.Import) + kinds.count(ast.ImportFrom),
        lines=lines,
    )
    return Contents(figures=figures, longest=longest_of(functions))


def count_alone(files: Sequence[Path], advance: Callable[[int], None]) -> Contents:
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
    return Contents(
        figures=add_up([one.figures for one in counted]),
        longest=longest_of(function for one in counted for function in one.longest),
        by_file={str(path): one.figures for path, one in zip(files, counted, strict=True)},
    )


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    # The parser always knows the end; only trees made by hand may lack it.
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk through the statements only: most nodes are expressions."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        for name in STATEMENT_LISTS:
            left.extend(getattr(node, name, ()))
