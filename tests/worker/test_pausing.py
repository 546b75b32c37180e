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

        async with asyncio.timeout(10):
            await wait_for_event(event, 60.0, exactly=exactly)

    async def test_no_longer_than_told(self, *, exactly: bool) -> None:
        """When the time is over, nobody has to set it."""
        async with asyncio.timeout(10):
            await wait_for_event(asyncio.Event(), 0.001, exactly=exactly)
            await wait_for_event(asyncio.Event(), -1.0, exactly=exactly)

    async def test_others_have_their_turn(self, *, exactly: bool) -> None:
        """Also when it is set already."""
        event, turns = asyncio.Event(), list[int]()
        event.set()
        asyncio.get_running_loop().call_soon(turns.append, 1)

        await wait_for_event(event, 60.0, exactly=exactly)

        assert turns

    async def test_a_timer_of_a_wait_that_is_over_sets_nothing(self, *, exactly: bool) -> None:
        """The next wait for the event is not cut short."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.call_soon(event.set)
        await wait_for_event(event, 0.05, exactly=exactly)
        event.clear()
        begun = loop.time()

        await wait_for_event(event, 0.2, exactly=exactly)

        assert loop.time() - begun >= 0.19
