"""Consumers in processes of their own."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import msgspec
from redis.asyncio import Redis

import millstream as ms
from benchmarks.messages import (
    ASK_KEY,
    BODIES,
    ECHO,
    ORDERS,
    PARTS,
    PARTS_KEY,
    QUEUE,
    REPLY_KEY,
    STAMPS,
    STAMPS_KEY,
    Order,
    Stamp,
)
from benchmarks.server import Bare, pack

__all__ = [
    "answer",
    "child",
    "count",
    "echo",
    "echo_barely",
    "echo_by_client",
    "note_latencies",
    "note_latencies_barely",
    "note_lateness",
    "stream",
    "stream_barely",
]

AT_ONCE = 500
"""Entries that a bare producer writes at a time."""

PATIENCE = 120.0
"""Seconds after which a child that says nothing is taken for stuck."""


@contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Run a function in a fresh process, with a pipe as its last argument; yield the other end.

    It is entered when the child is ready.
    """
    # A forked child would inherit this one's memory, and with it the work of its garbage collector.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answer(ours)
        yield ours
    finally:
        ours.close()
        process.terminate()
        process.join()
        process.close()


def answer(pipe: Connection) -> Any:
    """Wait for what a child has to say.

    Raises:
        RuntimeError: nothing; EOFError: it has ended.
    """
    if not pipe.poll(PATIENCE):
        message = f"a child process has said nothing for {PATIENCE:g} s"
        raise RuntimeError(message)
    return pipe.recv()


def count(url: str, messages: int, pipe: Connection) -> None:
    """Handle so many orders; say when they are settled."""
    worker = ms.Worker()
    handled = 0

    @worker.on_startup
    async def ready() -> None:
        pipe.send("ready")

    @worker.on(QUEUE)
    async def handle(_: Order) -> None:
        nonlocal handled
        handled += 1
        if handled == messages:
            worker.stop()

    asyncio.run(_work(worker, url))
    pipe.send("done")


def note_latencies(url: str, messages: int, pipe: Connection) -> None:
    """Handle so many stamps; say how old each was, in seconds."""
    worker = ms.Worker()
    latencies: list[float] = []

    @worker.on_startup
    async def ready() -> None:
        # As ``millstream run`` does.
        gc.collect()
        gc.freeze()
        pipe.send("ready")

    @worker.on(STAMPS)
    async def handle(stamp: Stamp) -> None:
        latencies.append((time.monotonic_ns() - stamp.sent) / 1e9)
        if len(latencies) == messages:
            worker.stop()

    asyncio.run(_work(worker, url))
    pipe.send(latencies)


def note_lateness(url: str, messages: int, pipe: Connection) -> None:
    """Handle so many stamps of due times; say how late each was, in seconds."""
    worker = ms.Worker()
    late: list[float] = []

    @worker.on_startup
    async def ready() -> None:
        # As ``millstream run`` does.
        gc.collect()
        gc.freeze()
        pipe.send("ready")

    @worker.on(STAMPS)
    async def handle(stamp: Stamp) -> None:
        late.append((time.time_ns() - stamp.sent) / 1e9)
        if len(late) == messages:
            worker.stop()

    asyncio.run(_work(worker, url))
    pipe.send(late)


async def _work(worker: ms.Worker, url: str) -> None:
    async with ms.AsyncClient(url) as mq:
        await worker.run(mq)


def note_latencies_barely(address: str, messages: int, pipe: Connection) -> None:
    """Do the same with a bare socket and a read that sleeps at the server."""
    bare = Bare(address)
    bare.ask("XGROUP", "CREATE", STAMPS_KEY, "workers", "0", "MKSTREAM")
    read = pack(
        (
            "XREADGROUP",
            "GROUP",
            "workers",
            "bare",
            "BLOCK",
            0,
            "COUNT",
            1,
            "STREAMS",
            STAMPS_KEY,
            ">",
        )
    )
    decode = msgspec.json.Decoder(Stamp).decode
    latencies: list[float] = []
    pipe.send("ready")
    bare.write(read)
    reply = bare.read(1)[0]
    while True:
        entry, fields = reply[0][1][0]
        stamp = decode(fields[1])
        latencies.append((time.monotonic_ns() - stamp.sent) / 1e9)
        ack = pack(("XACK", STAMPS_KEY, "workers", entry))
        delete = pack(("XDEL", STAMPS_KEY, entry))
        if len(latencies) == messages:
            break
        bare.write(ack + delete + read)
        reply = bare.read(3)[2]
    pipe.send(latencies)


def echo(url: str, pipe: Connection) -> None:
    """Answer each request with its own body, until told to stop."""
    worker = ms.Worker()

    @worker.on_startup
    async def ready() -> None:
        # As ``millstream run`` does.
        gc.collect()
        gc.freeze()

    @worker.on(ECHO)
    async def same(order: Order) -> Order:
        return order

    async def look(mq: ms.AsyncClient) -> None:
        await mq.request(ECHO, ORDERS[0])

    asyncio.run(_serve(worker, url, look, pipe))


def stream(url: str, pipe: Connection) -> None:
    """Answer each request with as many orders as it says, until told to stop."""
    worker = ms.Worker()

    @worker.on(PARTS)
    async def count_out(count: int) -> AsyncIterator[Order]:
        for number in range(count):
            yield ORDERS[number % len(ORDERS)]

    async def look(mq: ms.AsyncClient) -> None:
        async for _ in mq.request_stream(PARTS, 1):
            pass

    asyncio.run(_serve(worker, url, look, pipe))


Look = Callable[[ms.AsyncClient], Awaitable[None]]


async def _serve(worker: ms.Worker, url: str, look: Look, pipe: Connection) -> None:
    async with ms.AsyncClient(url) as mq, asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run(mq))
        await _served(mq, look)
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        worker.stop()


async def _served(mq: ms.AsyncClient, look: Look) -> None:
    """Wait until requests are taken."""
    while True:
        try:
            await look(mq)
        except ms.NoResponders:
            await asyncio.sleep(0.01)
        else:
            return


def echo_barely(address: str, pipe: Connection) -> None:
    """Do the same with a bare socket and a pop that sleeps at the server, until killed."""
    bare = Bare(address)
    take = pack(("BLPOP", ASK_KEY, 0))
    pipe.send("ready")
    bare.write(take)
    body = bare.read(1)[0][1]
    while True:
        bare.write(pack(("LPUSH", REPLY_KEY, body)) + take)
        body = bare.read(2)[1][1]


def echo_by_client(url: str, pipe: Connection) -> None:
    """Do the same with redis-py's client on asyncio, until killed."""

    async def echo() -> None:
        async with Redis.from_url(url) as client:
            pipe.send("ready")
            while True:
                asked = await client.blpop([ASK_KEY], 0)
                assert asked is not None  # noqa: S101 - it waits for ever
                await client.lpush(REPLY_KEY, asked[1])

    asyncio.run(echo())


def stream_barely(address: str, count: int, pipe: Connection) -> None:
    """Write as many entries with a bare socket, 500 at a time, when told to."""
    bare = Bare(address)
    pipe.send("ready")
    pipe.recv()
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        bodies = (BODIES[number % len(BODIES)] for number in numbers)
        bare.write(b"".join(pack(("XADD", PARTS_KEY, "*", "part", body)) for body in bodies))
        bare.read(len(numbers))
    # Who reads has all of it, and ends this process.
    pipe.recv()
