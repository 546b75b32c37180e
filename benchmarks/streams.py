"""Streams of replies: parts a second from a worker in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import millstream as ms
from benchmarks.children import child, stream, stream_barely
from benchmarks.measure import Bench, Case, Comparison, Row, Sample, Stopwatch, Topic
from benchmarks.messages import PARTS, PARTS_KEY
from benchmarks.server import pack

__all__ = ["TOPIC"]

AT_ONCE = 500
"""Entries that a bare read takes at most: as many as the bare producer writes at a time."""

WINDOWS: Mapping[str, int] = {f"stream_window_{window}": window for window in (32, 1000)}


def run(bench: Bench, wanted: frozenset[str]) -> list[Row]:
    """Measure one stream at a time, in turns with bare entries of a stream."""
    count = bench.sizes.middle

    def takes(window: int) -> Case:
        return lambda: asyncio.run(_take(bench, window, count))

    cases = {name: takes(window) for name, window in WINDOWS.items() if name in wanted}
    found = Comparison.of_all(bench, lambda: _take_barely(bench, count), cases)
    return [
        one.rate("streams", name, f"parts, window {WINDOWS[name]}", "XADD and XREAD of 500")
        for name, one in found.items()
    ]


TOPIC = Topic("parts of a stream of replies", tuple(WINDOWS), run)


async def _take(bench: Bench, window: int, count: int) -> Sample:
    taken = 0
    with child(stream, bench.url) as pipe:
        async with ms.AsyncClient(bench.url) as mq:
            with Stopwatch(bench.bare) as watch:
                async for _ in mq.request_stream(PARTS, count, window=window):
                    taken += 1
        pipe.send("stop")
    return _checked(watch, taken, count)


def _take_barely(bench: Bench, count: int) -> Sample:
    bare, taken, last = bench.bare, 0, b"0"
    with child(stream_barely, bench.address, count) as pipe, Stopwatch(bare) as watch:
        pipe.send("go")
        while taken < count:
            words = ("XREAD", "COUNT", AT_ONCE, "BLOCK", 0, "STREAMS", PARTS_KEY, last)
            bare.write(pack(words))
            entries = bare.read(1)[0][0][1]
            taken, last = taken + len(entries), entries[-1][0]
    return _checked(watch, taken, count)


def _checked(watch: Stopwatch, taken: int, count: int) -> Sample:
    """Make sure that a run did what it was timed for.

    Raises:
        RuntimeError: it did not take all there was, or more.
    """
    if taken != count:
        error = f"{taken} parts were taken, there should be {count}"
        raise RuntimeError(error)
    return watch.sample(count)
