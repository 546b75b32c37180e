"""A cluster, as the blocking driver uses it. The twin of ``aio_cluster``."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from redis import exceptions

from millstream.driver.blocking_server import exchange, introduce
from millstream.driver.blocking_wire import BlockingWire
from millstream.driver.cluster import (
    GLANCE,
    PATIENCE,
    QUIET,
    REFUSED,
    SILENCE,
    Address,
    ClusterTarget,
    SlotMap,
    ask_for_slots,
    read_slots,
    unsettled,
)
from millstream.driver.errand import Errand, Parcel, told_by
from millstream.driver.faults import (
    CONNECTION_LOSS,
    DEMOTED,
    ERROR_REPLIES,
    NoTurn,
    Tries,
    code_of,
    is_connection_loss,
    translate,
)
from millstream.driver.target import Target
from millstream.errors import BrokerError, UsageError
from millstream.protocol.op import Op
from millstream.protocol.slots import slot_of_op

__all__ = ["BlockingCluster"]

logger = logging.getLogger("millstream.driver")


class BlockingCluster:
    """The nodes of a cluster. ``BlockingServer`` has the same methods.

    Args:
        target: where it is.
        connect_timeout: seconds to connect to a node, log in and get the first answer.
        timeout: seconds to wait for a node's replies; then the connection is given up.
    """

    def __init__(self, target: ClusterTarget, *, connect_timeout: float, timeout: float) -> None:
        self.target = target
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._map = SlotMap()
        self._wires: dict[Address, BlockingWire] = {}
        self._targets: dict[Address, Target] = {}
        self._gone = 0
        self._learning = threading.Lock()
        self._learnt = 0.0
        self._guard = threading.Lock()
        self._closed = False

    @property
    def losses(self) -> int:
        """How many connections it has lost so far."""
        return self._gone + sum(wire.losses for wire in self._wires.values())

    def open(self, first: Op[Any]) -> list[Any]:
        """Learn who has which slot, and return a node's raw replies to the first question."""
        self._learn()
        problem: Exception = unsettled(None)
        for node in self._map.masters:
            try:
                return introduce(self._target(node), first, self._connect_timeout)
            except CONNECTION_LOSS as error:
                if not is_connection_loss(error):
                    raise
                problem = error  # it may have died, and nobody has taken over yet
        raise problem

    def perform(self, op: Op[Any], until: float) -> list[Any]:
        """Run an operation; return raw replies, errors in their places.

        It follows slots that move, and waits for those that have no master.

        Args:
            op: to run.
            until: time on the monotonic clock up to which it may take.

        Raises:
            redis-py's errors, or TimeoutError: it was lost, or there was no more time.
        """
        errand, tries = Errand(op), None
        while True:
            for parcel in errand.parcels(self._map):
                self._send(errand, parcel, until)
            if errand.must_end():
                self.lost()
                raise errand.problem()
            if errand.done:
                return errand.replies
            self._moved(errand.moved)
            if errand.outdated:
                self.lost()
            if errand.may_go_on():
                continue
            tries = tries or Tries(until)
            pause = tries.next_pause(time.monotonic())
            if pause is None or self._closed:
                raise errand.problem()
            time.sleep(pause)

    def _send(self, errand: Errand, parcel: Parcel, until: float) -> None:
        if parcel.node is None:
            errand.failed(parcel, None)
            return
        try:
            wire = self._wire(parcel.node)
            replies = exchange(wire, parcel.op, until, asking=parcel.asking)
        except NoTurn:
            if errand.touched:
                raise TimeoutError(_PARTLY) from None
            raise
        except (exceptions.RedisError, OSError) as error:
            errand.failed(parcel, error)
        else:
            errand.answered(parcel, replies)

    def slots(self) -> list[int | None]:
        """Return a slot of each node; see ``Nodes``."""
        owners = self._map.owners
        return [owners.index(node) for node in self._map.masters]

    def has_left(self, target: Target) -> bool:
        """Tell whether a node has no slots any more; it looks again now and then."""
        if time.monotonic() - self._learnt >= GLANCE:
            self.lost()
        return target not in [self._target(node) for node in self._map.masters]

    def slot_of(self, op: Op[Any]) -> int | None:
        """Return the slot of an operation; None: any node can run it."""
        return slot_of_op(op)

    def target_for(self, op: Op[Any]) -> Target:
        """Return the node where an operation belongs.

        Raises:
            redis-py's errors: there is none at present.
        """
        slot = slot_of_op(op) or 0
        node = self._map.owners[slot]
        if node is None:
            self.lost()
            raise unsettled(None)
        return self._target(node)

    def explain(self, error: Exception, op: Op[Any]) -> BrokerError:
        """Return what to make of an error that a listener has met with, and learn from it."""
        if not isinstance(error, ERROR_REPLIES):
            self.lost()
        elif (code := code_of(error)) in REFUSED:
            if code == "MOVED" and (told := told_by(error, self._map.owners[slot_of_op(op) or 0])):
                self._moved([told])
            self.lost()
            error = unsettled(error)
        return translate(error, self.target.url)

    def lost(self) -> None:
        """Learn anew who has which slot, unless another thread does: something has changed, perhaps."""
        if self._closed or not self._learning.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._learnt >= QUIET:
                self._learn()
        except (exceptions.RedisError, OSError, UsageError) as error:
            # Whoever waits for an answer says it louder.
            logger.debug("%s: cannot learn who has which slot: %s", self.target.url, error)
        finally:
            self._learnt = time.monotonic()
            self._learning.release()

    def failed(self, error: Exception) -> None:
        """Hear that an operation has failed."""
        if code_of(error) in DEMOTED:
            self.lost()

    def close(self) -> None:
        """Disconnect from all nodes."""
        self._closed = True
        for wire in [*self._wires.values()]:
            wire.close()

    def _wire(self, node: Address) -> BlockingWire:
        with self._guard:
            wire = self._wires.get(node)
            if wire is None:
                if self._closed:
                    message = "the client is closed"
                    raise exceptions.ConnectionError(message)
                wire = self._wires[node] = BlockingWire(
                    self._target(node), connect_timeout=self._connect_timeout, timeout=self._timeout
                )
                wire.silence = SILENCE, partial(self._hangs, node)
            return wire

    def _hangs(self, node: Address) -> bool:
        """Look again who has which slot, for a node does not answer; tell whether it has none now."""
        self.lost()
        return node not in self._map.masters

    def _target(self, node: Address) -> Target:
        """Return the same target for the same node: listeners compare it with the one they have."""
        target = self._targets.get(node)
        if target is None:
            target = self._targets[node] = self.target.node(node)
        return target

    # Who has which slot

    def _moved(self, told: Sequence[tuple[int, Address]]) -> None:
        with self._guard:
            for slot, node in told:
                self._map = self._map.moved(slot, node)

    def _learn(self) -> None:
        """Ask one node after the other who has which slot, until one answers."""
        # In any order: one that hangs would hold everybody up each time.
        known = self._map.masters
        nodes = dict.fromkeys([*random.sample(known, len(known)), *self.target.seeds])
        problem: Exception = unsettled(None)
        for node in nodes:
            try:
                slots = self._ask(node)
            except (exceptions.RedisError, OSError) as error:
                problem = error
                continue
            self._take(slots)
            return
        raise problem

    def _ask(self, node: Address) -> SlotMap:
        # On a connection of its own: the other may be the one that hangs.
        patience = min(self._connect_timeout, PATIENCE)
        [reply] = introduce(self._target(node), ask_for_slots(), patience)
        return read_slots(reply, node, self._target(node).url)

    def _take(self, slots: SlotMap) -> None:
        with self._guard:
            left = {*self._map.masters} - {*slots.masters}
            self._map = slots
            wires = [self._wires.pop(node) for node in left if node in self._wires]
            self._gone += sum(wire.losses for wire in wires)
        for wire in wires:
            # A thread that still waits there sees by itself that the node is none any more.
            wire.retire()


_PARTLY = "calls of other threads were before a part of it all the time"
