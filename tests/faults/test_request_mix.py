"""Thousands of requests in flight, with mixed outcomes: each caller gets what is its own, once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, Literal

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.faults.working import NAMESPACE, PATIENCE, connect
from tests.support.servers import Server
from tests.support.serving import members
from tests.support.wait import auntil

Outcome = Literal["reply", "known", "other", "timeout", "cancel", "slow"]
OUTCOMES: tuple[Outcome, ...] = ("reply", "known", "other", "timeout", "cancel", "slow")


class Known(Exception):
    pass


MIX: ms.Endpoint[Any, Any] = ms.Endpoint("mix", timeout=6 * PATIENCE, errors=[Known])
FINAL = settings(
    max_examples=1,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SMALL = settings(FINAL, max_examples=8)


class Mill:
    """A worker that does with each request what its body says, and a record of what it has begun."""

    def __init__(self) -> None:
        self.worker = ms.Worker(shutdown_timeout=0)
        self.begun: Counter[int] = Counter()
        self.worker.on(MIX, concurrency=12_000)(self._handle)

    async def _handle(self, body: tuple[int, Outcome]) -> Any:
        number, outcome = body
        self.begun[number] += 1
        if outcome == "known":
            raise Known(number)
        if outcome == "other":
            raise KeyError(number)
        if outcome in ("timeout", "cancel"):
            await asyncio.Event().wait()
        if outcome == "slow":
            await asyncio.sleep(number % 100 / 1000)  # the work itself
        return number


async def ask(mq: ms.AsyncClient, number: int, outcome: Outcome) -> str:
    """Make a request, and name what came of it; "wrong" when it was not this one's."""
    # The second is over for some before they are sent, when thousands are: they end in the same way.
    timeout = 1 if outcome == "timeout" else None
    try:
        reply = await mq.request(MIX, (number, outcome), timeout=timeout)
    except Known as error:
        return "known" if error.args == (number,) else "wrong"
    except ms.RemoteError as error:
        return "other" if error.detail == str(number) else "wrong"
    except ms.TimedOut:
        return "timeout"
    except asyncio.CancelledError:
        return "cancel"
    return "reply" if reply == number else "wrong"


async def check(server: Server, outcomes: list[Outcome]) -> None:
    """Make all requests at once, and look at each outcome."""
    mill, admin = Mill(), server.admin()
    admin.flushall()
    async with connect(server.url, timeout=PATIENCE) as mq, connect(server.url) as other:
        running = asyncio.create_task(mill.worker.run(other))
        await auntil(lambda: members(admin, queue_keys(NAMESPACE, "mix")) != [], PATIENCE)
        requests = [
            asyncio.create_task(ask(mq, number, outcome)) for number, outcome in enumerate(outcomes)
        ]
        await asyncio.sleep(0)  # all have begun
        cancelled = [
            request
            for request, outcome in zip(requests, outcomes, strict=True)
            if outcome == "cancel"
        ]
        # Some of them are sent by now, some run, and some are on their way.
        await auntil(lambda: len(mill.begun) >= len(outcomes) // 4, 3 * PATIENCE)
        for request in cancelled:
            request.cancel()
        async with asyncio.timeout(6 * PATIENCE):
            found = await asyncio.gather(*requests)
        await settled(mq)
        mill.worker.stop()
        await running

    wanted = ["reply" if outcome == "slow" else outcome for outcome in outcomes]
    assert found == wanted
    assert max(mill.begun.values(), default=0) <= 1
    left_out = {number for number, outcome in enumerate(outcomes) if outcome in ("reply", "slow")}
    assert left_out <= mill.begun.keys()
    assert not left(admin)


async def settled(mq: ms.AsyncClient) -> None:
    """Wait until nothing is left of any request."""

    async def over() -> bool:
        stats = await mq.stats(MIX.queue)
        return (stats.ready, stats.delayed, stats.in_flight, stats.dead) == (0, 0, 0, 0)

    await auntil(over, 3 * PATIENCE)


def left(admin: redis.Redis) -> list[bytes]:
    """Mailboxes that are there after their clients."""
    return list(admin.scan_iter(match=f"{NAMESPACE}:*:mailbox"))


@SMALL
@given(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=300))
def test_some(own_server: Server, outcomes: list[Outcome]) -> None:
    """Whatever the mix, no request is answered wrongly, or handled twice, and nothing is left."""
    asyncio.run(check(own_server, outcomes))


@pytest.mark.slow
@pytest.mark.timeout(180)
@FINAL
@given(st.integers(0, 2**32), st.lists(st.integers(1, 10), min_size=6, max_size=6))
def test_ten_thousand(own_server: Server, seed: int, weights: list[int]) -> None:
    """The same with 10,000 in flight."""
    # Hypothesis draws no list of that length.
    outcomes = random.Random(seed).choices(OUTCOMES, weights=weights, k=10_000)
    asyncio.run(check(own_server, outcomes))
