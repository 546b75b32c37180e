"""Keeps one schedule: waits for its ticks and sends their messages, side by side with others.

Any number of workers keep the same schedule. The server grants each tick to one of them, and lets
its message through once (see ``protocol.schedules``); who dies in between is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from millstream.driver.aio import AsyncDriver
from millstream.errors import BrokerError
from millstream.protocol import schedules
from millstream.protocol.keys import QueueKeys
from millstream.protocol.schedules import Claim
from millstream.schedule import outcome
from millstream.worker.recurrence import Recurrence
from millstream.worker.threads import ThreadSlots

__all__ = ["Scheduler"]

logger = logging.getLogger("millstream.worker")

GRANT = 5.0
"""Seconds that others leave a due tick to the worker that makes its message. Half of the time after
which the tick would be missed: when that worker dies, another one is still in time."""

LONGEST_SLEEP = 60.0
"""Seconds. A machine may have been suspended, and people may have removed the schedule."""

PAUSED_SLEEP = 5.0
"""Seconds between looks at a paused schedule: the first tick after the pause must not be missed."""

LOST_SLEEP = 1.0
"""Seconds to wait when the server cannot be reached."""

TAKEN_SLEEP = 1.0
"""Seconds between looks at a tick that another worker has: it may fail, or die."""

FAILED_GRANT = 1.0
"""Seconds after which another worker may try a tick whose function has failed."""

LONGEST_BACKOFF = 60.0
"""Seconds until the same worker tries again, at most."""

COURTESY = 0.3
"""Seconds by which a worker whose function has failed lets the others go first."""

AWAY = {
    "paused": "it is paused",
    "changed": "it was declared with other times elsewhere, which count",
    "removed": "it was removed; it comes back with a worker that starts",
}
"""Why a worker leaves a schedule alone."""


class Scheduler:
    """Keeps one schedule. ``run`` works until ``stop``.

    Args:
        driver: to the server.
        keys: of the queue.
        declared: the schedule.
        worker: a name that no other worker has.
    """

    def __init__(
        self, driver: AsyncDriver, keys: QueueKeys, declared: Recurrence, worker: str
    ) -> None:
        self._driver = driver
        self._keys = keys
        self._declared = declared
        self._worker = worker
        self._title = f"schedule {declared.name!r} of {keys.title}"
        self._threads = None if declared.is_async else ThreadSlots(1, f"millstream-{declared.name}")
        self._stopping = asyncio.Event()
        self._known = False
        self._failures = 0
        self._trouble = ""

    def stop(self) -> None:
        """Wait for no further tick; ``run`` ends when the function does that makes a body now."""
        self._stopping.set()

    async def run(self) -> None:
        """Wait for ticks and send their messages."""
        try:
            while not self._stopping.is_set():
                pause = await self._step()
                if pause > 0:
                    with contextlib.suppress(TimeoutError):
                        # On the monotonic clock: what this machine takes for the time of day does
                        # not matter.
                        async with asyncio.timeout(min(pause, LONGEST_SLEEP)):
                            await self._stopping.wait()
        finally:
            if self._threads is not None:
                self._threads.close()

    async def _step(self) -> float:
        """Do what is to be done now; the seconds until there may be more to do."""
        declared = self._declared
        try:
            if not self._known:
                await self._driver.drive(
                    schedules.declare(self._keys, declared.name, declared.timing, declared.missed)
                )
                self._known = True
            claim = await self._claim(GRANT)
            if claim.finding == "granted":
                return await self._keep(claim)
        except BrokerError as error:
            self._note(f"cannot be kept at present: {error}")
            return LOST_SLEEP
        return self._leave(claim)

    def _leave(self, claim: Claim) -> float:
        """Take note of why there is nothing to do; the seconds until there may be."""
        if claim.finding in ("early", "taken"):
            self._note("")
            pause = (claim.at - claim.now) / 1000 + (COURTESY if self._failures else 0)
            return pause if claim.finding == "early" else min(pause, TAKEN_SLEEP)
        if claim.finding == "lost" and self._trouble != AWAY["removed"]:
            # Nobody has removed it, so the server has lost its data. Others may rely on it.
            self._note("was lost by the server, and is declared anew")
            self._known = False
            return 0.0
        # The mark of a removal expires; ours does not.
        self._note(AWAY["removed" if claim.finding == "lost" else claim.finding])
        return PAUSED_SLEEP if claim.finding == "paused" else LONGEST_SLEEP

    async def _keep(self, claim: Claim) -> float:
        """Deal with a tick that is granted to us; the seconds until the next one."""
        self._note("")
        name, timing = self._declared.name, self._declared.timing
        sends, following = outcome(timing, claim.missed, claim.at, claim.now)
        body = None
        if sends:
            try:
                body = await self._make()
            except Exception as error:  # noqa: BLE001 - whatever users' code raises
                return await self._back_off(error)
        else:
            late = (claim.now - claim.at) / 1000
            logger.warning("%s: left out what was missed, %.0f s late", self._title, late)
        done, now = await self._driver.run(
            schedules.fire(self._keys, name, timing, (claim.at, following), body)
        )
        self._failures = 0
        # If it was not ours any more, the next claim tells why.
        return (following - now) / 1000 if done else 0.0

    async def _make(self) -> bytes:
        """Have the function make a body, and keep the tick meanwhile.

        Raises:
            Exception: what the function raises, or UsageError: it is no body of this queue.
        """
        making = asyncio.ensure_future(self._call())
        try:
            while not (await asyncio.wait([making], timeout=GRANT / 3))[0]:
                with contextlib.suppress(BrokerError):
                    await self._claim(GRANT)
        finally:
            if not making.done():
                making.cancel()
                await asyncio.wait([making], timeout=1.0)  # it may not let itself be cancelled
        if making.cancelled():
            message = "the function let itself be cancelled"
            raise RuntimeError(message)
        return self._declared.queue.encode(making.result())

    async def _call(self) -> Any:
        try:
            if self._threads is None:
                return await self._declared.function()
            return await self._threads.run(self._declared.function, None)
        except SystemExit as error:
            # In a task, it would end the event loop.
            message = "the function wanted to end the process"
            raise RuntimeError(message) from error

    async def _back_off(self, error: Exception) -> float:
        """Leave a tick whose function has failed to others, and try again if they do not."""
        pause = min(2.0**self._failures, LONGEST_BACKOFF)
        self._failures = min(self._failures + 1, 10)
        logger.error("%s: no body; it is tried again in %.0f s", self._title, pause, exc_info=error)
        await self._claim(FAILED_GRANT)
        return pause + COURTESY

    async def _claim(self, seconds: float) -> Claim:
        declared = self._declared
        return await self._driver.run(
            schedules.claim(
                self._keys, declared.name, declared.timing, self._worker, round(seconds * 1000)
            )
        )

    def _note(self, trouble: str) -> None:
        """Log what keeps us from the schedule, once; empty: nothing does."""
        if trouble != self._trouble:
            if trouble:
                logger.warning("%s: %s", self._title, trouble)
            else:
                logger.info("%s: goes on", self._title)
        self._trouble = trouble
