"""One timer for all who wait: each wait ends in its time, and none is kept for long when it is over."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.driver import aio_letterbox
from millstream.driver.aio_alarm import FEW, AsyncAlarm
from millstream.driver.aio_letterbox import AsyncLetterbox

LONG = 3600.0


class TestAlarm:
    async def test_the_next_one_first(self) -> None:
        """A shorter wait that is set later ends before a longer one."""
        alarm, loop = AsyncAlarm(), asyncio.get_running_loop()
        begun, ended = loop.time(), list[tuple[str, float]]()
        waits = {name: loop.create_future() for name in ("long", "middle", "short")}
        for name, seconds in (("long", 0.09), ("middle", 0.06), ("short", 0.03)):

            def note(_: asyncio.Future[None], name: str = name) -> None:
                ended.append((name, loop.time() - begun))

            waits[name].add_done_callback(note)
            alarm.set(seconds, waits[name])
        await asyncio.gather(*waits.values())
        await asyncio.sleep(0)
        assert [name for name, _ in ended] == ["short", "middle", "long"]
        assert all(
            after >= seconds - 0.002  # as fine as the loop's clock is
            for (_, after), seconds in zip(ended, (0.03, 0.06, 0.09), strict=True)
        )

    async def test_what_is_over_is_left_alone(self) -> None:
        """A wait that has its result, or was cancelled, is not ended a second time."""
        alarm, loop = AsyncAlarm(), asyncio.get_running_loop()
        answered, cancelled, last = (loop.create_future() for _ in range(3))
        for wait in (answered, cancelled, last):
            alarm.set(0.01, wait)
        answered.set_result("reply")
        cancelled.cancel()
        assert await last is None
        assert answered.result() == "reply"
        assert cancelled.cancelled()

    @settings(max_examples=30)
    @given(st.lists(st.booleans(), min_size=2 * FEW, max_size=6 * FEW))
    def test_memory(self, over: list[bool]) -> None:
        """Of the waits that are over, no more are kept than wait still, but for a few."""

        async def main() -> None:
            alarm, loop = AsyncAlarm(), asyncio.get_running_loop()
            left = 0
            for ends in over:
                wait = loop.create_future()
                alarm.set(LONG, wait)
                if ends:
                    wait.set_result(None)
                else:
                    left += 1
                assert len(alarm) <= 2 * max(FEW, left) + 1

        asyncio.run(main())


class TestLetterbox:
    async def test_a_wait_longer_than_the_clock_takes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It goes on for all of its time, not only as long as one wait of the event loop may be."""
        monkeypatch.setattr(aio_letterbox, "_LONGEST", 0.01)
        box: AsyncLetterbox[str] = AsyncLetterbox(AsyncAlarm())
        asyncio.get_running_loop().call_later(0.1, box.put, "late")
        assert await box.take(60) == "late"
        began = asyncio.get_running_loop().time()
        assert await box.take(0.05) is None
        assert asyncio.get_running_loop().time() - began > 0.04
