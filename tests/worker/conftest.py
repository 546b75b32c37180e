"""Fixtures: a connected client, a queue, and a worker without handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import millstream as ms
from tests.support.servers import Server
from tests.worker.running import SOON


@pytest.fixture
async def mq(url: str, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """A client of the session's server."""
    async with ms.AsyncClient(url, namespace=namespace) as mq:
        yield mq


@pytest.fixture
async def other(url: str, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """A second client, as another process would have."""
    async with ms.AsyncClient(url, namespace=namespace) as other:
        yield other


@pytest.fixture
async def any_mq(any_url: str, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """A client of each supported server in turn."""
    async with ms.AsyncClient(any_url, namespace=namespace) as mq:
        yield mq


@pytest.fixture
def queue() -> ms.Queue[Any]:
    """Three attempts, soon after one another."""
    return ms.Queue("orders", retry=ms.Retry(max_attempts=3, backoff=SOON))


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that nobody else uses."""
    with Server() as server:
        yield server


@pytest.fixture
def worker() -> ms.Worker:
    """A worker without handlers."""
    return ms.Worker()
