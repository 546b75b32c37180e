"""The command ``millstream``."""

from __future__ import annotations

import logging
import sys

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


def main() -> int:
    """Run the command line of this process; return its exit status."""
    # What the library reports while it goes on, such as a lost connection.
    logging.basicConfig(format="millstream: %(message)s", level=logging.WARNING)
    try:
        from millstream.cli.app import execute
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        print("The command needs an extra: pip install 'millstream[cli]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # it takes a moment to load
        return INTERRUPTED
    return execute(sys.argv[1:])
