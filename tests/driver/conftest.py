"""Servers and networks that the driver's tests may break."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.driver.drivers import KINDS, Kind
from tests.support.proxy import Proxy
from tests.support.servers import Server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which of the two drivers."""
    kind: Kind = request.param
    return kind


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A bad network in front of `server`."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that the test may stop, kill or configure."""
    with Server() as server:
        yield server


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that answers no connection attempt: as a firewall that drops packets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        # The queue of a listener that accepts nobody is full soon; then the kernel drops.
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        yield address[1]
        for one in waiting:
            one.close()
