"""Mailboxes whose reader has trouble: who waits is answered all the same, or told why not."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import millstream as ms
from millstream.protocol.keys import mailbox_key, queue_keys
from tests.api.clients import KINDS, Kind, connecting
from tests.faults.working import NAMESPACE, PATIENCE
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.serving import members, serving
from tests.support.wait import auntil

WORK: ms.Endpoint[Any, Any] = ms.Endpoint("work", timeout=300)
OTHER: ms.Endpoint[Any, Any] = ms.Endpoint("other", timeout=300)
JOBS: ms.Queue[Any] = ms.Queue("jobs", results=ms.Results())

READER = "millstream-mailbox"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which of the two clients asks."""
    kind: Kind = request.param
    return kind


@pytest.fixture(autouse=True)
async def threads() -> AsyncIterator[None]:
    """Blocking clients wait in many threads at a time."""
    with ThreadPoolExecutor(64) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        yield


@asynccontextmanager
async def client(kind: Kind, url: str, **options: Any) -> AsyncIterator[ms.AsyncClient]:
    """A client of either kind, until the block ends."""
    async with connecting(kind, url, NAMESPACE) as connect:
        yield await connect(**options)


class Gated:
    """A worker whose handler waits for a gate, but for bodies below 0."""

    def __init__(self) -> None:
        self.worker, self.gate = ms.Worker(), asyncio.Event()
        self.begun: list[Any] = []
        self.worker.on(WORK, concurrency=100)(self._handle)

    async def _handle(self, body: int) -> int:
        self.begun.append(body)
        if body >= 0:
            await self.gate.wait()
        return body

    async def has_begun(self, count: int = 1) -> None:
        await auntil(lambda: len(self.begun) >= count, PATIENCE)


def replies(admin: Any, mailbox: str) -> int:
    """How many are in a mailbox."""
    return sum(b"reply" in fields for _, fields in admin.xrange(mailbox))


def told(caplog: pytest.LogCaptureFixture, level: int, text: str) -> list[str]:
    """What the log has at a level."""
    found = [record for record in caplog.records if record.levelno == level]
    return [one.getMessage() for one in found if text in one.getMessage()]


async def test_more_replies_than_one_read_brings(
    kind: Kind, own_server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a dead connection is noticed, nobody is told that a reply is lost which is further behind."""
    for module in (
        "millstream.protocol.mailbox",
        "millstream.aio.mailbox",
        "millstream.sync.mailbox",
    ):
        monkeypatch.setattr(f"{module}.ENTRIES_A_READ", 3)
    gated, admin = Gated(), own_server.admin()
    async with (
        serving(admin, own_server.url, NAMESPACE, gated.worker),
        client(kind, proxy.url, timeout=2) as mq,
    ):
        requests = [asyncio.ensure_future(mq.request(WORK, number)) for number in range(20)]
        await gated.has_begun(20)
        await asyncio.to_thread(proxy.freeze)
        gated.gate.set()
        async with asyncio.timeout(3 * PATIENCE):
            assert await asyncio.gather(*requests) == list(range(20))


async def test_a_missing_right(
    kind: Kind, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits is told of the refusal, the log once; with the right, replies come without a restart."""
    caplog.set_level(logging.INFO, "millstream.requests")
    gated = Gated()
    admin: Any = own_server.admin()

    def allow(*rules: str) -> None:
        admin.execute_command("ACL", "SETUSER", "caller", "on", ">secret", "~*", "&*", *rules)

    allow("+@all", "-xread")
    url = f"unix://caller:secret@{own_server.socket_path}"
    async with (
        serving(admin, own_server.url, NAMESPACE, gated.worker),
        client(kind, url) as mq,
    ):
        handle = await mq.send(JOBS, 1, result=True)
        waiting = handle.result if kind == "async" else lambda: asyncio.to_thread(handle.result)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ms.ServerRefused, match="NOPERM"):
                await mq.request(WORK, 1)
            with pytest.raises(ms.ServerRefused, match="NOPERM"):
                await waiting()
        await auntil(lambda: told(caplog, logging.WARNING, "cannot read replies"), PATIENCE)
        allow("+xread")
        await auntil(lambda: told(caplog, logging.INFO, "replies are read again"), PATIENCE)
        async with asyncio.timeout(PATIENCE):
            assert await mq.request(WORK, -1) == -1

        async def stopped() -> bool:
            return (await mq.stats(WORK.queue)).cancelled == 1

        await auntil(stopped, PATIENCE)
    assert len(told(caplog, logging.WARNING, "cannot read replies")) == 1


async def test_no_further_connection(own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A client whose reader cannot connect looks for its replies once a second, and says so."""
    caplog.set_level(logging.INFO, "millstream.requests")
    gated, admin = Gated(), own_server.admin()
    async with (
        serving(admin, own_server.url, NAMESPACE, gated.worker),
        client("async", own_server.url) as mq,
    ):
        usual = admin.config_get("maxclients")["maxclients"] or ""
        admin.config_set("maxclients", len(admin.client_list()))
        async with asyncio.timeout(PATIENCE):
            assert await mq.request(WORK, -1) == -1
        assert len(told(caplog, logging.WARNING, "cannot read replies")) == 1
        admin.config_set("maxclients", usual)
        await auntil(lambda: told(caplog, logging.INFO, "replies are read again"), PATIENCE)


async def test_its_task_is_cancelled(own_server: Server) -> None:
    """Who waits is told, and the next request has it begin anew."""
    gated, admin = Gated(), own_server.admin()
    async with (
        serving(admin, own_server.url, NAMESPACE, gated.worker),
        client("async", own_server.url) as mq,
    ):
        request = asyncio.ensure_future(mq.request(WORK, 1))
        await gated.has_begun()
        for task in asyncio.all_tasks():
            if task.get_name() == READER:
                task.cancel()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ms.NotConnected, match="was cancelled"):
                await request
            assert await mq.request(WORK, -1) == -1


async def test_the_next_server_is_behind(kind: Kind, own_server: Server, proxy: Proxy) -> None:
    """What a replica with a slow clock has got, after it has taken over, is read, whatever its id."""
    gated = Gated()
    admin: Any = own_server.admin()
    async with (
        serving(admin, own_server.url, NAMESPACE, gated.worker),
        client(kind, proxy.url) as mq,
    ):
        request = asyncio.ensure_future(mq.request(WORK, 1))
        await gated.has_begun()
        mailbox = mailbox_key(NAMESPACE, mq.requests.mailbox.client)
        # Read by the client, and never copied to the replica.
        seen = f"{int(time.time() + 3600) * 1000}-0"
        admin.xadd(mailbox, {"nudge": ""}, id=seen)
        await auntil(lambda: mq.requests.mailbox._seen == seen, PATIENCE)
        await asyncio.to_thread(proxy.refuse)
        await asyncio.to_thread(proxy.cut)
        admin.delete(mailbox)
        admin.xadd(mailbox, {"open": ""})
        gated.gate.set()
        await auntil(lambda: replies(admin, mailbox) == 1, PATIENCE)
        await asyncio.to_thread(proxy.accept)

        async with asyncio.timeout(PATIENCE):
            assert await request == 1
            assert await mq.request(WORK, 2) == 2


async def test_an_inquiry_is_refused(kind: Kind, own_server: Server) -> None:
    """Requests to other endpoints are asked after all the same."""
    admin: Any = own_server.admin()
    all_keys = [queue_keys(NAMESPACE, endpoint.name) for endpoint in (WORK, OTHER)]
    for keys in all_keys:
        admin.zadd(keys.members, {"by-hand": 2**50})
    async with client(kind, own_server.url) as mq:
        refused = asyncio.ensure_future(mq.request(WORK, 1))
        await auntil(lambda: admin.xlen(all_keys[0].ready), PATIENCE)
        admin.delete(all_keys[0].ready)
        admin.set(all_keys[0].lanes[2], "of another program")
        purged = asyncio.ensure_future(mq.request(OTHER, 1))
        await auntil(lambda: admin.xlen(all_keys[1].ready), PATIENCE)
        admin.delete(all_keys[1].ready)

        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ms.ResponderLost):
                await purged
        assert not refused.done()
    with pytest.raises(ms.NotConnected, match="closed"):
        await refused


class Stuck:
    """One who waits, and of whom it takes long to find out anything."""

    is_waiting = True

    def __init__(self, kind: Kind) -> None:
        self.entered, self.free = threading.Event(), threading.Event()
        self.look_after: Any = self._look if kind == "sync" else self._look_in_a_thread

    def _look(self) -> None:
        self.entered.set()
        self.free.wait(3 * PATIENCE)

    async def _look_in_a_thread(self) -> None:
        await asyncio.to_thread(self._look)

    def fail(self, error: ms.BrokerError) -> None:
        """Nobody is told."""


async def test_a_round_that_takes_long(kind: Kind, own_server: Server) -> None:
    """Replies are handed out meanwhile."""
    gated, admin, stuck = Gated(), own_server.admin(), Stuck(kind)
    async with (
        serving(admin, own_server.url, NAMESPACE, gated.worker),
        client(kind, own_server.url) as mq,
    ):
        mq.requests.mailbox.rounds.add(stuck)
        try:
            async with asyncio.timeout(PATIENCE):
                assert await mq.request(WORK, -1) == -1
                assert await asyncio.to_thread(stuck.entered.wait, PATIENCE)
                assert await mq.request(WORK, -2) == -2
        finally:
            stuck.free.set()


async def test_a_node_that_hangs(kind: Kind) -> None:
    """A result that is awaited there does not keep the replies of other nodes."""
    with Cluster(masters=2, node_timeout_ms=60_000) as nodes:
        keys = queue_keys(NAMESPACE, WORK.name)
        good = nodes.master_of(keys.ready)
        [bad] = [node for node in nodes.masters if node is not good]
        name = _name_at(nodes, bad, lambda name: queue_keys(NAMESPACE, name).ready)
        jobs: ms.Queue[Any] = ms.Queue(name, results=ms.Results())
        gated = Gated()
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(ms.AsyncClient(nodes.url, namespace=NAMESPACE))
            task = asyncio.ensure_future(gated.worker.run(other))
            mq = await stack.enter_async_context(client(kind, nodes.url, timeout=60))
            mailbox = mq.requests.mailbox
            mailbox.client = _name_at(nodes, good, lambda name: mailbox_key(NAMESPACE, name))
            await auntil(lambda: members(good.admin(), keys), PATIENCE)
            handle = await mq.send(jobs, 1, result=True)
            waiting = asyncio.ensure_future(
                handle.result() if kind == "async" else asyncio.to_thread(handle.result)
            )
            there: Any = bad.admin()
            await auntil(lambda: there.exists(queue_keys(NAMESPACE, name).resulting[-1]), PATIENCE)
            bad.pause()
            try:
                begun = time.monotonic()
                # Some rounds ask the node that hangs meanwhile.
                while time.monotonic() - begun < 4:
                    async with asyncio.timeout(PATIENCE):
                        assert await mq.request(WORK, -1) == -1
            finally:
                bad.resume()
            await mq.aclose()
            with pytest.raises(ms.NotConnected, match="closed"):
                await waiting
            gated.worker.stop()
            async with asyncio.timeout(3 * PATIENCE):
                await task


def _name_at(nodes: Cluster, node: Server, key_of: Callable[[str], str]) -> str:
    """A name whose key is at a node."""
    names = (f"n{number}" for number in range(10_000))
    return next(name for name in names if nodes.master_of(key_of(name)) is node)
