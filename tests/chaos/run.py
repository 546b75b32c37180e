"""A run from its first process to its proof."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

import millstream as ms
from tests.chaos.breaking import KINDS, NETWORKS, PRODUCERS, Breaking
from tests.chaos.checker import Violation
from tests.chaos.crew import ROLES, Crew, roles
from tests.chaos.events import Event, Recorder, Records
from tests.chaos.history import History
from tests.chaos.logs import check_logs
from tests.chaos.network import Network
from tests.chaos.proof import prove
from tests.chaos.reading import history_of
from tests.chaos.schedule import GAP, Fault, schedule
from tests.chaos.sources import (
    BEAT,
    CONSUMED,
    ECHO,
    LEASE,
    LEDGER,
    NAMESPACE,
    SUBSCRIPTIONS,
    SUMS,
    TICKS,
)
from tests.chaos.topology import Topology
from tests.support.leaks import leaked

__all__ = ["Outcome", "Plan", "run"]

PATIENCE = 90.0
"""Seconds after which something that should have happened is missing: leases, pauses between tries and
restarts of dead processes take some tens of them on a busy machine."""

LATE = 5.0
"""Seconds after the time for faults in which one still begins that had to wait for others."""

SAMPLE_EVERY = 1.0

SHARED = ("plain", "later", "urgent", "listed", "news/all", "news/batched")
"""What every worker reads. A partition of the ordered queue is read by one of them."""

EXPECTED = {
    "supervised": SHARED,
    "bare": SHARED,
    "receiver": ("plain",),
    "blocking": ("listed", "news/all"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do.

    Attributes:
        seed: decides what is broken, and what is sent.
        seconds: for how long faults begin.
        rate: messages a second.
        gap: seconds between the beginnings of two faults, on average.
    """

    seed: int
    seconds: float
    rate: float = 60.0
    gap: float = GAP


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    plan: Plan
    servers: str
    faults: list[Fault]
    events: list[Event]
    history: History
    violations: list[Violation]


class _Run:
    def __init__(self, plan: Plan, topology: Topology, crew: Crew, folder: Path) -> None:
        self._topology = topology
        self._crew = crew
        self._record = Recorder(folder, "run")
        self._records = Records(folder)
        self._seconds = plan.seconds
        kinds = [*topology.kinds, *KINDS, *NETWORKS]
        self.faults = schedule(plan.seed, plan.seconds, kinds, gap=plan.gap)
        self.events: list[Event] = []
        self.violations: list[Violation] = []
        self.drained = False
        self._locks: dict[str, asyncio.Lock] = {}

    async def __call__(self) -> None:
        # Patient: a call that is given up may arrive when the opposite one has long been answered.
        async with ms.AsyncClient(self._topology.url, namespace=NAMESPACE, timeout=60) as mq:
            for source in (*CONSUMED.values(), TICKS):
                await mq.declare(source)
            for role in ROLES:
                self._crew.start(role)
            await self._until(lambda: self._begun_since(0.0, EXPECTED), "everybody is at work")
            sampling = asyncio.create_task(self._sample(mq))
            await self._strike(Breaking(self._crew, mq, self._record.tell))
            calm = time.monotonic()
            for source in CONSUMED.values():
                await mq.resume(source)
            await self._until(lambda: self._begun_since(calm, EXPECTED), "all go on: consumers")
            await self._until(lambda: self._sent_since(calm), "all go on: producers")
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
            self._end(PRODUCERS)
            await mq.pause_schedule(TICKS, BEAT)
            await self._drain(mq)
            self._end([role for role in ROLES if role not in PRODUCERS])
            await self._look_at_the_end(mq)

    async def _strike(self, breaking: Breaking) -> None:
        """Break what the schedule says; what concerns the same target, one after the other."""
        begin = time.monotonic()
        strikes: set[asyncio.Task[None]] = set()

        async def strike(fault: Fault) -> None:
            async with self._locks.setdefault(fault.target, asyncio.Lock()):
                if time.monotonic() > begin + self._seconds + LATE:
                    return  # those before it have taken all the time
                self._record.tell("fault", kind=fault.kind, target=fault.target)
                if fault.kind in self._topology.strikes:
                    await self._topology.strike(fault, self._record.tell)
                else:
                    await breaking.strike(fault)
                self._record.tell("mended", kind=fault.kind, target=fault.target)

        for fault in self.faults:
            while (left := begin + fault.at - time.monotonic()) > 0:
                self._read()
                await asyncio.sleep(min(left, 0.2))  # the work itself
            strikes.add(asyncio.create_task(strike(fault)))
        await asyncio.gather(*strikes)

    async def _sample(self, mq: ms.AsyncClient) -> None:
        """Count the messages of one source after the other."""
        while True:
            for source in CONSUMED.values():
                begin = time.monotonic()
                with suppress(ms.BrokerError):
                    stats = await mq.stats(source)
                    unfinished = stats.ready + stats.delayed + stats.in_flight
                    self._record.tell(
                        "sample",
                        source=source.name,
                        begin=begin,
                        end=time.monotonic(),
                        count=unfinished + stats.dead,
                        unfinished=unfinished,
                        in_flight=stats.in_flight,
                    )
                await asyncio.sleep(SAMPLE_EVERY)  # the work itself

    # What has happened so far

    def _read(self) -> None:
        for what in self._crew.revive():
            self.violations.append(Violation("ended", "", "", what))
        for event in self._records.news():
            self._crew.heard(event)
            self.events.append(event)

    def _since(self, when: float) -> Iterable[Event]:
        self._read()
        return (event for event in self.events if event.time > when)

    def _begun_since(self, when: float, expected: dict[str, tuple[str, ...]]) -> list[str]:
        """Return who has not begun with something of what it reads."""
        begun = {
            (one.process, one.data["source"]) for one in self._since(when) if one.name == "begun"
        }
        missing = []
        for role, sources in expected.items():
            working = self._crew.working(role)
            if len(working) < (2 if role == "supervised" else 1):
                missing.append(f"{role} does not run")
            names = [self._crew.name_of(pid) for pid in working]
            missing += [
                f"{name}: {one}" for name in names for one in sources if (name, one) not in begun
            ]
        return missing

    def _sent_since(self, when: float) -> list[str]:
        sent = {one.process for one in self._since(when) if one.name == "sent"}
        names = {role: self._crew.name_of(self._crew.parent(role) or 0) for role in PRODUCERS}
        return [role for role, name in names.items() if name not in sent]

    async def _until(self, missing: Any, what: str) -> None:
        """Wait until nothing is missing; what still is after a long time is a violation."""
        deadline = time.monotonic() + PATIENCE
        while left := missing():
            if time.monotonic() > deadline:
                self.violations.append(Violation("going_on", "", "", f"{what}, but for {left}"))
                return
            await asyncio.sleep(0.2)  # the work itself

    # The end

    def _end(self, some: Iterable[str]) -> None:
        """Stop processes in order."""
        some = list(some)
        for role in some:
            self._crew.ask_to_end(role)
        for role in some:
            status = self._crew.status(role, PATIENCE)
            if status != 0:
                what = (
                    f"{role} ended with {status}" if status is not None else f"{role} does not end"
                )
                self.violations.append(Violation("ended", "", "", what))

    async def _drain(self, mq: ms.AsyncClient) -> None:
        """Wait until nothing is left to handle."""
        left: dict[str, Any] = {}

        async def missing() -> dict[str, Any]:
            found = {}
            for source in (*CONSUMED.values(), TICKS, ECHO.queue):
                stats = await mq.stats(source)
                counted = stats.ready, stats.delayed, stats.in_flight
                if counted != (0, 0, 0):
                    found[source.name] = counted
            return found

        deadline = time.monotonic() + PATIENCE
        while left := await missing():
            self._read()
            if time.monotonic() > deadline:
                what = f"ready, delayed, in flight are left: {left}"
                self.violations.append(Violation("drained", "", "", what))
                return
            await asyncio.sleep(0.2)  # the work itself
        self.drained = True

    async def _look_at_the_end(self, mq: ms.AsyncClient) -> None:
        """Tell what is there when all have gone."""
        for source in CONSUMED.values():
            stats, dead = await mq.stats(source), await self._dead(mq, source)
            counted = (stats.ready, stats.delayed, stats.in_flight, stats.dead)
            self._record.tell("final", source=source.name, counts=counted, dead=dead)
        await self._look_at_results(mq)
        for server in self._topology.masters():
            written: Any = {}
            with suppress(redis.ResponseError):  # another node has it
                written = server.admin().hgetall(LEDGER)
            if written:
                told = {cid.decode(): int(times) for cid, times in written.items()}
                self._record.tell("ledger", written=told)
        self._read()

    async def _look_at_results(self, mq: ms.AsyncClient) -> None:
        """Ask for all results once more, by the ids that the record has."""
        self._read()
        calls = {
            (event.process, event.data["op"]): event.data["messages"][0][0]
            for event in self.events
            if event.name == "send" and event.data["source"] == SUMS.name
        }

        async def ask(cid: str, id: str) -> None:
            begin, result, failed = time.monotonic(), None, None
            try:
                result = await mq.handle(SUMS, id).result(timeout=0)
            except ms.MillstreamError as error:
                failed = {"error": type(error).__name__, "text": str(error)}
            self._record.tell("kept", cid=cid, begin=begin, result=result, failed=failed)

        sent = [one for one in self.events if one.name == "sent"]
        for event in sent:
            if (cid := calls.get((event.process, event.data["op"]))) is not None:
                await ask(cid, event.data["ids"][0])

    async def _dead(self, mq: ms.AsyncClient, source: Any) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = []
        after: str | None = None
        while page := await mq.dead(source, limit=1000, after=after):
            found += [(one.body["cid"], one.id, one.reason) for one in page]
            after = page[-1].cursor
        return found

    def look_for_leaks(self, admin: redis.Redis) -> None:
        """Find keys that would stay for ever."""
        for leak in leaked(admin, NAMESPACE):
            self.violations.append(Violation("leaks", "", "", leak))


def run(plan: Plan, servers: AbstractContextManager[Topology], folder: Path) -> Outcome:
    """Run it all, and check what was recorded.

    Args:
        plan: what to do.
        servers: to be started.
        folder: for the records and logs; an empty one.
    """
    with ExitStack() as stack:
        topology = stack.enter_context(servers)
        networks = {role: stack.enter_context(Network(topology.ports)) for role in ROLES}
        environment = {
            role: {**topology.environment, "MILLSTREAM_URL": network.url(topology.url)}
            for role, network in networks.items()
        }
        made = roles(plan.seed, plan.rate)
        crew = stack.enter_context(Crew(folder, made, networks, environment))
        one = _Run(plan, topology, crew, folder)
        asyncio.run(one())
        for server in topology.masters():
            one.look_for_leaks(server.admin())
    history = history_of(one.events, lease=LEASE, subscriptions=SUBSCRIPTIONS, complete=one.drained)
    violations = [*one.violations, *prove(history)]
    strange = [event.data["what"] for event in one.events if event.name == "strange"]
    strange += [str(event) for event in one.events if event.data.get("error") == "UsageError"]
    violations += [Violation("ended", "", "", what) for what in strange]
    violations += check_logs(folder)
    return Outcome(plan, topology.title, one.faults, one.events, history, violations)
