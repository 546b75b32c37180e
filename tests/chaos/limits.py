"""The proof for what is limited: how many messages a queue has, how many run, how many begin."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tests.chaos.checker import LateStarts, Violation, by_cid, excused
from tests.chaos.history import History
from tests.chaos.sources import BOUND, BURST, LICENSED, MAX_RUNNING, NARROW, RATE

__all__ = ["LIMITS"]

HOLDING = 3
"""Processes that may hold a message of LICENSED: each one, for its concurrency is 1."""


def bounds(history: History) -> Iterator[Violation]:
    """A queue never has more messages than its bound, and refuses none while it has room.

    Retries do not need room, for they have it already: nothing else brings more.
    """
    source = NARROW.name
    for sample in history.samples:
        if sample.source == source and sample.unfinished > BOUND:
            what = f"has {sample.unfinished} messages at {sample.end:.4f}"
            yield Violation("bounds", source, "", what)
    deliveries = by_cid(history.given[source])
    steps: list[tuple[float, int, str]] = []
    over: dict[str, float] = {}
    for cid, sent in history.sent[source].items():
        given = deliveries.get(cid, [])
        until = min((one.over for one in given if one.handled), default=math.inf)
        if sent.confirmed is not None and history.kept(sent) and sent.confirmed < until:
            # For sure it is there until its consumer is about to end it.
            steps += [(sent.confirmed, 1, cid), (until, -1, cid)]
        settled = (one.settled for one in given if history.is_over(one))
        over[cid] = min((end for end in settled if end is not None), default=math.inf)
    there = 0
    for when, step, cid in sorted(steps):
        there += step
        if step > 0 and there > BOUND:
            yield Violation("bounds", source, cid, f"is one of {there} messages at {when:.4f}")
    for refusal in history.refusals:
        if history.lost_between(refusal.begun - history.lease, refusal.over):
            continue  # what it counted may have been forgotten, and so may an end
        most = sum(
            1
            for cid, sent in history.sent[source].items()
            if sent.begun <= refusal.over and over[cid] >= refusal.begun
        )
        if most + refusal.count <= BOUND:
            what = f"refused {refusal.count} at {refusal.over:.4f}, with at most {most} there"
            yield Violation("bounds", source, "", what)


def max_running(history: History) -> Iterator[Violation]:
    """No more messages are in flight than the queue allows, but for those whose lease may be over."""
    source, late = LICENSED.name, LateStarts(history)
    for sample in history.samples:
        if sample.source == source and sample.in_flight > MAX_RUNNING:
            what = f"{sample.in_flight} are in flight at {sample.end:.4f}"
            yield Violation("max_running", source, "", what)
    for given in history.given[source]:
        beside = [
            one
            for one in history.given[source]
            if one is not given and one.begun <= given.begun < one.over
            if not excused(history, one, given.begun)
            if not history.lost_between(one.begun, given.begun)
        ]
        if len(beside) >= MAX_RUNNING:
            if not late.forgives(given, max(one.begun for one in beside)):
                who = ", ".join(one.cid for one in beside)
                what = f"began at {given.begun:.4f} beside {who}"
                yield Violation("max_running", source, given.cid, what)


def rate(history: History) -> Iterator[Violation]:
    """In no span of time more deliveries begin than the rate, the burst, and what was in hand before.

    A bucket: each beginning puts a drop into it, which leave it as the rate says.
    """
    level, last = 0.0, -math.inf
    for given in history.given[LICENSED.name]:
        # What a failover forgets is also what had been used up.
        forgotten = history.lost_between(last, given.begun)
        level = 1.0 if forgotten else max(0.0, level - RATE * (given.begun - last)) + 1.0
        last = given.begun
        # Half of one for clocks that are slewed.
        if level > BURST + HOLDING + 0.5:
            what = f"began at {given.begun:.4f} as one of {level:.1f} too soon after each other"
            yield Violation("rate", LICENSED.name, given.cid, what)


LIMITS = (bounds, max_running, rate)
