"""The proof for what some queues have beside others: transactions, results, unique keys, schedules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.chaos.checker import CLOCKS, Violation, by_cid
from tests.chaos.history import Given, History, Sent, Tick, Waited
from tests.chaos.sources import INTERVAL, MADE, MADE_SIGN, SOLE, STEPS, SUMS, TICKS

__all__ = ["FEATURES"]


def transactions(history: History) -> Iterator[Violation]:
    """What is acknowledged in a transaction has all of its effects once, and nothing else has any.

    The ledger is what the server has in the end. A failover that forgets a transaction forgets all of it,
    with the acknowledgement, so it is done again: nothing is forgiven here.
    """
    written, dead = history.ledger or {}, _dead(history, STEPS.name)
    made = {cid.removesuffix(MADE_SIGN) for cid in by_cid(history.given[MADE.name])}
    for cid, times in written.items():
        if times != 1:
            yield Violation("transactions", STEPS.name, cid, f"was moved on {times} times")
        if cid in dead:
            yield Violation("transactions", STEPS.name, cid, "was rejected, and moved on")
        if history.complete and cid not in made:
            yield Violation("transactions", STEPS.name, cid, "is in the ledger, and not sent on")
    for cid in made - written.keys():
        sent = history.sent[MADE.name].get(f"{cid}{MADE_SIGN}")
        # A step that nobody has confirmed may be forgotten, and all that came of it.
        if history.complete and not (sent and history.lost_between(sent.begun, math.inf)):
            yield Violation(
                "transactions", STEPS.name, cid, "was sent on, and is not in the ledger"
            )
    for cid, one in history.sent[STEPS.name].items():
        if history.complete and history.kept(one) and cid not in written and cid not in dead:
            yield Violation("transactions", STEPS.name, cid, "was never moved on")


def results(history: History) -> Iterator[Violation]:
    """A result is that of its own message, of a delivery that has ended it, whoever asks and when."""
    given = {(one.process, one.n): one for one in history.given[SUMS.name]}
    ends = by_cid(history.given[SUMS.name])
    told: dict[str, Any] = {}
    for waited in history.waits:
        for what in _wrong_result(history, waited, given, ends.get(waited.cid, [])):
            yield Violation("results", SUMS.name, waited.cid, what)
        if waited.result is not None:
            before = told.setdefault(waited.cid, waited)
            # Who was told of an acknowledgement that a failover has forgotten is told of another one.
            changed = before.result != waited.result
            if changed and not history.lost_between(before.begun, waited.begun):
                what = f"was {before.result}, and then {waited.result}"
                yield Violation("results", SUMS.name, waited.cid, what)


def _wrong_result(
    history: History, waited: Waited, given: dict[tuple[str, int], Given], ends: list[Given]
) -> Iterator[str]:
    if waited.result is not None:
        one = given.get((waited.result["process"], waited.result["n"]))
        if waited.result["cid"] != waited.cid:
            yield f"has the result of {waited.result['cid']}"
        elif one is None or one.cid != waited.cid or one.end != "done":
            yield f"has a result that no delivery gave: {waited.result}"
        return
    if waited.over is None:
        return  # its process was killed, or will be asked no more
    name = (waited.error or {"error": "nothing"})["error"]
    if name == "RemoteError":
        if not any(one.end == "rejected" or one.final for one in ends):
            yield "is said to have failed, which it did not"
    elif not waited.last and name in ("TimedOut", "NotConnected"):
        return
    elif not history.lost_between(waited.begun - history.lease, math.inf):
        yield f"has no result: {waited.error}"


def unique(history: History) -> Iterator[Violation]:
    """Of one key one message is there at a time, and a duplicate is one of a message that is there."""
    deliveries = by_cid(history.given[SOLE.name])
    keys: dict[str, list[Sent]] = defaultdict(list)
    for sent in history.sent[SOLE.name].values():
        keys[sent.unique or ""].append(sent)
    for key, some in keys.items():
        some.sort(key=lambda one: one.begun)
        for index, one in enumerate(some):
            given = deliveries.get(one.cid, [])
            there, until = _there(one, given)
            for other in some[index + 1 :]:
                if other.begun > until:
                    break
                stored, _ = _there(other, deliveries.get(other.cid, []))
                # Nobody knows of one that was not confirmed and never seen that it was stored.
                alone = stored == math.inf or stored > until or other.begun < there
                if not alone and not history.lost_between(one.begun, stored):
                    what = (
                        f"was stored by {stored:.4f} though {one.cid} had {key} until {until:.4f}"
                    )
                    yield Violation("unique", SOLE.name, other.cid, what)
    yield from _duplicates(history, deliveries)


def _there(sent: Sent, given: list[Given]) -> tuple[float, float]:
    """Return from when until when a message was there for sure."""
    seen = min((one.begun for one in given), default=math.inf)
    since = min(seen, math.inf if sent.confirmed is None else sent.confirmed)
    return since, min((one.over for one in given if one.handled), default=math.inf)


def _duplicates(history: History, deliveries: dict[str, list[Given]]) -> Iterator[Violation]:
    owners = {one.id: one for one in history.sent[SOLE.name].values() if one.id is not None}
    for given in history.given[SOLE.name]:
        if given.cid in history.sent[SOLE.name]:
            owners.setdefault(given.id, history.sent[SOLE.name][given.cid])
    for one in history.duplicates:
        owner = owners.get(one.id)
        if history.lost_between(one.sent.begun - history.lease, math.inf):
            continue  # the message that had the key may be forgotten by now, or its end
        if owner is None:
            if history.complete:
                what = f"is a duplicate of {one.id}, which nobody has sent"
                yield Violation("unique", SOLE.name, one.sent.cid, what)
            continue
        if owner.unique != one.sent.unique:
            what = f"is a duplicate of {owner.cid}, which has another key"
            yield Violation("unique", SOLE.name, one.sent.cid, what)
        ends = [given.settled for given in deliveries.get(owner.cid, []) if history.is_over(given)]
        if any(end is not None and end < one.sent.begun for end in ends):
            what = f"is a duplicate of {owner.cid}, which was over at {ends[0]:.4f}"
            yield Violation("unique", SOLE.name, one.sent.cid, what)


def schedules(history: History) -> Iterator[Violation]:
    """Each tick has one message, and none is missed, however long nobody could send it.

    The schedule is declared with ``missed="all"``. What a failover forgets is a tick together with its
    message, so it is sent again.
    """
    ticks: dict[float, list[Tick]] = defaultdict(list)
    for tick in history.ticks:
        ticks[tick.time].append(tick)
        if tick.early > CLOCKS:
            what = f"the tick of {tick.time} began {tick.early:.4f} s early"
            yield Violation("schedules", TICKS.name, "", what)
    for when, some in ticks.items():
        ids = {tick.id for tick in some}
        if len(ids) > 1 and not history.lost_between(some[0].begun - history.lease, some[-1].begun):
            yield Violation(
                "schedules", TICKS.name, "", f"the tick of {when} has ids {sorted(ids)}"
            )
    for before, after in pairwise(sorted(ticks)):
        if history.complete and after - before > INTERVAL * 1.5:
            what = f"no tick came between {before} and {after}"
            yield Violation("schedules", TICKS.name, "", what)


def _dead(history: History, source: str) -> set[str]:
    finals = [final for final in history.finals if final.source == source]
    return {cid for final in finals for cid, _, _ in final.dead}


FEATURES = (transactions, results, unique, schedules)
