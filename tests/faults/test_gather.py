"""Asking all workers while workers die, connections break, and the server starts anew."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.api.clients import KINDS, Kind, make
from tests.faults.processes import Workshop, kill
from tests.faults.working import NAMESPACE, PATIENCE
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.serving import members, serving
from tests.support.wait import auntil, until

HEALTH: ms.Endpoint[Any, Any] = ms.Endpoint("health", timeout=PATIENCE)
KEYS = queue_keys(NAMESPACE, "health")

ANSWERING = """
health = ms.Endpoint("health")

@worker.on(health)
async def answer(body, request):
    record("begun", body, member=request.id)
    if body == "wait":
        await raised("go")
    return os.getpid()
"""


async def gathered(mq: ms.AsyncClient, *args: Any, **options: Any) -> list[ms.Answer[Any]]:
    return [answer async for answer in mq.gather(*args, **options)]


def keep_for_ever(admin: Any, member: str) -> None:
    """Have a member that is silent from now on stay, unless somebody removes it."""
    admin.zadd(KEYS.members, {member: 9e15})
    admin.persist(KEYS.members)


def pid_of(name: str) -> int:
    return int(name.split(":")[1])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.mark.slow
async def test_a_worker_is_killed_while_it_is_asked(
    kind: Kind, own_server: Server, workshop: Workshop
) -> None:
    """The others' answers come, and in the end the caller reads who did not answer."""
    workshop.write(ANSWERING)
    processes = [workshop.worker() for _ in range(3)]
    await auntil(lambda: len(members(own_server.admin(), KEYS)) == 3, PATIENCE)
    async with make(kind, own_server.url, namespace=NAMESPACE) as mq:
        answers = mq.gather(HEALTH, "wait", timeout=6)
        first = asyncio.ensure_future(anext(answers))
        await auntil(lambda: len(workshop.events("begun")) == 3, PATIENCE)
        kill(processes[0].pid)
        workshop.raise_flag("go")
        got = [await first, await anext(answers)]
        with pytest.raises(ms.TimedOut, match="2 of 3 answers") as late:
            await anext(answers)

    assert {one.result() for one in got} == {processes[1].pid, processes[2].pid}
    [missing] = late.value.missing
    assert pid_of(missing) == processes[0].pid
    assert missing in str(late.value)


async def test_a_worker_that_hangs_is_named(own_server: Server, workshop: Workshop) -> None:
    """Also when it is there, and does nothing."""
    workshop.write(ANSWERING)
    processes = [workshop.worker() for _ in range(2)]
    await auntil(lambda: len(members(own_server.admin(), KEYS)) == 2, PATIENCE)
    async with ms.AsyncClient(own_server.url, namespace=NAMESPACE) as mq:
        os.kill(processes[0].pid, signal.SIGSTOP)
        answers = mq.gather(HEALTH, "now", timeout=3)
        assert (await anext(answers)).result() == processes[1].pid
        with pytest.raises(ms.TimedOut) as late:
            await anext(answers)
        os.kill(processes[0].pid, signal.SIGCONT)

    assert [pid_of(one) for one in late.value.missing] == [processes[0].pid]


@pytest.mark.slow
async def test_a_killed_child_is_no_member(own_server: Server, workshop: Workshop) -> None:
    """Its supervisor says so at once: it does not wait until the child has been silent for long."""
    workshop.write(ANSWERING)
    workshop.supervisor(2)
    admin: Any = own_server.admin()
    await auntil(lambda: len(members(admin, KEYS)) == 2, PATIENCE)
    victim = members(admin, KEYS)[0]

    keep_for_ever(admin, victim)
    kill(pid_of(victim))
    await auntil(lambda: victim not in members(admin, KEYS), PATIENCE)

    await auntil(lambda: len(members(admin, KEYS)) == 2, PATIENCE)
    async with ms.AsyncClient(own_server.url, namespace=NAMESPACE) as mq:
        answers = await gathered(mq, HEALTH, "now")
    assert victim not in {one.responder for one in answers}
    assert len(answers) == 2


async def test_a_stopped_worker_is_no_member(own_server: Server, workshop: Workshop) -> None:
    """When its process has ended, nobody is asked in vain."""
    workshop.write(ANSWERING)
    process = workshop.worker()
    admin = own_server.admin()
    await auntil(lambda: len(members(admin, KEYS)) == 1, PATIENCE)

    process.send(signal.SIGTERM)
    process.wait()

    assert members(admin, KEYS) == []
    async with ms.AsyncClient(own_server.url, namespace=NAMESPACE) as mq:
        with pytest.raises(ms.NoResponders):
            await gathered(mq, HEALTH, "now")
        with pytest.raises(ms.NoResponders):
            await mq.request(HEALTH, "now")


def answering(handled: list[Any], let: asyncio.Event | None = None) -> ms.Worker:
    worker = ms.Worker()

    @worker.on(HEALTH)
    async def answer(body: Any) -> Any:
        handled.append(body)
        if let is not None:
            await let.wait()
        return body

    return worker


@pytest.mark.parametrize("durable", [True, False])
async def test_the_server_starts_anew(kind: Kind, durable: bool) -> None:
    """Workers and callers find each other again, with or without what the server knew."""
    with Server(appendonly=durable) as server:
        handled: list[Any] = []
        workers = answering(handled), answering(handled)
        async with (
            make(kind, server.url, namespace=NAMESPACE) as mq,
            serving(server.admin(), server.url, NAMESPACE, *workers),
        ):
            assert len(await gathered(mq, HEALTH, 1)) == 2
            await asyncio.to_thread(server.restart)

            async def both() -> bool:
                try:
                    # What came before the mailbox was there again is lost, as all the server knew.
                    return len(await gathered(mq, HEALTH, 2, timeout=2)) == 2
                except (ms.NoResponders, ms.TimedOut):
                    return False

            await auntil(both, PATIENCE)


async def test_the_worker_is_away_for_a_moment(own_server: Server, proxy: Proxy) -> None:
    """It hears what was said meanwhile, once, and answers."""
    handled: list[Any] = []
    async with (
        ms.AsyncClient(own_server.url, namespace=NAMESPACE) as mq,
        serving(own_server.admin(), proxy.url, NAMESPACE, answering(handled)),
    ):
        assert len(await gathered(mq, HEALTH, 1)) == 1
        await asyncio.to_thread(proxy.refuse)
        await asyncio.to_thread(proxy.cut)
        answers = mq.gather(HEALTH, 2)
        first = asyncio.ensure_future(anext(answers))
        await auntil(lambda: own_server.admin().xlen(KEYS.control) >= 3, PATIENCE)
        await asyncio.to_thread(proxy.accept)
        assert (await first).result() == 2
        for n in range(3, 10):
            await asyncio.to_thread(proxy.cut)
            assert len(await gathered(mq, HEALTH, n)) == 1

    assert handled == [*range(1, 10)]


async def test_the_caller_is_away_for_a_moment(
    kind: Kind, own_server: Server, proxy: Proxy
) -> None:
    """Answers wait in its mailbox."""
    handled: list[Any] = []
    let = asyncio.Event()
    async with (
        make(kind, proxy.url, namespace=NAMESPACE) as mq,
        serving(own_server.admin(), own_server.url, NAMESPACE, answering(handled, let)),
    ):
        call = asyncio.create_task(gathered(mq, HEALTH, 1))
        await auntil(lambda: handled, PATIENCE)
        await asyncio.to_thread(proxy.refuse)
        await asyncio.to_thread(proxy.cut)
        let.set()
        await asyncio.to_thread(proxy.accept)
        [answer] = await call

    assert answer.result() == 1


@pytest.mark.parametrize("after", [0, 4])
async def test_the_reply_of_the_server_is_lost(
    kind: Kind, own_server: Server, proxy: Proxy, after: int
) -> None:
    """It is asked again, and workers are told twice; none of them answers twice."""
    handled: list[Any] = []
    async with (
        make(kind, proxy.url, namespace=NAMESPACE) as mq,
        serving(
            own_server.admin(), own_server.url, NAMESPACE, answering(handled), answering(handled)
        ),
    ):
        assert len(await gathered(mq, HEALTH, 0)) == 2
        for n in range(1, 6):
            await asyncio.to_thread(proxy.drop_replies, to=b"EVALSHA", after=after)
            assert [one.result() for one in await gathered(mq, HEALTH, n)] == [n, n]
            assert len(await gathered(mq, HEALTH, -n)) == 2
        said: Any = own_server.admin().xrange(KEYS.control)

    assert sorted(handled) == sorted(2 * [*range(-5, 6)])
    # Each time, the server had done it.
    assert sum(fields.get(b"op") == b"call" for _, fields in said) == 11 + 5


@pytest.mark.slow
def test_a_queue_that_cannot_be_handed_over_holds_up_no_endpoint(
    own_server: Server, workshop: Workshop
) -> None:
    """A supervisor takes care of all that a dead child had side by side."""
    workshop.write("""
crowded = ms.Queue("crowded")

@worker.on(crowded)
async def stay(_):
    record("begun")
    await raised("never")

health = ms.Endpoint("health")

@worker.on(health)
async def answer(body):
    return os.getpid()
""")
    workshop.supervisor(1)
    admin: Any = own_server.admin()
    with ms.Client(own_server.url, namespace=NAMESPACE) as mq:
        mq.send(ms.Queue("crowded"), 1)
        [event] = workshop.until_told("begun", 1)
        until(lambda: len(members(admin, KEYS)) == 1, PATIENCE)
        # Something foreign stands where the message would go; the hand-over tries again each second.
        front = queue_keys(NAMESPACE, "crowded").front
        admin.delete(front)
        admin.set(front, "x")
        victim = members(admin, KEYS)[0]
        keep_for_ever(admin, victim)
        kill(event.pid)
        until(lambda: victim not in members(admin, KEYS), PATIENCE)
        admin.delete(front)
