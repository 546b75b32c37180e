"""Plain functions in threads: outcomes, contexts, and time limits."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from millstream.worker.threads import ThreadSlots
from tests.support.wait import auntil

PATIENCE = 30.0


@pytest.fixture
async def slots() -> AsyncIterator[ThreadSlots]:
    slots = ThreadSlots(4, "test")
    yield slots
    slots.close()


@pytest.fixture
def hasty_switching() -> Iterator[None]:
    """Threads are switched as often as can be, which brings out races."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def spin(seconds: float) -> None:
    """Be busy in Python for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_outcomes(slots: ThreadSlots) -> None:
    """A call's result or exception arrives at the caller, whatever it is."""

    def fail(error: BaseException) -> None:
        raise error

    assert await slots.run(lambda: 7, None) == 7
    for error in (ValueError("no"), SystemExit(1), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await slots.run(functools.partial(fail, error), None)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await slots.run(lambda: next(iter(())), None)


async def test_no_outcome_is_lost(hasty_switching: None) -> None:
    """Threads that finish at the same moment all tell the loop."""
    slots = ThreadSlots(8, "test")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        barrier = threading.Barrier(8, timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE):
            places = await asyncio.gather(*(slots.run(barrier.wait, None) for _ in range(8)))
        assert sorted(places) == [*range(8)]
    slots.close()


async def test_threads_start_when_they_are_needed(slots: ThreadSlots) -> None:
    """One call after the other needs one thread; four at a time need four, and no more."""
    names = {await slots.run(lambda: threading.current_thread().name, None) for _ in range(20)}
    assert names == {"test-0"}

    barrier = threading.Barrier(4, timeout=PATIENCE)
    await asyncio.gather(*(slots.run(barrier.wait, None) for _ in range(4)))
    await asyncio.gather(*(slots.run(lambda: None, None) for _ in range(50)))
    alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("test-")]
    assert len(alive) == 4


async def test_the_context_of_the_caller(slots: ThreadSlots) -> None:
    """A call sees the caller's context variables; what it sets stays with it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def change() -> str:
        seen = variable.get()
        variable.set("by the thread")
        return seen

    variable.set("by the caller")
    assert await slots.run(change, None) == "by the caller"
    assert await slots.run(variable.get, None) == "by the caller"


class TestTimeouts:
    async def test_a_busy_thread_is_interrupted(self, slots: ThreadSlots) -> None:
        """TimeoutError is raised in the function itself, at a line of Python."""
        seen: list[type[BaseException]] = []

        def work() -> None:
            try:
                spin(PATIENCE)
            except BaseException as error:
                seen.append(type(error))
                raise

        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await slots.run(work, 1)
        assert seen == [TimeoutError]
        assert 1 <= time.monotonic() - began < PATIENCE / 2

    async def test_one_that_blocks_ends_first(self, slots: ThreadSlots) -> None:
        """A call that blocks outside of Python ends first; until then the caller waits."""
        go_on = threading.Event()
        asyncio.get_running_loop().call_later(0.3, go_on.set)

        with pytest.raises(TimeoutError):
            await slots.run(lambda: go_on.wait(PATIENCE), 0.05)
        assert go_on.is_set()

    async def test_one_that_ends_in_spite_of_it(self, slots: ThreadSlots) -> None:
        """A function that catches the interruption has taken too long all the same."""

        def stubborn() -> str:
            try:
                spin(PATIENCE)
            except TimeoutError:
                return "well"
            return "never"

        with pytest.raises(TimeoutError):
            await slots.run(stubborn, 0.05)

    async def test_the_next_call_is_not_hit(self) -> None:
        """An interruption that comes at the last moment never reaches the thread's next call."""
        slots = ThreadSlots(1, "test")
        for n in range(300):
            limit = 0.002 + (n % 10) * 0.0001
            with contextlib.suppress(TimeoutError):
                await slots.run(lambda: spin(0.002), limit)
            assert await slots.run(lambda: sum(range(200)), None) == 19900
        slots.close()

    async def test_one_that_never_began(self) -> None:
        """A call whose time is over before a thread was free for it is not begun."""
        slots = ThreadSlots(1, "test")
        go_on = threading.Event()
        begun: list[int] = []
        busy = asyncio.create_task(slots.run(lambda: go_on.wait(PATIENCE), None))
        late = asyncio.create_task(slots.run(lambda: begun.append(1), 0.02))
        asyncio.get_running_loop().call_later(0.1, go_on.set)

        with pytest.raises(TimeoutError):
            await late
        assert await busy
        assert begun == []
        slots.close()


class TestInterrupts:
    async def test_a_busy_thread(self, slots: ThreadSlots) -> None:
        """CancelledError is raised in the function, at a line of Python; others go on."""
        seen: list[type[BaseException]] = []
        begun = threading.Event()

        def work() -> None:
            begun.set()
            try:
                spin(PATIENCE)
            except BaseException as error:
                seen.append(type(error))
                raise

        first = asyncio.create_task(slots.run(work, None, b"1"))
        other = asyncio.create_task(slots.run(lambda: spin(0.3), None, b"2"))
        await auntil(begun.is_set)
        assert slots.interrupt(b"1")
        with pytest.raises(asyncio.CancelledError):
            await first
        await other
        assert seen == [asyncio.CancelledError]

    async def test_what_does_not_run(self, slots: ThreadSlots) -> None:
        """There is nothing to interrupt before and after a call."""
        assert not slots.interrupt(b"1")
        await slots.run(lambda: None, None, b"1")
        assert not slots.interrupt(b"1")

    async def test_the_first_interruption_counts(self, slots: ThreadSlots) -> None:
        """A call that is over by its time limit as well ends as it was told first."""
        begun = threading.Event()

        def work() -> None:
            begun.set()
            spin(PATIENCE)

        task = asyncio.create_task(slots.run(work, 5, b"1"))
        await auntil(begun.is_set)
        assert slots.interrupt(b"1")
        assert slots.interrupt(b"1")
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_one_that_never_began(self) -> None:
        """A call that is interrupted before a thread was free for it is not begun."""
        slots = ThreadSlots(1, "test")
        go_on = threading.Event()
        begun: list[int] = []
        busy = asyncio.create_task(slots.run(lambda: go_on.wait(PATIENCE), None))
        late = asyncio.create_task(slots.run(lambda: begun.append(1), None, b"1"))
        await asyncio.sleep(0)
        assert slots.interrupt(b"1")
        go_on.set()

        with pytest.raises(asyncio.CancelledError):
            await late
        assert await busy
        assert begun == []
        slots.close()

    async def test_the_next_call_is_not_hit(self) -> None:
        """An interruption that comes at the last moment never reaches the thread's next call."""
        slots = ThreadSlots(1, "test")
        loop = asyncio.get_running_loop()
        for n in range(300):
            loop.call_later(0.002 + (n % 10) * 0.0001, slots.interrupt, b"1")
            with contextlib.suppress(asyncio.CancelledError):
                await slots.run(lambda: spin(0.002), None, b"1")
            assert await slots.run(lambda: sum(range(200)), None) == 19900
        slots.close()


async def test_closing_ends_the_threads(slots: ThreadSlots) -> None:
    """After close() the threads end by themselves."""
    own = ThreadSlots(3, "closing")
    await asyncio.gather(*(own.run(lambda: spin(0.01), None) for _ in range(3)))
    own.close()
    await auntil(lambda: not [t for t in threading.enumerate() if t.name.startswith("closing-")])


class TestNoMoreThreads:
    """The system lets no thread be started, or no further one."""

    @pytest.fixture
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of threads that were not started; starts are refused while the first of it is `no`."""
        refused = ["no"]
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if refused[0] == "no" and thread.name.startswith("test-"):
                refused.append(thread.name)
                message = "can't start new thread"
                raise RuntimeError(message)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        return refused

    async def test_the_first(self, refused: list[str]) -> None:
        """The call fails, and is not begun later; the next one has a thread as soon as there is one."""
        slots = ThreadSlots(1, "test")
        begun: list[int] = []

        for _ in range(3):
            with pytest.raises(RuntimeError, match="new thread"):
                await slots.run(lambda: begun.append(1), None, b"1")
        assert not slots.interrupt(b"1")

        refused[0] = "yes"
        async with asyncio.timeout(PATIENCE):
            assert await slots.run(lambda: 7, None) == 7
        assert begun == []
        assert refused == ["yes", *["test-0"] * 3]
        slots.close()

    async def test_a_further_one(
        self, refused: list[str], slots: ThreadSlots, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Calls wait for the threads that there are; the log says so, not once a call."""
        refused[0] = "yes"
        await slots.run(lambda: None, None)
        refused[0] = "no"

        async with asyncio.timeout(PATIENCE):
            names = await asyncio.gather(
                *(slots.run(lambda: threading.current_thread().name, None) for _ in range(50))
            )
        assert set(names) == {"test-0"}
        assert 1 <= len(refused) - 1 == caplog.text.count("new thread") < 25

    async def test_what_waits_is_not_begun_when_nobody_waits_for_it(
        self, refused: list[str], slots: ThreadSlots
    ) -> None:
        """A call that is cancelled before a thread was free for it never begins; one that runs goes on."""
        go_on, begun = threading.Event(), threading.Event()
        ended: list[str] = []
        refused[0] = "yes"

        def work() -> None:
            begun.set()
            go_on.wait(PATIENCE)
            ended.append("first")

        first = asyncio.create_task(slots.run(work, None))
        await auntil(begun.is_set)
        refused[0] = "no"
        second = asyncio.create_task(slots.run(lambda: ended.append("second"), None))
        await auntil(lambda: len(refused) > 1)

        first.cancel()
        second.cancel()
        await asyncio.wait([first, second])
        go_on.set()

        async with asyncio.timeout(PATIENCE):
            await slots.run(lambda: ended.append("third"), None)
        assert ended == ["first", "third"]
