"""A cluster by the word of one of its nodes: who is in it, whose replica it is, and who has which slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from millstream.protocol.op import Command, Op
from millstream.protocol.slots import SLOTS

__all__ = ["Member", "View", "ask_for_members"]


class Member(msgspec.Struct, frozen=True):
    """A node, as another one knows it.

    Attributes:
        name: that the cluster gave it.
        host, port: where clients reach it.
        flags: such as ``master``, ``fail``.
        primary: the name of the node that it is a replica of.
        slots: that it has: the first and the last of each range.
        moving: how many of its slots are on their way from or to it; only it knows of these.
    """

    name: str
    host: str
    port: int
    flags: frozenset[str] = frozenset()
    primary: str | None = None
    slots: tuple[tuple[int, int], ...] = ()
    moving: int = 0

    @property
    def down(self) -> bool:
        """Whether it is held for dead, or about to be."""
        return bool(self.flags & {"fail", "fail?"})


class View(msgspec.Struct, frozen=True):
    """What one node says of its cluster.

    Attributes:
        me: the name of that node; None: it may not be asked.
        members: all that it knows, itself included, and where they are.
        refused: why it did not tell all of it; empty: it did.
    """

    me: str | None
    members: tuple[Member, ...]
    refused: str = ""

    def owners(self) -> list[str | None]:
        """Return the name of each slot's owner."""
        owners: list[str | None] = [None] * SLOTS
        for one in self.members:
            for first, last in one.slots:
                owners[first : last + 1] = [one.name] * (last + 1 - first)
        return owners


def ask_for_members(asked: str) -> Op[View]:
    """Ask a node who is in its cluster.

    Args:
        asked: its host; one that does not know its own leaves it out.
    """
    commands = (Command(("CLUSTER", "NODES"), optional=True), Command(("CLUSTER", "SLOTS")))

    def decode(replies: list[Any]) -> View:
        nodes, slots = replies
        shared = _of_slots(slots, asked)
        if isinstance(
            nodes, Exception
        ):  # this user may ask what each client has to ask, and no more
            return View(None, tuple(shared.values()), str(nodes))
        lines = [line.split() for line in nodes.decode().splitlines()]
        found = [_member(words, asked) for words in lines if len(words) > _SLOTS_FROM - 1]
        me = next((one.name for one in found if "myself" in one.flags), None)
        # Clients are told other addresses than nodes, perhaps: behind a NAT, or by their names.
        placed = [
            replace(one, host=shared[one.name].host, port=shared[one.name].port)
            if one.name in shared
            else one
            for one in found
        ]
        known = [one for one in placed if one.port and not one.flags & {"noaddr", "handshake"}]
        return View(me, tuple(known))

    return Op(commands, decode)


_SLOTS_FROM = 8


def _member(words: Sequence[str], asked: str) -> Member:
    name, place, flags, primary, *_ = words
    host, _, port = place.partition(",")[0].partition("@")[0].rpartition(":")
    slots = [word for word in words[_SLOTS_FROM:] if not word.startswith("[")]
    return Member(
        name,
        host or asked,
        int(port),
        frozenset(flags.split(",")),
        None if primary == "-" else primary,
        tuple(_range(word) for word in slots),
        moving=len(words) - _SLOTS_FROM - len(slots),
    )


def _range(word: str) -> tuple[int, int]:
    first, _, last = word.partition("-")
    return int(first), int(last or first)


def _of_slots(reply: Any, asked: str) -> dict[str, Member]:
    """Read who has which slot, as clients are told."""
    found: dict[str, Member] = {}
    for first, last, *nodes in reply:
        primary = nodes[0][2].decode()
        for host, port, name, *_ in nodes:
            known = (host or b"").decode()
            own = name.decode()
            one = found.get(own) or Member(own, asked if known in ("", "?") else known, int(port))
            if own == primary:
                one = replace(
                    one, flags=frozenset({"master"}), slots=(*one.slots, (int(first), int(last)))
                )
            else:
                one = replace(one, flags=frozenset({"slave"}), primary=primary)
            found[own] = one
    return found
