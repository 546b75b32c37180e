# GENERATED from src/millstream/aio/ways.py by tools/unasync.py - do not edit
"""The ways of a client's requests to their endpoints."""

from __future__ import annotations

import contextlib
from typing import Any

from millstream.driver.blocking import BlockingDriver
from millstream.driver.blocking_sender import BlockingSender
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys, queue_keys
from millstream.protocol.requests import requesting, withdrawing

__all__ = ["Way", "Ways", "forget_first"]

MOST = 1000
"""Endpoints whose ways are kept; that to another one is made anew."""


class Way:
    """The way to an endpoint."""

    __slots__ = ("keys", "requests", "withdrawals")

    def __init__(self, driver: BlockingDriver, keys: QueueKeys) -> None:
        self.keys = keys
        self.withdrawals: BlockingSender[int] = driver.sender(withdrawing(keys))
        self.requests: BlockingSender[Receipt] = driver.sender(requesting(keys))


class Ways:
    """Those that were used, the oldest first.

    Args:
        driver: of the client.
        namespace: first part of all keys.
    """

    def __init__(self, driver: BlockingDriver, namespace: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self._all: dict[str, Way] = {}

    def to(self, name: str) -> Way:
        """Return the way to an endpoint."""
        way = self._all.get(name)
        if way is None:
            if len(self._all) >= MOST:
                forget_first(self._all)
            made = Way(self._driver, queue_keys(self._namespace, name))
            way = self._all.setdefault(name, made)
        return way

    def close(self) -> None:
        """Wait for what is on its way out."""
        for way in list(self._all.values()):
            way.requests.close()
            way.withdrawals.close()


def forget_first(some: dict[Any, Any]) -> None:
    """Take the oldest out; another thread may be quicker."""
    with contextlib.suppress(KeyError, StopIteration, RuntimeError):
        del some[next(iter(some))]
