"""Commands that cannot be taken back ask before, or want to be told --yes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from millstream.cli.output import Failed, clean
from millstream.errors import UsageError

__all__ = ["Yes", "ask", "check_confirmed"]

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def check_confirmed(yes: bool, what: str) -> None:
    """Refuse to go on where nobody can be asked.

    Args:
        yes: whether the command line says so.
        what: what the command does, such as ``purge deletes messages``.

    Raises:
        UsageError: it was not confirmed, and there is no terminal.
    """
    if not yes and not sys.stdin.isatty():
        message = f"{what} for good: confirm it with --yes"
        raise UsageError(message)


def ask(question: str, otherwise: str) -> None:
    """Have a person agree.

    Args:
        question: in one line.
        otherwise: what to say when they do not.

    Raises:
        Failed: they did not.
    """
    print(f"{clean(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise Failed(otherwise, status=1)
