"""How many handlers of a queue run at a time, when several consumers of one worker share it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from millstream.aio.delivery import Delivery
from millstream.errors import LeaseLost
from millstream.protocol import settlement
from millstream.worker.handler import Handler
from millstream.worker.handling import Call, Holder

__all__ = ["Permits", "Turn"]


class Permits:
    """A number of permits, given out in the order of asking.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def take(self) -> bool:
        """Take a permit if one is free."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def ask(self) -> asyncio.Future[bool]:
        """Ask for the next one; the future's result is True when it is there."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def give_back(self) -> None:
        """Pass a permit on to who waits longest."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(True)
                return
        self._free += 1


class Turn:
    """One consumer's way to the permits: who waits when it stops has not begun.

    Args:
        permits: shared with other consumers.
    """

    def __init__(self, permits: Permits) -> None:
        self._permits = permits
        self._waiting: set[asyncio.Future[bool]] = set()
        self._over = False

    def around(self, inner: Call, handler: Handler, holder: Holder) -> Call:
        """Have a call wait for its turn. What comes after the end is handed back without blame.

        Args:
            inner: the call.
            handler: what it is a call of.
            holder: of the deliveries. It is asked whether they are still ours, after they have waited.
        """

        async def taking_turns(body: Any, delivery: Any) -> Any:
            waits = not self.enter_now()
            if waits and not await self.enter():
                await _release(delivery)
                return None
            try:
                if waits:
                    await holder.make_sure()
                    body, delivery = await _in_time(body, delivery, handler, holder)
                    # A coroutine whose lease is lost meanwhile is cancelled; what runs in a thread
                    # must not begin.
                    if all(one.lease_lost for one in _each(delivery)):
                        return None
                return await inner(body, delivery)
            finally:
                self.leave()

        return taking_turns

    def enter_now(self) -> bool:
        """Take a permit if one is free, and the consumer goes on; ``leave`` gives it back."""
        return not self._over and self._permits.take()

    def leave(self) -> None:
        """Give a permit back."""
        self._permits.give_back()

    async def enter(self) -> bool:
        """Wait for a permit, which ``leave`` gives back; False: the consumer has stopped."""
        if self._over:
            return False
        if self._permits.take():
            return True
        future = self._permits.ask()
        self._waiting.add(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result():
                self._permits.give_back()
            raise
        finally:
            self._waiting.discard(future)

    def stop(self) -> None:
        """Let nobody begin any more."""
        self._over = True
        self.drop()

    def drop(self) -> None:
        """Have those that wait now not begin."""
        for future in self._waiting:
            if not future.done():
                future.set_result(False)


def _each(delivery: Delivery[Any] | Sequence[Delivery[Any]]) -> Sequence[Delivery[Any]]:
    """Return the deliveries of a call: of a message, or of a batch."""
    return [delivery] if isinstance(delivery, Delivery) else delivery


async def _in_time(body: Any, delivery: Any, handler: Handler, holder: Holder) -> tuple[Any, Any]:
    """End what it is too late to begin with. Of a batch, the others are left."""
    now = holder.server_ms()
    late = [one for one in _each(delivery) if handler.is_too_late(one.envelope, now)]
    await asyncio.gather(*(holder.settle(settlement.expire(one.envelope.token)) for one in late))
    if not late or delivery is late[0]:
        # It is not ours any more.
        return body, delivery
    left = [pair for pair in zip(body, delivery, strict=True) if pair[1] not in late]
    return [one for one, _ in left], [one for _, one in left]


async def _release(delivery: Delivery[Any] | Sequence[Delivery[Any]]) -> None:
    await asyncio.gather(*map(_release_one, _each(delivery)))


async def _release_one(delivery: Delivery[Any]) -> None:
    with contextlib.suppress(LeaseLost):
        await delivery.release()
