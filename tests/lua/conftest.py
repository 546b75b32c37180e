"""Fixtures: a queue on each supported server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from millstream.driver.blocking import BlockingDriver
from tests.lua.list_state import ListState
from tests.lua.state import State
from tests.support.servers import Server, installed


@pytest.fixture
def state(any_url: str, namespace: str) -> Iterator[State]:
    """An empty queue, used as the user who may touch only the tests' own keys."""
    driver = BlockingDriver(any_url, connect_timeout=5, timeout=5)
    yield State(driver, namespace)
    driver.close()


@pytest.fixture
def lists(any_url: str, namespace: str) -> Iterator[ListState]:
    """The same, in a list."""
    driver = BlockingDriver(any_url, connect_timeout=5, timeout=5)
    yield ListState(driver, namespace)
    driver.close()


@pytest.fixture(scope="session", params=installed())
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each supported server in turn, for tests that change its configuration."""
    with Server(request.param) as server:
        yield server


@pytest.fixture
def own_state(own_server: Server, namespace: str) -> Iterator[State]:
    """An empty queue on `own_server`."""
    driver = BlockingDriver(own_server.limited_url, connect_timeout=5, timeout=5)
    yield State(driver, namespace)
    driver.close()
    own_server.admin().flushall()


@pytest.fixture
def own_lists(own_server: Server, namespace: str) -> Iterator[ListState]:
    """An empty queue in a list on `own_server`."""
    driver = BlockingDriver(own_server.limited_url, connect_timeout=5, timeout=5)
    yield ListState(driver, namespace)
    driver.close()
    own_server.admin().flushall()
