"""A process that sends: ``python -m tests.chaos.producer async|blocking SEED RATE``."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import millstream as ms
from tests.chaos.acting import recorder
from tests.chaos.events import Recorder
from tests.chaos.sources import ECHO, KEYED, NAMESPACE, QUEUES, TOPICS, body
from tests.chaos.threads import run_all

LANES = 4
"""Tasks or threads that send side by side. Each has keys of its own, for which it knows an order."""

KEYS = 2
TIMEOUT = 3.0
REQUEST_TIMEOUT = 4.0
SHARES = {"plain": 20, "later": 8, "urgent": 8, "ordered": 20, "listed": 12, "news": 10}
SHARES |= {"story": 10, "echo": 12, "steps": 10, "sums": 6, "sole": 6, "narrow": 5, "licensed": 5}
MANY = 5
RESULT_TIMEOUT = 3.0
SOLE_KEYS = 4
"""Few, so that they are often taken."""


ALONE = ("echo", "sums", "sole")
"""What is sent one by one."""


class Client(Protocol):
    """What both clients have; an asyncio one returns what is to be awaited."""

    send: Any
    send_many: Any
    publish: Any
    publish_many: Any
    request: Any


class Lane:
    """Makes up what one task or thread sends, and tells of it.

    Args:
        record: of this process.
        name: of this lane, in no other of this run.
        dice: of its own.
    """

    def __init__(self, record: Recorder, name: str, dice: random.Random) -> None:
        self._record = record
        self._name = name
        self._dice = dice
        self._count = 0
        self._keys = [f"{name}-k{number}" for number in range(KEYS)]

    def next(self, mq: Client) -> tuple[int, Callable[[], Any]]:
        """Return the number of what is to be done next, and what does it. That it begins is told."""
        dice = self._dice
        [source] = dice.choices(list(SHARES), weights=list(SHARES.values()))
        key = dice.choice(self._keys) if source in KEYED else None
        bodies = [self._body(source, key) for _ in range(self._how_many(source))]
        options: dict[str, Any] = {} if key is None else {"key": key}
        if source == "later":
            options["delay"] = dice.choice([0.05, 0.3, 1.5])
        elif source == "urgent" and dice.random() < 0.5:
            options["priority"] = dice.randint(1, 9)
        elif source == "echo":
            options["timeout"] = REQUEST_TIMEOUT
        elif source == "sums":
            options["result"] = True
        elif source == "sole":
            options["unique"] = f"u{dice.randrange(SOLE_KEYS)}"
        number = self._record.number()
        told = [[one["cid"], one["number"]] for one in bodies]
        self._record.tell(
            "send", op=number, source=source, messages=told, key=key, **options_told(options)
        )
        return number, self._call(mq, source, bodies, options)

    def _how_many(self, source: str) -> int:
        if source == "narrow":
            return self._dice.randint(1, 3)
        return MANY if source not in ALONE and self._dice.random() < 0.05 else 1

    def _body(self, source: str, key: str | None) -> dict[str, Any]:
        self._count += 1
        return body(self._dice, source, f"{self._name}-{self._count}", key, self._count)

    def _call(
        self, mq: Client, source: str, bodies: list[dict[str, Any]], options: dict[str, Any]
    ) -> Callable[[], Any]:
        if source == "echo":
            return lambda: mq.request(ECHO, bodies[0], **options)
        place: Any = QUEUES.get(source) or TOPICS[source]
        one, many = (mq.send, mq.send_many) if source in QUEUES else (mq.publish, mq.publish_many)
        if len(bodies) == 1:
            return lambda: one(place, bodies[0], **options)
        return lambda: many(place, bodies, **options)

    def came(self, number: int, answer: Any) -> None:
        """Tell what a call has returned."""
        if isinstance(answer, dict):
            self._record.tell("replied", op=number, reply=answer["cid"])
            return
        answers = answer if isinstance(answer, list) else [answer]
        receipts = [one if isinstance(one, ms.Receipt) else one.receipt for one in answers]
        duplicate = receipts[0].duplicate
        self._record.tell("sent", op=number, ids=[one.id for one in receipts], duplicate=duplicate)

    def has_result(self, number: int, result: Any) -> None:
        """Tell which result a message has."""
        self._record.tell("result", op=number, result=result)

    def failed(self, number: int, error: ms.MillstreamError) -> None:
        """Tell what a call has raised."""
        data: dict[str, Any] = {"op": number, "error": type(error).__name__, "text": str(error)}
        if isinstance(error, ms.TimedOut):
            data["state"] = error.state
        if isinstance(error, ms.ResponderLost):
            data["reason"] = error.reason
        if isinstance(error, ms.QueueFull):
            data["length"] = error.length
        self._record.tell("erred", **data)


TOLD = ("delay", "timeout", "result", "unique")


def options_told(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that a check has to know."""
    return {name: options[name] for name in TOLD if name in options}


def settings() -> dict[str, Any]:
    """Return what a client of this process is made with."""
    made: dict[str, Any] = {"namespace": NAMESPACE, "timeout": TIMEOUT}
    if "DURABILITY" in os.environ:
        made["durability"] = os.environ["DURABILITY"]
    return made


def lanes(record: Recorder, seed: int, rate: float) -> list[tuple[Lane, Callable[[], float]]]:
    """Return lanes, each with how long it is to wait before it sends again."""
    dice = random.Random(seed)
    made: list[tuple[Lane, Callable[[], float]]] = []
    for number in range(LANES):
        own = random.Random(dice.getrandbits(64))
        lane = Lane(record, f"{record.process}-{number}", own)
        made.append((lane, lambda own=own: own.expovariate(rate / LANES)))  # type: ignore[misc]
    return made


async def produce(record: Recorder, seed: int, rate: float) -> None:
    """Send until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await _connected(stop) as mq:
        work = [_produce(mq, lane, pause, stop) for lane, pause in lanes(record, seed, rate)]
        await asyncio.gather(*work)


async def _connected(stop: asyncio.Event) -> ms.AsyncClient:
    while True:
        try:
            return await ms.AsyncClient(**settings()).connect()
        except ms.BrokerError:
            if stop.is_set():
                raise
            await asyncio.sleep(0.1)  # the work itself


async def _produce(
    mq: ms.AsyncClient, lane: Lane, pause: Callable[[], float], stop: asyncio.Event
) -> None:
    while not stop.is_set():
        number, call = lane.next(mq)
        try:
            answer = await call()
            lane.came(number, answer)
            if isinstance(answer, ms.Handle):
                lane.has_result(number, await answer.result(timeout=RESULT_TIMEOUT))
        except ms.MillstreamError as error:
            lane.failed(number, error)
        await asyncio.sleep(pause())  # the work itself


def produce_blocking(record: Recorder, seed: int, rate: float) -> None:
    """Do the same with threads, over one client."""
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)

    def work(mq: ms.Client, lane: Lane, pause: Callable[[], float]) -> None:
        while not stop.is_set():
            number, call = lane.next(mq)
            try:
                answer = call()
                lane.came(number, answer)
                if isinstance(answer, ms.SyncHandle):
                    lane.has_result(number, answer.result(timeout=RESULT_TIMEOUT))
            except ms.MillstreamError as error:
                lane.failed(number, error)
            stop.wait(pause())

    with _connected_blocking(stop) as mq:
        run_all(
            [
                threading.Thread(target=work, args=(mq, lane, pause))
                for lane, pause in lanes(record, seed, rate)
            ]
        )


def _connected_blocking(stop: threading.Event) -> ms.Client:
    while True:
        try:
            return ms.Client(**settings()).connect()
        except ms.BrokerError:
            if stop.is_set():
                raise
            stop.wait(0.1)


if __name__ == "__main__":
    own = recorder(os.environ["ROLE"])
    if sys.argv[1] == "async":
        asyncio.run(produce(own, int(sys.argv[2]), float(sys.argv[3])))
    else:
        produce_blocking(own, int(sys.argv[2]), float(sys.argv[3]))
    own.tell("ended")
