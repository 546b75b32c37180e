"""Fixtures: a server of one's own, and a bad network in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import millstream as ms
from tests.faults.processes import Workshop
from tests.faults.working import NAMESPACE
from tests.support.proxy import Proxy
from tests.support.servers import Server, installed


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that nobody else uses, without persistence."""
    with Server() as server:
        yield server


@pytest.fixture
def durable_server() -> Iterator[Server]:
    """A server that nobody else uses, which has what it has answered on disk."""
    with Server(appendonly=True, appendfsync="always") as server:
        yield server


@pytest.fixture(params=installed())
def each_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each supported server in turn, one that nobody else uses."""
    with Server(request.param) as server:
        yield server


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    """A network in front of `own_server`."""
    with Proxy(own_server.port) as proxy:
        yield proxy


@pytest.fixture
def workshop(own_server: Server, tmp_path: Path) -> Iterator[Workshop]:
    """Worker processes at `own_server`."""
    with Workshop(tmp_path, own_server.url) as workshop:
        yield workshop


@pytest.fixture
def durable_workshop(durable_server: Server, tmp_path: Path) -> Iterator[Workshop]:
    """Worker processes at `durable_server`."""
    with Workshop(tmp_path, durable_server.url) as workshop:
        yield workshop


@pytest.fixture
def mq(own_server: Server) -> Iterator[ms.Client]:
    """A client of `own_server`."""
    with ms.Client(own_server.url, namespace=NAMESPACE) as mq:
        yield mq
