"""The third act: many callers at a time ask an endpoint about the index that was built."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from millstream.aio.client import AsyncClient
from millstream.cli.demo.count import Figures, add_up
from millstream.cli.demo.outcome import Asked
from millstream.cli.demo.place import Place
from millstream.cli.demo.tasks import INDEX, NotIndexed
from millstream.errors import MillstreamError

__all__ = ["CALLERS", "ask_all", "by_path", "questions_about"]

CALLERS = 50

TICK = 0.1
"""Seconds between two looks at everything else."""

NO_SUCH_FILE = "no such file"

Look = Callable[[int], None]
"""Is told how many answers there are; it may end everything by an exception."""


def by_path(files: Mapping[str, Figures]) -> dict[str, Figures]:
    """Return what is in each file, and in each folder that has files.

    Args:
        files: what is in each file.
    """
    folders: dict[str, list[Figures]] = {}
    for name, figures in files.items():
        for folder in Path(name).parents:
            folders.setdefault(str(folder), []).append(figures)
    return {**files, **{folder: add_up(some) for folder, some in folders.items()}}


def questions_about(files: Sequence[Path]) -> list[str]:
    """Return what to ask: each file, each folder above one, and for each caller one that is not there."""
    folders = sorted({str(folder) for path in files for folder in path.parents})
    unknown = [f"{NO_SUCH_FILE} {number}" for number in range(CALLERS)]
    return [*folders, *map(str, files), *unknown]


def ask_all(place: Place, files: Sequence[Path], look: Look) -> Asked:
    """Ask everything, from so many callers at a time, over one client.

    Args:
        place: where the endpoint is.
        files: that were indexed.
        look: called now and then.
    """
    return asyncio.run(_ask_all(place, questions_about(files), look))


async def _ask_all(place: Place, questions: Sequence[str], look: Look) -> Asked:
    rest = iter(questions)
    async with AsyncClient(place.url, namespace=place.namespace) as mq:
        callers = [_Caller(mq, rest) for _ in range(CALLERS)]
        began = time.monotonic()
        tasks = [asyncio.create_task(caller.ask()) for caller in callers]
        left: set[asyncio.Task[None]] = set(tasks)
        try:
            while left:
                _, left = await asyncio.wait(left, timeout=TICK)
                look(sum(len(caller.seconds) for caller in callers))
        finally:
            for task in left:
                task.cancel()
        seconds = time.monotonic() - began
        await asyncio.gather(*tasks)
    waits = sorted(wait for caller in callers for wait in caller.seconds)
    return Asked(
        callers=CALLERS,
        questions=len(questions),
        answers={path: one for caller in callers for path, one in caller.answers.items()},
        failed=[text for caller in callers for text in caller.failed],
        seconds=seconds,
        p50=_percentile(waits, 50),
        p99=_percentile(waits, 99),
    )


class _Caller:
    """One of many who ask.

    Args:
        mq: to ask with; they share it.
        questions: what is left to ask; they share that, too.
    """

    def __init__(self, mq: AsyncClient, questions: Iterator[str]) -> None:
        self._mq = mq
        self._questions = questions
        self.answers: dict[str, Figures | None] = {}
        self.failed: list[str] = []
        self.seconds: list[float] = []

    async def ask(self) -> None:
        """Ask one question after the other until there are none left."""
        for path in self._questions:
            began = time.monotonic()
            try:
                answer: Figures = await self._mq.request(INDEX, path)
            except NotIndexed as error:
                # It comes over the wire with its arguments: whose answer it is can be seen.
                self.answers[error.path] = None
            except MillstreamError as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            else:
                self.answers[path] = answer
            self.seconds.append(time.monotonic() - began)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the smallest value that so many percent do not exceed."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else 0.0
