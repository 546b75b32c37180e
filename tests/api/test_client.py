"""The blocking client alone: threads, generators, and that it needs no event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import millstream as ms
from tests.support.wait import until


@pytest.fixture
def client(url: str, namespace: str) -> Iterator[ms.Client]:
    """A blocking client of `server` in the test's namespace."""
    with ms.Client(url, namespace=namespace) as client:
        yield client


def counts(client: ms.Client, queue: ms.Queue[Any]) -> tuple[int, int, int, int]:
    stats = client.stats(queue)
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


def test_a_whole_life(client: ms.Client, queue: ms.Queue[Any]) -> None:
    """Send, receive, retry, reject, redrive and acknowledge, as a script would."""
    receipts = client.send_many(queue, ["good", "bad"])
    seen = []

    for delivery in client.receive(queue, wait=0.1):
        seen.append((delivery.body, delivery.attempt))
        if delivery.body == "bad":
            delivery.reject("no")
        elif delivery.attempt == 1:
            delivery.retry(delay=0.01)
        else:
            delivery.ack()

    assert seen == [("good", 1), ("bad", 1), ("good", 2)]
    assert [letter.id for letter in client.dead(queue)] == [receipts[1].id]
    assert client.redrive(queue) == 1
    (delivery,) = client.receive(queue, wait=0)
    assert isinstance(delivery, ms.SyncDelivery)
    delivery.ack()
    assert counts(client, queue) == (0, 0, 0, 0)


def test_a_break_hands_the_buffer_back_at_once(client: ms.Client, queue: ms.Queue[Any]) -> None:
    """When a loop is left, its buffer is ready again before the next statement runs."""
    client.send_many(queue, range(4))

    for delivery in client.receive(queue, prefetch=4):
        delivery.ack()
        break

    assert counts(client, queue) == (3, 0, 0, 0)


def test_many_threads_send_at_a_time(client: ms.Client, queue: ms.Queue[Any]) -> None:
    """Each of many threads gets the receipts of its own messages."""

    def work(thread: int) -> list[tuple[str, str]]:
        sent = [f"{thread}-{number}" for number in range(25)]
        return [(client.send(queue, body).id, body) for body in sent]

    with ThreadPoolExecutor(16) as pool:
        receipts = dict(pair for pairs in pool.map(work, range(16)) for pair in pairs)

    assert len(receipts) == 400
    received = {}
    for delivery in client.receive(queue, prefetch=400, wait=0):
        received[delivery.id] = delivery.body
        delivery.ack()
    assert received == receipts


def test_many_threads_receive_at_a_time(client: ms.Client, queue: ms.Queue[Any]) -> None:
    """Receivers in several threads share one client, its lease thread, and the work."""
    client.send_many(queue, range(200))
    started = threading.Barrier(6)

    def work(_: int) -> list[int]:
        bodies = []
        started.wait()
        for delivery in client.receive(queue, prefetch=3, wait=0.2):
            bodies.append(delivery.body)
            delivery.ack()
        return bodies

    with ThreadPoolExecutor(6) as pool:
        shares = list(pool.map(work, range(6)))
        keepers = [t for t in threading.enumerate() if t.name == "millstream-leases"]

    assert sorted(body for share in shares for body in share) == list(range(200))
    assert len(keepers) == 1


def test_close_from_another_thread_ends_all_receivers(
    client: ms.Client, url: str, namespace: str, queue: ms.Queue[Any]
) -> None:
    """Receivers that wait in other threads end without an error when the client is closed."""
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(lambda: list(client.receive(queue))) for _ in range(4)]
        until(lambda: len(client.stats(queue).consumers) == 4)
        started = time.monotonic()

        client.close()

        assert [future.result(10) for future in waiting] == [[], [], [], []]
        assert time.monotonic() - started < 8
    with ms.Client(url, namespace=namespace) as other:
        assert other.stats(queue).consumers == ()


def test_a_client_made_in_one_thread_is_used_in_another(
    client: ms.Client, queue: ms.Queue[Any]
) -> None:
    """A delivery may be settled in another thread than the one that received it."""
    client.send(queue, 1)
    (delivery,) = client.receive(queue, wait=0)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(delivery.ack).result()

    assert counts(client, queue) == (0, 0, 0, 0)
