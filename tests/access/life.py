"""All that the library does, done by users of three roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import millstream as ms
from millstream.driver.aio import AsyncDriver
from millstream.protocol import consume, ending, mailbox, popping, recover, requests, retention
from millstream.protocol.access import Names
from millstream.protocol.discovery import look
from millstream.protocol.keys import queue_keys, subscription_keys, topic_keys
from millstream.protocol.line import line_up
from millstream.protocol.op import Command, Op
from tests.support.wait import auntil
from tests.worker.running import PATIENCE, SOON, running

NEVER = ms.Retry(max_attempts=1)

PLAIN: ms.Queue[Any] = ms.Queue("plain", retry=ms.Retry(max_attempts=2, backoff=SOON))
ORDERED: ms.Queue[Any] = ms.Queue("ordered", ordered=True, partitions=2)
BOUNDED: ms.Queue[Any] = ms.Queue("bounded", bound=ms.Bound(1, on_full="wait", timeout=PATIENCE))
LIMITED: ms.Queue[Any] = ms.Queue("limited", rate=ms.Rate(1000), max_running=5)
RESULTS: ms.Queue[Any] = ms.Queue("results", results=ms.Results(keep=60), retry=NEVER)
KEPT: ms.Queue[Any] = ms.Queue("kept", keep=ms.Retain(max_length=100))
LIST: ms.Queue[Any] = ms.Queue("list", store="list", retry=ms.Retry(max_attempts=2, backoff=SOON))
POPPED: ms.Queue[Any] = ms.Queue("popped", delivery="at_most_once")
POPPED_LIST: ms.Queue[Any] = ms.Queue("popped-list", store="list", delivery="at_most_once")
DIVIDED: ms.Queue[Any] = ms.Queue("divided", ordered=True, partitions=2)
UNDIVIDED: ms.Queue[Any] = ms.Queue("divided", ordered=True)
TICKED: ms.Queue[Any] = ms.Queue("ticked")
DURABLE: ms.Topic[Any] = ms.Topic("placed", retain=ms.Retain(max_length=1000))
IN_ORDER: ms.Topic[Any] = ms.Topic("in-order", ordered=True)
TICKS: ms.Topic[Any] = ms.Topic("ticks.eur", durable=False)
ANY_TICKS: ms.Topic[Any] = ms.Topic("ticks.*", durable=False)
QUOTE: ms.Endpoint[Any, Any] = ms.Endpoint("quote", timeout=PATIENCE)
STREAM: ms.Endpoint[Any, Any] = ms.Endpoint("stream", timeout=PATIENCE)

QUEUES = (PLAIN, ORDERED, BOUNDED, LIMITED, RESULTS, KEPT, LIST, POPPED, POPPED_LIST, TICKED)
NAMES = Names(
    queues=(*(queue.name for queue in QUEUES), DIVIDED.name),
    topics=tuple(topic.name for topic in (DURABLE, IN_ORDER, TICKS, ANY_TICKS)),
    endpoints=(QUOTE.name, STREAM.name),
)


@dataclass
class Heard:
    """What handlers were called with."""

    bodies: list[tuple[str, Any]] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def had(self, name: str, body: Any) -> bool:
        return (name, body) in self.bodies

    def count(self, name: str) -> int:
        return sum(one == name for one, _ in self.bodies)


def make_worker(heard: Heard) -> ms.Worker:
    """A worker of everything. A body "again" fails once, "no" is rejected, "long" waits."""
    worker = ms.Worker()

    def handler(name: str) -> Any:
        async def handle(body: Any, delivery: ms.Delivery[Any]) -> Any:
            heard.bodies.append((name, body))
            if body == "again" and delivery.attempt == 1:
                raise ValueError
            if body == "no":
                raise ms.Reject("no")
            if body == "long":
                await asyncio.Event().wait()
            return body

        return handle

    for queue in QUEUES:
        worker.on(queue)(handler(queue.name))
    worker.on(DURABLE, subscription="all")(handler("all"))
    worker.on(DURABLE, subscription="some", filter="eu.>")(handler("some"))
    worker.on(IN_ORDER, subscription="all")(handler("in-order"))
    worker.on(TICKS)(handler("ticks"))
    worker.on(QUOTE)(handler("quote"))

    @worker.on(STREAM)
    async def parts(body: Any) -> AsyncIterator[Any]:
        for number in range(200):
            yield number

    @worker.every(timedelta(seconds=0.2), TICKED)
    def tick() -> str:
        return "tick"

    return worker


async def produce(mq: ms.AsyncClient, heard: Heard) -> None:
    """Send, publish and ask in all ways."""
    await mq.send_many(PLAIN, [1, 2, "again", "no"])
    await mq.send(PLAIN, 3, delay=0.01, unique="u", ttl=60, priority=5)
    await mq.send(PLAIN, 4, unique="s", unique_for="started")
    await mq.send_many(LIST, [1, "again", "no"])
    await mq.send(LIST, 2, delay=0.01)
    await mq.send_many(ORDERED, [1, 2], key="k")
    for queue in (LIMITED, KEPT, POPPED, POPPED_LIST):
        await mq.send_many(queue, [1, 2])
    handle = await mq.send(RESULTS, 7, result=True)
    assert await handle.result(timeout=PATIENCE) == 7
    failing = await mq.send(RESULTS, "no", result=True)
    with suppress(ms.DeliveryError):
        await failing.result(timeout=PATIENCE)
    await mq.publish_many(DURABLE, [1, 2])
    await mq.publish(DURABLE, 3, subject="eu.paid")
    await mq.publish(IN_ORDER, 1, key="k")
    await mq.publish(TICKS, 1)
    assert await mq.request(QUOTE, 5) == 5
    async with aclosing(mq.gather(QUOTE, 6)) as answers:
        assert [one.reply async for one in answers] == [6]
    async with aclosing(mq.request_stream(STREAM, None)) as parts:
        assert len([part async for part in parts]) == 200
    with suppress(ms.TimedOut):  # withdrawn
        await mq.request(QUOTE, "long", timeout=0.2)


async def take_by_hand(
    mq: ms.AsyncClient, producer: ms.AsyncClient, listened: ms.Topic[Any]
) -> None:
    """What receive loops do that workers do not."""
    for queue in (PLAIN, LIST):
        await producer.send(queue, "by hand")
        async with aclosing(mq.receive(queue, wait=PATIENCE)) as deliveries:
            async for delivery in deliveries:
                await delivery.extend(30)
                await delivery.ack()
                break
    await producer.send(PLAIN, "in one step")
    async with aclosing(mq.receive(PLAIN, wait=PATIENCE)) as deliveries:
        async for delivery in deliveries:
            async with delivery.transaction() as tx:
                tx.send(PLAIN, "after it", delay=60)
            break
    async with aclosing(mq.subscribe(listened)) as listening:
        waiting = asyncio.ensure_future(anext(listening))

        async def heard() -> bool:
            await producer.publish(TICKS, 2)
            return waiting.done()

        await auntil(heard, PATIENCE)
        await waiting


async def wait_for_room(mq: ms.AsyncClient, operator: ms.AsyncClient) -> None:
    """Sends to a full queue wait until it has room."""
    await operator.pause(BOUNDED)
    sends = [asyncio.ensure_future(mq.send(BOUNDED, number)) for number in range(3)]

    async def waiting() -> bool:
        return (await operator.stats(BOUNDED)).ready == 1 and sum(one.done() for one in sends) == 1

    await auntil(waiting, PATIENCE)
    senders = queue_keys(mq.namespace, BOUNDED.name).senders
    lined_up = Op((Command(("ZCARD", senders)),), decode=lambda replies: replies[0])
    await auntil(lambda: operator.driver.run(lined_up), PATIENCE)
    await operator.resume(BOUNDED)
    await asyncio.gather(*sends)


async def now_and_then(producer: ms.AsyncClient, worker: ms.AsyncClient, name: str) -> None:
    """What clients ask for only at times that a test would have to wait for."""
    quote, mail = queue_keys(name, QUOTE.name), "somebody"
    await producer.driver.run(requests.inquire(quote, ["1-1"]))
    await producer.driver.run(line_up(queue_keys(name, BOUNDED.name), "", ""))
    await producer.driver.run(requests.count_late(quote, 1))
    await producer.driver.drive(requests.deaths(quote, ["1-1"]))
    for mq in (producer, worker):
        await mq.driver.run(mailbox.attend(name, mail, "0-0"))
        await mq.driver.run(consume.unblock(0, quote.ready))
        await mq.driver.drive(retention.remove_forgotten(topic_keys(name, "placed"), "nobody"))
    own = subscription_keys(name, DURABLE.name, "all")
    await worker.driver.run(consume.extend(own, "gone", [b"1-1"]))
    for store in ("stream", "list"):
        keys = queue_keys(name, store if store == "list" else "plain", store=store)
        await worker.driver.run(consume.have_another_look(keys))


async def recovering(mq: ms.AsyncClient, namespace: str) -> None:
    """What happens when others die, without waiting for it."""
    driver: AsyncDriver = mq.driver
    for store in ("stream", "list"):
        name = "list" if store == "list" else "plain"
        keys = queue_keys(namespace, name, store=store)
        await driver.drive(
            recover.hand_over_all(keys, "gone", partitions=1, crashed=True, max_crashes=3)
        )
        await driver.run(ending.owns(keys, "gone", b"1-1"))
    keys = queue_keys(namespace, "ordered")
    await driver.drive(
        recover.hand_over_all(keys, "gone", partitions=2, crashed=True, max_crashes=3)
    )
    tidying = popping.tidy(queue_keys(namespace, "popped"), "gone")
    await driver.run(Op((tidying,), decode=lambda replies: replies[0]))


async def operate(mq: ms.AsyncClient, producer: ms.AsyncClient) -> None:
    """What people do to queues that nobody handles at present."""
    assert {"plain", "list"} <= {*await mq.queues()}
    assert {"placed", "in-order"} <= {*await mq.topics()}
    await mq.subscriptions(DURABLE)
    await mq.stats(DURABLE)
    for queue in (PLAIN, LIST):
        first = await producer.send(queue, 1)
        later = await producer.send(queue, 2, delay=60)
        await mq.stats(queue)
        await mq.pause(queue)
        await mq.resume(queue)
        assert await mq.peek(queue)
        assert await mq.peek(queue, delayed=True)
        await mq.in_flight(queue)
        assert await mq.reschedule(queue, later.id, delay=30)
        assert await mq.cancel(queue, first.id)
        assert not await mq.cancel(queue, "1-1")
        assert await mq.dead(queue)
        assert await mq.redrive(queue)
        assert await mq.purge(queue, confirm=True)
        await mq.purge(queue, confirm=True, dead=True)
    await mq.resend(KEPT)
    await mq.purge(KEPT, confirm=True, kept=True)
    await mq.purge(KEPT, confirm=True)
    for topic_filter in (None, "eu.>"):
        async with aclosing(mq.replay(DURABLE, filter=topic_filter)) as messages:
            assert [one async for one in messages]
    await mq.seek(DURABLE, "all", to=ms.EARLIEST, force=True)
    await mq.unsubscribe(DURABLE, "some")
    [schedule] = await mq.schedules(TICKED)
    await mq.pause_schedule(TICKED, schedule.name)
    await mq.resume_schedule(TICKED, schedule.name)
    await mq.remove_schedule(TICKED, schedule.name)


async def live(
    producer: ms.AsyncClient,
    worker: ms.AsyncClient,
    operator: ms.AsyncClient,
    *,
    before_an_end: Callable[[], None] = lambda: None,
    listened: ms.Topic[Any] = ANY_TICKS,
) -> None:
    """Everything, from the first message to the last.

    `before_an_end` is called before connections are closed. A cluster knows no patterns of topics: there
    another one is `listened` to.
    """
    heard = Heard()
    made = make_worker(heard)
    async with running(made, worker):
        await auntil(lambda: _serves(producer), PATIENCE)
        await produce(producer, heard)
        await auntil(
            lambda: (
                heard.count("plain") >= 6
                and heard.count("list") >= 5
                and heard.count("all") == 3
                and heard.count("some") == 1
                and heard.count("in-order") == 1
                and heard.count("ordered") == 2
                and heard.count("popped") == heard.count("popped-list") == 2
                and heard.count("ticked") > 0
            ),
            PATIENCE,
            message="all are handled",
        )
        for queue in (PLAIN, LIST):
            receipt = await producer.send(queue, "long")
            await auntil(partial(heard.had, queue.name, "long"), PATIENCE)
            assert await operator.cancel(queue, receipt.id)
        await wait_for_room(producer, operator)
        await asyncio.to_thread(before_an_end)
    await take_by_hand(worker, producer, listened)
    await recovering(worker, producer.namespace)
    await operate(operator, producer)
    await now_and_then(producer, worker, producer.namespace)
    await producer.declare(DIVIDED)
    await operator.repartition(UNDIVIDED)
    await operator.pause(ORDERED)
    await operator.resume(ORDERED)
    await operator.driver.run(look(producer.namespace, PLAIN.name))
    await asyncio.to_thread(before_an_end)


async def _serves(mq: ms.AsyncClient) -> bool:
    try:
        await mq.request(QUOTE, 0)
        async with aclosing(mq.request_stream(STREAM, None)) as parts:
            async for _ in parts:
                break
    except ms.NoResponders:
        return False
    return True
