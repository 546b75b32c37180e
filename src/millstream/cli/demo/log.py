"""What the demo's processes have to say, kept for the case that one of them fails."""

from __future__ import annotations

import tempfile

from millstream.cli.output import Failed

__all__ = ["Log"]

LINES = 15


class Log:
    """A temporary file for the output of processes; close it in the end.

    Attributes:
        file: to give to them.
    """

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close

    def failed(self, problem: str) -> Failed:
        """Return an error that quotes the last lines."""
        self.file.seek(0)
        lines = self.file.read().decode("utf-8", "replace").splitlines()[-LINES:]
        log = " | ".join(lines) or "nothing"
        return Failed(f"{problem}; the last words of their log: {log}", status=1)

    def close(self) -> None:
        """Forget it."""
        self.file.close()
