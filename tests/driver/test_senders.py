"""Group commit: few script calls for many messages, and each message stored once."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from millstream.driver.aio import AsyncDriver
from millstream.driver.aio_sender import AsyncSender
from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_sender import BlockingSender, _Message
from millstream.errors import NotConnected, ServerRefused, TimedOut
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys, queue_keys
from millstream.protocol.send import sending
from tests.driver.drivers import Driver, Kind, Sender, op, opened
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until


@pytest.fixture
def keys(namespace: str) -> QueueKeys:
    """The keys of a queue that no other test has."""
    return queue_keys(namespace, "orders")


@pytest.fixture
async def driver(kind: Kind, proxy: Proxy) -> AsyncIterator[Driver]:
    """A driver behind a network that can break."""
    async with opened(kind, proxy.url) as driver:
        yield driver


@pytest.fixture
async def sender(driver: Driver, keys: QueueKeys) -> Sender:
    """What gathers the sends of one driver."""
    return driver.sender(sending(keys))


def script_calls(server: Server) -> int:
    """How many scripts the server has run so far."""
    statistics: Any = server.admin().info("commandstats")
    return int(statistics.get("cmdstat_evalsha", {}).get("calls", 0))


def stored(server: Server, keys: QueueKeys) -> list[tuple[str, bytes]]:
    """Ids and bodies of the queue's messages."""
    entries: Any = server.admin().xrange(keys.ready)
    return [(entry.decode(), fields[b"b"]) for entry, fields in entries]


def sent(server: Server, keys: QueueKeys) -> int:
    """What the queue's counter says."""
    count: Any = server.admin().hget(keys.counters, "sent")
    return int(count or 0)


async def one(sender: Sender | AsyncSender[Any], body: bytes) -> Any:
    """A send as a coroutine, for a task of its own."""
    return await sender.send(body)


def bodies(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


# --- working ----------------------------------------------------------------------------------


async def test_a_lone_send_goes_at_once(server: Server, sender: Sender, keys: QueueKeys) -> None:
    """A send without company is one script call, and waits for nothing."""
    await sender.send(b"first")
    before, started = script_calls(server), time.monotonic()

    for number in range(20):
        receipt = await sender.send(b"%d" % number)
        assert stored(server, keys)[-1] == (receipt.id, b"%d" % number)

    assert script_calls(server) - before == 20
    assert time.monotonic() - started < 5


async def test_headers_stay_with_their_messages(
    server: Server, sender: Sender, keys: QueueKeys
) -> None:
    """In a batch, messages with headers and messages without keep what is theirs."""
    headers = [b'{"n":"%d"}' % n if n % 3 else b"" for n in range(60)]

    receipts = await asyncio.gather(
        *(sender.send(b"%d" % n, headers[n]) for n in range(60)),
    )

    entries: Any = dict(server.admin().xrange(keys.ready))  # type: ignore[arg-type]
    for number, receipt in enumerate(receipts):
        expected = {b"b": b"%d" % number} | ({b"h": headers[number]} if headers[number] else {})
        assert entries[receipt.id.encode()] == expected


async def test_send_many_is_few_calls(server: Server, sender: Sender, keys: QueueKeys) -> None:
    """Thousands of messages take one script call a chunk, and come out in order."""
    await sender.send(b"first")
    before = script_calls(server)

    receipts = await sender.send_many(bodies(3000))

    assert script_calls(server) - before == 6
    by_id = dict(stored(server, keys))
    assert [by_id[receipt.id] for receipt in receipts] == bodies(3000)


async def test_the_size_of_a_call_is_bounded(
    server: Server, sender: Sender, keys: QueueKeys
) -> None:
    """Large messages that gather go in several calls, not in one that the server chokes on."""
    await sender.send(b"first")
    before = script_calls(server)

    await asyncio.gather(*(sender.send(b"x" * 300_000) for _ in range(60)))

    assert sent(server, keys) == 61
    assert script_calls(server) - before >= 30


# --- losses -----------------------------------------------------------------------------------


async def test_a_lost_reply_stores_once(
    server: Server, proxy: Proxy, sender: Sender, keys: QueueKeys
) -> None:
    """When the server did the work and its reply was lost, the message is stored once, and the
    receipt is that of the stored one.
    """
    await sender.send(b"first")
    proxy.drop_replies(to=b"EVALSHA", times=3)

    receipt = await sender.send(b"once")

    assert proxy.lost == 3
    assert stored(server, keys)[1:] == [(receipt.id, b"once")]
    assert sent(server, keys) == 2


async def test_lost_replies_of_many_sends_store_once(
    server: Server, proxy: Proxy, sender: Sender, keys: QueueKeys
) -> None:
    """With many sends on the way, lost replies neither lose nor double a message."""
    await sender.send(b"first")
    proxy.drop_replies(to=b"EVALSHA", times=4)

    receipts = await asyncio.gather(*(sender.send(body) for body in bodies(200)))

    by_id = dict(stored(server, keys)[1:])
    assert proxy.lost == 4
    assert [by_id[receipt.id] for receipt in receipts] == bodies(200)
    assert len(by_id) == 200
    assert sent(server, keys) == 201


async def test_lost_replies_of_send_many_store_once(
    server: Server, proxy: Proxy, sender: Sender, keys: QueueKeys
) -> None:
    """The chunks of send_many are stored once each, although replies were lost."""
    await sender.send(b"first")
    proxy.drop_replies(to=b"EVALSHA", times=3)

    receipts = await sender.send_many(bodies(3000))

    by_id = dict(stored(server, keys)[1:])
    assert proxy.lost == 3
    assert [by_id[receipt.id] for receipt in receipts] == bodies(3000)
    assert len(by_id) == 3000


async def test_cuts_in_the_middle_of_send_many_store_once(
    server: Server, proxy: Proxy, sender: Sender, keys: QueueKeys
) -> None:
    """Connections that are cut again and again during a send_many lose and double nothing."""
    await sender.send(b"first")
    proxy.delay(0.005)
    under_way = asyncio.create_task(sender.send_many(bodies(10_000)))
    cuts = seen = 0

    def gets_on() -> bool:
        return under_way.done() or sent(server, keys) > seen

    while not under_way.done() and cuts < 8:
        seen = sent(server, keys)
        await auntil(gets_on)
        proxy.cut()
        cuts += 1

    receipts = await under_way

    by_id = dict(stored(server, keys)[1:])
    assert cuts > 1
    assert [by_id[receipt.id] for receipt in receipts] == bodies(10_000)
    assert len(by_id) == 10_000


async def test_a_restart_in_the_middle(kind: Kind, namespace: str) -> None:
    """Sends outlast a restart of a server that keeps its data, without doubles."""
    keys = queue_keys(namespace, "orders")
    with Server(appendonly=True, appendfsync="always") as server:
        async with opened(kind, server.url) as driver:
            sender = driver.sender(sending(keys))
            under_way = asyncio.create_task(_send_all(sender, 1000))
            await auntil(lambda: sent(server, keys) > 100)
            await asyncio.to_thread(server.restart)
            receipts = await under_way

            by_id = dict(stored(server, keys))
    assert [by_id[receipt.id] for receipt in receipts] == bodies(1000)
    assert len(by_id) == 1000


async def _send_all(sender: Sender, count: int) -> list[Any]:
    """Send one by one, ten at a time."""
    receipts: list[Any] = []
    for start in range(0, count, 10):
        some = bodies(count)[start : start + 10]
        receipts += await asyncio.gather(*map(sender.send, some))
    return receipts


# --- errors -----------------------------------------------------------------------------------


async def test_an_error_reaches_every_sender(kind: Kind, own_server: Server) -> None:
    """When a batch cannot be sent, each of its senders gets the error, one of its own."""
    async with opened(kind, own_server.url, timeout=2) as driver:
        sender = driver.sender(sending(queue_keys("t", "orders")))
        await sender.send(b"first")
        own_server.stop()

        sends = [asyncio.create_task(one(sender, b"x")) for _ in range(8)]
        results = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), 10)

        assert {type(result) for result in results} == {NotConnected}
        assert len({id(result) for result in results}) == len(results)
        own_server.start()
        await sender.send(b"later")


@pytest.mark.parametrize("many", [False, True])
async def test_a_server_without_memory(
    any_server: Server, kind: Kind, namespace: str, *, many: bool
) -> None:
    """A full server refuses with the code OOM and a hint, stores nothing, and is fine later."""
    keys = queue_keys(namespace, "orders")
    async with opened(kind, any_server.limited_url) as driver:
        sender = driver.sender(sending(keys))
        await sender.send(b"first")
        any_server.admin().config_set("maxmemory", 1)
        try:
            with pytest.raises(ServerRefused, match="out of memory") as caught:
                await (sender.send_many([b"x"] * 3) if many else sender.send(b"x"))
        finally:
            any_server.admin().config_set("maxmemory", 0)
        assert caught.value.code == "OOM"

        await sender.send(b"second")
        assert [body for _, body in stored(any_server, keys)] == [b"first", b"second"]


async def test_a_key_of_somebody_else(server: Server, sender: Sender, keys: QueueKeys) -> None:
    """A key of the queue's name that is no stream is a refusal that says so."""
    server.admin().set(keys.ready, "mine")

    with pytest.raises(ServerRefused, match="another program") as caught:
        await sender.send(b"x")

    assert caught.value.code == "WRONGTYPE"


async def test_a_hanging_server_is_a_timeout(proxy: Proxy, kind: Kind, keys: QueueKeys) -> None:
    """A send to a server that hangs is TimedOut within the timeout."""
    async with opened(kind, proxy.url, timeout=2, connect_timeout=2) as driver:
        sender = driver.sender(sending(keys))
        await sender.send(b"first")
        proxy.stall()
        started = time.monotonic()

        with pytest.raises(TimedOut):
            await sender.send(b"x")

        assert time.monotonic() - started < 8
        proxy.resume()
        await sender.send(b"later")


# --- tasks ------------------------------------------------------------------------------------


@pytest.fixture
async def tasks(proxy: Proxy) -> AsyncIterator[AsyncDriver]:
    """The asyncio driver, behind a network that can break."""
    driver = AsyncDriver(proxy.url, connect_timeout=5, timeout=10)
    await driver.open()
    yield driver
    await driver.close()


async def test_tasks_share_script_calls(
    server: Server, tasks: AsyncDriver, keys: QueueKeys
) -> None:
    """A hundred tasks that send at a time take far fewer script calls than messages."""
    sender = tasks.sender(sending(keys))
    await sender.send(b"first")
    before = script_calls(server)

    async def work(task: int) -> None:
        for number in range(20):
            await sender.send(b"%d-%d" % (task, number))

    await asyncio.gather(*map(work, range(100)))

    assert sent(server, keys) == 2001
    assert script_calls(server) - before <= 200


async def test_a_cancelled_sender_does_not_disturb_others(
    proxy: Proxy, server: Server, tasks: AsyncDriver, keys: QueueKeys
) -> None:
    """When one of a batch's senders is cancelled, the others get their receipts."""
    sender = tasks.sender(sending(keys))
    await sender.send(b"first")
    proxy.stall(requests=False)
    sends = [asyncio.create_task(one(sender, body)) for body in bodies(10)]
    await auntil(lambda: sent(server, keys) == 11)

    for task in sends[::3]:
        task.cancel()
    await asyncio.wait(sends[::3])
    proxy.resume()

    by_id = dict(stored(server, keys))
    for number, task in enumerate(sends):
        if number % 3:
            assert by_id[(await task).id] == b"%d" % number
        else:
            assert task.cancelled()


async def test_all_senders_cancelled(
    proxy: Proxy, server: Server, tasks: AsyncDriver, keys: QueueKeys
) -> None:
    """A batch that nobody waits for any more, or that fails, leaves no trace in the log."""
    sender = tasks.sender(sending(keys))
    await sender.send(b"first")
    proxy.stall(requests=False)
    sends = [asyncio.create_task(one(sender, body)) for body in bodies(5)]
    many = asyncio.create_task(sender.send_many(bodies(1000)))
    await auntil(lambda: sent(server, keys) == 1006)

    for task in (*sends, many):
        task.cancel()
    await asyncio.wait([*sends, many])
    proxy.resume()

    assert (await sender.send(b"last")).id
    await sender.close()


async def test_thousands_of_tasks(server: Server, tasks: AsyncDriver, keys: QueueKeys) -> None:
    """More senders than all lanes hold are served, in the order in which they came."""
    sender = tasks.sender(sending(keys))

    receipts = await asyncio.gather(*(sender.send(body) for body in bodies(5000)))

    by_id = dict(stored(server, keys))
    assert [by_id[receipt.id] for receipt in receipts] == bodies(5000)


async def test_send_many_beside_sends(server: Server, tasks: AsyncDriver, keys: QueueKeys) -> None:
    """Several send_many and many sends at a time share the lanes, and all come through."""
    sender = tasks.sender(sending(keys))

    results = await asyncio.gather(
        *(sender.send_many(bodies(9000)) for _ in range(3)),
        *(sender.send(b"single") for _ in range(500)),
    )

    assert sent(server, keys) == 3 * 9000 + 500
    for receipts in results[:3]:
        assert isinstance(receipts, list)
        assert len({receipt.id for receipt in receipts}) == 9000


async def test_close_waits_for_sends(server: Server, tasks: AsyncDriver, keys: QueueKeys) -> None:
    """Closing a sender sends what has gathered, and waits for it."""
    sender = tasks.sender(sending(keys))
    sends = [asyncio.create_task(one(sender, body)) for body in bodies(10)]
    await asyncio.sleep(0)

    await sender.close()

    assert sent(server, keys) == 10
    assert len(await asyncio.gather(*sends)) == 10


async def test_close_after_all_tasks_were_cancelled(tasks: AsyncDriver, keys: QueueKeys) -> None:
    """Also in the turn of the event loop in which a batch left: then there is nothing to wait for."""
    sender = tasks.sender(sending(keys))
    await sender.send(b"first")
    before = asyncio.all_tasks()
    sender.send(b"second")
    await auntil(lambda: asyncio.all_tasks() > before, every=0)
    for task in asyncio.all_tasks() - before:
        task.cancel()

    async with asyncio.timeout(10):
        await sender.close()


# --- threads ----------------------------------------------------------------------------------


def test_threads_share_script_calls(server: Server, proxy: Proxy, keys: QueueKeys) -> None:
    """While one thread's batch is on the wire, the others gather in the next."""
    driver = BlockingDriver(proxy.url, connect_timeout=5, timeout=10)
    sender = driver.sender(sending(keys))
    sender.send(b"first")
    before = script_calls(server)
    proxy.stall(requests=False)

    with ThreadPoolExecutor(17) as pool:
        leading = pool.submit(sender.send, b"leader")
        until(lambda: script_calls(server) == before + 1)
        following = [pool.submit(sender.send, body) for body in bodies(16)]
        until(lambda: len(sender._gathering) == 16)
        proxy.resume()
        ids = [one.result().id for one in (leading, *following)]

    assert script_calls(server) - before == 2
    assert dict(stored(server, keys))[ids[1]] == b"0"
    assert len(set(ids)) == 17
    driver.close()


def test_an_interrupted_leader_does_not_take_others_along(proxy: Proxy, keys: QueueKeys) -> None:
    """Ctrl-C in the thread that leads a batch is an ordinary error for the others of the batch."""
    released = threading.Event()
    driver = BlockingDriver(proxy.url, connect_timeout=5, timeout=10)
    sender = driver.sender(sending(keys))
    run: Callable[[Any], list[Receipt]] = sender._run

    def interrupted(operation: Any) -> list[Receipt]:
        until(lambda: len(sender._gathering) == 0)
        released.wait(10)
        raise KeyboardInterrupt

    sender._sending.take(1)
    with ThreadPoolExecutor(3) as pool:
        sends = [pool.submit(sender.send, body) for body in bodies(3)]
        until(lambda: len(sender._gathering) == 3)
        sender._run = interrupted
        sender._sending.leave()
        released.set()
        problems = [type(one.exception()) for one in sends]

    assert sorted(problems, key=str) == [KeyboardInterrupt, NotConnected, NotConnected]
    sender._run = run
    assert sender.send(b"later").id
    driver.close()


def test_a_thread_waits_for_its_turn_for_its_own_time(
    server: Server, proxy: Proxy, keys: QueueKeys
) -> None:
    """While another thread's batch hangs, an impatient one is told that nothing was sent, and nothing is."""
    driver = BlockingDriver(proxy.url, connect_timeout=5, timeout=60)
    sender = BlockingSender(driver.run, sending(keys), timeout=0.5)
    sender.send(b"first")
    before = script_calls(server)
    proxy.stall(requests=False)

    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(sender.send, b"leader")
        until(lambda: script_calls(server) == before + 1)
        started = time.monotonic()
        with pytest.raises(TimedOut, match="nothing was sent") as caught:
            sender.send(b"impatient")
        with pytest.raises(TimedOut, match="nothing was sent"):
            sender.send_many(bodies(3))
        sender.close()
        assert time.monotonic() - started < 20
        following = pool.submit(sender.send, b"patient", seconds=40)
        until(lambda: len(sender._gathering) == 1)
        proxy.resume()
        assert leading.result().id != following.result().id

    assert caught.value.state == "unsent"
    assert [body for _, body in stored(server, keys)] == [b"first", b"leader", b"patient"]
    driver.close()


def test_an_impatient_leader_leaves_the_patient_alone(
    server: Server, proxy: Proxy, keys: QueueKeys
) -> None:
    """A thread that gives up sooner takes none along that waits for longer; those send by themselves."""
    driver = BlockingDriver(proxy.url, connect_timeout=5, timeout=60)
    sender = driver.sender(sending(keys))
    sender._sending.take(1)
    with ThreadPoolExecutor(3) as pool:
        sends = [pool.submit(sender.send, body, seconds=40) for body in bodies(2)]
        sends.append(pool.submit(sender.send, b"hasty, too", seconds=20))
        until(lambda: len(sender._gathering) == 3)
        hasty: _Message[Receipt] = _Message(b"hasty", b"", 30)
        sender._gathering.append(hasty)
        sender._lead(hasty)
        led = {body for _, body in stored(server, keys)}
        sender._sending.leave()
        ids = {one.result().id for one in sends}

    assert led == {b"hasty", b"hasty, too"}
    assert len({*ids, hasty.result().id}) == len(stored(server, keys)) == 4
    driver.close()


def test_a_send_from_within_a_send(proxy: Proxy, server: Server, keys: QueueKeys) -> None:
    """What a signal handler sends in the middle of a send of its own thread is refused, and does no harm."""
    driver = BlockingDriver(proxy.url, connect_timeout=5, timeout=60)
    sender = driver.sender(sending(keys))
    sender.send(b"first")
    refused: list[BaseException | None] = []

    def send_too(*_: object) -> None:
        for call in (partial(sender.send, b"x"), partial(sender.send_many, bodies(2))):
            with pytest.raises(TimedOut, match="signal handler") as caught:
                call()
            refused.append(caught.value)
        with pytest.raises(TimedOut, match="signal handler"):
            driver.run(op("PING"))
        sender.close()
        proxy.resume()

    proxy.stall(requests=False)
    before = signal.signal(signal.SIGALRM, send_too)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert sender.send(b"second").id
    finally:
        signal.signal(signal.SIGALRM, before)

    assert len(refused) == 2
    assert [body for _, body in stored(server, keys)] == [b"first", b"second"]
    driver.close()


async def test_ping_beside_a_sender(driver: Driver, sender: Sender) -> None:
    """Other operations go on while messages are sent."""
    results = await asyncio.gather(
        *(sender.send(body) for body in bodies(50)), *(driver.run(op("PING")) for _ in range(50))
    )

    assert results[50:] == [b"PONG"] * 50


async def test_batches_that_fail_at_once(keys: QueueKeys) -> None:
    """Everybody is told, however many have gathered: one failure does not lead into the next."""
    gate = asyncio.Event()

    async def fail(_: Any) -> Any:
        await gate.wait()
        message = "nobody is there"
        raise NotConnected(message)

    sender: AsyncSender[Receipt] = AsyncSender(fail, sending(keys))
    large = b"x" * 2_000_000  # a batch of its own
    waiting = [asyncio.ensure_future(one(sender, large)) for _ in range(1000)]
    await asyncio.sleep(0)
    gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in found] == [NotConnected] * 1000
