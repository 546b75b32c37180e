"""The servers of a run: what can be broken about them, what they forget, and how each is reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.schedule import Fault, Kind
from tests.support.servers import Server

__all__ = ["DURABLE", "LAG", "Forgetting", "Strike", "Tell", "Topology"]

Tell = Callable[..., float]
"""Writes an event of the run; see Recorder.tell."""

Strike = Callable[[Fault], Awaitable[None]]
"""Breaks something, and mends it; it returns when the servers are well again."""

LAG = 2.5
"""Seconds by which a replica may be behind on a busy machine: what was confirmed within them before
its primary was lost may be forgotten, unless the replica has confirmed it itself."""

DURABLE: Mapping[str, str] = {"DURABILITY": "replicas:1"}
"""What producers are told where there are replicas."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What a fault may make the servers forget.

    Attributes:
        seconds: before the fault, from which on what they have confirmed may be lost.
        sends: whether that holds for sends, too; not if a replica has confirmed them.
    """

    seconds: float
    sends: bool


@dataclass(frozen=True, slots=True)
class Topology:
    """The servers of a run, which have been started.

    Attributes:
        title: what there is, for the summary.
        url: by which they are reached past all networks.
        ports: of all that a client may talk to.
        masters: returns the servers that have keys now.
        kinds: what can be broken.
        strikes: how each kind of fault is done.
        forgetting: what they may forget, by the kind of the fault; nothing, if it is not here.
        environment: what processes are told.
    """

    title: str
    url: str
    ports: Sequence[int]
    masters: Callable[[], list[Server]]
    kinds: tuple[Kind, ...]
    strikes: Mapping[str, Strike]
    forgetting: Mapping[str, Forgetting] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    # One fault at a time: to mend it, all servers may have to agree.
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def strike(self, fault: Fault, tell: Tell) -> None:
        """Break something, and mend it; tell how long nobody could use the servers."""
        async with self._turn:
            begin = time.monotonic()
            await self.strikes[fault.kind](fault)
            end = time.monotonic()
        tell("trouble", begin=begin, end=end, who="*")
        if (forgetting := self.forgetting.get(fault.kind)) is not None:
            tell("loss", begin=begin - forgetting.seconds, end=end, sends=forgetting.sends)
