"""One server, as the blocking driver uses it: a wire, and how an operation goes over it.

The twin of ``aio_server``.
"""

from __future__ import annotations

from typing import Any

from redis import exceptions

from millstream.driver.blocking_wire import BlockingWire
from millstream.driver.faults import DEMOTED, any_error, code_of, translate
from millstream.driver.packing import executed, pack, pack_op
from millstream.driver.target import Target
from millstream.errors import BrokerError
from millstream.protocol.op import Command, Op

__all__ = ["BlockingServer", "exchange", "introduce"]


class BlockingServer:
    """A server by itself. ``BlockingCluster`` has the same methods.

    Args:
        target: where it is.
        connect_timeout: seconds to connect, log in and get the first answer.
        timeout: seconds to wait for replies; then the connection is given up.
    """

    def __init__(self, target: Target, *, connect_timeout: float, timeout: float) -> None:
        self.target = target
        self._connect_timeout = connect_timeout
        self._wire = BlockingWire(target, connect_timeout=connect_timeout, timeout=timeout)

    @property
    def losses(self) -> int:
        """How many connections it has lost so far."""
        return self._wire.losses

    def open(self, first: Op[Any]) -> list[Any]:
        """Connect, and return the raw replies to the first question."""
        return introduce(self.target, first, self._connect_timeout)

    def perform(self, op: Op[Any], until: float) -> list[Any]:
        """Run an operation once; return raw replies, errors in their places.

        Args:
            op: to run.
            until: time on the monotonic clock at which an impatient one is given up.

        Raises:
            redis-py's connection errors, or TimeoutError.
        """
        return exchange(self._wire, op, until)

    def slots(self) -> list[int | None]:
        """Return a slot of each node; see ``Nodes``."""
        return [None]

    def has_left(self, target: Target) -> bool:  # noqa: ARG002 - there is no other
        """Tell whether a server is none of ours any more."""
        return False

    def slot_of(self, op: Op[Any]) -> int | None:  # noqa: ARG002 - see below
        """Return the slot of an operation; None: there are none."""
        return None

    def target_for(self, op: Op[Any]) -> Target:  # noqa: ARG002 - they are all here
        """Return where an operation belongs."""
        return self.target

    def explain(self, error: Exception, op: Op[Any]) -> BrokerError:  # noqa: ARG002 - see above
        """Return what to make of an error that a listener has met with."""
        return translate(error, self.target.url)

    def failed(self, error: Exception) -> None:
        """Hear that an operation has failed: a server that is no master any more is left."""
        if code_of(error) in DEMOTED:
            self._wire.reset()

    def close(self) -> None:
        """Disconnect."""
        self._wire.close()


def introduce(target: Target, first: Op[Any], patience: float) -> list[Any]:
    """Return the raw replies to the first question.

    On a connection of its own, since a connection has one timeout, and operations may take longer.
    """
    wire = BlockingWire(target, connect_timeout=patience, timeout=patience)
    try:
        return wire.call(pack(first.commands), len(first.commands))
    finally:
        wire.close()


def exchange(wire: BlockingWire, op: Op[Any], until: float, *, asking: bool = False) -> list[Any]:
    """Send an operation, and return raw replies, errors in their places.

    A script that the server does not know is loaded. A transaction for which it has no memory is
    run command by command.

    Args:
        wire: to the server.
        op: to run.
        until: see ``BlockingServer.perform``.
        asking: whether the server is a node that is still being given the slot.

    Raises:
        redis-py's connection errors, or TimeoutError.
    """
    payload, count = pack_op(op, asking=asking)
    end = None if op.patience is None else until
    replies = executed(op, wire.call(payload, count, end), asking=asking)
    if replies is None:
        replies = wire.call(pack(op.commands, asking=asking), len(op.commands) << asking, end)
        replies = replies[1::2] if asking else replies
    if any_error(replies):
        _load_scripts(wire, op, replies, end, asking=asking)
    return replies


def _load_scripts(
    wire: BlockingWire, op: Op[Any], replies: list[Any], until: float | None, *, asking: bool
) -> None:
    """Repeat commands whose script the server did not know."""
    again: list[int] = []
    commands: list[Command] = []
    for index, reply in enumerate(replies):
        script = op.commands[index].script
        if isinstance(reply, exceptions.NoScriptError) and script is not None:
            again.append(index)
            commands += (Command(("SCRIPT", "LOAD", script.source)), op.commands[index])
    if again:
        # In one write: what is behind this operation must not overtake a part of it.
        answers = wire.call(pack(commands, asking=asking), len(commands) << asking, until)
        answers = answers[1::2] if asking else answers
        for index, answer in zip(again, answers[1::2], strict=True):
            replies[index] = answer
