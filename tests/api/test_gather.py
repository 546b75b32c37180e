"""Asking all workers of an endpoint at once."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import mailbox_key, queue_keys
from millstream.protocol.requests import Address, address_of
from tests.api.clients import Connect
from tests.support.serving import PATIENCE, members, serving, write
from tests.support.wait import auntil

HEALTH: ms.Endpoint[Any, Any] = ms.Endpoint("health", timeout=PATIENCE)


class OutOfOrder(Exception):
    """An error that the endpoint names."""


class Gates:
    """Workers whose handlers answer when they are let."""

    def __init__(self, count: int, endpoint: ms.Endpoint[Any, Any] = HEALTH) -> None:
        self.open = [asyncio.Event() for _ in range(count)]
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.workers = [self._worker(number, endpoint) for number in range(count)]

    def _worker(self, number: int, endpoint: ms.Endpoint[Any, Any]) -> ms.Worker:
        worker = ms.Worker()

        @worker.on(endpoint)
        async def answer(_: Any) -> int:
            self.begun.append(number)
            await self.open[number].wait()
            self.ended.append(number)
            return number

        return worker

    def let(self, *numbers: int) -> None:
        for number in numbers:
            self.open[number].set()


def worker_of(function: Any, endpoint: ms.Endpoint[Any, Any] = HEALTH) -> ms.Worker:
    worker = ms.Worker()
    worker.on(endpoint)(function)
    return worker


async def echo(body: Any) -> Any:
    return body


async def gathered(mq: ms.AsyncClient, *args: Any, **options: Any) -> list[ms.Answer[Any]]:
    return [answer async for answer in mq.gather(*args, **options)]


class TestAnswers:
    async def test_each_worker_answers_once(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """All who serve it handle the same body, and their names tell the answers apart."""

        async def consumers() -> bool:
            return {one.name for one in (await mq.stats(HEALTH.queue)).consumers} == {*names}

        async with serving(admin, url, namespace, *(worker_of(echo) for _ in range(3))):
            names = members(admin, queue_keys(namespace, "health"))
            answers = await gathered(mq, HEALTH, {"deep": True})
            # Stats show them by the same names.
            await auntil(consumers, PATIENCE)

        assert sorted(one.responder for one in answers) == sorted(names)
        assert [one.result() for one in answers] == [{"deep": True}] * 3
        assert [one.error for one in answers] == [None] * 3

    async def test_on_every_server(
        self, any_mq: ms.AsyncClient, any_server: Any, any_url: str, namespace: str
    ) -> None:
        """It needs nothing that only some servers have."""
        workers = (worker_of(echo), worker_of(echo))
        async with serving(any_server.admin(), any_url, namespace, *workers):
            answers = await gathered(any_mq, HEALTH, 1)

        assert [one.result() for one in answers] == [1, 1]

    async def test_they_come_as_they_arrive(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Nobody waits for the slowest to hear of the quickest."""
        gates = Gates(2)
        async with serving(admin, url, namespace, *gates.workers):
            answers = mq.gather(HEALTH, 1)
            gates.let(1)
            assert (await anext(answers)).result() == 1
            gates.let(0)
            assert (await anext(answers)).result() == 0
            with pytest.raises(StopAsyncIteration):
                await anext(answers)

    async def test_enough_is_enough(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """With ``expect`` it ends before the others have answered, who go on; the client, too."""
        gates = Gates(3)
        async with serving(admin, url, namespace, *gates.workers):
            gates.let(0, 2)
            answers = await gathered(mq, HEALTH, 1, expect=2)
            assert {one.result() for one in answers} == {0, 2}
            assert 1 not in gates.ended

            gates.let(1)
            assert len(await gathered(mq, HEALTH, 1)) == 3
        assert gates.ended.count(1) == 2

    async def test_the_client_is_closed(
        self, connect: Connect, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Whoever waits for answers hears of it at once."""
        gates, mq = Gates(1), await connect()
        async with serving(admin, url, namespace, *gates.workers):
            answers = asyncio.ensure_future(gathered(mq, HEALTH, 1, timeout=300))
            await auntil(lambda: gates.begun == [0], PATIENCE)
            await mq.aclose()
            with pytest.raises(ms.NotConnected, match="the client was closed while call"):
                await answers
            gates.let(0)

    async def test_headers_and_deadline_come_along(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A handler sees what it sees of a request."""

        async def look(body: Any, request: ms.Request[Any]) -> Any:
            return [body, request.headers["trace"], request.time_left, request.crashes, request.id]

        async with serving(admin, url, namespace, worker_of(look)):
            [answer] = await gathered(mq, HEALTH, "?", headers={"trace": "t"}, timeout=PATIENCE)

        body, trace, left, crashes, id = answer.result()
        assert (body, trace, crashes) == ("?", "t", 0)
        # The worker knows the server's clock but for a round trip.
        assert 0 < left <= PATIENCE + 1
        assert id.partition("-")[0].isdigit()

    async def test_many_at_a_time(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Each gets its own answers, and all of them."""
        async with serving(admin, url, namespace, worker_of(echo), worker_of(echo)):
            found = await asyncio.gather(*(gathered(mq, HEALTH, n) for n in range(100)))

        assert [[one.result() for one in some] for some in found] == [[n, n] for n in range(100)]

    async def test_requests_go_on_beside_it(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A call is no message: the queue knows nothing of it."""
        async with serving(admin, url, namespace, worker_of(echo), worker_of(echo)):
            await gathered(mq, HEALTH, 1)
            assert await mq.request(HEALTH, 2) == 2
        stats = await mq.stats(HEALTH.queue)

        assert (stats.sent, stats.ready, stats.in_flight, stats.dead) == (1, 0, 0, 0)


class TestErrors:
    async def test_they_are_part_of_the_answer(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """One worker that fails does not hide what the others say."""
        endpoint = ms.Endpoint("health", errors=[OutOfOrder], timeout=PATIENCE)

        async def named(_: Any) -> None:
            raise OutOfOrder("pump", 3)

        async def other(_: Any) -> None:
            raise KeyError("x")

        workers = [worker_of(one, endpoint) for one in (echo, named, other)]
        async with serving(admin, url, namespace, *workers):
            answers = await gathered(mq, endpoint, 1)

        by_kind = {type(one.error): one for one in answers}
        assert by_kind[type(None)].result() == 1
        with pytest.raises(OutOfOrder) as raised:
            by_kind[OutOfOrder].result()
        assert raised.value.args == ("pump", 3)
        with pytest.raises(ms.RemoteError) as remote:
            by_kind[ms.RemoteError].result()
        assert remote.value.type_name == "KeyError"
        assert [one.reply for one in answers if one.error] == [None, None]

    async def test_a_body_that_does_not_fit(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """The worker says so; its handler is not called."""
        typed = ms.Endpoint("health", int, int, timeout=PATIENCE)
        async with serving(admin, url, namespace, worker_of(echo, typed)):
            [answer] = await gathered(mq, HEALTH, "no number")

        with pytest.raises(ms.RemoteError, match="undecodable"):
            answer.result()

    async def test_a_reply_that_does_not_fit(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """It is an error of this answer."""
        typed: ms.Endpoint[Any, int] = ms.Endpoint("health", Any, int, timeout=PATIENCE)
        async with serving(admin, url, namespace, worker_of(echo)):
            [answer] = await gathered(mq, typed, "no number")

        with pytest.raises(ms.Undecodable, match="reply of"):
            answer.result()

    async def test_none_is_a_reply(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """A handler that returns nothing has answered."""
        async with serving(admin, url, namespace, worker_of(echo)):
            [answer] = await gathered(mq, HEALTH, None)

        assert answer.result() is None


class TestTooFew:
    async def test_some_have_not_answered_in_time(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """The error tells how many of how many, and who; what has come was yielded."""
        gates = Gates(3)
        gates.let(0, 1)
        async with serving(admin, url, namespace, *gates.workers):
            answers = mq.gather(HEALTH, 1, timeout=3)
            got = [await anext(answers), await anext(answers)]
            with pytest.raises(ms.TimedOut, match="2 of 3 answers within 3 s") as late:
                await anext(answers)
            gates.let(2)
            names = set(members(admin, queue_keys(namespace, "health")))

        error = late.value
        assert sorted(one.result() for one in got) == [0, 1]
        assert (error.answered, error.expected, error.endpoint) == (2, 3, "health")
        assert {*error.missing} == names - {one.responder for one in got}
        assert error.missing[0] in str(error)

    async def test_there_are_not_so_many(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Who expects more than there are waits in vain, and reads why."""
        async with serving(admin, url, namespace, worker_of(echo)):
            with pytest.raises(ms.TimedOut, match=r"1 of 2 .*no more workers serve it") as late:
                await gathered(mq, HEALTH, 1, expect=2, timeout=3)

        assert late.value.missing == ()

    async def test_nobody(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """An endpoint that nobody serves, or nobody any more, is an error at once."""
        with pytest.raises(ms.NoResponders, match="nobody was asked"):
            await gathered(mq, HEALTH, 1, timeout=3600)
        async with serving(admin, url, namespace, worker_of(echo)):
            await gathered(mq, HEALTH, 1)
        with pytest.raises(ms.NoResponders):
            await gathered(mq, HEALTH, 1, timeout=3600)

    async def test_the_caller_leaves(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """Who was asked goes on; what it says then disturbs nobody."""
        gates = Gates(2)
        async with serving(admin, url, namespace, *gates.workers):
            gates.let(0)
            async with aclosing(mq.gather(HEALTH, 1)) as answers:
                async for answer in answers:
                    assert answer.result() == 0
                    break
            gates.let(1)
            assert len(await gathered(mq, HEALTH, 1)) == 2
        assert gates.ended.count(1) == 2


class TestUsage:
    async def test_too_long_for_all(self, mq: ms.AsyncClient) -> None:
        """What stays in the server for a minute is bounded; headers count."""
        with pytest.raises(ms.UsageError, match="65536 bytes"):
            await gathered(mq, HEALTH, "x" * 65_536)
        with pytest.raises(ms.UsageError, match="65536 bytes"):
            await gathered(mq, HEALTH, "x" * 65_000, headers={"h": "x" * 1000})

    async def test_the_longest_goes_through(
        self, mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
    ) -> None:
        """The bound itself is allowed."""
        body = "x" * (65_536 - 2)
        async with serving(admin, url, namespace, worker_of(echo)):
            [answer] = await gathered(mq, HEALTH, body)

        assert answer.result() == body

    @pytest.mark.parametrize("expect", [0, -1, True, 1.5, "2"])
    async def test_what_is_no_number_of_answers(self, mq: ms.AsyncClient, expect: Any) -> None:
        """It is refused, by its name."""
        with pytest.raises(ms.UsageError, match="expect"):
            await gathered(mq, HEALTH, 1, expect=expect)

    async def test_what_is_no_endpoint(self, mq: ms.AsyncClient) -> None:
        """A queue has no answers."""
        with pytest.raises(ms.UsageError, match="request is for endpoints"):
            await gathered(mq, ms.Queue("health"), 1)


async def test_what_anybody_writes_into_a_mailbox(
    mq: ms.AsyncClient, admin: redis.Redis, url: str, namespace: str
) -> None:
    """A second answer of one worker, one of nobody, and what is no answer change nothing."""

    async def spoil(body: Any, request: ms.Request[Any]) -> Any:
        address = address_of(request.delivery.envelope)
        assert isinstance(address, Address)
        assert address.gather
        mailbox, slot = mailbox_key(namespace, address.client), address.slot
        [me] = members(admin, queue_keys(namespace, "health"))
        write(admin, mailbox, "reply", b"1", c=slot)  # by nobody
        write(admin, mailbox, "part", b"1", c=slot, w=me)
        write(admin, mailbox, "reply", b"2", c="9" * 5000, w=me)
        write(admin, mailbox, "reply", b"3", c="?", n="?", w=b"\xff")
        write(admin, mailbox, "reply", b'"first"', c=slot, w=me)
        write(admin, mailbox, "error", b"no json", c=slot, w=me)
        write(admin, mailbox, "error", b"no json", c=slot, w="stranger")
        return body

    async with serving(admin, url, namespace, worker_of(spoil)):
        one, other = await gathered(mq, HEALTH, 7, expect=2)
        [again] = await gathered(mq, HEALTH, 8)

    assert one.result() == "first"
    assert other.responder == "stranger"
    with pytest.raises(ms.DeliveryError, match="not readable"):
        other.result()
    assert again.result() == "first"
