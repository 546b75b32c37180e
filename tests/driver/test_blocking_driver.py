"""The blocking driver alone: threads, and signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from millstream.driver.blocking import BlockingDriver
from millstream.errors import NotConnected
from tests.driver.drivers import op
from tests.support.proxy import Proxy
from tests.support.servers import Server

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


def test_a_further_driver_is_independent(server: Server) -> None:
    """The driver that it gives out for another thread has a connection of its own."""
    driver = BlockingDriver(server.url, connect_timeout=5, timeout=10)
    driver.open()

    further = driver.blocking(timeout=5)
    driver.close()

    assert further.run(PING) == b"PONG"
    further.close()
