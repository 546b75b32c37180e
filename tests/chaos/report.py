"""What a run says in the end: for people, for a page that is kept, and for scripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.chaos.events import Event
from tests.chaos.run import Outcome

__all__ = ["Figures", "as_markdown", "figures", "timeline"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened in a run, in numbers.

    Attributes:
        sends: messages whose send returned.
        unsure: messages whose send failed or was cut short: nobody knows.
        deliveries: how often a message was begun with.
        redeliveries: how many of these came after a crash.
        retries: how many came after a failure.
        dead: letters.
        refused: settlements that came too late.
        transactions: steps that were moved on.
        results: that somebody was told.
        duplicates: sends with a unique key that was taken.
        full: sends for which there was no room.
        ticks: of the schedule.
        requests: that were made, and how each ended.
        recovery: seconds from when a server was mended until the first delivery, at the most.
        silence: the longest time without any delivery.
        handover: seconds from when a consumer was killed until what it had was begun with, at the most.
    """

    sends: int
    unsure: int
    deliveries: int
    redeliveries: int
    retries: int
    dead: int
    refused: int
    transactions: int
    results: int
    duplicates: int
    full: int
    ticks: int
    requests: dict[str, int]
    recovery: float
    silence: float
    handover: float


def figures(outcome: Outcome) -> Figures:
    """Count what happened."""
    history = outcome.history
    sent = [one for some in history.sent.values() for one in some.values()]
    given = [one for some in history.given.values() for one in some]
    requests = Counter(
        "reply" if one.reply is not None else (one.error or {"error": "cut short"})["error"]
        for one in history.asked.values()
    )
    return Figures(
        sends=sum(1 for one in sent if one.confirmed is not None),
        unsure=sum(1 for one in sent if one.confirmed is None),
        deliveries=len(given),
        redeliveries=sum(1 for one in given if one.crashes),
        retries=sum(1 for one in given if one.attempt > 1),
        dead=sum(len(final.dead) for final in history.finals),
        refused=sum(1 for one in given if one.refused is not None),
        transactions=len(history.ledger or {}),
        results=sum(1 for one in history.waits if one.result is not None),
        duplicates=len(history.duplicates),
        full=len(history.refusals),
        ticks=len({one.time for one in history.ticks}),
        requests=dict(requests),
        recovery=_recovery(outcome),
        silence=_silence(outcome),
        handover=_handover(outcome),
    )


def _recovery(outcome: Outcome) -> float:
    begun = sorted(one.begun for some in outcome.history.given.values() for one in some)
    longest = 0.0
    for trouble in outcome.history.troubles:
        if trouble.who == "*":
            after = next((one for one in begun if one > trouble.end), trouble.end)
            longest = max(longest, after - trouble.end)
    return longest


def _silence(outcome: Outcome) -> float:
    begun = sorted(one.begun for some in outcome.history.given.values() for one in some)
    return max((b - a for a, b in pairwise(begun)), default=0.0)


def _handover(outcome: Outcome) -> float:
    longest = 0.0
    for some in outcome.history.given.values():
        begun: dict[str, list[float]] = {}
        for given in some:
            begun.setdefault(given.cid, []).append(given.begun)
        for given in some:
            killed = outcome.history.killed.get(given.process)
            if given.end is None and killed is not None:
                after = [one for one in begun[given.cid] if one > killed]
                longest = max(longest, min(after) - killed if after else 0.0)
    return longest


def as_markdown(outcome: Outcome, command: str) -> str:
    """Return a summary to keep."""
    found = figures(outcome)
    kinds = Counter(fault.kind for fault in outcome.faults)
    requests = ", ".join(f"{name} {count}" for name, count in sorted(found.requests.items()))
    rows = [
        ("seed", outcome.plan.seed),
        ("faults begin for", f"{outcome.plan.seconds:g} s"),
        ("servers", outcome.servers),
        ("messages sent, confirmed", found.sends),
        ("sends of which nobody knows", found.unsure),
        ("deliveries", found.deliveries),
        ("of these after a crash", found.redeliveries),
        ("of these after a failure", found.retries),
        ("dead letters (rejected, or failed for good)", found.dead),
        ("settlements that were too late", found.refused),
        ("transactions", found.transactions),
        ("results that were told", found.results),
        ("duplicates of a unique key", found.duplicates),
        ("sends to a queue that was full", found.full),
        ("ticks of the schedule", found.ticks),
        ("requests", requests),
        ("slowest recovery after a server was back", f"{found.recovery:.2f} s"),
        ("longest time without any delivery", f"{found.silence:.2f} s"),
        ("slowest hand-over of what a killed process had", f"{found.handover:.2f} s"),
        ("faults", len(outcome.faults)),
        *((f"— {kind}", count) for kind, count in sorted(kinds.items())),
        ("**violations**", f"**{len(outcome.violations)}**"),
    ]
    lines = [f"`{command}`", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows)])


def timeline(events: list[Event], cid: str) -> list[str]:
    """Return all that was told of a message, for who looks into a violation."""
    own: set[tuple[str, Any]] = set()
    lines = []
    for event in sorted(events, key=lambda event: event.time):
        data = event.data
        if data.get("cid") == cid:
            own.add((event.process, data.get("n")))
        elif any(one[0] == cid for one in data.get("messages", ())):
            own.add((event.process, f"op {data['op']}"))
        elif (event.process, data.get("n")) not in own and (
            event.process,
            f"op {data.get('op')}",
        ) not in own:
            continue
        lines.append(str(event))
    return lines
