"""What Sentinels know and would do: it decides whether a replica takes over, and how soon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from millstream.protocol.doctor.clusters import CLIENT_TIMEOUT
from millstream.protocol.doctor.facts import number
from millstream.protocol.doctor.finding import SENTINEL, SENTINELS, Finding, note, risk
from millstream.protocol.doctor.nodes import Node, of_nodes
from millstream.protocol.op import Command, Op

__all__ = ["Sentry", "Told", "ask_sentinel", "of_sentinels", "primary_of", "servers_of"]

FEWEST = 3
LONG_PAUSE = 60
"""Seconds of failover-timeout: after a failover that failed they wait for twice as long."""

Address = tuple[str, int]
_GONE = frozenset({"s_down", "o_down", "disconnected"})


class Told(msgspec.Struct, frozen=True):
    """What one Sentinel says.

    Attributes:
        primary: where it is; None: it knows no such name.
        state: what else it knows of the primary; empty: this user may not ask.
        replicas, others: what it knows of the replicas, and of other Sentinels.
        no_quorum: why there would be no failover; empty: there would be one, or who knows.
        refused: what it did not answer: the question, and the reason.
    """

    primary: Address | None
    state: Mapping[str, str]
    replicas: tuple[Mapping[str, str], ...] = ()
    others: tuple[Mapping[str, str], ...] = ()
    no_quorum: str = ""
    refused: tuple[tuple[str, str], ...] = ()


class Sentry(msgspec.Struct, frozen=True):
    """A Sentinel that the URL names, and what it says; nothing, if it cannot be reached."""

    node: Node
    told: Told | None


def ask_sentinel(name: str) -> Op[Told]:
    """Ask a Sentinel for all that it knows of a primary.

    Args:
        name: of the primary.
    """
    verbs = ("MASTER", "REPLICAS", "SENTINELS", "CKQUORUM")
    questions = [("SENTINEL", verb, name) for verb in verbs]
    commands = (
        Command(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)),
        *(Command(one, optional=True) for one in questions),
    )

    def decode(replies: list[Any]) -> Told:
        address, *answers = replies
        if address is None:
            return Told(None, {})
        state, replicas, others, quorum = answers
        failed = [
            (verb, str(reply))
            for verb, reply in zip(verbs, answers, strict=True)
            if isinstance(reply, Exception)
        ]
        lacking = str(quorum) if isinstance(quorum, Exception) else ""
        return Told(
            (address[0].decode(), int(address[1])),
            {} if isinstance(state, Exception) else _pairs(state),
            () if isinstance(replicas, Exception) else tuple(map(_pairs, replicas)),
            () if isinstance(others, Exception) else tuple(map(_pairs, others)),
            no_quorum=lacking if "NOQUORUM" in lacking else "",
            refused=tuple(one for one in failed if "NOQUORUM" not in one[1]),
        )

    return Op(commands, decode)


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    words = [word.decode("utf-8", "replace") for word in flat]
    return dict(zip(words[::2], words[1::2], strict=False))


def primary_of(sentries: Iterable[Sentry]) -> Address | None:
    """Return where the primary is by the word of most Sentinels; None: none of them knows."""
    named = [one.told.primary for one in sentries if one.told is not None and one.told.primary]
    return max(named, key=named.count) if named else None


def servers_of(sentries: Iterable[Sentry]) -> list[Address]:
    """Return where all servers are that the Sentinels know, the primary first."""
    sentries = [*sentries]
    told = [one.told for one in sentries if one.told is not None]
    first = primary_of(sentries)
    replicas = (_address(row) for one in told for row in one.replicas)
    found = [first, *(one.primary for one in told), *sorted(replicas)]
    return [one for one in dict.fromkeys(found) if one is not None]


def _address(row: Mapping[str, str]) -> Address:
    return row.get("ip", "?"), int(number(row.get("port")) or 0)


def of_sentinels(
    name: str, sentries: Sequence[Sentry], servers: Sequence[Node]
) -> Iterator[Finding]:
    """Look at the Sentinels and at the servers that they watch.

    Args:
        name: of the primary.
        sentries: each that the URL names.
        servers: each that they know.
    """
    yield from of_nodes(servers)
    for one in sentries:
        found = [_unasked(one.node)] if one.told is None else _of_one(name, one.told)
        yield from (replace(one.node.place(each), subject=SENTINEL) for each in found)
    told = [one.told for one in sentries if one.told is not None and one.told.primary]
    yield from _of_all(name, told, sentries)
    for server in servers:
        named = {one.primary for one in told} == {server.address}
        if named and server.facts is not None and server.facts.info.get("role") == "slave":
            yield server.place(
                risk(
                    "sentinel.wrong_primary",
                    "the Sentinels name it the primary, and it is a replica",
                    why="clients connect to no replica: all calls wait",
                    fix=f"nothing, if a failover is on its way; else SENTINEL RESET {name} at each Sentinel",
                )
            )


def _unasked(node: Node) -> Finding:
    if node.refused:
        return risk(
            "sentinel.refused",
            f"it does not let this user in: {node.problem}",
            why="clients cannot ask it where the primary is",
            fix="give sentinel_username and sentinel_password; millstream acl --sentinel prints the rules",
        )
    return risk(
        "sentinel.unreachable",
        node.problem,
        why="when too few are left, no replica takes over, and clients do not find the primary",
        fix="start it, or look why it cannot be reached from here; if it is gone for good, take it out of "
        "the URL, and have the others forget it: SENTINEL RESET",
    )


def _of_one(name: str, told: Told) -> Iterator[Finding]:
    if told.primary is None:
        yield risk(
            "sentinel.unknown",
            f"it knows no primary named {name!r}",
            why="it takes no part in a failover, and cannot tell clients where the primary is",
            fix=f"SENTINEL MONITOR {name} PRIMARY-HOST PORT QUORUM",
        )
        return
    for verb, reason in told.refused:
        yield note(
            "unchecked.sentinel",
            f"SENTINEL {verb} was refused: {reason}",
            why="what it knows of replicas and other Sentinels could not be checked",
            fix=f"give its user +sentinel|{verb.lower()}: millstream acl doctor --sentinel",
        )
    if doubts := {*told.state.get("flags", "").split(",")} & _GONE:
        yield risk(
            "sentinel.primary_down",
            f"it does not hear from the primary: {', '.join(sorted(doubts))}",
            why="calls wait until a replica has taken over, or the primary answers again",
            fix=f"SENTINEL CKQUORUM {name} tells whether a failover can begin",
        )
    yield from _times(name, told.state)
    yield from _replicas(name, told)
    if told.no_quorum:
        yield risk(
            "sentinel.no_quorum",
            f"it would begin no failover: {told.no_quorum}",
            why="when the primary dies, all messages wait until somebody acts",
            fix="bring the other Sentinels back",
        )


def _times(name: str, state: Mapping[str, str]) -> Iterator[Finding]:
    down_after = (number(state.get("down-after-milliseconds")) or 0) / 1000
    if down_after >= CLIENT_TIMEOUT:
        yield note(
            "sentinel.slow_failover",
            f"down-after-milliseconds is {down_after:.0f} s",
            why=f"a failover takes longer than that, and calls wait for {CLIENT_TIMEOUT} s by default: "
            "then they raise NotConnected",
            fix=f"SENTINEL SET {name} down-after-milliseconds 5000; or give clients a longer timeout=",
        )
    pause = (number(state.get("failover-timeout")) or 0) / 1000
    if pause >= LONG_PAUSE:
        yield note(
            "sentinel.late_repetition",
            f"failover-timeout is {pause:.0f} s",
            why=f"after a failover that has failed, the next begins {2 * pause:.0f} s later; calls wait",
            fix=f"SENTINEL SET {name} failover-timeout 10000",
        )


def _replicas(name: str, told: Told) -> Iterator[Finding]:
    if "REPLICAS" in dict(told.refused):
        return
    good = []
    for row in told.replicas:
        gone = _GONE & {*row.get("flags", "").split(",")}
        if gone or row.get("master-link-status", "ok") != "ok":
            host, port = _address(row)
            state = ", ".join(sorted(gone)) or "its link to the primary is down"
            yield risk(
                "sentinel.replica_down",
                f"replica {host}:{port} is not well: {state}",
                why="it cannot take over",
                fix=f"bring it back; if it is gone for good, SENTINEL RESET {name}",
            )
        elif row.get("slave-priority") != "0":
            good.append(row)
    if not good:
        yield risk(
            "sentinel.no_candidate",
            "it knows no replica that can take over",
            why="when the primary dies, all messages wait until it is back",
            fix="start a replica, or bring one back; one with replica-priority 0 never takes over",
        )


def _of_all(name: str, told: Sequence[Told], sentries: Sequence[Sentry]) -> Iterator[Finding]:
    named = Counter(one.primary for one in told)
    if len(named) > 1:
        shown = ", ".join(f"{host}:{port} ({many})" for (host, port), many in _known(named))
        yield risk(
            "sentinel.disagree",
            f"they name different primaries: {shown}",
            why="clients take the newest answer, and wait until it is a primary",
            fix=f"nothing, if a failover is on its way; else SENTINEL RESET {name} at those that are wrong",
            subject=SENTINELS,
        )
    counts = [number(one.state.get("num-other-sentinels")) for one in told]
    if not (known := [int(one) + 1 for one in counts if one is not None]):
        return
    total = max(known)
    yield from _numbers(name, total, told)
    for one in sentries:
        state = {} if one.told is None else one.told.state
        others = number(state.get("num-other-sentinels"))
        if others is not None and others + 1 < total:
            found = risk(
                "sentinel.strangers",
                f"it knows {others:.0f} other Sentinels of {total - 1}",
                why="they find each other through the primary; it may be watching another one, and takes "
                "no part in a failover",
                fix="look whether it reaches the primary, and may publish there",
            )
            yield replace(one.node.place(found), subject=SENTINEL)
    gone = {
        _address(row) for one in told for row in one.others if _GONE & {*row["flags"].split(",")}
    }
    for host, port in sorted(gone - {one.node.address for one in sentries}):
        yield risk(
            "sentinel.lost",
            f"the Sentinel at {host}:{port}, which the URL does not name, does not answer the others",
            why="it still counts when they ask for a majority",
            fix=f"bring it back; if it is gone for good, SENTINEL RESET {name} at each of the others",
            subject=SENTINELS,
        )
    if len(sentries) < total:
        yield note(
            "sentinel.unnamed",
            f"the URL names {len(sentries)} of {total} Sentinels",
            why="when those are down, clients do not find the primary, although it is there",
            fix="name all of them in the URL",
            subject=SENTINELS,
        )


def _known(named: Counter[Address | None]) -> list[tuple[Address, int]]:
    return [(address, many) for address, many in named.most_common() if address is not None]


def _numbers(name: str, total: int, told: Sequence[Told]) -> Iterator[Finding]:
    quorum = max(int(number(one.state.get("quorum")) or 0) for one in told)
    if total < FEWEST:
        yield risk(
            "sentinel.few",
            f"{'there is 1 Sentinel' if total == 1 else f'there are {total} Sentinels'}",
            why="a failover needs most of them: when one is lost, perhaps with the primary's machine, "
            "no replica takes over",
            fix="run three or more, each on a machine of its own",
            subject=SENTINELS,
        )
    elif quorum >= total:
        yield risk(
            "sentinel.quorum",
            f"the quorum is {quorum} of {total} Sentinels",
            why="when one of them is down, no replica takes over",
            fix=f"SENTINEL SET {name} quorum {total // 2 + 1}, at each",
            subject=SENTINELS,
        )
