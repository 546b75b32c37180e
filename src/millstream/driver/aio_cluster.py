"""A cluster, as the asyncio driver uses it: a wire to each node, and operations go to their slot's."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any
from weakref import WeakSet

from redis import exceptions

from millstream.driver.aio_server import exchange
from millstream.driver.aio_wire import AsyncWire
from millstream.driver.cluster import (
    GLANCE,
    PATIENCE,
    QUIET,
    REFUSED,
    SILENCE,
    Address,
    ClusterTarget,
    Follower,
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
    Tries,
    code_of,
    is_connection_loss,
    translate,
)
from millstream.driver.packing import pack
from millstream.driver.target import Target
from millstream.errors import BrokerError, UsageError
from millstream.protocol.op import Op
from millstream.protocol.slots import slot_of_op

__all__ = ["AsyncCluster"]

logger = logging.getLogger("millstream.driver")


class AsyncCluster:
    """The nodes of a cluster. ``AsyncServer`` has the same methods.

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
        self._wires: dict[Address, AsyncWire] = {}
        self._targets: dict[Address, Target] = {}
        self._gone = 0
        self._listeners: WeakSet[Follower] = WeakSet()
        self._learnt = 0.0
        self._learning: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def losses(self) -> int:
        """How many connections it has lost so far."""
        return self._gone + sum(wire.losses for wire in self._wires.values())

    async def open(self, first: Op[Any]) -> list[Any]:
        """Learn who has which slot, and return a node's raw replies to the first question."""
        await self._learn()
        problem: Exception = unsettled(None)
        for node in self._map.masters:
            try:
                return await self._wire(node).call(pack(first.commands), len(first.commands))
            except CONNECTION_LOSS as error:
                if not is_connection_loss(error):
                    raise
                problem = error  # it may have died, and nobody has taken over yet
        raise problem

    async def perform(self, op: Op[Any], until: float) -> list[Any]:
        """Run an operation; return raw replies, errors in their places.

        It follows slots that move, and waits for those that have no master.

        Args:
            op: to run.
            until: time of the event loop's clock up to which it may take.

        Raises:
            redis-py's errors, or TimeoutError: it was lost, or there was no more time.
        """
        errand, tries = Errand(op), None
        loop = asyncio.get_running_loop()
        self._keep_watch(loop)
        while True:
            parcels = errand.parcels(self._map)
            if len(parcels) == 1:
                await self._send(errand, parcels[0], until)
            else:
                await asyncio.gather(*(self._send(errand, one, until) for one in parcels))
            if errand.must_end():
                self.lost()
                raise errand.problem()
            if errand.done:
                return errand.replies
            for slot, node in errand.moved:
                self._map = self._map.moved(slot, node)
            if errand.outdated:
                self.lost()
            if errand.may_go_on():
                continue
            tries = tries or Tries(until)
            pause = tries.next_pause(loop.time())
            if pause is None or self._closed:
                raise errand.problem()
            await asyncio.sleep(pause)

    async def _send(self, errand: Errand, parcel: Parcel, until: float) -> None:
        if parcel.node is None:
            errand.failed(parcel, None)
            return
        try:
            wire = self._wire(parcel.node)
            replies = await exchange(wire, parcel.op, until, asking=parcel.asking)
        except (exceptions.RedisError, OSError) as error:
            errand.failed(parcel, error)
        else:
            errand.answered(parcel, replies)

    def slots(self) -> list[int | None]:
        """Return a slot of each node; see ``Nodes``."""
        owners = self._map.owners
        return [owners.index(node) for node in self._map.masters]

    def attach(self, listener: Follower) -> None:
        """Hear of a connection that somebody waits on: it is cut when its node is left."""
        self._listeners.add(listener)
        self._keep_watch(asyncio.get_running_loop())

    def slot_of(self, op: Op[Any]) -> int | None:
        """Return the slot of an operation; None: any node can run it."""
        return slot_of_op(op)

    async def target_for(self, op: Op[Any]) -> Target:
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
                self._map = self._map.moved(*told)
            self.lost()
            error = unsettled(error)
        return translate(error, self.target.url)

    def lost(self) -> None:
        """Learn anew who has which slot, beside what goes on: something has changed, perhaps."""
        if not self._closed and (self._learning is None or self._learning.done()):
            self._learning = asyncio.create_task(self._try_to_learn(), name="millstream-cluster")

    async def failed(self, error: Exception) -> None:
        """Hear that an operation has failed."""
        if code_of(error) in DEMOTED:
            self.lost()

    async def close(self) -> None:
        """Disconnect from all nodes."""
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
        for wire in [*self._wires.values()]:
            await wire.close()

    def _wire(self, node: Address) -> AsyncWire:
        wire = self._wires.get(node)
        if wire is None:
            if self._closed:
                message = "the client is closed"
                raise exceptions.ConnectionError(message)
            wire = self._wires[node] = AsyncWire(
                self._target(node), connect_timeout=self._connect_timeout, timeout=self._timeout
            )
        return wire

    def _target(self, node: Address) -> Target:
        """Return the same target for the same node: listeners compare it with the one they have."""
        target = self._targets.get(node)
        if target is None:
            target = self._targets[node] = self.target.node(node)
        return target

    # Who has which slot

    async def _try_to_learn(self) -> None:
        try:
            await self._learn()
        except (exceptions.RedisError, OSError, UsageError) as error:
            # Whoever waits for an answer says it louder.
            logger.debug("%s: cannot learn who has which slot: %s", self.target.url, error)
        await asyncio.sleep(QUIET)

    async def _learn(self) -> None:
        """Ask one node after the other who has which slot, until one answers."""
        # In any order: one that hangs would hold everybody up each time.
        known = self._map.masters
        nodes = dict.fromkeys([*random.sample(known, len(known)), *self.target.seeds])
        problem: Exception = unsettled(None)
        for node in nodes:
            try:
                slots = await self._ask(node)
            except (exceptions.RedisError, OSError) as error:
                problem = error
                continue
            await self._take(slots)
            return
        raise problem

    async def _ask(self, node: Address) -> SlotMap:
        patience, question = min(self._connect_timeout, PATIENCE), pack(ask_for_slots().commands)
        known = self._wires.get(node)
        wire = known or AsyncWire(
            self._target(node), connect_timeout=patience, timeout=self._timeout
        )
        try:
            async with asyncio.timeout(patience):
                [reply] = await wire.call(question, 1)
        finally:
            if wire is not known:
                await wire.close()
        return read_slots(reply, node, self._target(node).url)

    async def _take(self, slots: SlotMap) -> None:
        left = {*self._map.masters} - {*slots.masters}
        self._map, self._learnt = slots, asyncio.get_running_loop().time()
        nodes = [self._target(node) for node in slots.masters]
        for listener in [*self._listeners]:
            listener.leave(nodes)
        for node in left:
            # Who waits for what has gone to it is told so, and asks its successor.
            if (wire := self._wires.pop(node, None)) is not None:
                await wire.close()
                self._gone += wire.losses

    def _keep_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._watchdog is None and not self._closed:
            self._watchdog = loop.call_later(SILENCE, self._watch, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again who has which slot, when a node does not answer for long: it may hang.

        Who sleeps at a node cannot know, so for them it is done now and then.
        """
        self._watchdog, now = None, loop.time()
        waiting = [since for wire in self._wires.values() if (since := wire.waiting_since)]
        silent = waiting and now - min(waiting) >= SILENCE
        if silent or (self._listeners and now - self._learnt >= GLANCE):
            self.lost()
        if waiting or self._listeners:
            self._keep_watch(loop)
