"""The process that reads the demo's topic for one subscription, and tells what it knows."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

import msgspec

from millstream.aio.client import AsyncClient
from millstream.aio.delivery import Delivery
from millstream.cli.demo.count import Figures
from millstream.cli.demo.index import PARTS, Index, Part
from millstream.cli.demo.keeper import STOP
from millstream.cli.demo.outcome import Reading
from millstream.cli.demo.tasks import INDEX, INDEXED, Indexed
from millstream.topic import EARLIEST
from millstream.worker import Worker

__all__ = ["main", "read"]


def main() -> None:
    """Read until standard input says so; then print what came out, as JSON."""
    parser = argparse.ArgumentParser(prog="millstream.cli.demo.reader")
    parser.add_argument("namespace")
    parser.add_argument("subscription", choices=[part.name for part in PARTS])
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    (part,) = (part for part in PARTS if part.name == options.subscription)
    reading = asyncio.run(_main(options.namespace, part))
    sys.stdout.buffer.write(msgspec.json.encode(reading))


async def _main(namespace: str, part: Part) -> Reading:
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    stop = asyncio.Event()
    async with AsyncClient(namespace=namespace) as mq, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read(mq, part, stop))
        if await stdin.read(1) != STOP:
            # The demo was killed. Its keys are about to be deleted, and none must come after.
            os._exit(1)
        stop.set()
    return reading.result()


async def read(mq: AsyncClient, part: Part, stop: asyncio.Event) -> Reading:
    """Be the consumer of a subscription, and perhaps answer questions, until it is to stop.

    Args:
        mq: where the topic is.
        part: the subscription. A late one replays what there is, and then goes on from there.
        stop: ends it.
    """
    index = Index.of(part)
    last: str | None = None
    if part.late:
        async for message in mq.replay(INDEXED):
            index.add(message.id, message.body)
            last = message.id
    replayed = index.messages
    worker = Worker()

    # From the last message that was replayed, which comes once more: so nothing is left out.
    @worker.on(INDEXED, subscription=part.name, start=last or EARLIEST)
    async def add(one: Indexed, delivery: Delivery[Indexed]) -> None:
        index.add(delivery.id, one)

    async def about(path: str) -> Figures:
        return index.about(path)

    if part.answers:
        worker.on(INDEX)(about)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run(mq))
        await stop.wait()
        worker.stop()
    return Reading(
        subscription=part.name,
        pid=os.getpid(),
        messages=index.messages,
        replayed=replayed,
        duplicates=index.duplicates,
        files=index.files,
        figures=index.figures,
        longest=index.longest,
    )


if __name__ == "__main__":
    main()
