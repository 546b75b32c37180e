"""The server that is measured, and a bare connection to it."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis

from millstream.driver.embedded import start_or_join

__all__ = ["Bare", "pack", "running_server"]

# Without a function around it, which would cost a bare command a tenth. Its own type hint is that
# of a tuple with one element.
pack: Callable[[tuple[str | bytes | int, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]

RECEIVE = 256 * 1024
"""More than one batch of replies, so that a batch costs few system calls."""


class Bare:
    """A blocking socket and hiredis: the least that a Python program can do.

    Args:
        address: the server's unix socket.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._reader = hiredis.Reader()

    def write(self, payload: bytes) -> None:
        """Send packed commands."""
        self._socket.sendall(payload)

    def read(self, count: int) -> list[Any]:
        """Return so many replies."""
        replies: list[Any] = []
        reader, receive = self._reader, self._socket.recv
        while True:
            while (reply := reader.gets()) is not False:
                replies.append(reply)
                if len(replies) == count:
                    return replies
            data = receive(RECEIVE)
            if not data:
                message = "the server has closed the connection"
                raise ConnectionError(message)
            reader.feed(data)

    def ask(self, *command: str | bytes | int) -> Any:
        """Run one command.

        Raises:
            hiredis.ReplyError: the server refused it.
        """
        self.write(pack(command))
        reply = self.read(1)[0]
        if isinstance(reply, hiredis.HiredisError):
            raise reply
        return reply

    def info(self, section: str) -> Mapping[str, str]:
        """Return a section of INFO."""
        text: str = self.ask("INFO", section).decode()
        pairs = (line.partition(":") for line in text.splitlines())
        return {name: value for name, colon, value in pairs if colon}

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


@contextmanager
def running_server() -> Iterator[str]:
    """Run an empty server without persistence; yield the address of its unix socket.

    It is an ``embedded://`` server, because that one ends with this process however it ends.
    """
    # A unix socket's path has at most 103 characters, and temporary directories can be long.
    directory = Path(tempfile.mkdtemp(prefix="ms-bench-", dir="/tmp"))
    try:
        with start_or_join(directory) as server:
            address = str(server.socket_path)
            bare = Bare(address)
            # What a disk costs is a property of the disk. The ceiling has none, either.
            bare.ask("CONFIG", "SET", "appendonly", "no")
            bare.ask("CONFIG", "SET", "save", "")
            bare.close()
            yield address
    finally:
        shutil.rmtree(directory, ignore_errors=True)
