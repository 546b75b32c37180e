"""How processes and networks are broken, whatever the servers are."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import millstream as ms
from tests.chaos.crew import ROLES, Crew
from tests.chaos.schedule import Fault, Kind
from tests.chaos.sources import CONSUMED
from tests.chaos.topology import Tell
from tests.support.proxy import Proxy

__all__ = ["KINDS", "NETWORKS", "Breaking"]

CONSUMERS = tuple(role for role in ROLES if role not in ("producer", "sender"))
PRODUCERS = ("producer", "sender")

KINDS = (
    Kind("kill", CONSUMERS, 0.0, 2.0, weight=5),
    Kind("kill-supervisor", ("supervised",), 0.0, 2.0),
    Kind("kill-producer", PRODUCERS, 0.0, 2.0),
    Kind("end", (*CONSUMERS, *PRODUCERS), 0.0, 2.0, weight=2),
    Kind("stop", (*CONSUMERS, *PRODUCERS), 0.1, 8.0, weight=5),
    Kind("pause", tuple(CONSUMED), 0.3, 2.0),
)
NETWORKS = (
    Kind("cut", ROLES, 0.0, 0.0, weight=3),
    Kind("refuse", ROLES, 0.2, 4.0, weight=2),
    Kind("stall", ROLES, 0.2, 8.0, weight=2),
    Kind("stall-requests", ROLES, 0.2, 8.0),
    Kind("stall-replies", ROLES, 0.2, 8.0),
    Kind("delay", ROLES, 0.5, 4.0, weight=2),
    Kind("half-open", ROLES, 0.0, 0.0, weight=2),
    Kind("lose-reply", ROLES, 0.0, 0.0, weight=3),
)

PATIENCE = 90.0
"""Seconds in which an orderly end is over, through stalls of the network and on a busy machine."""

LATENCY = 0.15
"""Seconds by which every reply is held back by ``delay``."""

DEAF = 4.0
"""Seconds until whoever uses a connection that is half open has noticed: the lease keeper gives a
call 3 s, and then waits for up to one."""


class Breaking:
    """Breaks what a schedule says, and mends it.

    Args:
        crew: the processes and their networks.
        mq: for what an operator does.
        tell: writes the events of the run.
    """

    def __init__(self, crew: Crew, mq: ms.AsyncClient, tell: Tell) -> None:
        self._crew = crew
        self._mq = mq
        self._tell = tell

    async def strike(self, fault: Fault) -> None:
        """Break something, and return when it is mended."""
        if fault.kind == "pause":
            await self._pause(fault)
        elif fault.kind in ("kill", "stop", "end"):
            strikes = {"kill": self._kill, "stop": self._stop, "end": self._end}
            await strikes[fault.kind](fault)
        elif fault.kind in ("kill-supervisor", "kill-producer"):
            await self._kill_parent(fault)
        else:
            await self._network(fault)

    # Processes

    async def _kill(self, fault: Fault) -> None:
        working = self._crew.working(fault.target)
        if not working:
            return  # it is just starting
        pid = working[int(fault.at * 1000) % len(working)]
        if pid == self._crew.parent(fault.target):
            await self._kill_parent(fault)
            return
        self._told_dead(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def _kill_parent(self, fault: Fault) -> None:
        pid = self._crew.parent(fault.target)
        if pid is not None:
            self._told_dead(pid)
            self._crew.kill(fault.target)
            await asyncio.sleep(fault.seconds)  # the work itself
        self._crew.start(fault.target)

    def _told_dead(self, pid: int) -> None:
        # Before it is: others may go on with its work before this process gets to write.
        if (name := self._crew.name_of(pid)) is not None:
            self._tell("killed", process=name)

    async def _end(self, fault: Fault) -> None:
        """Stop a process in order, as every deployment does."""
        if self._crew.parent(fault.target) is None or not self._crew.at_work(fault.target):
            return  # it is just starting
        self._crew.ask_to_end(fault.target)
        status = await asyncio.to_thread(self._crew.status, fault.target, PATIENCE)
        if status != 0:
            what = "did not end" if status is None else f"ended with {status}"
            self._tell("strange", what=f"{fault.target} was asked to end, and {what}")
        if status is None:
            await self._kill_parent(fault)
            return
        await asyncio.sleep(fault.seconds)  # the work itself
        self._crew.start(fault.target)

    async def _stop(self, fault: Fault) -> None:
        working = self._crew.working(fault.target)
        if not working:
            return
        pid = working[int(fault.at * 1000) % len(working)]
        name, begin = self._crew.name_of(pid), time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)  # the work itself
            os.kill(pid, signal.SIGCONT)
        self._tell("trouble", begin=begin, end=time.monotonic(), who=name)

    # Networks

    async def _network(self, fault: Fault) -> None:
        proxies = self._crew.networks[fault.target].part(int(fault.at * 1000))
        begin = time.monotonic()
        hurt, heal = _HARM[fault.kind]
        for proxy in proxies:
            hurt(proxy)
        await asyncio.sleep(fault.seconds)  # the work itself
        for proxy in proxies:
            heal(proxy)
        deaf = DEAF if fault.kind == "half-open" else 0.0
        self._tell("trouble", begin=begin, end=time.monotonic() + deaf, who=fault.target)

    # What operators do

    async def _pause(self, fault: Fault) -> None:
        source = CONSUMED[fault.target]
        try:
            await self._mq.pause(source)
        except ms.BrokerError:
            begin = None  # nobody knows whether it is paused
        else:
            begin = time.monotonic()
            await asyncio.sleep(fault.seconds)  # the work itself
        end = time.monotonic()
        await self._insist(lambda: self._mq.resume(source))
        if begin is not None:
            self._tell("paused", source=source.name, begin=begin, end=end)

    async def _insist(self, call: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await call()
            except ms.BrokerError:
                await asyncio.sleep(0.1)  # the work itself
            else:
                return


def _refuse(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.cut()


def _nothing(proxy: Proxy) -> None:
    """Heal what was over at once."""


_HARM: Mapping[str, tuple[Callable[[Proxy], None], Callable[[Proxy], None]]] = {
    "cut": (Proxy.cut, _nothing),
    "refuse": (_refuse, Proxy.accept),
    "stall": (Proxy.stall, Proxy.resume),
    "stall-requests": (lambda proxy: proxy.stall(replies=False), Proxy.resume),
    "stall-replies": (lambda proxy: proxy.stall(requests=False), Proxy.resume),
    "delay": (lambda proxy: proxy.delay(LATENCY), lambda proxy: proxy.delay(0)),
    "half-open": (Proxy.freeze, _nothing),
    "lose-reply": (Proxy.drop_replies, _nothing),
}
"""What each fault does to a way to a server, and what ends it."""
