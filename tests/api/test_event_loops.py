"""A client for asyncio is used in one event loop: in another one each operation says so at once."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

import millstream as ms

PATIENCE = 20.0

PLAIN: ms.Queue[int] = ms.Queue("plain", int, results=ms.Results(type=int))
OTHER: ms.Queue[int] = ms.Queue("other", int)
FULL: ms.Queue[int] = ms.Queue("full", int, bound=ms.Bound(10, on_full="wait", timeout=300))
LOG: ms.Topic[int] = ms.Topic("log", int)
NOBODY: ms.Endpoint[Any, Any] = ms.Endpoint("nobody.serves.it", timeout=300)
STRANGE: ms.Endpoint[Any, Any] = ms.Endpoint("nobody.knows.it", timeout=300)

Use = Callable[[ms.AsyncClient], Awaitable[object]]


async def use(mq: ms.AsyncClient) -> None:
    """Use it, so that all that it makes when it is needed is there."""
    await mq.send(PLAIN, 1)
    await mq.send(FULL, 1)
    await mq.publish(LOG, 1)
    with pytest.raises(ms.NoResponders):
        await mq.request(NOBODY, 1)


async def first(items: Any) -> object:
    async with aclosing(items):
        return await anext(items)


USES: dict[str, Use] = {
    "connect": lambda mq: mq.connect(),
    "send": lambda mq: mq.send(PLAIN, 2),
    "send to another": lambda mq: mq.send(OTHER, 2),
    "send with an option": lambda mq: mq.send(PLAIN, 2, delay=1),
    "send within a bound": lambda mq: mq.send(FULL, 2),
    "send many": lambda mq: mq.send_many(PLAIN, [2, 3]),
    "receive": lambda mq: first(mq.receive(PLAIN)),
    "result": lambda mq: mq.handle(PLAIN, "1-1").result(),
    "publish": lambda mq: mq.publish(LOG, 2),
    "subscribe": lambda mq: first(mq.subscribe(LOG, "new")),
    "request": lambda mq: mq.request(NOBODY, 1),
    "request another": lambda mq: mq.request(STRANGE, 1),
    "request a stream": lambda mq: first(mq.request_stream(NOBODY, 1)),
    "gather": lambda mq: first(mq.gather(NOBODY, 1)),
    "stats": lambda mq: mq.stats(PLAIN),
    "peek": lambda mq: mq.peek(PLAIN),
    "close": lambda mq: mq.aclose(),
}


@pytest.fixture
def loops() -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Two of them."""
    loops = [asyncio.new_event_loop() for _ in range(2)]
    yield loops
    for loop in loops:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.parametrize("name", USES)
def test_a_second_event_loop(
    url: str, namespace: str, name: str, loops: list[asyncio.AbstractEventLoop]
) -> None:
    """Whatever it is, it is refused at once, and for the reason; the first one can go on."""
    mq = ms.AsyncClient(url, namespace=namespace)
    first, second = loops
    first.run_until_complete(use(mq))

    async def use_again() -> None:
        async with asyncio.timeout(PATIENCE):
            for _ in range(2):
                with pytest.raises(ms.UsageError, match="event loop"):
                    await USES[name](mq)

    second.run_until_complete(use_again())
    first.run_until_complete(mq.send(PLAIN, 2))
    first.run_until_complete(mq.aclose())


def test_asyncio_run_twice(url: str, namespace: str) -> None:
    """Nothing hangs, also when the first event loop is over and took with it what was on its way."""
    mq = ms.AsyncClient(url, namespace=namespace)

    async def use_again(mq: ms.AsyncClient) -> None:
        async with asyncio.timeout(PATIENCE):
            for again in [*USES.values()] * 2:
                with pytest.raises(ms.UsageError, match="event loop"):
                    await again(mq)

    asyncio.run(use(mq))
    asyncio.run(use_again(mq))
    with warnings.catch_warnings():
        # What belongs to an event loop that is closed cannot be closed any more.
        warnings.simplefilter("ignore", ResourceWarning)
        del mq
        gc.collect()


def test_an_event_loop_beside_it(url: str, namespace: str) -> None:
    """The first one goes on, while another thread is refused; a closed client may be closed anywhere."""
    mq = ms.AsyncClient(url, namespace=namespace)

    async def elsewhere() -> None:
        async with asyncio.timeout(PATIENCE):
            for attempt in USES.values():
                with pytest.raises(ms.UsageError, match="event loop"):
                    await attempt(mq)

    async def at_home() -> None:
        async with mq:
            await use(mq)
            await asyncio.to_thread(asyncio.run, elsewhere())
            assert (await mq.stats(PLAIN)).ready == 1
            await mq.send(PLAIN, 2)

    asyncio.run(at_home())
    asyncio.run(mq.aclose())
    with pytest.raises(ms.UsageError, match="closed"):
        asyncio.run(mq.stats(PLAIN))


def test_what_was_begun_before(
    url: str, namespace: str, loops: list[asyncio.AbstractEventLoop]
) -> None:
    """An iteration that another event loop has begun is refused, too, where it would wait."""
    mq = ms.AsyncClient(url, namespace=namespace)
    messages = mq.receive(PLAIN, wait=60)

    async def take() -> object:
        async with asyncio.timeout(PATIENCE):
            return await anext(messages)

    loops[0].run_until_complete(use(mq))
    assert loops[0].run_until_complete(take()) is not None
    with pytest.raises(ms.UsageError, match="event loop"):
        loops[1].run_until_complete(take())
    loops[0].run_until_complete(mq.aclose())
