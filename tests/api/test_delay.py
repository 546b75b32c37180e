"""Messages for later: not before their time, wherever they wait, and they can be called off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import redis

import millstream as ms
from tests.api.clients import counts, drain, take, take_one

HOUR = 3600


async def test_a_delayed_message_waits(any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """It counts as delayed, nobody gets it, and its due time can be seen."""
    receipt = await any_mq.send(queue, 1, delay=HOUR)

    assert await counts(any_mq, queue) == (0, 1, 0, 0)
    assert await take(any_mq, queue, wait=0) == []
    [message] = await any_mq.peek(queue, delayed=True)
    assert (message.id, message.body) == (receipt.id, 1)
    assert message.due is not None
    assert abs(message.due - receipt_time(receipt) - timedelta(seconds=HOUR)) < timedelta(seconds=1)


def receipt_time(receipt: ms.Receipt) -> datetime:
    return datetime.fromtimestamp(int(receipt.id.partition("-")[0]) / 1000, UTC)


async def test_it_is_delivered_when_it_is_due(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Not a millisecond before, by the server's clock, and under the id of its receipt."""
    receipt = await mq.send(queue, {"n": 1}, delay=0.2, headers={"a": "b"}, key="k")

    delivery = await take_one(mq, queue)

    assert (delivery.id, delivery.body, delivery.headers) == (receipt.id, {"n": 1}, {"a": "b"})
    assert (delivery.key, delivery.attempt, delivery.crashes) == ("k", 1, 0)
    await delivery.ack()
    assert await counts(mq, queue) == (0, 0, 0, 0)


async def test_in_the_order_of_their_times(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Whoever is due first comes first, in whatever order they were sent."""
    now = datetime.now(UTC)
    for tenth in (3, 1, 2):
        await mq.send(queue, tenth, at=now + timedelta(seconds=tenth / 10))

    delivered = [(await take_one(mq, queue)).body for _ in range(3)]

    assert delivered == [1, 2, 3]


async def test_an_absolute_time(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A time with a zone is the same moment for everybody; one in the past is now."""
    zone = datetime.now().astimezone().tzinfo
    at = datetime(2099, 12, 31, 23, 59, tzinfo=zone)
    await mq.send(queue, "later", at=at)
    await mq.send(queue, "now", at=datetime(1969, 1, 1, tzinfo=UTC))

    [message] = await mq.peek(queue, delayed=True)
    assert (message.body, message.due) == ("later", at)
    assert [delivery.body for delivery in await drain(mq, queue)] == ["now"]


async def test_never_early(
    mq: ms.AsyncClient, admin: redis.Redis, namespace: str, queue: ms.Queue[Any]
) -> None:
    """Not by the part of a millisecond that clocks and durations have beyond the whole ones."""

    def microseconds() -> int:
        seconds, rest = admin.time()
        return seconds * 1_000_000 + rest

    def due(id: str) -> float:
        return cast("float", admin.zscore(f"{namespace}:{{orders}}:due", id)) * 1000

    for number in range(20):
        before = microseconds()
        later = await mq.send(queue, number, delay=0.0021 + HOUR)
        assert due(later.id) >= before + 2_100 + HOUR * 1_000_000

        await mq.send(queue, "now")
        delivery = await take_one(mq, queue)
        before = microseconds()
        await delivery.retry(delay=0.0001 + HOUR)
        assert due(delivery.id) >= before + 100 + HOUR * 1_000_000

        at = datetime(2099, 12, 31, 23, 59, 59, 123_400 + number, UTC)
        assert await mq.reschedule(queue, later.id, at=at)
        assert due(later.id) == datetime(2099, 12, 31, 23, 59, 59, 124_000, UTC).timestamp() * 1e6


async def test_a_sleeping_reader_is_woken(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A message that is due before what the reader knows of is not late."""
    await mq.send(queue, "late", delay=HOUR)
    deliveries = mq.receive(queue, wait=5)
    await mq.send(queue, "soon", delay=0.3)

    delivery = await anext(deliveries)

    assert delivery.body == "soon"
    await deliveries.aclose()


async def test_many_at_once(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """send_many takes the same options for all; each message has a receipt of its own."""
    receipts = await mq.send_many(queue, range(1200), delay=HOUR, key=lambda body: f"k{body % 7}")

    assert len({receipt.id for receipt in receipts}) == 1200
    assert await counts(mq, queue) == (0, 1200, 0, 0)
    [first] = await mq.peek(queue, delayed=True, limit=1)
    assert first.id == receipts[0].id


class TestCancel:
    async def test_delayed(self, any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """It is gone, and a second call finds nothing."""
        receipt = await any_mq.send(queue, 1, delay=HOUR)

        assert await any_mq.cancel(queue, receipt.id) is True
        assert await any_mq.cancel(queue, receipt.id) is False
        assert await counts(any_mq, queue) == (0, 0, 0, 0)
        assert (await any_mq.stats(queue)).cancelled == 1

    async def test_ready(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Before and after the first consumer."""
        first, second = await mq.send_many(queue, [1, 2])
        assert await mq.cancel(queue, first.id)
        await (await take_one(mq, queue)).release()
        assert await mq.cancel(queue, second.id)

        assert await drain(mq, queue) == []
        assert await counts(mq, queue) == (0, 0, 0, 0)

    async def test_promoted(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A message that has been due is found among the ready ones."""
        receipt = await mq.send(queue, "due", delay=0.05)
        delivery = await take_one(mq, queue)
        await delivery.release()

        assert await mq.cancel(queue, receipt.id)
        assert await counts(mq, queue) == (0, 0, 0, 0)

    async def test_a_retry_that_waits(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """It has been tried, but is not running."""
        receipt = await mq.send(queue, 1)
        await (await take_one(mq, queue)).retry(delay=HOUR)

        assert await mq.cancel(queue, receipt.id)
        assert await counts(mq, queue) == (0, 0, 0, 0)

    async def test_done_or_unknown(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Nothing to cancel is no error."""
        receipt = await mq.send(queue, 1)
        await drain(mq, queue)

        assert not await mq.cancel(queue, receipt.id)
        assert not await mq.cancel(queue, "1-1")


class TestReschedule:
    async def test_earlier(self, any_mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A message of tomorrow is delivered now, under its id."""
        receipt = await any_mq.send(queue, 1, delay=HOUR)

        assert await any_mq.reschedule(queue, receipt.id, delay=0)

        assert (await take_one(any_mq, queue)).id == receipt.id

    async def test_wakes_a_sleeping_reader(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """It need not know of the new time by itself."""
        receipt = await mq.send(queue, 1, delay=HOUR)
        await take(mq, queue, wait=0)

        assert await mq.reschedule(queue, receipt.id, at=datetime.now(UTC) + timedelta(seconds=0.2))

        assert (await take_one(mq, queue)).body == 1

    async def test_a_ready_message(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """It waits again."""
        receipt = await mq.send(queue, 1)

        assert await mq.reschedule(queue, receipt.id, delay=HOUR)

        assert await counts(mq, queue) == (0, 1, 0, 0)
        assert await take(mq, queue, wait=0) == []

    async def test_a_retry_that_waits(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Its attempts stay counted."""
        receipt = await mq.send(queue, 1)
        await (await take_one(mq, queue)).retry(delay=HOUR)

        assert await mq.reschedule(queue, receipt.id, delay=0)

        assert (await take_one(mq, queue)).attempt == 2

    async def test_what_is_in_flight_is_left_alone(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Only what has not started can be given another time."""
        receipt = await mq.send(queue, 1)
        delivery = await take_one(mq, queue)

        assert not await mq.reschedule(queue, receipt.id, delay=HOUR)
        await delivery.ack()

    async def test_one_with_a_priority(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """It waits again, and is as urgent as before when its time comes."""
        await mq.send(queue, "normal")
        receipt = await mq.send(queue, "urgent", priority=9, unique="x")

        assert await mq.reschedule(queue, receipt.id, delay=HOUR)
        assert await counts(mq, queue) == (1, 1, 0, 0)
        assert (await mq.send(queue, "again", unique="x")).id == receipt.id
        assert await mq.reschedule(queue, receipt.id, delay=0)

        [message, _] = await mq.peek(queue)
        assert (message.id, message.priority) == (receipt.id, 9)

    async def test_one_in_the_line_of_its_key(self, mq: ms.AsyncClient) -> None:
        """It gives up its turn while it waits, and takes its old place in the line afterwards."""
        queue: ms.Queue[Any] = ms.Queue("orders", ordered=True)
        sent = [await mq.send(queue, number, key="a") for number in range(4)]
        first = await take_one(mq, queue)
        assert first.body == 0

        assert await mq.reschedule(queue, sent[1].id, delay=HOUR)
        assert await mq.reschedule(queue, sent[2].id, delay=HOUR)
        assert await mq.reschedule(queue, sent[2].id, delay=0)
        assert await counts(mq, queue) == (2, 1, 1, 0)
        await first.ack()

        assert [delivery.body for delivery in await drain(mq, queue, wait=0.2)] == [2, 3]
        assert await mq.reschedule(queue, sent[1].id, delay=0)
        assert [delivery.body for delivery in await drain(mq, queue)] == [1]

    async def test_the_holder_of_a_key(self, mq: ms.AsyncClient) -> None:
        """The next of the line goes on meanwhile."""
        queue: ms.Queue[Any] = ms.Queue("orders", ordered=True)
        sent = [await mq.send(queue, number, key="a") for number in range(2)]

        assert await mq.reschedule(queue, sent[0].id, delay=HOUR)

        assert [delivery.body for delivery in await drain(mq, queue)] == [1]
        assert await mq.cancel(queue, sent[0].id)
