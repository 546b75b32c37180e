"""The demo's declarations and its worker, as a user would write them."""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from pathlib import Path

import msgspec

from millstream.aio.delivery import Delivery
from millstream.cli.demo.count import Figures, Function, count_file
from millstream.declare import Queue
from millstream.endpoint import Endpoint
from millstream.policy import Retain
from millstream.topic import Topic
from millstream.worker import Worker

__all__ = [
    "FILES",
    "INDEX",
    "INDEXED",
    "RESULTS",
    "Counted",
    "Indexed",
    "NotIndexed",
    "now",
    "worker",
]


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one file.

    Attributes:
        file: its path. A message may be handled twice, so whoever adds up results goes by this.
        figures: what is in it.
        pid: of the process that counted.
        crashes: how many processes died with this message in hand before.
        began: when the handler began, by ``now``.
    """

    file: str
    figures: Figures
    pid: int
    crashes: int
    began: float


class Indexed(msgspec.Struct, frozen=True, kw_only=True):
    """What is published of one file, for whoever wants to know.

    Attributes:
        file: its path. It may be published twice, as its result may be sent twice.
        figures: what is in it.
        longest: its longest functions.
    """

    file: str
    figures: Figures
    longest: list[Function]


class NotIndexed(Exception):
    """There is nothing in the index by this path.

    Attributes:
        path: that was asked for.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


# The supervisor hands a dead worker's deliveries over at once. The lease is the safety net below
# it, and short so that nobody would have to wait half a minute to see that hold.
FILES: Queue[str] = Queue("demo.files", str, lease=5)
RESULTS: Queue[Counted] = Queue("demo.results", Counted)
# What everybody has handled stays for an hour: who joins late can replay it.
INDEXED: Topic[Indexed] = Topic("demo.indexed", Indexed, retain=Retain(max_age=3600))
# What is in a file, or in all files of a folder. To ask twice does no harm. The time is for slow machines.
INDEX: Endpoint[str, Figures] = Endpoint(
    "demo.index", str, Figures, errors=[NotIndexed], idempotent=True, timeout=30
)

worker = Worker(shutdown_timeout=5)


def now() -> float:
    """Tell the time in seconds, by a clock that all processes of a machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@worker.on_startup
async def hush() -> None:
    """Leave it to the authors what the parser warns of in their files."""
    warnings.simplefilter("ignore")


# One at a time: it is all computation, and when threads parse at once, Python 3.11 sometimes raises
# SystemError (CPython issue 106905). Nine more are at hand for the next moment.
@worker.on(FILES, concurrency=1, prefetch=10)
async def count(path: str, delivery: Delivery[str]) -> None:
    """Count what is in a file; publish and send that before the message is acknowledged."""
    began = now()
    # In a thread, so that the event loop can fetch and settle meanwhile.
    found = await asyncio.to_thread(count_file, Path(path))
    indexed = Indexed(file=path, figures=found.figures, longest=found.longest)
    await worker.client.publish(INDEXED, indexed)
    result = Counted(
        file=path, figures=found.figures, pid=os.getpid(), crashes=delivery.crashes, began=began
    )
    await worker.client.send(RESULTS, result)
