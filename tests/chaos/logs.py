"""What processes have logged: a fault of the server or the network is a warning, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.acting import WANTED
from tests.chaos.checker import Violation

__all__ = ["check_logs", "complaints"]

# The last line of a traceback: an exception and what it says.
_EXCEPTION = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Warning|Interrupt|Timeout|Lost)\b.*")
# What the run breaks: a reply that cannot be sent until its deadline, say, fails with that.
_BROKEN = re.compile(
    r"(?:\w+\.)*(?:TimeoutError|ConnectionError|ConnectionResetError|ConnectionRefusedError)\b.*"
)
_BAD = ("never retrieved", "never awaited", "Exception ignored", "Fatal Python error")


def complaints(text: str) -> Iterator[str]:
    """Yield the lines that tell of an exception which nobody wanted."""
    for line in text.splitlines():
        wanted = WANTED in line or _BROKEN.fullmatch(line)
        if (_EXCEPTION.fullmatch(line) and not wanted) or any(words in line for words in _BAD):
            yield line


def check_logs(folder: Path) -> list[Violation]:
    """Return what the logs of a run complain of."""
    return [
        Violation("logs", path.name, "", line)
        for path in sorted(folder.glob("*.log"))
        for line in complaints(path.read_text(errors="replace"))
    ]
