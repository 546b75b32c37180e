"""The receiving half of a connection on asyncio: replies are handed on in the turn in which they come.

redis-py makes the connection and logs in. Its own way to read, a stream, a task and three coroutines,
takes two more turns of the event loop, and costs more than the server does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
from redis import exceptions

__all__ = ["Replies"]

_INCOMPLETE = object()


class Replies(asyncio.Protocol):
    """Takes over a connection: parses what it receives and passes it on, until it ends.

    Args:
        connection: of redis-py, connected and with no reply outstanding.
        on_replies: called with all replies that have come whole; errors of the server are among them.
        on_end: called once, with the reason, when the connection is lost. Not after ``abort``.

    Raises:
        ConnectionError: the server has closed it meanwhile.
    """

    def __init__(
        self,
        connection: Any,
        on_replies: Callable[[list[Any]], None],
        on_end: Callable[[BaseException], None],
    ) -> None:
        writer: asyncio.StreamWriter = connection._writer  # noqa: SLF001 - redis-py has no other way
        self._transport: Any = writer.transport
        if self._transport.is_closing() or connection._reader.at_eof():  # noqa: SLF001
            raise exceptions.ConnectionError(_CLOSED)
        self._on_replies = on_replies
        self._on_end: Callable[[BaseException], None] | None = on_end
        self._parser = hiredis.Reader(
            protocolError=exceptions.InvalidResponse,
            replyError=connection._parser.parse_error,  # noqa: SLF001 - the classes that redis-py has
            notEnoughData=_INCOMPLETE,
        )
        # Those that wait until the transport takes more; None: it does.
        self._writing: list[asyncio.Future[None]] | None = None
        self._transport.set_protocol(self)

    def write(self, payload: bytes) -> None:
        """Send, as far as the socket takes it; the rest waits in a buffer (see ``room``)."""
        self._transport.write(payload)

    def room(self) -> asyncio.Future[None] | None:
        """Return what is done when there is room again, or the connection has ended; None: there is."""
        if self._writing is None:
            return None
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writing.append(room)
        return room

    def abort(self) -> None:
        """End the connection at once; nothing is called any more."""
        self._on_end = None
        # To close would first write out what is buffered.
        self._transport.abort()
        self.resume_writing()

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """Pass on the replies that are whole by now."""
        if self._on_end is None:
            return
        parser = self._parser
        replies: list[Any] = []
        try:
            parser.feed(data)
            while (reply := parser.gets()) is not _INCOMPLETE:
                replies.append(reply)
        except exceptions.InvalidResponse as error:
            self._end(error)
            return
        if replies:
            self._on_replies(replies)

    def connection_lost(self, error: BaseException | None) -> None:
        """Tell why it has ended."""
        self._end(error or exceptions.ConnectionError(_CLOSED))

    def pause_writing(self) -> None:
        """Have those wait who want to send more."""
        self._writing = []

    def resume_writing(self) -> None:
        """Let them send."""
        waiting, self._writing = self._writing or (), None
        for room in waiting:
            if not room.done():
                room.set_result(None)

    def _end(self, reason: BaseException) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(reason)
        self.resume_writing()


_CLOSED = "Connection closed by server."
