# GENERATED from src/millstream/aio/schedules.py by tools/unasync.py - do not edit
"""What people ask of schedules. Each function is a method of ``Client``."""

from __future__ import annotations

from typing import Any

from millstream.checks import check_queue
from millstream.declare import Queue, check_name
from millstream.errors import UsageError
from millstream.message import Schedule
from millstream.protocol import schedules as protocol
from millstream.protocol.keys import QueueKeys
from millstream.sync.operate import Connected

__all__ = ["pause_schedule", "remove_schedule", "resume_schedule", "schedules"]


def schedules(self: Connected, queue: Queue[Any]) -> list[Schedule]:
    """List the schedules of a queue, by name.

    Workers declare them with ``@worker.every``. One whose workers are gone is listed, too.

    Args:
        queue: whose.
    """
    return self.driver.run(protocol.listing(_keys(self, queue)), stale=True)


def pause_schedule(self: Connected, queue: Queue[Any], name: str) -> None:
    """Pause a schedule. It sends nothing, at once and until it is resumed, also over restarts.

    Messages that it has sent already are not concerned; ``pause`` holds the queue.

    Args:
        queue: whose.
        name: of the schedule. It may be paused already.

    Raises:
        UsageError: the queue has no schedule of this name.
        BrokerError: it may be paused or not; the call can be repeated.
    """
    if not self.driver.run(protocol.pause(_keys(self, queue), _checked(name))):
        raise _unknown(queue, name)


def resume_schedule(self: Connected, queue: Queue[Any], name: str) -> None:
    """Resume a paused schedule with its next tick. Those of the pause do not count as missed.

    Args:
        queue: whose.
        name: of the schedule. It may be running already.

    Raises:
        UsageError: the queue has no schedule of this name, or it is a cron expression, and the
            extra ``schedules``, which knows when it ticks, is not installed here.
        BrokerError: it may be paused still; the call can be repeated.
    """
    if not self.driver.drive(protocol.resume(_keys(self, queue), _checked(name))):
        raise _unknown(queue, name)


def remove_schedule(self: Connected, queue: Queue[Any], name: str) -> bool:
    """Remove a schedule.

    Workers that run leave it alone from now on. It begins anew when a worker starts that declares
    it; to be rid of it, take it out of the code, too.

    Args:
        queue: whose.
        name: of the schedule.

    Returns:
        Whether there was one.

    Raises:
        BrokerError: it may be removed or not; the call can be repeated.
    """
    return self.driver.run(protocol.remove(_keys(self, queue), _checked(name)))


def _checked(name: object) -> str:
    return check_name(name, "the schedule's name")


def _unknown(queue: Queue[Any], name: str) -> UsageError:
    message = f"{queue.title} has no schedule {name!r}"
    return UsageError(message)


def _keys(self: Connected, queue: Queue[Any]) -> QueueKeys:
    check_queue(queue)
    return self.keys_of(queue)
