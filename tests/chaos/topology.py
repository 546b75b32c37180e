"""The servers of a run: how they are started, what can be broken about them, and what they forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol, Self

import redis

from tests.chaos.schedule import Fault, Kind
from tests.support.proxy import Proxy
from tests.support.servers import Server

__all__ = ["DURABLE", "LAG", "Persistence", "Single", "Tell", "Topology"]

Persistence = Literal["always", "everysec"]

Tell = Callable[..., float]
"""Writes an event of the run; see Recorder.tell."""

UNWRITTEN = 2.5
"""Seconds of what was confirmed that a server with ``appendfsync everysec`` may forget when it is
killed: it writes before it answers, but puts that off for up to 2 s while the disk is slow."""

LAG = 2.5
"""Seconds by which a replica may be behind on a busy machine: what was confirmed within them before
its primary was lost may be forgotten, unless the replica has confirmed it itself."""

DURABLE: Mapping[str, str] = {"DURABILITY": "replicas:1"}
"""What producers are told where there are replicas."""


class Topology(Protocol):
    """What a run needs of its servers. Use it as a context manager.

    Attributes:
        kinds: what can be broken.
        title: what there is, for the summary.
        environment: what processes are told.
        url: where the run itself connects to, past all networks.
    """

    kinds: tuple[Kind, ...]
    environment: Mapping[str, str]

    @property
    def title(self) -> str: ...

    @property
    def url(self) -> str: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def network(self, role: str) -> tuple[Proxy | None, str]:
        """Return a network for a role, if one can be broken, and the URL of the server behind it."""
        ...

    def admins(self) -> list[redis.Redis]:
        """Return a client of each server that has keys, for a last look."""
        ...

    async def strike(self, fault: Fault, tell: Tell) -> None:
        """Break something, and mend it; tell how long nobody could use the server."""
        ...


@dataclass
class Single:
    """One server.

    Attributes:
        server_name: which one.
        persistence: its ``appendfsync``.
    """

    server_name: str = "valkey-8.1"
    persistence: Persistence = "always"
    kinds: tuple[Kind, ...] = (
        Kind("kill-server", ("server",), 0.0, 3.0, weight=3),
        Kind("restart-server", ("server",), 0.0, 1.0),
        Kind("stop-server", ("server",), 0.1, 6.0, weight=2),
    )
    environment: Mapping[str, str] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        server = Server(self.server_name, appendonly=True, appendfsync=self.persistence)
        self.server = self._stack.enter_context(server)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def title(self) -> str:
        return f"one {self.server_name}, appendfsync {self.persistence}"

    @property
    def url(self) -> str:
        return self.server.url

    def network(self, role: str) -> tuple[Proxy | None, str]:
        proxy = self._stack.enter_context(Proxy(self.server.port))
        return proxy, proxy.url

    def admins(self) -> list[redis.Redis]:
        return [self.server.admin()]

    async def strike(self, fault: Fault, tell: Tell) -> None:
        begin = time.monotonic()
        strikes: Mapping[str, Callable[[Fault], Awaitable[None]]] = {
            "kill-server": self._kill,
            "restart-server": self._restart,
            "stop-server": self._stop,
        }
        await strikes[fault.kind](fault)
        end = time.monotonic()
        tell("trouble", begin=begin, end=end, who="*")
        if fault.kind == "kill-server" and self.persistence == "everysec":
            tell("loss", begin=begin - UNWRITTEN, end=end, sends=True)

    # start() does not leave the thread, so that the server ends with this process.

    async def _kill(self, fault: Fault) -> None:
        self.server.kill()
        await asyncio.sleep(fault.seconds)  # the work itself
        self.server.start()

    async def _restart(self, fault: Fault) -> None:
        await asyncio.to_thread(self.server.stop)
        await asyncio.sleep(fault.seconds)  # the work itself
        self.server.start()

    async def _stop(self, fault: Fault) -> None:
        self.server.pause()
        await asyncio.sleep(fault.seconds)  # the work itself
        self.server.resume()
