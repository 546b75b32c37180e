"""What the run works with: queues of each kind, topics with subscriptions, an endpoint."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace
from typing import Any

import millstream as ms

NAMESPACE = "t-chaos"

LEASE = 5.0
"""Seconds. Some faults are longer, so leases run out; most are shorter."""

RETRY = ms.Retry(
    max_attempts=3,
    # Kills are what this is about: no message may be given up for them.
    max_crashes=100_000,
    backoff=ms.Backoff(first=0.2, factor=2, max=1, jitter=0.1),
)

PLAIN: ms.Queue[Any] = ms.Queue("plain", lease=LEASE, retry=RETRY)
LATER: ms.Queue[Any] = ms.Queue("later", lease=LEASE, retry=RETRY)
URGENT: ms.Queue[Any] = ms.Queue("urgent", lease=LEASE, retry=RETRY)
ORDERED: ms.Queue[Any] = ms.Queue("ordered", lease=LEASE, retry=RETRY, ordered=True, partitions=3)
LISTED: ms.Queue[Any] = ms.Queue("listed", lease=LEASE, retry=RETRY, store="list")
NEWS: ms.Topic[Any] = ms.Topic("news", lease=LEASE, retry=RETRY)
STORY: ms.Topic[Any] = ms.Topic("story", lease=LEASE, retry=RETRY, ordered=True)
ALL = NEWS.subscription("all", start=ms.EARLIEST)
BATCHED = NEWS.subscription("batched", start=ms.EARLIEST)
READERS = STORY.subscription("readers", start=ms.EARLIEST)
# A step is moved on to what it makes in a transaction, which also notes it in the ledger; one slot has all.
STEPS: ms.Queue[Any] = ms.Queue("steps", lease=LEASE, retry=replace(RETRY, max_attempts=100_000))
MADE: ms.Queue[Any] = ms.Queue("{steps}.made", lease=LEASE, retry=RETRY)
MADE_SIGN = ">"
LEDGER = "t-ledger:{steps}"
SUMS: ms.Queue[Any] = ms.Queue("sums", lease=LEASE, retry=RETRY, results=ms.Results(keep=86_400))
SOLE: ms.Queue[Any] = ms.Queue("sole", lease=LEASE, retry=RETRY)
BOUND = 6
NARROW: ms.Queue[Any] = ms.Queue("narrow", lease=LEASE, retry=RETRY, bound=ms.Bound(BOUND))
RATE, BURST, MAX_RUNNING = 8, 4, 2
LICENSED: ms.Queue[Any] = ms.Queue(
    "licensed",
    lease=LEASE,
    retry=RETRY,
    rate=ms.Rate(RATE, burst=BURST),
    max_running=MAX_RUNNING,
)
TICKS: ms.Queue[Any] = ms.Queue("ticks", lease=LEASE, retry=RETRY)
BEAT, INTERVAL = "beat", 1.0
"""A schedule, and the seconds between its ticks."""

ECHO: ms.Endpoint[Any, Any] = ms.Endpoint("echo", timeout=6, lease=LEASE)

QUEUES: dict[str, ms.Queue[Any]] = {
    queue.name: queue
    for queue in (PLAIN, LATER, URGENT, ORDERED, LISTED, STEPS, MADE, SUMS, SOLE, NARROW, LICENSED)
}
TOPICS: dict[str, ms.Topic[Any]] = {topic.name: topic for topic in (NEWS, STORY)}
CONSUMED: dict[str, Any] = {
    **QUEUES,
    **{one.name: one for one in (ALL, BATCHED, READERS)},
}
"""What messages are delivered from, by the name that the record has."""

SUBSCRIPTIONS = {"news": ("news/all", "news/batched"), "story": ("story/readers",)}
KEYED = ("ordered", "story")

ACTS = {"ok": 70, "ack": 15, "fail": 5, "later": 5, "reject": 3, "hopeless": 2}
"""What becomes of a message, and how many in a hundred: it is done; the handler acknowledges it
itself; it fails once; it asks once for another time; it is rejected; it always fails."""

ONLY = {
    STEPS.name: {act: times for act, times in ACTS.items() if act not in ("ack", "hopeless")},
    # Acknowledged by hand, it would have no result.
    SUMS.name: {act: times for act, times in ACTS.items() if act != "ack"},
    # When exactly there is room, and when a key is free, only an acknowledgement by hand can tell.
    NARROW.name: {"ack": 90, "fail": 5, "later": 5, "reject": 5},
    SOLE.name: {**ACTS, "ok": 40, "ack": 45},
}
"""The same for queues in which something else happens."""

PAUSE = 0.5
"""Seconds for which a handler puts a message off that is done ``later``."""


SHORT = (0.0, 0.0, 0.001, 0.01, 0.1)
LONG = (0.5, 1.0, 3.0, 8.0)
"""Seconds of work; the last is longer than a lease. A message with a key holds up those behind it."""

ALONE = 1.0
"""Seconds of work at the most of who has to extend leases himself, and does not."""


def body(
    dice: random.Random, source: str, cid: str, key: str | None, number: int
) -> dict[str, Any]:
    """Return a body: what is to become of it, and how it is known again."""
    acts = ONLY.get(source, ACTS)
    [act] = dice.choices(list(acts), weights=list(acts.values()))
    work = dice.choice(SHORT if key or dice.random() < 0.9 else LONG)
    pad = "x" * dice.choice([0, 10, 300])
    made = {"cid": cid, "key": key, "number": number, "act": act, "work": work, "pad": pad}
    return {**made, "sum": checksum(made)}


def made_of(step: dict[str, Any]) -> dict[str, Any]:
    """Return the body that a step is moved on with: always the same."""
    cid = f"{step['cid']}{MADE_SIGN}"
    made = {"cid": cid, "key": None, "number": step["number"], "act": "ok", "work": 0.0, "pad": ""}
    return {**made, "sum": checksum(made)}


def checksum(made: dict[str, Any]) -> int:
    """Return a number by which a body is known that has changed on its way."""
    return zlib.crc32(repr(sorted(item for item in made.items() if item[0] != "sum")).encode())


def least_pause(attempt: int) -> float:
    """Return the seconds that a message waits at the least after a failure."""
    return RETRY.backoff.delay(attempt, 0.0) / 1000
