"""Clients for the tests of the API: each test runs with the async client and the blocking one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import millstream as ms
from tests.api.clients import KINDS, Connect, Kind, connecting


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which of the two clients."""
    kind: Kind = request.param
    return kind


@pytest.fixture
async def connect(kind: Kind, url: str, namespace: str) -> AsyncIterator[Connect]:
    """Make clients of `server` in the test's namespace; they are closed after the test."""
    async with connecting(kind, url, namespace) as connect:
        yield connect


@pytest.fixture
async def mq(connect: Connect) -> ms.AsyncClient:
    """A client of `server` in the test's namespace."""
    return await connect()


@pytest.fixture
async def any_mq(kind: Kind, any_url: str, namespace: str) -> AsyncIterator[ms.AsyncClient]:
    """A client of each supported server in turn."""
    async with connecting(kind, any_url, namespace) as connect:
        yield await connect()


@pytest.fixture
def queue() -> ms.Queue[Any]:
    """A queue of any JSON values, with retries that need not be waited for."""
    return ms.Queue("orders", retry=ms.Retry(max_attempts=3, backoff=ms.Backoff(first=0.01)))


@pytest.fixture
def brief() -> ms.Queue[Any]:
    """A queue whose leases run out soon, but not while a busy machine lets nobody extend them."""
    return ms.Queue("brief", lease=1.5)
