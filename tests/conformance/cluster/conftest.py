"""The server of these tests is a cluster of three nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from tests.api.conftest import any_mq, connect, mq
from tests.support.cluster import Cluster
from tests.support.leaks import leaked, wipe
from tests.worker.conftest import other, worker

__all__ = ["any_mq", "connect", "mq", "other", "worker"]

ONE_SERVER = {"server", "any_server", "own_server", "admin", "proxy", "cluster"}
"""Who asks for one of these looks into a server, or does something to it."""


@pytest.fixture(scope="session")
def nodes() -> Iterator[Cluster]:
    """Three nodes; one such cluster for each xdist worker."""
    with Cluster() as nodes:
        yield nodes


@pytest.fixture
def url(nodes: Cluster) -> str:
    """The cluster."""
    return nodes.url


@pytest.fixture
def any_url(url: str) -> str:
    """As for `url`."""
    return url


@pytest.fixture
def queue() -> ms.Queue[Any]:
    """A queue of any JSON values, with retries that need not be waited for."""
    return ms.Queue("orders", retry=ms.Retry(max_attempts=3, backoff=ms.Backoff(first=0.01)))


@pytest.fixture
def brief() -> ms.Queue[Any]:
    """A queue whose leases run out soon."""
    return ms.Queue("brief", lease=1.5)


@pytest.fixture(autouse=True)
def leaks_of_nodes(nodes: Cluster, namespace: str) -> Iterator[None]:
    """After each test, what is left on any node is permanent by design, or expires."""
    yield
    left = [leak for node in nodes.masters for leak in leaked(node.admin(), namespace)]
    for node in nodes.masters:
        wipe(node.admin(), namespace)
    assert not left, f"keys without a time to live: {left}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a server by itself."""
    here = Path(__file__).parent
    gone = [
        item
        for item in items
        if here in item.path.parents
        and isinstance(item, pytest.Function)
        and ONE_SERVER & {*item.fixturenames}
    ]
    config.hook.pytest_deselected(items=gone)
    left = {*map(id, gone)}
    items[:] = [item for item in items if id(item) not in left]
