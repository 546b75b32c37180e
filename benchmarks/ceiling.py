"""The ceiling: bare commands, packed by hiredis, over a bare socket.

It has no handler, decodes no body, waits for nothing and survives nothing: no client in Python
does less a message.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Bench, Sample, Stopwatch
from benchmarks.messages import BODIES, KEY
from benchmarks.server import pack

__all__ = ["BATCH", "consume", "fill", "read_all", "send", "send_singly"]

BATCH = 500


def fill(bench: Bench, count: int, key: str = KEY) -> None:
    """Put messages into the queue, or another stream: a plain XADD is a valid send."""
    for size, bodies in _batches(count):
        payload = [pack(("XADD", key, "*", "b", body)) for body in bodies]
        bench.bare.write(b"".join(payload))
        bench.bare.read(size)


def send(bench: Bench, count: int) -> Sample:
    """Send messages in pipelines, one after the other."""
    with Stopwatch(bench.bare) as watch:
        fill(bench, count)
    bench.expect(count)
    return watch.sample(count)


def send_singly(bench: Bench, count: int) -> Sample:
    """Send messages with a round trip each."""
    bare = bench.bare
    with Stopwatch(bare) as watch:
        for _, bodies in _batches(count):
            for body in bodies:
                bare.write(pack(("XADD", KEY, "*", "b", body)))
                bare.read(1)
    bench.expect(count)
    return watch.sample(count)


def consume(bench: Bench, count: int) -> Sample:
    """Read messages and delete them; a batch's acks go out with the next read."""
    fill(bench, count)
    bare = bench.bare
    bare.ask("XGROUP", "CREATE", KEY, "workers", "0")
    read = pack(("XREADGROUP", "GROUP", "workers", "bare", "COUNT", BATCH, "STREAMS", KEY, ">"))
    with Stopwatch(bare) as watch:
        bare.write(read)
        reply = bare.read(1)[0]
        while reply:
            ids = [entry[0] for entry in reply[0][1]]
            ack = pack(("XACK", KEY, "workers", *ids))
            delete = pack(("XDEL", KEY, *ids))
            bare.write(ack + delete + read)
            reply = bare.read(3)[2]
    bench.expect(0)
    return watch.sample(count)


def read_all(bench: Bench, count: int, key: str) -> Sample:
    """Read a stream from its first entry to its last, a batch a round trip."""
    fill(bench, count, key)
    bare, start, found = bench.bare, b"-", 0
    with Stopwatch(bench.bare) as watch:
        while page := bare.ask("XRANGE", key, start, "+", "COUNT", BATCH):
            found += len(page)
            start = b"(" + page[-1][0]
    if found != count:
        error = f"{found} entries were read, there should be {count}"
        raise RuntimeError(error)
    return watch.sample(count)


def _batches(count: int) -> Iterator[tuple[int, list[bytes]]]:
    """Divide so many messages into batches of bodies."""
    for start in range(0, count, BATCH):
        first = start % len(BODIES)
        size = min(BATCH, count - start)
        yield size, BODIES[first : first + size]
