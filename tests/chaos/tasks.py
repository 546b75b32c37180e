"""The worker of a run: ``millstream run tests.chaos.tasks:worker``, or without a supervisor."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import millstream as ms
from tests.chaos import sources
from tests.chaos.acting import WANTED, Acting, recorder

worker = ms.Worker()
acting = Acting(recorder(os.environ["ROLE"]))


def handler(source: str) -> Callable[[Any, ms.Delivery[Any]], Awaitable[None]]:
    """Return a coroutine that handles messages of this source."""

    async def handle(body: Any, delivery: ms.Delivery[Any]) -> None:
        number = acting.begin(delivery, source)
        try:
            await asyncio.sleep(body["work"])  # the work itself
            outcome = acting.decide(number, body, delivery.attempt)
            if outcome == "acks":
                await acting.settle(number, delivery, outcome)
        except asyncio.CancelledError:
            acting.cancelled(number)
            raise
        acting.raise_for(outcome)

    return handle


for queue in (sources.PLAIN, sources.LATER, sources.URGENT, sources.ORDERED):
    worker.on(queue, concurrency=10)(handler(queue.name))
for queue in (sources.MADE, sources.SOLE):
    worker.on(queue, concurrency=4)(handler(queue.name))
# One at a time: so each process has one message of them at the most.
for queue in (sources.NARROW, sources.LICENSED):
    worker.on(queue, concurrency=1)(handler(queue.name))
for subscription in (sources.ALL, sources.READERS):
    worker.on(subscription, concurrency=10)(handler(subscription.name))


@worker.on(sources.LISTED, concurrency=3)
def in_a_thread(body: Any, delivery: ms.Delivery[Any]) -> None:
    """Handle a message of the list; a thread cannot be cancelled."""
    number = acting.begin(delivery, sources.LISTED.name)
    time.sleep(body["work"])  # the work itself
    acting.raise_for(acting.decide(number, body, delivery.attempt))


@worker.on(sources.BATCHED, batch=10, batch_wait=0.02)
async def in_batches(bodies: list[Any], deliveries: list[ms.Delivery[Any]]) -> None:
    """Handle several messages together, each of which ends in its own way."""
    numbers = [acting.begin(delivery, sources.BATCHED.name) for delivery in deliveries]
    try:
        await asyncio.sleep(max(body["work"] for body in bodies))  # the work itself
        for number, body, delivery in zip(numbers, bodies, deliveries, strict=True):
            outcome = acting.decide(number, body, delivery.attempt)
            # What is done is acknowledged when this function returns.
            if outcome != "done":
                await acting.settle(number, delivery, outcome)
    except asyncio.CancelledError:
        for number in numbers:
            acting.cancelled(number)
        raise


@worker.on(sources.STEPS, concurrency=4)
async def move_on(body: Any, delivery: ms.Delivery[Any]) -> None:
    """Move a step on in a transaction; when nobody knows whether that was done, fail and try again."""
    number = acting.begin(delivery, sources.STEPS.name)
    try:
        await asyncio.sleep(body["work"])  # the work itself
        outcome = acting.decide(number, body, delivery.attempt)
        if outcome == "done" and not await acting.commit(number, delivery):
            raise ValueError(WANTED)
    except asyncio.CancelledError:
        acting.cancelled(number)
        raise
    acting.raise_for(outcome)


@worker.on(sources.SUMS, concurrency=4)
async def with_a_result(body: Any, delivery: ms.Delivery[Any]) -> Any:
    """Return whose result it is, and of which delivery."""
    number = acting.begin(delivery, sources.SUMS.name)
    try:
        await asyncio.sleep(body["work"])  # the work itself
    except asyncio.CancelledError:
        acting.cancelled(number)
        raise
    acting.raise_for(acting.decide(number, body, delivery.attempt))
    return {"cid": body["cid"], "process": acting.process, "n": number}


@worker.every(sources.INTERVAL, sources.TICKS, name=sources.BEAT, missed="all")
def beat() -> Any:
    """Make the body of a tick; which one it is, its headers tell."""
    return {}


@worker.on(sources.TICKS)
async def tick(body: Any, delivery: ms.Delivery[Any]) -> None:
    """Tell of a tick."""
    acting.ticked(delivery)


@worker.on(sources.ECHO, concurrency=10)
async def echo(body: Any, request: ms.Request[Any]) -> Any:
    """Answer with what the request has asked, or fail if it says so."""
    number = acting.begin_request(request, sources.ECHO.name)
    try:
        await asyncio.sleep(body["work"])  # the work itself
    except asyncio.CancelledError:
        acting.cancelled(number)
        raise
    if body["act"] == "reject":
        acting.refused_request(number)
        raise ValueError(WANTED)
    acting.answered(number)
    return {"cid": body["cid"], "pad": body["pad"]}
