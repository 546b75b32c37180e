"""The network of a process: a TCP proxy in front of each server, so that each can be out of its reach.

Sentinels and nodes of a cluster tell clients where the others are, and each process is to go through
its own proxies. So replies are changed as an address translation of a router changes packets: what they
say of a server's port becomes the port of its proxy. Servers, among themselves, know nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tests.support.proxy import Proxy

__all__ = ["Network"]

# As a text (in MOVED, say), as a number (CLUSTER SLOTS), and as a text of its own, with the name of
# its field (SENTINEL REPLICAS) or without. All ports of tests have five digits, so lengths stay.
_ADDRESS = re.compile(
    rb"(127\.0\.0\.1(?::|\r\n:|\r\n(?:\$\d+\r\n[a-z-]*port\r\n)?\$5\r\n))(\d{5})(?!\d)"
)


class Network:
    """Leads one process to all servers. Use it as a context manager.

    Args:
        ports: of the servers.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        self._proxies = {port: Proxy(port, translate=self._translated) for port in ports}
        self._seen = {
            str(port).encode(): str(proxy.port).encode() for port, proxy in self._proxies.items()
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for proxy in self._proxies.values():
                stack.enter_context(proxy)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def url(self, url: str) -> str:
        """Return the URL by which a process reaches through here what this one leads to."""
        return self._translated(url.encode()).decode()

    def part(self, number: int) -> Sequence[Proxy]:
        """Return what is to be broken: with even numbers all, with odd ones the way to one server."""
        proxies = list(self._proxies.values())
        return proxies if number % 2 == 0 else [proxies[number // 2 % len(proxies)]]

    def _translated(self, replies: bytes) -> bytes:
        # An address that is split over two chunks passes as it is: that client has a way past its
        # network until it asks again, so it meets fewer faults, and nothing else.
        return _ADDRESS.sub(lambda found: found[1] + self._seen.get(found[2], found[2]), replies)
