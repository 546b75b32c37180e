"""Idling: what a worker with nothing to do asks of the server."""

from __future__ import annotations

import asyncio

import millstream as ms
from benchmarks.measure import Bench, Goal, Row, Topic
from benchmarks.messages import QUEUE, Order

__all__ = ["TOPIC"]

NAME = "idle_commands"


def run(bench: Bench, _: frozenset[str]) -> list[Row]:
    """Count the commands that the server processes, those inside scripts included."""
    bench.say(f"idle ({bench.sizes.settling + bench.sizes.idling:.0f} s)")
    bench.fresh()
    row = Row(
        topic="idle",
        name=NAME,
        title="an idle worker",
        unit="commands/s",
        value=asyncio.run(_watch(bench)),
        goal=Goal("value", most=1.0),
    )
    return [row]


TOPIC = Topic("commands of an idle worker", (NAME,), run)


async def _watch(bench: Bench) -> float:
    worker = ms.Worker()

    @worker.on(QUEUE)
    async def handle(_: Order) -> None:
        """Never called."""

    async with ms.AsyncClient(bench.url) as mq:
        running = asyncio.create_task(worker.run(mq))
        await asyncio.sleep(bench.sizes.settling)
        before = _processed(bench)
        await asyncio.sleep(bench.sizes.idling)
        # A command counts when it is done: in between lies the first of our two questions.
        commands = _processed(bench) - before - 1
        worker.stop()
        await running
    return commands / bench.sizes.idling


def _processed(bench: Bench) -> int:
    return int(bench.bare.info("stats")["total_commands_processed"])
