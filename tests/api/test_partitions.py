"""Queues with partitions, from both clients: what is sent anywhere is one queue to its users."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter
from contextlib import aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from tests.api.clients import Connect, counts, drain, take

PARTS = 4


@pytest.fixture
def queue() -> ms.Queue[Any]:
    """An ordered queue in four partitions."""
    return ms.Queue("orders", ordered=True, partitions=PARTS)


def place(id: str) -> int:
    """The partition that an id names."""
    return int(id.partition("/")[2] or 0)


class TestSending:
    async def test_messages_without_a_key_are_spread(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """All partitions get the same share, one by one or many at once; ids tell where."""
        one_by_one = [await mq.send(queue, n) for n in range(8)]
        many = await mq.send_many(queue, range(8, 24))

        for receipts, share in ((one_by_one, 2), (many, 4)):
            places = Counter(place(receipt.id) for receipt in receipts)
            assert places == dict.fromkeys(range(PARTS), share)
        assert len({receipt.id for receipt in one_by_one + many}) == 24

    async def test_receipts_are_in_the_order_of_the_bodies(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Also when they went to different partitions."""
        receipts = await mq.send_many(queue, range(40))

        received = {one.id: one.body for one in await drain(mq, queue)}
        assert [received[receipt.id] for receipt in receipts] == [*range(40)]

    async def test_headers_go_along(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Each message keeps its headers."""
        await mq.send_many(queue, range(8), headers={"a": "b"})

        assert [one.headers for one in await drain(mq, queue)] == [{"a": "b"}] * 8


class TestReceiving:
    async def test_all_partitions_are_read(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """One receiver gets what is in any of them, each message once."""
        receipts = await mq.send_many(queue, range(100))

        deliveries = await drain(mq, queue, prefetch=7)
        assert sorted(one.body for one in deliveries) == [*range(100)]
        assert {one.id for one in deliveries} == {receipt.id for receipt in receipts}
        assert await counts(mq, queue) == (0, 0, 0, 0)

    async def test_a_sleeping_receiver_wakes(
        self, mq: ms.AsyncClient, connect: Connect, queue: ms.Queue[Any]
    ) -> None:
        """A message to any of the partitions ends its sleep."""
        other = await connect()
        async with aclosing(mq.receive(queue, wait=10)) as deliveries:
            for n in range(2 * PARTS):
                waiting = asyncio.ensure_future(anext(deliveries))
                await asyncio.sleep(0.02)  # the work itself
                await other.send(queue, n)
                delivery = await asyncio.wait_for(waiting, 5)
                assert delivery.body == n
                await delivery.ack()

    async def test_every_end(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Deliveries of any partition can be retried, rejected, released and extended."""
        queue = ms.Queue(
            "orders",
            ordered=True,
            partitions=PARTS,
            retry=ms.Retry(max_attempts=3, backoff=ms.Backoff(first=0.01)),
        )
        sent = {(await mq.send(queue, n)).id for n in range(PARTS)}
        for delivery in await take(mq, queue, PARTS):
            await delivery.extend(60)
            await delivery.release()
        for delivery in await take(mq, queue, PARTS):
            await delivery.retry(delay=0.01)
        again = await take(mq, queue, PARTS)
        assert {(one.id, one.attempt) for one in again} == {(id, 2) for id in sent}
        for delivery in again:
            await delivery.reject("no")
        assert {one.id for one in await mq.dead(queue)} == sent

    async def test_what_was_fetched_ahead_is_handed_back(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """A receiver that stops leaves nothing of any partition behind."""
        await mq.send_many(queue, range(40))
        [delivery] = await take(mq, queue, 1, prefetch=10)
        await delivery.ack()

        assert await counts(mq, queue) == (39, 0, 0, 0)
        assert len(await drain(mq, queue)) == 39


class TestOperating:
    async def test_stats(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """The counts are those of the whole queue, and of each partition."""
        await mq.send_many(queue, range(12))
        taken = await take(mq, queue, 3)

        stats = await mq.stats(queue)
        assert (stats.name, stats.ready, stats.in_flight, stats.sent) == ("orders", 9, 3, 12)
        assert stats.oldest_ready is not None
        assert [one.name for one in stats.partitions] == [f"orders/{n}" for n in range(PARTS)]
        assert sum(one.ready for one in stats.partitions) == 9
        assert {one.sent for one in stats.partitions} == {3}
        assert [one.in_flight for one in stats.consumers] == [3]
        for delivery in taken:
            await delivery.ack()

    async def test_who_looks_need_not_know_the_number(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """An operator who knows nothing but the name sees the whole queue."""
        await mq.send_many(queue, range(8))
        plain: ms.Queue[Any] = ms.Queue("orders")

        assert (await mq.stats(plain)).ready == 8
        assert len(await mq.peek(plain)) == 8
        assert await mq.queues() == ["orders"]
        assert await mq.purge(plain, confirm=True) == 8
        assert (await mq.stats(queue)).ready == 0

    async def test_peek(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """The oldest of all partitions come first, as many as asked for."""
        receipts = [await mq.send(queue, n) for n in range(10)]

        shown = await mq.peek(queue, limit=6)
        # Two of one millisecond may stand in any order.
        assert [one.sent_at for one in shown] == sorted(one.sent_at for one in shown)
        assert len(shown) == 6
        assert {one.id for one in await mq.peek(queue, limit=100)} == {one.id for one in receipts}

    async def test_dead_letters_come_in_pages(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Paging through all partitions shows each letter once, the oldest first."""
        sent = {receipt.id for receipt in await mq.send_many(queue, range(30))}
        for delivery in await take(mq, queue, 30):
            await delivery.reject("no")

        letters: list[ms.DeadLetter] = []
        while page := await mq.dead(queue, limit=7, after=letters[-1].cursor if letters else None):
            letters += page
        assert len(letters) == 30
        assert {one.id for one in letters} == sent
        times = [one.died_at for one in letters]
        assert times == sorted(times)

    async def test_pages_do_not_skip_letters_of_one_moment(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, namespace: str
    ) -> None:
        """Letters that died at the same time in different partitions are all shown, once."""
        await mq.send(queue, 0)
        for number in range(PARTS):
            tag = f"orders/{number}" if number else "orders"
            for sequence in range(2):
                state = json.dumps({"id": f"{number}-{sequence}"})
                entry: Any = {"b": "1", "s": state}
                admin.xadd(f"{namespace}:{{{tag}}}:dead", entry, id=f"1700000000000-{sequence}")

        seen: list[str] = []
        after = None
        while page := await mq.dead(queue, limit=1, after=after):
            seen += [one.id for one in page]
            after = page[-1].cursor
        assert sorted(seen) == sorted(
            f"{n}-{s}/{n}" if n else f"{n}-{s}" for n in range(PARTS) for s in range(2)
        )

    async def test_redrive(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Letters go back to their partition: those with an id, those with a reason, or all."""
        sent = [receipt.id for receipt in await mq.send_many(queue, range(12))]
        for delivery in await take(mq, queue, 12):
            await delivery.reject("odd" if delivery.body % 2 else "even")

        assert await mq.redrive(queue, ids=[sent[1], sent[2], "1-0/99"]) == 2
        assert {one.id for one in await mq.peek(queue)} == {sent[1], sent[2]}
        assert await mq.redrive(queue, reason="odd") == 5
        assert await mq.redrive(queue) == 5
        assert {one.id for one in await drain(mq, queue)} == set(sent)

    async def test_purge_of_the_dead(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """The dead letters of all partitions are deleted."""
        await mq.send_many(queue, range(8))
        for delivery in await take(mq, queue, 8):
            await delivery.reject("no")

        assert await mq.purge(queue, confirm=True, dead=True) == 8
        assert await mq.dead(queue) == []


class TestNumber:
    async def test_another_number_is_refused(
        self, mq: ms.AsyncClient, connect: Connect, queue: ms.Queue[Any]
    ) -> None:
        """Producers and consumers with another number get an error that explains what to do."""
        await mq.send(queue, 1)
        other = await connect()
        for number in (1, 2, 8):
            wrong: ms.Queue[Any] = ms.Queue("orders", ordered=True, partitions=number)
            for client in (mq, other):
                with pytest.raises(ms.UsageError, match=r"has 4 partitions.*repartition"):
                    await client.send(wrong, 1)
                with pytest.raises(ms.UsageError, match="has 4 partitions"):
                    await client.send_many(wrong, [1])
                with pytest.raises(ms.UsageError, match="has 4 partitions"):
                    await drain(client, wrong)
        assert await counts(mq, queue) == (1, 0, 0, 0)

    @pytest.mark.parametrize("partitions", [1, PARTS])
    @pytest.mark.parametrize(
        "options",
        [{"key": "k"}, {"unique": "u"}, {"delay": 5}, {"priority": 1}, {"ttl": 5}],
        ids=lambda options: next(iter(options)),
    )
    async def test_a_producer_that_knows_of_no_order(
        self, mq: ms.AsyncClient, connect: Connect, partitions: int, options: dict[str, Any]
    ) -> None:
        """Its keys would be outside the order of all others: it is refused, and told what to do.

        A plain message has no place in an order; it is handled.
        """
        queue: ms.Queue[Any] = ms.Queue("orders", ordered=True, partitions=partitions)
        unordered: ms.Queue[Any] = ms.Queue("orders", max_running_per_key=1)
        await mq.send(queue, 1, key="k")
        other = await connect()
        with pytest.raises(ms.UsageError, match="'orders' is ordered: declare it with ordered=Tr"):
            await other.send(unordered, 2, **options)
        with pytest.raises(ms.UsageError, match=r"partitions=4" if partitions > 1 else "as the o"):
            await other.send_many(unordered, [2], key="k")

        await other.send(unordered, 3)
        assert sorted(one.body for one in await drain(mq, queue)) == [1, 3]

    async def test_one_is_a_number_like_any_other(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """An ordered queue that was not divided cannot be divided by the way."""
        await mq.send(ms.Queue("orders", ordered=True), 1)

        with pytest.raises(ms.UsageError, match=r"has 1 partition,.*partitions=4"):
            await mq.send(queue, 2)

    async def test_an_unordered_receiver_is_refused(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """It would read a part of the queue and take it for the whole."""
        await mq.send(queue, 1)

        with pytest.raises(ms.UsageError, match="has 4 partitions"):
            await drain(mq, ms.Queue("orders"))

    async def test_an_unordered_queue_may_become_ordered(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """What was sent before, from any program, has no key, and is handled all the same."""
        await mq.send(ms.Queue("orders"), "before")
        await mq.send(queue, "after")

        assert sorted(one.body for one in await drain(mq, queue)) == ["after", "before"]

    async def test_an_unordered_queue_asks_for_nothing(
        self, mq: ms.AsyncClient, admin: redis.Redis
    ) -> None:
        """A plain queue has no number stored, and no command asks for it."""
        await mq.send(ms.Queue("plain"), 1)

        assert not [key for key in admin.keys("*:config") if b"{plain}" in key]


class TestControl:
    async def test_a_pause_holds_all_partitions(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Nothing is delivered from any of them until the queue is resumed."""
        await mq.send_many(queue, range(8))
        await mq.pause(queue)

        assert (await mq.stats(queue)).paused
        assert await drain(mq, queue) == []
        await mq.resume(queue)
        assert not (await mq.stats(queue)).paused
        assert len(await drain(mq, queue)) == 8

    async def test_a_queue_that_nobody_has_used_is_paused(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """All of its partitions are, before there is anything in them."""
        await mq.pause(queue)
        await mq.send_many(queue, range(8))

        assert await drain(mq, queue) == []
        await mq.resume(queue)
        assert len(await drain(mq, queue)) == 8

    @pytest.mark.parametrize("before", [None, 2], ids=["unordered", "two"])
    async def test_a_paused_queue_that_is_divided_anew(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], before: int | None
    ) -> None:
        """Its new partitions are paused as well."""
        first: ms.Queue[Any] = ms.Queue(
            "orders", ordered=before is not None, partitions=before or 1
        )
        await mq.pause(first)
        await mq.repartition(queue)
        await mq.send_many(queue, range(8))

        assert await drain(mq, queue) == []
        await mq.resume(queue)
        assert len(await drain(mq, queue)) == 8

    async def test_a_running_message_is_cancelled_where_it_is(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """Its id tells the partition; the others go on."""
        await mq.send_many(queue, range(8))
        taken = await take(mq, queue, 8)

        assert await mq.cancel(queue, taken[5].id)
        [letter] = await mq.dead(queue)
        assert (letter.id, letter.reason) == (taken[5].id, "cancelled")
        with pytest.raises(ms.LeaseLost):
            await taken[5].ack()
        for delivery in taken[:5] + taken[6:]:
            await delivery.ack()
        assert await counts(mq, queue) == (0, 0, 0, 1)


class TestRepartition:
    """The one way to change the number."""

    @staticmethod
    def divided(partitions: int) -> ms.Queue[Any]:
        return ms.Queue("orders", ordered=True, partitions=partitions)

    @pytest.mark.parametrize(("old", "new"), [(1, 4), (4, 1), (4, 6), (6, 4)])
    async def test_an_empty_queue(
        self,
        mq: ms.AsyncClient,
        connect: Connect,
        admin: redis.Redis,
        namespace: str,
        old: int,
        new: int,
    ) -> None:
        """It goes on with the new number, and nothing of what is no partition any more is left."""
        before, after = self.divided(old), self.divided(new)
        await mq.send_many(before, range(20), key=str)
        assert len(await drain(mq, before)) == 20

        await mq.repartition(after)
        client = await connect()
        await client.send_many(after, range(20), key=str)
        assert sorted(one.body for one in await drain(client, after)) == [*range(20)]
        with pytest.raises(ms.UsageError, match=f"has {new} partition"):
            await client.send(before, 1)
        for number in range(new, old):
            left = admin.keys(f"{namespace}:{{orders/{number}}}:*")
            assert [key for key in left if b":producer:" not in key] == []

    async def test_what_is_refused(self, mq: ms.AsyncClient) -> None:
        """A queue with messages in any state, or with a receiver, stays as it is."""
        queue, other = self.divided(4), self.divided(8)
        await mq.send_many(queue, range(8), key=str)
        with pytest.raises(ms.UsageError, match=r"in use \(8 ready\)"):
            await mq.repartition(other)
        async with aclosing(mq.receive(queue, prefetch=1)) as deliveries:
            await (await anext(deliveries)).reject("no")
            with pytest.raises(ms.UsageError, match=r"7 ready, 1 dead, 1 workers or receivers"):
                await mq.repartition(other)
        await drain(mq, queue)
        with pytest.raises(ms.UsageError, match=r"\(1 dead\)"):
            await mq.repartition(other)
        await mq.purge(queue, confirm=True, dead=True)
        await mq.send(queue, 1, delay=60)
        with pytest.raises(ms.UsageError, match=r"\(1 delayed\)"):
            await mq.repartition(other)
        assert (await mq.stats(queue)).delayed == 1

    async def test_a_worker_that_lives(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any], admin: redis.Redis, namespace: str
    ) -> None:
        """It counts also when it has nothing to read."""
        await mq.send(queue, 1)
        await drain(mq, queue)
        admin.zadd(f"{namespace}:{{orders}}:members", {"worker": 1})
        admin.expire(f"{namespace}:{{orders}}:members", 10)

        with pytest.raises(ms.UsageError, match="1 workers or receivers"):
            await mq.repartition(self.divided(8))

    async def test_the_same_number(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """Nothing is to be done, so it is no error on a queue in use, or on a new one."""
        await mq.repartition(queue)
        await mq.send(queue, 1)
        await mq.repartition(queue)

        assert await counts(mq, queue) == (1, 0, 0, 0)

    async def test_an_unordered_queue(self, mq: ms.AsyncClient) -> None:
        """It has no partitions."""
        with pytest.raises(ms.UsageError, match="not ordered"):
            await mq.repartition(ms.Queue("orders"))


class TestKeys:
    async def test_a_key_has_one_partition(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """However it is sent; and it is the one that the wire format says."""
        for n in range(20):
            key = f"c-{n}"
            one = await mq.send(queue, n, key=key)
            [other] = await mq.send_many(queue, [n], key=key)
            late = await mq.send(queue, n, key=key, delay=60)
            wanted = zlib.crc32(key.encode()) % PARTS
            assert [place(receipt.id) for receipt in (one, other, late)] == [wanted] * 3

    async def test_keys_are_received_in_order(
        self, mq: ms.AsyncClient, queue: ms.Queue[Any]
    ) -> None:
        """One message of each key at a time; the next one comes when it is done."""
        await mq.send_many(queue, range(60), key=lambda n: f"k{n % 6}")

        seen: dict[int, list[int]] = {}
        async for delivery in mq.receive(queue, wait=0):
            assert delivery.key == f"k{delivery.body % 6}"
            seen.setdefault(delivery.body % 6, []).append(delivery.body)
            await delivery.ack()
        assert seen == {key: [*range(key, 60, 6)] for key in range(6)}

    async def test_cancel_and_reschedule(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """An id finds its message in its partition, in whatever state it waits."""
        first = [await mq.send(queue, n, key=f"c-{n}") for n in range(8)]
        second = [await mq.send(queue, n, key=f"c-{n}") for n in range(8)]
        late = [await mq.send(queue, n, delay=60) for n in range(8)]

        assert await mq.cancel(queue, second[2].id)
        assert await mq.cancel(queue, late[3].id)
        assert not await mq.cancel(queue, late[3].id)
        for receipt in late[:3]:
            assert await mq.reschedule(queue, receipt.id, delay=0)
        received = {one.id for one in await drain(mq, queue)}
        gone = {second[2].id, *(one.id for one in late[3:])}
        assert received == {one.id for one in first + second + late} - gone

    async def test_unique(self, mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
        """A unique key works in the whole queue, and among the messages of one key."""
        plain = [await mq.send(queue, n, unique="u") for n in range(3)]
        keyed = [await mq.send(queue, n, unique="v", key="c-1") for n in range(3)]

        for receipts in (plain, keyed):
            assert len({one.id for one in receipts}) == 1
            assert [one.duplicate for one in receipts] == [False, True, True]
