"""One question to a server that we run: it may not be ready, which the driver would wait for."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hiredis

from millstream.server.access import LINK

__all__ = ["Address", "Refused", "ask", "fields"]

PATIENCE = 5.0
"""Seconds for an answer."""


class Refused(Exception):
    """The server answered with an error, which is the text."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node answers us.

    Attributes:
        place: its unix socket, or host and port.
        link: the password of ``LINK``; None: none is asked for.
    """

    place: Path | tuple[str, int]
    link: str | None = field(default=None, repr=False)


def ask(address: Address, *words: str, timeout: float = PATIENCE) -> Any:
    """Send a command; return the answer, bulk strings as text.

    Raises:
        OSError: nobody is there (yet, or any more), or there is no answer in time.
        Refused: the answer is an error.
    """
    commands: list[Any] = [words]
    if address.link is not None:
        commands.insert(0, ("AUTH", LINK, address.link))
    reader = hiredis.Reader(encoding="utf-8", errors="replace")
    reply: Any = None
    with closing(_connect(address, timeout)) as connection:
        connection.sendall(b"".join(hiredis.pack_command(one) for one in commands))
        for _ in commands:
            while (reply := reader.gets()) is False:
                data = connection.recv(65_536)
                if not data:
                    raise ConnectionResetError("the server has closed the connection")
                reader.feed(data)
            if isinstance(reply, hiredis.ReplyError):
                raise Refused(str(reply))
    return reply


def _connect(address: Address, timeout: float) -> socket.socket:
    if isinstance(address.place, tuple):
        return socket.create_connection(address.place, timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(str(address.place))
    except BaseException:
        connection.close()
        raise
    return connection


def fields(text: str) -> dict[str, str]:
    """Read what INFO and CLUSTER INFO answer."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in lines if colon}
