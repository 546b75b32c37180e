"""A seek while a process is stopped that holds messages: what it does when it goes on is refused."""

from __future__ import annotations

import signal
from typing import Any

import pytest

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import PATIENCE
from tests.support.wait import until

HOLDING = """
@worker.on(ms.Topic("placed", lease=3), subscription="mail", concurrency=10)
{kind} handle(body, delivery):
    record("begun", body)
    while not flag("go on"):
        {wait}
    record("ended", body)
"""


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_process_that_was_stopped(workshop: Workshop, mq: ms.Client, kind: str) -> None:
    """Another one has the same entries in flight by then, and is the only one that ends them."""
    wait = "await asyncio.sleep(0.01)" if kind == "async def" else "time.sleep(0.01)"
    workshop.write(HOLDING.format(kind=kind, wait=wait))
    topic: ms.Topic[Any] = ms.Topic("placed", lease=3)
    mail = topic.subscription("mail", start=ms.EARLIEST)
    # One that handles nothing, so that the history is kept.
    for sub in (mail, topic.subscription("audit", start=ms.EARLIEST)):
        mq.declare(sub)
    mq.publish_many(topic, range(5))
    stopped = workshop.worker()
    workshop.until_told("begun", 5)
    stopped.send(signal.SIGSTOP)

    assert mq.seek(topic, "mail", to=ms.EARLIEST, force=True) == 5

    other = workshop.worker()
    begun = workshop.until_told("begun", 10)
    assert {event.pid for event in begun[5:]} == {other.pid}
    stopped.send(signal.SIGCONT)
    until(lambda: "lost the lease" in stopped.output, PATIENCE)
    assert mq.stats(mail).in_flight == 5
    assert mq.stats(mail).acked == 0
    workshop.raise_flag("go on")
    until(lambda: mq.stats(mail).acked == 5, PATIENCE)
    found = mq.stats(mail)
    assert (found.ready, found.delayed, found.in_flight, found.dead) == (0, 0, 0, 0)
    # A read of the stopped process may have slept at the server, which brought it one more.
    assert found.crashed <= 1
