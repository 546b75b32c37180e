"""A bad network: a TCP proxy in front of a server that cuts, stalls, delays and loses replies.

The proxy runs on an event loop in a thread of its own, so blocking and async tests use it alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from tests.support.servers import free_port

T = TypeVar("T")

CHUNK = 65_536
CALL_TIMEOUT = 10.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: close with a RST, as a crashed host does


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`upstream`; clients connect to `url`.

    Use it as a context manager. Each method has taken effect when it returns.

    Args:
        upstream: the port of the server.
        translate: changes what replies say, in each chunk of them.
    """

    def __init__(
        self, upstream: int, *, translate: Callable[[bytes], bytes] = lambda chunk: chunk
    ) -> None:
        self.port = free_port()
        self._wire = _Wire(upstream, self.port, translate)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return self._do(lambda: len(self._wire.links))

    @property
    def lost(self) -> int:
        """How many replies drop_replies() has lost so far."""
        return self._do(lambda: self._wire.lost)

    def cut(self) -> None:
        """Reset all current connections; new ones are welcome."""
        self._do(self._wire.cut)

    def refuse(self) -> None:
        """Refuse new connections, as a server that is down; current ones stay (see cut)."""
        self._do(self._wire.close_door)

    def accept(self) -> None:
        """Accept connections again."""
        self._do(self._wire.open_door)

    def stall(self, *, requests: bool = True, replies: bool = True) -> None:
        """Keep connections open but forward nothing (or nothing in one direction) until resume().

        New connections are accepted and stall as well: the kernel of a hanging host accepts, too.
        """
        self._do(lambda: self._wire.flow(requests=not requests, replies=not replies))

    def resume(self) -> None:
        """Forward again, and first what was held back."""
        self._do(lambda: self._wire.flow(requests=True, replies=True))

    def freeze(self) -> None:
        """Forget the current connections: neither side hears of the other, or of its end, again.

        New connections are good. So a firewall drops connections, or a host dies without a word.
        """
        self._do(self._wire.freeze)

    def delay(self, seconds: float) -> None:
        """Hold every chunk of replies back for that long: it is added to the round-trip time."""
        self._do(lambda: self._wire.set_delay(seconds))

    def lead_to(self, upstream: int) -> None:
        """Connect new clients to another port: the name that they know was given to it."""
        self._do(lambda: self._wire.set_upstream(upstream))

    def drop_replies(self, *, after: int = 0, to: bytes = b"", times: int = 1) -> None:
        """Lose the next reply and reset its connection: the server did it, the client can't know.

        Requests are forwarded as ever. `after` bytes of replies still pass. `to` chooses: only
        connections that send this text from now on (a command or a key) lose their reply; without
        it, any. After that has happened `times` times, the network is good again.
        """
        self._do(lambda: self._wire.lose(_Loss(after, to, times)))

    def close(self) -> None:
        """Reset all connections and stop."""
        if not self._thread.is_alive():
            return
        self._do(self._wire.close_door)
        self._await(self._wire.end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT)
        self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _do(self, action: Callable[[], T]) -> T:
        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(CALL_TIMEOUT)

    def _await(self, action: Callable[[], Coroutine[None, None, None]]) -> None:
        asyncio.run_coroutine_threadsafe(action(), self._loop).result(CALL_TIMEOUT)


@dataclass(slots=True)
class _Loss:
    """Which replies to lose."""

    after: int
    to: bytes
    times: int


@dataclass(slots=True, eq=False)
class _Link:
    """One client's connection and the one to the server behind it."""

    from_client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    from_server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    doomed: bool = False  # its next reply gets lost
    frozen: bool = False  # nothing passes any more, not even the end of the connection
    tail: bytes = b""  # the end of the last request: a text may be split over two chunks

    def abort(self) -> None:
        for writer in (self.to_client, self.to_server):
            raw: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()


class _Wire:
    """What the network is like now. Only the proxy's own thread touches it."""

    def __init__(self, upstream: int, port: int, translate: Callable[[bytes], bytes]) -> None:
        self.links: set[_Link] = set()
        self.lost = 0
        self._translate = translate
        self._upstream, self._port = upstream, port
        self._requests_flow, self._replies_flow = asyncio.Event(), asyncio.Event()
        self.flow(requests=True, replies=True)
        self._delay = 0.0
        self._loss: _Loss | None = None
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    # asyncio's own server forgets to close a connection that it accepts while it is being closed.

    def open_door(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=100)
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close_door(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            connection, _ = self._listener.accept()
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def cut(self) -> None:
        for link in self.links:
            link.abort()
        self.links.clear()

    def freeze(self) -> None:
        for link in self.links:
            link.frozen = True

    def flow(self, *, requests: bool, replies: bool) -> None:
        for event, flows in ((self._requests_flow, requests), (self._replies_flow, replies)):
            if flows:
                event.set()
            else:
                event.clear()

    def set_upstream(self, upstream: int) -> None:
        self._upstream = upstream

    def set_delay(self, seconds: float) -> None:
        self._delay = seconds

    def lose(self, loss: _Loss) -> None:
        self._loss = loss
        for link in self.links:
            link.doomed = not loss.to  # without a choice, a reply that is awaited already is next
            link.tail = b""

    async def end(self) -> None:
        await asyncio.sleep(0)  # who has just been accepted begins, and so closes what it has
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:  # some may still have something to write, to nobody
            writer.transport.abort()

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        from_client, to_client = await asyncio.open_connection(sock=connection)
        self._writers.append(to_client)
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        except (OSError, asyncio.CancelledError):  # the server is down, or the test is over
            to_client.transport.abort()
        else:
            self._writers.append(upstream[1])
            await self._forward(_Link(from_client, to_client, *upstream))

    async def _forward(self, link: _Link) -> None:
        """Until one side closes, or the link is cut; then close both."""
        self.links.add(link)
        pumps = [
            asyncio.create_task(self._requests(link)),
            asyncio.create_task(self._replies(link)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.links.discard(link)
            link.to_client.close()
            link.to_server.close()

    async def _requests(self, link: _Link) -> None:
        while chunk := await self._read(link, link.from_client):
            await self._requests_flow.wait()
            self._choose(link, chunk)
            link.to_server.write(chunk)
            await link.to_server.drain()

    async def _read(self, link: _Link, source: asyncio.StreamReader) -> bytes:
        chunk = await source.read(CHUNK)
        if link.frozen:
            await asyncio.Event().wait()  # until the proxy is closed
        return chunk

    async def _replies(self, link: _Link) -> None:
        while chunk := await self._read(link, link.from_server):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._replies_flow.wait()
            chunk = self._translate(chunk)
            passing = self._passing(link, chunk)
            link.to_client.write(passing)
            await link.to_client.drain()
            if len(passing) < len(chunk):
                link.abort()
                return

    def _choose(self, link: _Link, chunk: bytes) -> None:
        if self._loss is None:
            return
        seen = link.tail + chunk
        link.tail = seen[-len(self._loss.to) :]
        if self._loss.to in seen:
            link.doomed = True

    def _passing(self, link: _Link, chunk: bytes) -> bytes:
        """What of these replies still arrives."""
        if self._loss is None or not link.doomed:
            return chunk
        passing = chunk[: self._loss.after]
        self._loss.after -= len(passing)
        if len(passing) < len(chunk):
            self.lost += 1
            self._loss.times -= 1
            if not self._loss.times:
                self._loss = None
        return passing
