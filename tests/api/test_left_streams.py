"""Streams that a caller in a thread leaves: nothing is sent from where that happens."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.protocol.keys import queue_keys
from tests.support.servers import Server
from tests.support.serving import PATIENCE, in_a_thread, members
from tests.support.wait import until

ECHO: ms.Endpoint[Any, Any] = ms.Endpoint("echo", timeout=PATIENCE)
ENDLESS: ms.Endpoint[Any, Any] = ms.Endpoint("endless", timeout=PATIENCE)


class Serving:
    """A worker, and how many of its generators were closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.worker = ms.Worker()
        self.worker.on(ECHO)(self.echo)
        self.worker.on(ENDLESS)(self.endless)

    async def echo(self, body: Any) -> Any:
        return body

    async def endless(self, first: int) -> Any:
        try:
            while True:
                yield first
                first += 1
        finally:
            self.closed += 1


@pytest.fixture
def serving(admin: redis.Redis, url: str, namespace: str) -> Iterator[Serving]:
    """Both endpoints are served."""
    served = Serving()
    with in_a_thread(served.worker, url, namespace):
        for endpoint in (ECHO, ENDLESS):
            until(partial(members, admin, queue_keys(namespace, endpoint.name)), PATIENCE)
        yield served


class Circle:
    """Has a stream that nobody takes any more, as an exception with its traceback may."""

    def __init__(self, parts: Generator[Any, None, None]) -> None:
        self.parts = parts
        self.itself = self


def collecting(call: Callable[..., Any]) -> Callable[..., Any]:
    """Have the garbage collector run in the middle of something."""

    def called(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        return call(*arguments, **options)

    return called


def abandon(mq: ms.Client) -> None:
    parts = mq.request_stream(ENDLESS, 0, window=4)
    next(parts)
    Circle(parts)


def in_time(action: Callable[[], None]) -> None:
    """Do something in a thread, which may come to wait for itself."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_collected_in_the_middle_of_a_request(
    serving: Serving, url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abandoned stream that the garbage collector closes within a send is left; the send goes on."""
    with ms.Client(url, namespace=namespace) as mq:

        def ask() -> None:
            mq.request(ECHO, 0)
            abandon(mq)
            way = mq.requests._ways.to(ECHO.name).requests
            with monkeypatch.context() as patch:
                # Here the sender's lock is held.
                patch.setattr(way, "_run", collecting(way._run))
                assert mq.request(ECHO, 1) == 1

        in_time(ask)
        until(lambda: serving.closed == 1, PATIENCE)


def test_collected_in_the_middle_of_mail(
    serving: Serving, url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is while another stream tells its producer what was taken, also in the lock of the connection."""
    with ms.Client(url, namespace=namespace) as mq:

        def ask() -> None:
            live = mq.request_stream(ENDLESS, 0, window=1)
            assert next(live) == 0
            abandon(mq)
            wire: Any = mq.driver._server
            connection = wire._wire._connection
            sending = collecting(connection.send_packed_command)
            with monkeypatch.context() as patch:
                patch.setattr(connection, "send_packed_command", sending)
                assert [next(live) for _ in range(3)] == [1, 2, 3]
            live.close()

        in_time(ask)
        until(lambda: serving.closed == 2, PATIENCE)


def test_left_on_a_server_that_hangs(namespace: str) -> None:
    """Neither the parts that are there nor the end of a stream wait for the server."""
    with Server() as server:
        served = Serving()
        with in_a_thread(served.worker, server.url, namespace):
            keys = queue_keys(namespace, ENDLESS.name)
            until(partial(members, server.admin(), keys), PATIENCE)
            mq = ms.Client(server.url, namespace=namespace)
            parts = mq.request_stream(ENDLESS, 0, window=8)
            assert next(parts) == 0
            (pending,) = mq.requests._pending.values()
            box: Any = pending.box
            until(lambda: box._items.qsize() >= 7, PATIENCE)
            server.pause()
            try:
                begun = time.monotonic()
                assert [next(parts) for _ in range(7)] == list(range(1, 8))
                parts.close()
                assert time.monotonic() - begun < 5
            finally:
                server.resume()
            mq.close()
            until(lambda: served.closed == 1, PATIENCE)
