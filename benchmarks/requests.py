"""Requests: round trips to a worker in another process, by the number of those who ask at a time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

import millstream as ms
from benchmarks.children import child, echo, echo_barely, echo_by_client
from benchmarks.latency import WARM_UP, percentile
from benchmarks.measure import Bench, Goal, Row, Topic
from benchmarks.messages import ASK_KEY, BODIES, ECHO, ORDERS, REPLY_KEY, Order
from benchmarks.server import pack

__all__ = ["TOPIC"]

REQUESTERS = (1, 10, 100)
RATES = {f"request_rate_{count}": count for count in REQUESTERS}
PERCENTILES = {
    f"request_p{percent}_{count}": (count, percent) for count in REQUESTERS for percent in (50, 99)
}
GAIN = "request_gain"

HOPS = "two bare hops, one requester"
CLIENT = "request_p50_client"
CLIENT_HOPS = "the same hops by redis-py"
GOALS = {"request_p50_1": Goal("ratio", most=2.0), GAIN: Goal("ratio", least=20.0)}


@dataclass(frozen=True, slots=True)
class Trips:
    """Round trips of one run.

    Attributes:
        seconds: from the first request to the last reply.
        latencies: seconds of each.
    """

    seconds: float
    latencies: Sequence[float]

    @property
    def rate(self) -> float:
        """Round trips a second."""
        return len(self.latencies) / self.seconds


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure each number of requesters, in turns with two bare hops."""
    counts = {RATES[name] for name in wanted & RATES.keys()}
    counts |= {PERCENTILES[name][0] for name in wanted & PERCENTILES.keys()}
    if GAIN in wanted:
        counts |= {REQUESTERS[0], REQUESTERS[-1]}
    if CLIENT in wanted:
        counts.add(1)
    bare: list[Trips] = []
    plain: list[Trips] = []
    ours: dict[int, list[Trips]] = {count: [] for count in sorted(counts)}
    for number in range(1, bench.repeat + 1):
        bench.say(f"requests ({number} of {bench.repeat})")
        bench.fresh()
        bare.append(_hop(bench, bench.sizes.single))
        if CLIENT in wanted:
            bench.fresh()
            plain.append(asyncio.run(_hop_by_client(bench, bench.sizes.single)))
        for count, runs in ours.items():
            bench.fresh()
            trips = bench.sizes.single if count == 1 else bench.sizes.middle
            runs.append(asyncio.run(_ask_all(bench, count, trips)))
    rows = [
        _row(name, f"{_who(count)}", ours[count], bare, lambda one: one.rate)
        for name, count in RATES.items()
        if name in wanted
    ]
    if GAIN in wanted:
        last, first = ours[REQUESTERS[-1]], ours[REQUESTERS[0]]
        rows.append(
            _row(GAIN, _who(REQUESTERS[-1]), last, first, lambda one: one.rate, "one requester")
        )
    waits = {
        name: (count, percent, bare, HOPS)
        for name, (count, percent) in PERCENTILES.items()
        if name in wanted
    }
    if CLIENT in wanted:
        waits[CLIENT] = (1, 50, plain, CLIENT_HOPS)
    for name, (count, percent, others, against) in waits.items():

        def wait(one: Trips, percent: int = percent) -> float:
            return percentile(one.latencies, percent) * 1000

        title = f"{_who(count)}, p{percent}"
        rows.append(_row(name, title, ours[count], others, wait, against, "ms"))
    return rows


TOPIC = Topic("requests and their replies", (*RATES, GAIN, *PERCENTILES, CLIENT), run)


def _who(count: int) -> str:
    return f"request, {count} requester{'s'[: count != 1]}"


def _row(
    name: str,
    title: str,
    ours: Sequence[Trips],
    others: Sequence[Trips],
    figure: Callable[[Trips], float],
    against: str = HOPS,
    unit: str = "round trips/s",
) -> Row:
    mine, theirs = [figure(one) for one in ours], [figure(one) for one in others]
    return Row(
        topic="requests",
        name=name,
        title=title,
        unit=unit,
        value=statistics.median(mine),
        against=against,
        baseline=statistics.median(theirs),
        ratios=[one / other for one, other in zip(mine, theirs, strict=True)],
        goal=GOALS.get(name),
    )


async def _ask_all(bench: Bench, requesters: int, trips: int) -> Trips:
    with child(echo, bench.url) as pipe:
        async with ms.AsyncClient(bench.url) as mq:
            await _ask(mq, requesters, max(WARM_UP, requesters))
            found = await _ask(mq, requesters, trips)
        pipe.send("stop")
    return found


async def _ask(mq: ms.AsyncClient, requesters: int, trips: int) -> Trips:
    rest = _orders(trips)
    latencies: list[float] = []

    async def ask() -> None:
        for order in rest:
            began = time.perf_counter()
            reply: Order = await mq.request(ECHO, order)
            latencies.append(time.perf_counter() - began)
            _check(reply, order)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(requesters)))
    return Trips(time.perf_counter() - began, latencies)


def _orders(count: int) -> Iterator[Order]:
    return (ORDERS[number % len(ORDERS)] for number in range(count))


def _hop(bench: Bench, trips: int) -> Trips:
    """Push a body to a process that sleeps in BLPOP, and sleep in BLPOP until it is back."""
    with child(echo_barely, bench.address):
        _hop_singly(bench, WARM_UP)
        return _hop_singly(bench, trips)


def _hop_singly(bench: Bench, trips: int) -> Trips:
    bare, latencies = bench.bare, []
    wait = pack(("BLPOP", REPLY_KEY, 0))
    start = time.perf_counter()
    for number in range(trips):
        body = BODIES[number % len(BODIES)]
        began = time.perf_counter()
        bare.write(pack(("LPUSH", ASK_KEY, body)) + wait)
        reply = bare.read(2)[1]
        latencies.append(time.perf_counter() - began)
        _check(reply[1], body)
    return Trips(time.perf_counter() - start, latencies)


async def _hop_by_client(bench: Bench, trips: int) -> Trips:
    """Do the same with redis-py's client on asyncio, on both sides."""
    latencies: list[float] = []
    with child(echo_by_client, bench.url):
        async with Redis.from_url(bench.url) as client:
            began_all = 0.0
            for number in range(WARM_UP + trips):
                body = BODIES[number % len(BODIES)]
                began = time.perf_counter()
                if number == WARM_UP:
                    began_all = began
                await client.lpush(ASK_KEY, body)
                reply = await client.blpop([REPLY_KEY], 0)
                if number >= WARM_UP:
                    latencies.append(time.perf_counter() - began)
                _check(reply[1] if reply else None, body)
    return Trips(time.perf_counter() - began_all, latencies)


def _check(reply: object, expected: object) -> None:
    """Make sure that a run did what it was timed for.

    Raises:
        RuntimeError: a reply was not that to its request.
    """
    if reply != expected:
        error = "a requester got the reply to another request"
        raise RuntimeError(error)
