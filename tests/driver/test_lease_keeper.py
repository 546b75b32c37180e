"""The thread that keeps leases alive, whatever the program does meanwhile."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from millstream.driver.blocking import BlockingDriver
from millstream.driver.lease_keeper import Held, LeaseKeeper
from millstream.protocol import consume
from millstream.protocol.keys import QueueKeys, queue_keys
from millstream.protocol.send import send
from tests.support.leases import Watch, idle, oldest_until_renewed
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import until

LEASE = 300  # ms: soon used up
KEPT = 2400
"""A lease of which a part must be left at all times, also on a machine that is busy."""

Hold = Callable[..., Held]


@pytest.fixture
def driver(server: Server) -> Iterator[BlockingDriver]:
    """A driver that stands for the consumer."""
    driver = BlockingDriver(server.url, connect_timeout=5, timeout=10)
    yield driver
    driver.close()


@pytest.fixture
def keeper(proxy: Proxy) -> Iterator[LeaseKeeper]:
    """A keeper behind a network that can break."""
    keeper = LeaseKeeper(BlockingDriver(proxy.url, connect_timeout=1, timeout=1))
    yield keeper
    keeper.close()


@pytest.fixture
def keys(namespace: str) -> QueueKeys:
    """The keys of a queue that no other test has."""
    return queue_keys(namespace, "orders")


@pytest.fixture
def hold(driver: BlockingDriver, keys: QueueKeys) -> Hold:
    """Send and fetch messages as a consumer that keeps them from now on."""

    def hold(
        count: int, consumer: str = "me", *, lost: list[bytes] | None = None, lease: int = LEASE
    ) -> Held:
        driver.run(consume.register(keys, consumer, lease))
        driver.run(send(keys, consumer, 1, [b"1"] * count))
        found = driver.run(consume.fetch(keys, consumer, reads=[("", count)]))
        until_ = {envelope.token: math.inf for envelope in found.envelopes}
        assert len(until_) == count
        return Held(keys, consumer, lease, until_, (lost if lost is not None else []).extend)

    return hold


def over(admin: redis.Redis, keys: QueueKeys) -> set[bytes]:
    """The tokens whose leases are used up."""
    return {token for token, ms in idle(admin, keys.ready).items() if ms > LEASE}


def used_up(admin: redis.Redis, keys: QueueKeys, count: int) -> bool:
    return len(over(admin, keys)) == count


def test_leases_are_kept(
    keeper: LeaseKeeper, hold: Hold, admin: redis.Redis, keys: QueueKeys
) -> None:
    """What a consumer holds never gets near the end of its lease."""
    keeper.keep(hold(5, lease=KEPT))

    assert oldest_until_renewed(2, admin, keys.ready) < KEPT * 0.8


def test_more_than_one_call_takes(
    keeper: LeaseKeeper, hold: Hold, admin: redis.Redis, keys: QueueKeys
) -> None:
    """Thousands of leases are kept as well as one."""
    keeper.keep(hold(1700, lease=KEPT))

    assert oldest_until_renewed(2, admin, keys.ready) < KEPT
    assert len(idle(admin, keys.ready)) == 1700


def test_leases_of_several_consumers(
    keeper: LeaseKeeper, hold: Hold, admin: redis.Redis, keys: QueueKeys
) -> None:
    """One thread serves consumers with long and with short leases, each in its time."""
    slow = hold(2, "slow", lease=60_000)
    keeper.keep(slow)
    quick = hold(2, "quick", lease=KEPT)
    watch = Watch(admin, keys.ready)
    keeper.keep(quick)

    until(lambda: watch.renewed(2, quick.until))

    used = idle(admin, keys.ready)
    assert max(used[token] for token in quick.until) < KEPT
    assert min(used[token] for token in slow.until) > KEPT / 2  # the quick ones' second period ends
    threads = [thread for thread in threading.enumerate() if thread.name == "millstream-leases"]
    assert len(threads) == 1


async def test_a_blocked_loop_costs_no_lease(
    keeper: LeaseKeeper, hold: Hold, admin: redis.Redis, keys: QueueKeys
) -> None:
    """While the thread of the event loop is held, leases are kept."""
    held = await asyncio.to_thread(hold, 3, lease=KEPT)
    keeper.keep(held)

    # until() waits in this very thread, which is that of the loop.
    assert oldest_until_renewed(2, admin, keys.ready) < KEPT


def test_what_is_taken_out_is_not_kept(
    keeper: LeaseKeeper, hold: Hold, admin: redis.Redis, keys: QueueKeys
) -> None:
    """A token that its owner has taken out, or whose time is over, is extended no more."""
    held = hold(4)
    taken_out, ended, timed, _ = held.until
    keeper.keep(held)
    del held.until[taken_out]
    held.until[ended] = time.monotonic() - 1
    held.until[timed] = time.monotonic() + 60

    until(lambda: over(admin, keys) == {taken_out, ended})

    assert ended not in held.until


def test_drop(keeper: LeaseKeeper, hold: Hold, admin: redis.Redis, keys: QueueKeys) -> None:
    """A consumer that is dropped is kept no more, and may come back."""
    held = hold(2)
    keeper.keep(held)
    keeper.drop(held)
    keeper.drop(held)
    until(lambda: used_up(admin, keys, 2))

    keeper.keep(held)
    keeper.keep(held)

    oldest_until_renewed(3, admin, keys.ready)
    until(lambda: used_up(admin, keys, 0))


def test_drop_when_empty(
    keeper: LeaseKeeper, hold: Hold, admin: redis.Redis, keys: QueueKeys
) -> None:
    """A consumer that leaves is kept for as long as it has something to keep."""
    held = hold(1, lease=KEPT // 4)
    (token,) = held.until
    held.keep_for(token, KEPT)
    keeper.keep(held)
    keeper.drop(held, when_empty=True)

    # Without that it would last three periods.
    oldest_until_renewed(4, admin, keys.ready)
    until(lambda: used_up(admin, keys, 1))
    until(lambda: held not in keeper._held)


def test_lost_leases_are_reported(
    keeper: LeaseKeeper, hold: Hold, driver: BlockingDriver, keys: QueueKeys
) -> None:
    """Tokens that are no longer pending are reported once they are to be extended; others not."""
    lost: list[bytes] = []
    held = hold(3, lost=lost)
    gone, settled, _ = held.until
    driver.run(consume.fetch(keys, "me", acks=[gone, settled]))
    del held.until[settled]
    keeper.keep(held)

    until(lambda: lost)

    assert set(lost) == {gone}


def test_a_cut_connection(
    keeper: LeaseKeeper, hold: Hold, proxy: Proxy, admin: redis.Redis, keys: QueueKeys
) -> None:
    """A connection that is cut again and again costs no lease."""
    keeper.keep(hold(3, lease=KEPT))
    watch = Watch(admin, keys.ready)

    for times in (1, 2):
        proxy.cut()
        until(lambda: watch.renewed(times))  # noqa: B023 - called here
    proxy.drop_replies()
    until(lambda: proxy.lost)
    until(lambda: watch.renewed(4))  # by the call whose reply was lost, and by the next

    assert max(watch.oldest.values()) < KEPT


def test_a_server_that_is_away(
    keeper: LeaseKeeper,
    hold: Hold,
    proxy: Proxy,
    admin: redis.Redis,
    keys: QueueKeys,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While nobody can be reached the keeper warns and goes on; afterwards leases are kept again."""
    keeper.keep(hold(3))
    proxy.refuse()
    proxy.cut()
    until(lambda: "could not extend leases" in caplog.text)

    proxy.accept()

    oldest_until_renewed(3, admin, keys.ready)
    until(lambda: used_up(admin, keys, 0))


def test_a_server_that_hangs(
    keeper: LeaseKeeper, hold: Hold, proxy: Proxy, admin: redis.Redis, keys: QueueKeys
) -> None:
    """A silent connection is given up, and leases are kept on a new one."""
    keeper.keep(hold(3))
    proxy.stall()
    until(lambda: used_up(admin, keys, 3))
    proxy.cut()
    proxy.resume()

    until(lambda: used_up(admin, keys, 0))


def test_an_error_in_the_report_does_not_end_the_thread(
    keeper: LeaseKeeper,
    hold: Hold,
    driver: BlockingDriver,
    admin: redis.Redis,
    keys: QueueKeys,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever goes wrong with one consumer, the leases of the others are kept."""
    bad, good = hold(1, "bad"), hold(2, "good")

    def fail(tokens: list[bytes]) -> None:
        raise RuntimeError("no loop")

    bad.on_lost = fail
    keeper.keep(bad)
    keeper.keep(good)
    driver.run(consume.fetch(keys, "bad", acks=list(bad.until)))

    until(lambda: "no loop" in caplog.text)
    oldest_until_renewed(3, admin, keys.ready)


def test_close(hold: Hold, proxy: Proxy, admin: redis.Redis, keys: QueueKeys) -> None:
    """After the close there is neither a thread nor a connection, and leases run out."""
    keeper = LeaseKeeper(BlockingDriver(proxy.url, connect_timeout=5, timeout=10))
    keeper.keep(hold(2))
    until(lambda: proxy.connections == 1)

    keeper.close()
    keeper.close()

    until(lambda: proxy.connections == 0)
    assert "millstream-leases" not in {thread.name for thread in threading.enumerate()}
    until(lambda: used_up(admin, keys, 2))


def test_close_without_use(server: Server) -> None:
    """A keeper that never kept anything has no thread to end."""
    LeaseKeeper(BlockingDriver(server.url, connect_timeout=5, timeout=10)).close()


def test_close_does_not_wait_for_a_dead_server(hold: Hold, proxy: Proxy) -> None:
    """Closing while extensions are tried again and again takes no longer than one try."""
    keeper = LeaseKeeper(BlockingDriver(proxy.url, connect_timeout=1, timeout=30))
    keeper.keep(hold(2))
    until(lambda: proxy.connections == 1)
    proxy.refuse()
    proxy.cut()
    started = time.monotonic()

    keeper.close()

    assert time.monotonic() - started < 10
