"""Waiting for an event, by a timer or without one."""

from __future__ import annotations

import asyncio

import pytest

from millstream.worker.pausing import wait_for_event


@pytest.mark.parametrize("exactly", [False, True])
class TestWaiting:
    async def test_until_it_is_set(self, *, exactly: bool) -> None:
        """Who sets it ends the wait."""
        event = asyncio.Event()
        asyncio.get_running_loop().call_soon(event.set)

        assert await wait_for_event(event, 60.0, exactly=exactly)

    async def test_no_longer_than_told(self, *, exactly: bool) -> None:
        """When the time is over, it is not set."""
        assert not await wait_for_event(asyncio.Event(), 0.001, exactly=exactly)
        assert not await wait_for_event(asyncio.Event(), -1.0, exactly=exactly)

    async def test_others_have_their_turn(self, *, exactly: bool) -> None:
        """Also when it is set already."""
        event, turns = asyncio.Event(), list[int]()
        event.set()
        asyncio.get_running_loop().call_soon(turns.append, 1)

        assert await wait_for_event(event, 60.0, exactly=exactly)
        assert turns
