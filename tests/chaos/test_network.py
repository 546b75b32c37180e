"""The networks of the fault suite: no server tells a client a way around them."""

from __future__ import annotations

import pytest

from tests.chaos.network import Network

REPLIES = {
    "moved": b"-MOVED 1234 127.0.0.1:{port}\r\n",
    "asked": b"-ASK 1234 127.0.0.1:{port}\r\n",
    "slots": b"*4\r\n:0\r\n:5460\r\n*4\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n",
    "primary": b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n{port}\r\n",
    "replica": b"$4\r\nname\r\n$15\r\n127.0.0.1:{port}\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n$5\r\n{port}\r\n",
    "its primary": b"$11\r\nmaster-host\r\n$9\r\n127.0.0.1\r\n$11\r\nmaster-port\r\n$5\r\n{port}\r\n",
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_addresses_are_those_of_proxies(reply: bytes) -> None:
    """Where a reply names a server, its client reads the port of its own proxy."""
    with Network([20_123, 20_124]) as network:
        [proxy, _] = network.part(0)
        told = network._translated(reply.replace(b"{port}", b"20123"))

        assert told == reply.replace(b"{port}", str(proxy.port).encode())


def test_nothing_else_changes() -> None:
    """Ports of others, ids and bodies stay as they are."""
    said = b"-MOVED 1 127.0.0.1:20125\r\n$15\r\n1700000020123-0\r\n$5\r\n20123\r\n:20123\r\n"
    with Network([20_123]) as network:
        assert network._translated(said) == said


def test_the_url_leads_through() -> None:
    """A URL of some servers becomes one of their proxies."""
    with Network([20_123, 20_124]) as network:
        ports = [proxy.port for proxy in network.part(0)]
        url = network.url("redis+sentinel://127.0.0.1:20123,127.0.0.1:20124/main")

        assert url == "redis+sentinel://127.0.0.1:{},127.0.0.1:{}/main".format(*ports)


def test_all_of_a_network_or_a_part_is_broken() -> None:
    """Numbers choose among all ways together and each way alone."""
    with Network([20_123, 20_124]) as network:
        both = list(network.part(0))

        assert [list(network.part(number)) for number in (2, 1, 3)] == [both, both[:1], both[1:]]
