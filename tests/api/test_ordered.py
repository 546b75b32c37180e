"""Ordered keys: the messages of one key run one after the other, those of others beside them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import millstream as ms
from tests.api.clients import counts, drain, take, take_one

ORDERED: ms.Queue[Any] = ms.Queue(
    "orders", ordered=True, retry=ms.Retry(max_attempts=3, backoff=ms.Backoff(first=0.01))
)
LIMITED: ms.Queue[Any] = ms.Queue("orders", max_running_per_key=2)
LOWER: ms.Queue[Any] = ms.Queue("orders", max_running_per_key=1)


async def send_all(mq: ms.AsyncClient, queue: ms.Queue[Any], *bodies: str) -> list[str]:
    """Send texts whose first letter is their key; the ids."""
    return [(await mq.send(queue, body, key=body[0])).id for body in bodies]


def bodies(deliveries: list[ms.Delivery[Any]]) -> list[str]:
    return [delivery.body for delivery in deliveries]


async def test_one_at_a_time(any_mq: ms.AsyncClient) -> None:
    """The next message of a key comes when the one before it is done."""
    await send_all(any_mq, ORDERED, "a1", "a2", "b1", "a3")

    first = await take(any_mq, ORDERED, 2)
    assert bodies(first) == ["a1", "b1"]
    assert await take(any_mq, ORDERED, wait=0) == []
    assert await counts(any_mq, ORDERED) == (2, 0, 2, 0)
    await first[0].ack()
    second = await take_one(any_mq, ORDERED)
    assert second.body == "a2"
    await second.ack()
    await first[1].ack()
    assert bodies(await drain(any_mq, ORDERED)) == ["a3"]
    assert await counts(any_mq, ORDERED) == (0, 0, 0, 0)


async def test_a_retry_holds_its_key(mq: ms.AsyncClient) -> None:
    """The order is kept through a retry, while other keys go on."""
    await send_all(mq, ORDERED, "a1", "a2", "b1", "b2")
    one = await take_one(mq, ORDERED)
    await one.retry(delay=2)

    assert bodies([await take_one(mq, ORDERED) for _ in range(1)]) == ["b1"]
    assert await take(mq, ORDERED, wait=0) == []
    again = await take_one(mq, ORDERED)
    assert (again.body, again.attempt) == ("a1", 2)
    await again.ack()
    assert (await take_one(mq, ORDERED)).body == "a2"


@pytest.mark.parametrize("end", ["reject", "cancel", "died"])
async def test_an_end_frees_the_key(mq: ms.AsyncClient, end: str) -> None:
    """Whatever ends a message lets the next one of its key go on."""
    first, _ = await send_all(mq, ORDERED, "a1", "a2")
    if end == "cancel":
        assert await mq.cancel(ORDERED, first)
    elif end == "reject":
        await (await take_one(mq, ORDERED)).reject("no")
    else:
        for _ in range(3):
            await (await take_one(mq, ORDERED)).retry(delay=0)

    assert (await take_one(mq, ORDERED)).body == "a2"


async def test_a_released_message_stays_first(mq: ms.AsyncClient) -> None:
    """Handing back does not let others pass."""
    await send_all(mq, ORDERED, "a1", "a2")
    await (await take_one(mq, ORDERED)).release()

    assert bodies(await drain(mq, ORDERED)) == ["a1", "a2"]


async def test_a_parked_message_can_be_cancelled_and_moved(mq: ms.AsyncClient) -> None:
    """What waits for its key is as much waiting as any other."""
    _, second, third, fourth = await send_all(mq, ORDERED, "a1", "a2", "a3", "a4")

    assert await mq.cancel(ORDERED, second)
    assert await mq.reschedule(ORDERED, third, delay=2)
    assert (await mq.peek(ORDERED))[-1].id == fourth
    assert bodies(await drain(mq, ORDERED)) == ["a1", "a4"]
    assert (await take_one(mq, ORDERED)).body == "a3"


async def test_a_purge_leaves_nothing(mq: ms.AsyncClient) -> None:
    """Lines go with what is ready, and what is in flight still ends in order."""
    await send_all(mq, ORDERED, "a1", "a2", "a3", "b1", "b2")
    running = await take_one(mq, ORDERED)

    assert await mq.purge(ORDERED, confirm=True) == 4
    assert await counts(mq, ORDERED) == (0, 0, 1, 0)
    await send_all(mq, ORDERED, "a4", "b3")
    assert bodies(await drain(mq, ORDERED)) == ["b3"]
    await running.ack()
    assert bodies(await drain(mq, ORDERED)) == ["a4"]


async def test_redriven_messages_take_their_turn(mq: ms.AsyncClient) -> None:
    """A dead letter that comes back waits for its key like others, and before younger ones."""
    await send_all(mq, ORDERED, "a1", "a2", "a3")
    await (await take_one(mq, ORDERED)).reject("no")
    running = await take_one(mq, ORDERED)

    assert await mq.redrive(ORDERED) == 1
    assert await take(mq, ORDERED, wait=0) == []
    await running.ack()
    assert bodies(await drain(mq, ORDERED)) == ["a1", "a3"]


async def test_many_at_once_keep_their_order(mq: ms.AsyncClient) -> None:
    """send_many tells the key of each body."""
    sent = [f"{number % 5}.{number}" for number in range(300)]
    await mq.send_many(ORDERED, sent, key=lambda body: body[0])

    got = bodies(await drain(mq, ORDERED, prefetch=20))

    assert sorted(got) == sorted(sent)
    for key in "01234":
        assert [body for body in got if body[0] == key] == [body for body in sent if body[0] == key]


async def test_without_a_key_there_is_no_order(mq: ms.AsyncClient) -> None:
    """A message without a key waits for nobody."""
    await mq.send_many(ORDERED, ["x", "y"])

    assert bodies(await take(mq, ORDERED, 2)) == ["x", "y"]


async def test_a_key_on_another_queue_is_a_label(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """It is handed to the consumer, and nothing else."""
    await send_all(mq, queue, "a1", "a2")

    assert [delivery.key for delivery in await take(mq, queue, 2)] == ["a", "a"]


class TestMaxRunningPerKey:
    async def test_so_many_and_no_more(self, any_mq: ms.AsyncClient) -> None:
        """Two of a key at a time; another key has its own two."""
        await send_all(any_mq, LIMITED, "a1", "a2", "a3", "b1")

        first = await take(any_mq, LIMITED, 3)
        assert bodies(first) == ["a1", "a2", "b1"]
        assert await take(any_mq, LIMITED, wait=0) == []
        await first[1].ack()
        assert (await take_one(any_mq, LIMITED)).body == "a3"

    async def test_a_retry_makes_room(self, mq: ms.AsyncClient) -> None:
        """What waits for its next attempt does not run."""
        await send_all(mq, LIMITED, "a1", "a2", "a3", "a4")
        first, second = await take(mq, LIMITED, 2)
        await first.retry(delay=0.2)

        third = await take_one(mq, LIMITED)
        assert third.body == "a3"
        assert await take(mq, LIMITED, wait=0.5) == []
        await second.ack()
        await third.ack()
        assert sorted(bodies(await drain(mq, LIMITED, wait=0.3))) == ["a1", "a4"]

    @pytest.mark.parametrize("later", [LOWER, ORDERED], ids=["lower", "ordered"])
    async def test_a_narrower_gate(self, mq: ms.AsyncClient, later: ms.Queue[Any]) -> None:
        """A limit that is lowered while more of a key run holds for what is sent from then on."""
        await send_all(mq, LIMITED, "a1", "a2")
        await send_all(mq, later, "a3", "a4")
        first, second = await take(mq, LIMITED, 2)

        await first.ack()
        assert await take(mq, later, wait=0) == []
        await second.ack()
        assert bodies(await take(mq, later, 2, wait=0)) == ["a3"]
        assert await counts(mq, later) == (1, 0, 1, 0)


async def test_concurrent_sends_of_one_key(mq: ms.AsyncClient) -> None:
    """Sends of one task after the other keep their order, whatever others send meanwhile."""

    async def produce(key: str) -> None:
        for number in range(30):
            await mq.send(ORDERED, f"{key}{number:02}", key=key)

    await asyncio.gather(*(produce(key) for key in "abcd"))
    got = bodies(await drain(mq, ORDERED))

    for key in "abcd":
        mine = [body for body in got if body[0] == key]
        assert mine == [f"{key}{number:02}" for number in range(30)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ordered": "yes"}, "ordered must be"),
        ({"max_running_per_key": 0}, "max_running_per_key must be"),
        ({"max_running_per_key": -2}, "max_running_per_key must be"),
        ({"max_running_per_key": 1.5}, "max_running_per_key must be"),
        ({"max_running_per_key": True}, "max_running_per_key must be"),
        ({"max_running_per_key": 2, "ordered": True}, "leave out max_running_per_key"),
        ({"priorities": "loose"}, "priorities must be 'strict' or 'weighted'"),
        ({"expired": "gone"}, "expired must be 'dead' or 'drop'"),
    ],
)
def test_bad_declarations(options: dict[str, Any], words: str) -> None:
    """Each error names the queue and the parameter."""
    with pytest.raises(ms.UsageError, match=f"queue 'orders': .*{words}|{words}"):
        ms.Queue("orders", **options)
