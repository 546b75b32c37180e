"""The blocking driver alone: threads, and signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import pytest

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_turn import BlockingTurn
from millstream.driver.faults import NoTurn
from millstream.errors import NotConnected, TimedOut
from millstream.protocol.op import Argument
from tests.driver.drivers import op, ops
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import until

PING = op("PING")


@pytest.fixture
def driver(proxy: Proxy) -> Iterator[BlockingDriver]:
    """A driver behind a network that can break."""
    driver = BlockingDriver(proxy.url, connect_timeout=5, timeout=10)
    driver.open()
    yield driver
    driver.close()


def test_threads_get_their_own_replies(driver: BlockingDriver) -> None:
    """Many threads on one connection never see each other's replies."""

    def ask(thread: int) -> bool:
        return all(
            driver.run(op("ECHO", f"{thread}-{n}")) == f"{thread}-{n}".encode() for n in range(50)
        )

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))


def test_threads_outlast_cuts(driver: BlockingDriver, proxy: Proxy) -> None:
    """While connections are cut again and again, every thread gets its own replies."""
    finished = threading.Event()
    answered: list[bytes] = []

    def ask(thread: int) -> None:
        for n in range(200):
            word = f"{thread}-{n}".encode()
            assert driver.run(op("ECHO", word)) == word
            answered.append(word)

    def cut() -> int:
        cuts = seen = 0
        while not finished.wait(0.01):
            if len(answered) > seen:  # on a busy machine that takes longer than this wait
                seen = len(answered)
                proxy.cut()
                cuts += 1
        return cuts

    with ThreadPoolExecutor(5) as pool:
        cutting = pool.submit(cut)
        asking = [pool.submit(ask, thread) for thread in range(4)]
        try:
            for one in asking:
                one.result()
        finally:
            finished.set()
        assert cutting.result() > 1


def test_threads_that_connect_at_a_time_connect_once(own_server: Server) -> None:
    """Threads that come first at the same time share one connection."""
    driver = BlockingDriver(own_server.url, connect_timeout=5, timeout=10)
    barrier = threading.Barrier(8)

    def ask(_: int) -> object:
        barrier.wait()
        return driver.run(PING)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {b"PONG"}

    clients = own_server.admin().info("clients")
    assert isinstance(clients, dict)
    assert clients["connected_clients"] == 2
    driver.close()


class Interrupted(Exception):
    """What the signal handler raises."""


def test_an_interrupted_call_leaves_the_wire_in_step(driver: BlockingDriver, proxy: Proxy) -> None:
    """Ctrl-C in the middle of a call does not give its reply to the next."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    proxy.stall(requests=False)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            driver.run(op("ECHO", "interrupted"))
    finally:
        signal.signal(signal.SIGALRM, before)
    proxy.resume()

    assert driver.run(op("ECHO", "next")) == b"next"


def test_close_from_another_thread(driver: BlockingDriver, proxy: Proxy) -> None:
    """A driver may be closed while another thread waits for its reply: that one gets it first."""
    proxy.delay(0.3)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(driver.run, PING)
        started = time.monotonic()
        driver.close()
        assert time.monotonic() - started < 5
        problem = asking.exception()

    assert problem is None or isinstance(problem, NotConnected)


def is_taken(turn: BlockingTurn) -> bool:
    """Whether another thread has it."""
    try:
        turn.take(0)
    except NoTurn:
        return True
    turn.leave()
    return False


class TestPatience:
    """An operation with a patience of its own, where the timeouts of the driver are a minute."""

    @pytest.fixture
    def driver(self, proxy: Proxy) -> Iterator[BlockingDriver]:
        """A driver that would wait for long."""
        driver = BlockingDriver(proxy.url, connect_timeout=60, timeout=60)
        driver.run(PING)
        yield driver
        proxy.resume()
        driver.close()

    def late(self, driver: BlockingDriver, *commands: tuple[Argument, ...]) -> TimedOut:
        """Run something that has half a second."""
        started = time.monotonic()
        with pytest.raises(TimedOut) as caught:
            driver.run(replace(ops(*commands), patience=0.5))
        assert time.monotonic() - started < 20
        return caught.value

    def test_to_connect(self, driver: BlockingDriver, proxy: Proxy) -> None:
        """It covers the way to a server that takes connections and says nothing; later ones are patient."""
        proxy.stall()
        for _ in range(3):
            assert self.late(driver, ("PING",)).state == "unknown"
        proxy.resume()
        assert driver.run(replace(PING, patience=20)) == b"PONG"
        server: Any = driver._server
        connection = server._wire._connection
        assert connection._sock.gettimeout() == connection.socket_timeout == 60

    def test_later_replies(self, driver: BlockingDriver, namespace: str) -> None:
        """It covers all replies, not only the first."""
        self.late(driver, ("PING",), ("BLPOP", f"{namespace}:none", 60))

    def test_to_write(self, driver: BlockingDriver, proxy: Proxy) -> None:
        """It covers the writing of what the server does not read."""
        proxy.stall()
        self.late(driver, ("ECHO", b"x" * 30_000_000))

    def test_for_a_turn(self, driver: BlockingDriver, proxy: Proxy) -> None:
        """It covers the wait for a call of another thread; then nothing was sent."""
        proxy.stall(requests=False)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(driver.run, PING)
            server: Any = driver._server
            until(partial(is_taken, server._wire._turn))
            assert self.late(driver, ("PING",)).state == "unsent"
            proxy.resume()
            assert other.result() == b"PONG"


def test_a_further_driver_is_independent(server: Server) -> None:
    """The driver that it gives out for another thread has a connection of its own."""
    driver = BlockingDriver(server.url, connect_timeout=5, timeout=10)
    driver.open()

    further = driver.blocking(timeout=5)
    driver.close()

    assert further.run(PING) == b"PONG"
    further.close()
