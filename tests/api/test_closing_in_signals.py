"""A blocking client that a signal handler closes, in the middle of what its own thread does with it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import redis

import millstream as ms
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.wait import until

NOBODY: ms.Endpoint[Any, Any] = ms.Endpoint("nobody.serves.it", timeout=300)
FULL: ms.Queue[int] = ms.Queue("full", int, bound=ms.Bound(1, on_full="wait", timeout=300))
PLAIN: ms.Queue[int] = ms.Queue("plain", int)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A network that can break."""
    with Proxy(server.port) as proxy:
        yield proxy


@contextmanager
def closing(
    mq: ms.Client, when: Callable[[], object], *, then: Callable[[], None]
) -> Iterator[list[float]]:
    """Close a client in a signal handler as soon as something is so; the list gets the seconds of that."""
    took: list[float] = []
    main = threading.get_ident()

    def close(*_: object) -> None:
        begun = time.monotonic()
        mq.close()
        took.append(time.monotonic() - begun)
        then()

    def kill() -> None:
        until(when, 20)
        signal.pthread_kill(main, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, close)
    killing = threading.Thread(target=kill)
    killing.start()
    try:
        yield took
    finally:
        killing.join()
        signal.signal(signal.SIGALRM, before)


def stop() -> None:
    raise SystemExit


def talks(mq: ms.Client) -> bool:
    """Whether a thread waits for a reply."""
    server: Any = mq.driver._server
    turn = server._wire._turn
    if not turn._acquire(blocking=False):
        return True
    turn._release()
    return False


@pytest.mark.parametrize("raises", [True, False])
def test_in_the_middle_of_a_request(proxy: Proxy, namespace: str, *, raises: bool) -> None:
    """It is closed at once; the request, if the handler lets it go on, says that it was."""
    mq = ms.Client(proxy.url, namespace=namespace, timeout=60)
    with pytest.raises(ms.NoResponders):
        mq.request(NOBODY, 1)
    proxy.stall(requests=False)
    then = stop if raises else proxy.resume
    with (
        closing(mq, lambda: talks(mq), then=then) as took,
        pytest.raises(SystemExit if raises else ms.NotConnected),
    ):
        mq.request(NOBODY, 2)
    assert took[0] < 20
    proxy.resume()
    until(lambda: mq.driver._server._wire._connection._sock is None, 20)  # type: ignore[union-attr]
    with pytest.raises(ms.UsageError, match="closed"):
        mq.send(PLAIN, 1)


def test_in_the_middle_of_a_send(proxy: Proxy, namespace: str, admin: redis.Redis) -> None:
    """The send goes on to its end behind the handler."""
    mq = ms.Client(proxy.url, namespace=namespace, timeout=60)
    mq.send(PLAIN, 1)
    proxy.stall(requests=False)
    with closing(mq, lambda: talks(mq), then=proxy.resume) as took:
        receipt = mq.send(PLAIN, 2)
    assert took[0] < 20
    stored: Any = admin.xrange(mq.keys_of(PLAIN).ready)
    assert stored[-1][0].decode() == receipt.id


@pytest.mark.parametrize("raises", [True, False])
def test_while_a_send_waits_for_room(url: str, namespace: str, *, raises: bool) -> None:
    """It is closed at once, and nothing was sent."""
    mq = ms.Client(url, namespace=namespace, timeout=60)
    mq.send(FULL, 1)

    def waits() -> bool:
        (placer,) = mq.senders.placers.values()
        listener = cast("Any", placer)._sender._listener
        return listener is not None and listener.listening

    def go_on() -> None:
        pass

    with (
        closing(mq, waits, then=stop if raises else go_on) as took,
        pytest.raises(SystemExit if raises else ms.UsageError),
    ):
        mq.send(FULL, 2)
    assert took[0] < 20
    with ms.Client(url, namespace=namespace) as other:
        assert other.stats(FULL).ready == 1
