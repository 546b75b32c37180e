"""A run with a primary that Sentinels watch, and its replicas.

Clients hear from the Sentinels where the primary is, so no network of a test is between them: here,
servers and processes are broken. Sends are confirmed by a replica (``durability="replicas:1"``), so
none that is confirmed may be lost. What else is confirmed, such as an acknowledgement, has no such
promise: a failover may forget the last moments.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import redis

from tests.chaos.schedule import Fault, Kind
from tests.chaos.topology import DURABLE, LAG, Tell
from tests.support.proxy import Proxy
from tests.support.sentinel import SentinelSetup

__all__ = ["Sentinels"]


@dataclass
class Sentinels:
    """A primary with a replica, watched by three Sentinels.

    One replica: WAIT does not say which of several has confirmed, and Sentinels that are asked to fail
    over while the primary lives may promote another one. Who has two asks for ``replicas:2``.
    """

    server_name: str = "valkey-8.1"
    kinds: tuple[Kind, ...] = (
        Kind("kill-primary", ("server",), 0.0, 3.0, weight=5),
        Kind("stop-primary", ("server",), 0.2, 6.0, weight=5),
        Kind("fail-over", ("server",), 0.0, 0.0, weight=3),
        Kind("kill-replica", ("server",), 0.0, 3.0, weight=2),
    )
    environment: Mapping[str, str] = field(default_factory=lambda: DURABLE)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        setup = SentinelSetup(self.server_name, replicas=1, appendonly=True)
        self.setup = self._stack.enter_context(setup)
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
        return f"{self.server_name}, a primary and a replica under three Sentinels, sends with durability replicas:1"

    @property
    def url(self) -> str:
        return self.setup.url

    def network(self, role: str) -> tuple[Proxy | None, str]:
        return None, self.setup.url

    def admins(self) -> list[redis.Redis]:
        return [self.setup.admin()]

    async def strike(self, fault: Fault, tell: Tell) -> None:
        begin = time.monotonic()
        strikes: Mapping[str, Callable[[Fault], Awaitable[None]]] = {
            "kill-primary": self._kill,
            "stop-primary": self._stop,
            "fail-over": self._fail_over,
            "kill-replica": self._kill_replica,
        }
        await strikes[fault.kind](fault)
        await asyncio.to_thread(self.setup.settle)
        end = time.monotonic()
        tell("trouble", begin=begin, end=end, who="*")
        if fault.kind != "kill-replica":
            tell("loss", begin=begin - LAG, end=end, sends=False)

    async def _kill(self, fault: Fault) -> None:
        old = await asyncio.to_thread(lambda: self.setup.primary)
        old.kill()
        await asyncio.to_thread(self.setup.wait_for_failover, old)
        await asyncio.sleep(fault.seconds)  # the work itself
        old.start()

    async def _stop(self, fault: Fault) -> None:
        old = await asyncio.to_thread(lambda: self.setup.primary)
        old.pause()
        # Longer than it takes to count as down: then it comes back and takes itself for the primary.
        await asyncio.sleep(fault.seconds)  # the work itself
        old.resume()

    async def _fail_over(self, fault: Fault) -> None:
        await asyncio.to_thread(self.setup.fail_over)

    async def _kill_replica(self, fault: Fault) -> None:
        [replica, *_] = await asyncio.to_thread(lambda: self.setup.replicas)
        replica.kill()
        await asyncio.sleep(fault.seconds)  # the work itself
        replica.start()
