"""What type checkers see of the public API. `make check` reads this file; nothing runs it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, TypedDict, assert_type

import msgspec

import millstream as ms


class Order(msgspec.Struct):
    """A body."""

    id: int


class Special(Order):
    """A narrower body."""


class Row(TypedDict):
    """A body without a class of its own at run time."""

    id: int


orders = ms.Queue("orders", Order, retry=ms.Retry(max_attempts=3), lease=10)
rows = ms.Queue("rows", Row)
numbers = ms.Queue("numbers", dict[str, int], codec="msgpack")
anything = ms.Queue("anything")

assert_type(orders, ms.Queue[Order])
assert_type(rows, ms.Queue[Row])
assert_type(numbers, ms.Queue[dict[str, int]])
assert_type(anything, ms.Queue[Any])

bounded = ms.Queue("bounded", Order, bound=ms.Bound(100, on_full="wait", timeout=5))
assert_type(bounded, ms.Queue[Order])

ticks = ms.Topic("ticks", Order, durable=False)
listing = ms.Endpoint("orders.rows", Order, Row)
assert_type(ticks, ms.Topic[Order])
counted = ms.Endpoint("counted", Order, int)
assert_type(counted, ms.Endpoint[Order, int])

worker = ms.Worker()


def show(*values: object) -> None:
    """As print, and much else."""


@worker.on(orders)
async def one(order: Order) -> None:
    """A handler keeps its type."""


@worker.on(rows, concurrency=2, timeout=5)
def two(row: Row, delivery: ms.SyncDelivery[Row]) -> None:
    """A plain function, too."""
    delivery.ack()


@worker.on(numbers, batch=100, batch_wait=0.05)
async def three(
    bodies: list[dict[str, int]], deliveries: list[ms.Delivery[dict[str, int]]]
) -> None:
    """A handler of batches gets lists."""
    assert_type(deliveries[0].body, dict[str, int])
    await deliveries[0].reject(f"{len(bodies)} of them")


@worker.on(anything, batch=10, concurrency=2)
def four(bodies: list[object]) -> None:
    """A plain function, too."""


@worker.every("*/5 * * * *", orders, tz="Europe/Berlin", missed="one")
async def five() -> Order:
    """The maker of a body keeps its type."""
    return Order(3)


@worker.every(timedelta(minutes=5), rows, name="rows")
def six() -> Row:
    """A plain function, too."""
    return Row(id=4)


assert_type(six(), Row)


@worker.every(60, rows)  # type: ignore[arg-type] # nobody would pass the parameter
def seven(row: Row) -> Row:
    """A parameter is an error."""
    return row


@worker.every(60, rows)  # type: ignore[arg-type] # the queue takes rows
async def eight() -> Order:
    """So is another body."""
    return Order(1)


@worker.on(ms.Topic("placed", Order).subscription("mail"), concurrency=2)
async def nine(order: Order, factor: int = 3) -> None:
    """The rest of the parameters stays."""


@worker.on(ticks)
def ten(tick: object, heard: ms.Heard[Order]) -> None:
    """A handler may take more than it gets."""


@worker.on(counted)
async def eleven(order: Order) -> int:
    """The handler of an endpoint returns its reply."""
    return order.id


@worker.on(counted)
def twelve(order: Order, request: ms.SyncRequest[Order]) -> int:
    """A plain function, too."""
    return request.body.id


@worker.on(counted)
async def thirteen(order: Order, request: ms.Request[Order]) -> AsyncIterator[int]:
    """Or it yields the parts."""
    yield order.id


@worker.on(counted)
def fourteen(order: Order) -> Iterator[int]:
    """So may a plain function."""
    yield order.id


@worker.on(orders)  # type: ignore[arg-type] # another body
async def wrong(row: Row) -> None:
    """Bodies of the queue have another type."""


@worker.on(orders)  # type: ignore[arg-type] # not every body is special
def too_narrow(order: Special, delivery: ms.SyncDelivery[Order]) -> None:
    """It would get others."""


@worker.on(orders)  # type: ignore[arg-type] # no body
async def empty() -> None:
    """It takes nothing."""


@worker.on(orders, batch=10)  # type: ignore[arg-type] # no list
async def single(order: Order) -> None:
    """It would get lists."""


@worker.on(counted)  # type: ignore[arg-type] # another reply
async def wordy(order: Order) -> str:
    """Replies of the endpoint have another type."""
    return "one"


@worker.on(counted)  # type: ignore[arg-type] # other parts
async def wordy_parts(order: Order) -> AsyncIterator[str]:
    """So have the parts."""
    yield "one"


def later(queue: ms.Queue[Any], batch: int | None) -> None:
    """Whether it is a batch may be known only when the program runs."""

    @worker.on(queue, batch=batch)
    async def either(bodies: object) -> None:
        """Take what comes."""


class Handler:
    """An object may be a handler."""

    async def __call__(self, order: Order) -> None:
        """Handle it."""

    def method(self, order: Order) -> None:
        """Handle it in a thread."""


worker.on(orders)(Handler())
worker.on(orders)(Handler().method)
worker.on(orders)(functools.partial(show, "order"))


async def use(mq: ms.AsyncClient) -> None:
    """The asyncio client."""
    assert_type(await mq.send(orders, Order(1), headers={"a": "b"}), ms.Receipt)
    assert_type(await mq.send_many(orders, [Order(1)]), list[ms.Receipt])
    assert_type(await mq.send(numbers, {"a": 1}, result=True, delay=5), ms.Handle)
    assert_type(await mq.send(numbers, {"a": 1}, result=bool(1)), ms.Receipt | ms.Handle)
    assert_type(mq.handle(numbers, "1-1"), ms.Handle)
    async for delivery in mq.receive(orders, wait=1.5):
        assert_type(delivery, ms.Delivery[Order])
        assert_type(delivery.body.id, int)
        await delivery.retry(delay=1)
    assert_type(await mq.stats(orders), ms.QueueStats)
    assert_type(await mq.dead(orders), list[ms.DeadLetter])
    assert_type(await mq.peek(orders), list[ms.Message])
    assert_type(await mq.in_flight(orders), list[ms.InFlight])
    assert_type(await mq.redrive(orders, reason="failed*", rate=10), int)
    assert_type(await mq.resend(orders, rate=10), int)
    assert_type(await mq.seek(ms.Topic("placed", Order), "mail", to=ms.EARLIEST), int)
    assert_type(await mq.pause(orders), None)
    assert_type(await mq.resume(orders), None)
    assert_type(await mq.cancel(orders, "1718000000000-0"), bool)
    assert_type((await mq.stats(orders)).paused, bool)
    assert_type(await mq.schedules(orders), list[ms.Schedule])
    assert_type(await mq.pause_schedule(orders, "three"), None)
    assert_type(await mq.resume_schedule(orders, "three"), None)
    assert_type(await mq.remove_schedule(orders, "three"), bool)
    assert_type(await mq.publish(ticks, Order(1), subject="a"), ms.Receipt)
    assert_type(await mq.publish_many(ticks, [Order(1)]), list[ms.Receipt])
    async for tick in mq.subscribe(ticks, buffer=10, on_full="drop_newest"):
        assert_type(tick, ms.Heard[Order] | ms.Missed)
    async for answer in mq.gather(counted, Order(1), expect=2):
        assert_type(answer, ms.Answer[int])
        assert_type(answer.result(), int)
        assert_type(answer.error, Exception | None)
    assert_type(await mq.request(counted, Order(1)), int)
    # Where any object will do, an endpoint is asked as anywhere else.
    show(await mq.request(counted, Order(1)), f"{await mq.request(listing, Order(1))}")
    assert await mq.request(counted, Order(1)) == 1
    maybe: int | None = await mq.request(counted, Special(1))
    noted: dict[str, object] = {"rows": await mq.request(listing, Order(1)), "count": maybe}
    replies = await asyncio.gather(*(mq.request(counted, Order(n)) for n in range(2)))
    assert_type(replies, list[int])
    special: ms.Endpoint[Special, object] = counted
    await mq.request(special, Special(len(noted)))
    await mq.request(special, Order(1))  # type: ignore[misc] # what takes any Order takes special ones
    await mq.request(counted, "x")  # type: ignore[misc] # a wrong body is an error
    text: str = await mq.request(counted, Order(1))  # type: ignore[arg-type] # so is another reply
    assert text
    async for part in mq.request_stream(listing, Order(1), window=8):
        assert_type(part, Row)
    await mq.send(orders, "no order")  # type: ignore[misc] # a wrong body is an error


def use_blocking(mq: ms.Client) -> None:
    """The blocking client."""
    assert_type(mq.send(orders, Order(1), result=True), ms.SyncHandle)
    assert_type(mq.send(rows, Row(id=1)), ms.Receipt)
    for delivery in mq.receive(orders):
        assert_type(delivery, ms.SyncDelivery[Order])
        assert_type(delivery.extend(5), None)
    for answer in mq.gather(counted, Order(1), timeout=1):
        assert_type(answer, ms.Answer[int])
    assert_type(mq.publish(ticks, Order(1)), ms.Receipt)
    for part in mq.request_stream(listing, Order(1), timeout=2):
        assert_type(part, Row)
    with mq.subscribe(ticks) as feed:
        assert_type(feed, ms.SyncFeed[Order])
        assert_type(next(feed), ms.Heard[Order] | ms.Missed)
    assert_type(mq.schedules(rows), list[ms.Schedule])
    assert_type(mq.remove_schedule(rows, "rows"), bool)
