"""A consumer without a worker: ``python -m tests.chaos.receiver async|blocking SOURCE...``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import millstream as ms
from tests.chaos.acting import Acting, recorder
from tests.chaos.events import Recorder
from tests.chaos.sources import ALONE, CONSUMED, NAMESPACE, STEPS
from tests.chaos.threads import run_all

TIMEOUT = 5.0
WAIT = 0.5
"""Seconds after which a loop without messages looks whether it is to end."""

PREFETCH = 5


async def receive(record: Recorder, names: list[str]) -> None:
    """Receive until told to stop, from all sources at once."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.gather(*(_receive(record, Acting(record), name, stop) for name in names))


async def _receive(record: Recorder, acting: Acting, name: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            async with ms.AsyncClient(namespace=NAMESPACE, timeout=TIMEOUT) as mq:
                while not stop.is_set():
                    async for delivery in mq.receive(CONSUMED[name], prefetch=PREFETCH, wait=WAIT):
                        number = acting.begin(delivery, name)
                        await asyncio.sleep(min(delivery.body["work"], ALONE))  # the work itself
                        outcome = acting.decide(number, delivery.body, delivery.attempt)
                        await acting.settle(number, delivery, outcome)
                        if stop.is_set():
                            break
        except ms.BrokerError as error:
            record.tell("broken", source=name, error=repr(error))
            await asyncio.sleep(0.2)  # the work itself


def receive_blocking(record: Recorder, names: list[str]) -> None:
    """Do the same with threads, one for each source."""
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    arguments = [(record, Acting(record), name, stop) for name in names]
    run_all([threading.Thread(target=_receive_blocking, args=one) for one in arguments])


def _receive_blocking(record: Recorder, acting: Acting, name: str, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with ms.Client(namespace=NAMESPACE, timeout=TIMEOUT) as mq:
                while not stop.is_set():
                    for delivery in mq.receive(CONSUMED[name], prefetch=PREFETCH, wait=WAIT):
                        _handle(acting, name, delivery)
                        if stop.is_set():
                            break
        except ms.BrokerError as error:
            record.tell("broken", source=name, error=repr(error))
            stop.wait(0.2)


def _handle(acting: Acting, name: str, delivery: ms.SyncDelivery[Any]) -> None:
    number = acting.begin(delivery, name)
    time.sleep(min(delivery.body["work"], ALONE))  # the work itself
    outcome = acting.decide(number, delivery.body, delivery.attempt)
    if name == STEPS.name and outcome == "done":
        acting.commit_now(number, delivery)
    else:
        acting.settle_now(number, delivery, outcome)


if __name__ == "__main__":
    own = recorder(os.environ["ROLE"])
    if sys.argv[1] == "async":
        asyncio.run(receive(own, sys.argv[2:]))
    else:
        receive_blocking(own, sys.argv[2:])
    own.tell("ended")
