"""Handlers of topics: how they are declared, and that each subscription gets every message."""

from __future__ import annotations

from typing import Any

import pytest

import millstream as ms
from millstream.topic import EARLIEST, Topic

PLACED: Topic[Any] = Topic("orders.placed")


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (PLACED, {}, "say which subscription of topic 'orders.placed': subscription="),
        (PLACED, {"subscription": "a/b"}, "the subscription's name must be"),
        (PLACED, {"subscription": "a", "start": "x"}, "'orders.placed/a': start must be"),
        (ms.Queue("orders"), {"subscription": "a"}, "subscription is for topics, and this is qu"),
        (ms.Queue("orders"), {"start": EARLIEST}, "start is for topics, and this is queue"),
        (PLACED.subscription("a"), {"filter": "eu.*"}, r"filter goes into topic.subscription\("),
        ("orders", {}, "expected a Queue, a Topic or a Subscription, not str"),
    ],
)
def test_what_makes_no_sense(
    worker: ms.Worker, target: Any, options: dict[str, Any], words: str
) -> None:
    """The error says what to write instead."""
    with pytest.raises(ms.UsageError, match=words):

        @worker.on(target, **options)
        async def handle(_: Any) -> None: ...

    assert worker.handlers == ()


def test_one_handler_each(worker: ms.Worker) -> None:
    """A worker may have handlers for several subscriptions of a topic, one for each."""
    retry = ms.Retry(max_attempts=2)

    @worker.on(PLACED, subscription="email", retry=retry, start=EARLIEST)
    @worker.on(PLACED.subscription("audit"))
    @worker.on(ms.Queue("orders.placed"))
    async def handle(_: Any) -> None: ...

    titles = [one.queue.title for one in worker.handlers]
    assert titles == [
        "queue 'orders.placed'",
        "subscription 'orders.placed/audit'",
        "subscription 'orders.placed/email'",
    ]
    assert worker.handlers[2].retry == retry
    with pytest.raises(ms.UsageError, match=r"^subscription 'orders.placed/email' has a handler"):
        worker.on(PLACED, subscription="email")(handle)
