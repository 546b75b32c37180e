"""The end of a send that waits for room: Ctrl-C, an event loop that is left, a fork, a close."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import millstream as ms
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import auntil, until

QUEUE: ms.Queue[Any] = ms.Queue("orders", bound=ms.Bound(1, on_full="wait", timeout=60))


def tickets(server: Server, namespace: str) -> int:
    waiting: Any = server.admin().zcard(f"{namespace}:{{orders}}:senders")
    return int(waiting)


def stored(server: Server, namespace: str) -> int:
    length: Any = server.admin().xlen(f"{namespace}:{{plain}}:ready")
    return int(length)


def waiting(mq: ms.Client) -> int:
    """How many sends of this client wait."""
    sender: Any = mq.senders.placers[QUEUE.place, "memory"]
    return len(sender._sender._line._waiting)


def bodies(mq: ms.Client) -> list[Any]:
    return [message.body for message in mq.peek(QUEUE)]


@pytest.mark.parametrize("usher", ["main", "other"])
def test_an_interrupt_is_for_one_thread(
    server: Server, url: str, namespace: str, usher: str, asleep: Callable[[], int]
) -> None:
    """Ctrl-C ends the send of the main thread, whichever thread talks to the server; others go on."""
    with ms.Client(url, namespace=namespace) as mq, ThreadPoolExecutor(2) as pool:
        mq.send(QUEUE, 1)
        others = []
        main = threading.main_thread().ident
        assert main is not None

        def wait_and_interrupt() -> None:
            if usher == "main":
                until(lambda: tickets(server, namespace) == 1, 30)
                others.append(pool.submit(mq.send, QUEUE, "other"))
            until(lambda: waiting(mq) == 2 and asleep() == 1, 30)
            signal.pthread_kill(main, signal.SIGINT)

        if usher == "other":
            others.append(pool.submit(mq.send, QUEUE, "other"))
            until(lambda: tickets(server, namespace) == 1, 30)
        interrupting = pool.submit(wait_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            mq.send(QUEUE, "main")
        interrupting.result(30)

        assert mq.purge(QUEUE, confirm=True) == 1
        others[0].result(30)
        assert bodies(mq) == ["other"]
        assert mq.purge(QUEUE, confirm=True) == 1
        mq.send(QUEUE, "again")
        assert bodies(mq) == ["again"]
    until(lambda: tickets(server, namespace) == 0, 30)


@pytest.mark.parametrize("late", [False, True])
def test_an_interrupt_while_the_lock_is_taken(url: str, namespace: str, late: bool) -> None:
    """Ctrl-C just before or after the thread has got its lock back leaves it with the thread."""
    with ms.Client(url, namespace=namespace) as mq:
        mq.send(QUEUE, 1)
        placer: Any = mq.senders.placers[QUEUE.place, "memory"]
        sender = placer._sender
        guard = sender._guard
        acquire = guard.acquire

        def interrupted() -> None:
            guard.acquire = acquire
            if late:
                acquire()
            raise KeyboardInterrupt

        guard.acquire()
        guard.acquire = interrupted
        with pytest.raises(KeyboardInterrupt):
            sender._unguarded(lambda: None)
        guard.release()
        with pytest.raises(RuntimeError):  # it was taken once, not twice
            guard.release()
        assert mq.purge(QUEUE, confirm=True) == 1
        mq.send(QUEUE, 2)


# It leaves its client open, of which Python may warn.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_event_loop_that_is_left(
    server: Server, url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that ends while a send waits ends at once, without a word of what was left."""

    async def main() -> None:
        mq = ms.AsyncClient(url, namespace=namespace)
        await mq.send(QUEUE, 1)
        sends = [asyncio.create_task(mq.send(QUEUE, number)) for number in (2, 3)]
        await auntil(lambda: tickets(server, namespace) == 1, 30)
        assert not any(send.done() for send in sends)

    with caplog.at_level(logging.DEBUG, "asyncio"):
        asyncio.run(main())
        gc.collect()

    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
    with ms.Client(url, namespace=namespace) as mq:
        assert bodies(mq) == [1]


def test_a_fork_in_the_middle_of_calls(server: Server, namespace: str) -> None:
    """A child can close its parent's clients, though threads that are not there hold all their locks."""
    plain: ms.Queue[int] = ms.Queue("plain", int)
    with Proxy(server.port) as proxy, ThreadPoolExecutor(3) as pool:
        used = ms.Client(proxy.url, namespace=namespace, timeout=60)
        used.send(plain, 1)
        used.send(QUEUE, 1)
        waits = pool.submit(used.send, QUEUE, 2)
        until(lambda: tickets(server, namespace) == 1, 30)
        proxy.stall(requests=False)
        opening = ms.Client(proxy.url, namespace=namespace, connect_timeout=60, timeout=60)
        opens = pool.submit(opening.connect)
        sends = pool.submit(used.send, plain, 2)
        until(lambda: opening.driver._opening.locked() and stored(server, namespace) == 2, 30)
        with warnings.catch_warnings():
            # Later versions of Python warn of what is tested here.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            refused = 0
            try:
                for mq in (used, opening):
                    with contextlib.suppress(ms.UsageError):
                        mq.send(plain, 3)
                        refused -= 1
                    mq.close()
                    refused += 1
            finally:
                os._exit(refused)
        statuses: list[int] = []

        def ended() -> bool:
            number, status = os.waitpid(child, os.WNOHANG)
            statuses.append(status)
            return number == child

        try:
            until(ended, 30)
        except AssertionError:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            proxy.resume()
        assert os.waitstatus_to_exitcode(statuses[-1]) == 2
        assert sends.result().id
        assert opens.result() is opening
        opening.close()
        used.close()
        assert isinstance(waits.exception(), ms.UsageError)


def test_a_forked_child(server: Server, url: str, namespace: str) -> None:
    """A child refuses to use its parent's client, and its end does not disturb who waits there."""
    with ms.Client(url, namespace=namespace) as mq, ThreadPoolExecutor(1) as pool:
        mq.send(QUEUE, 1)
        sent = pool.submit(mq.send, QUEUE, 2)
        until(lambda: tickets(server, namespace) == 1, 30)
        with warnings.catch_warnings():
            # Later versions of Python warn of what is tested here.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                mq.send(QUEUE, 3)
            except ms.UsageError:
                os._exit(7)
            os._exit(1)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 7
        mq.purge(QUEUE, confirm=True)
        sent.result(30)
        assert bodies(mq) == [2]


def test_a_close_ends_all_threads(server: Server, url: str, namespace: str) -> None:
    """Many threads that wait hear of it soon, and none of their messages is stored."""
    mq = ms.Client(url, namespace=namespace)
    mq.send(QUEUE, 1)
    began = threading.Barrier(21)

    def send(number: int) -> str:
        began.wait()
        try:
            mq.send(QUEUE, number)
        except ms.UsageError:
            return "closed"
        return "sent"

    with ThreadPoolExecutor(20) as pool:
        results = [pool.submit(send, number) for number in range(20)]
        began.wait()
        until(lambda: tickets(server, namespace) == 1, 30)
        mq.close()
        assert {result.result(30) for result in results} == {"closed"}

    with ms.Client(url, namespace=namespace) as other:
        assert bodies(other) == [1]
    assert tickets(server, namespace) == 0
