"""The proof: what of the promises of docs/guarantees.md a run has broken. Pure functions of its record.

Each rule says what it relies on. Where a rule forgives something, the comment says why that is no
fault of the library.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.chaos.history import Given, History, Sent

__all__ = ["CLOCKS", "RULES", "LateStarts", "Rule", "Violation", "by_cid", "check", "excused"]

CLOCKS = 0.003
"""Seconds by which something may seem early: the server's clock is cut to whole milliseconds, and
may be slewed against the monotonic one by half a millisecond a second, for waits of up to 2 s."""

LATE_START = 0.5
"""Seconds after a stop in which a thread that was stopped just before its handler gets to begin."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken.

    Attributes:
        rule: which; the name of a function here.
        source: where.
        cid: of the message that is concerned, if it is one.
        what: has happened.
    """

    rule: str
    source: str
    cid: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.source} {self.cid}: {self.what}"


Rule = Callable[[History], Iterator[Violation]]


def check(history: History, rules: Iterable[Rule]) -> list[Violation]:
    """Return what was broken of some rules; empty: nothing was."""
    return [violation for rule in rules for violation in rule(history)]


def by_cid(deliveries: Iterable[Given]) -> dict[str, list[Given]]:
    """Sort deliveries by their message."""
    found: dict[str, list[Given]] = defaultdict(list)
    for given in deliveries:
        found[given.cid].append(given)
    return found


def lost(history: History) -> Iterator[Violation]:
    """A message whose send returned was handled, or is with the dead letters."""
    if not history.complete:
        return
    dead = {(one.source, cid) for one in history.finals for cid, _, _ in one.dead}
    for source, sent in history.sent.items():
        # Whose end was refused owned the message no more: somebody else has to have handled it.
        handled = {
            given.cid
            for given in history.given[source]
            if given.end == "done" and given.refused is None
        }
        for one in sent.values():
            if not history.kept(one):
                continue
            if one.cid not in handled and (source, one.cid) not in dead:
                yield Violation("lost", source, one.cid, f"confirmed as {one.id}, never handled")


def ghosts(history: History) -> Iterator[Violation]:
    """What is delivered was sent to there before, and is what was sent."""
    for source, deliveries in history.given.items():
        sent = history.sent[source]
        for given in deliveries:
            asked = history.asked.get(given.cid)
            begun = sent[given.cid].begun if given.cid in sent else asked.begun if asked else None
            if begun is None or begun > given.begun:
                yield Violation(
                    "ghosts", source, given.cid, f"{given.process} got what nobody sent"
                )
            elif not given.whole:
                yield Violation("ghosts", source, given.cid, "its body or key is not what was sent")


def stored_twice(history: History) -> Iterator[Violation]:
    """One send is one message: it has one id, that of its receipt, in deliveries and dead letters."""
    for source, deliveries in history.given.items():
        ids: dict[str, set[str]] = defaultdict(set)
        for given in deliveries:
            ids[given.cid].add(given.id)
        for final in history.finals:
            if final.source == source:
                for cid, id, _ in final.dead:
                    ids[cid].add(id)
        for cid, sent in history.sent[source].items():
            if sent.id is not None and cid in ids:
                ids[cid].add(sent.id)
            # What was stored, and forgotten before its send returned, is stored again.
            again = history.lost_between(sent.begun, sent.confirmed or math.inf)
            if len(ids.get(cid, ())) > 1 and not again:
                yield Violation("stored_twice", source, cid, f"has ids {sorted(ids[cid])}")


def settled_twice(history: History) -> Iterator[Violation]:
    """Of one delivery one end is confirmed, and of one message one final end."""
    for source, deliveries in history.given.items():
        for cid, some in by_cid(deliveries).items():
            ended = [given for given in some if given.settled is not None]
            ended = [one for one in ended if not history.forgotten(one.settled or 0.0)]
            same = Counter((given.attempt, given.crashes) for given in ended)
            final = [given for given in ended if given.handled]
            if any(times > 1 for times in same.values()) or len(final) > 1:
                who = ", ".join(f"{one.process} at {one.settled:.4f}" for one in ended)
                yield Violation("settled_twice", source, cid, f"confirmed to {who}")


class LateStarts:
    """Which deliveries may have begun after they were over.

    A consumer looks whether a message is still its own, and then its handler begins. Nobody can make
    that one step: a process that is stopped exactly between the two begins, when it goes on, with what
    others may have by then. So of each thread of a process, one beginning after each stop is
    forgiven, and no more: what else it holds it has to look at again.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._used: set[tuple[str, int, float]] = set()

    def forgives(self, given: Given, since: float) -> bool:
        """Tell whether the process stood still from before ``since`` until it began."""
        for stop in self._history.stops(given.process):
            if stop.begin <= since and stop.begin < given.begun <= stop.end + LATE_START:
                place = (given.process, given.thread, stop.begin)
                if place not in self._used:
                    self._used.add(place)
                    return True
        return False


def begun_after_its_end(history: History) -> Iterator[Violation]:
    """No handler begins with a message whose final end was confirmed."""
    late = LateStarts(history)
    for source, deliveries in history.given.items():
        for cid, some in by_cid(deliveries).items():
            ends = [given.settled for given in some if given.settled and given.handled]
            over = min((end for end in ends if not history.forgotten(end)), default=math.inf)
            for given in some:
                if given.begun > over and not late.forgives(given, over):
                    what = f"{given.process} began at {given.begun:.4f}, it was over at {over:.4f}"
                    yield Violation("begun_after_its_end", source, cid, what)


def repeated(history: History) -> Iterator[Violation]:
    """Each delivery of a message has a reason: an attempt more, or a crash more.

    Who is stopped in order hands back without blame only what nobody has begun with.
    """
    for source, deliveries in history.given.items():
        seen: dict[tuple[str, int, int], Given] = {}
        for given in deliveries:
            place = given.cid, given.attempt, given.crashes
            before = seen.setdefault(place, given)
            if before is not given and not history.lost_between(before.begun, given.begun):
                what = (
                    f"attempt {given.attempt} with {given.crashes} crashes began at {before.begun:.4f} "
                    f"in {before.process}, and at {given.begun:.4f} in {given.process}"
                )
                yield Violation("repeated", source, given.cid, what)


def excused(history: History, first: Given, when: float) -> bool:
    """Tell whether the lease of a delivery may be over at a moment, by what its consumer suffered.

    The lease is begun anew each third of it. Who could reach the server all the time but for less
    than that has begun it anew within the last two thirds.
    """
    if history.killed.get(first.process, math.inf) <= when:
        return True
    window = history.lease + 1.0
    return history.trouble(first.process, when - window, when) >= history.lease / 3


def beside(history: History) -> Iterator[Violation]:
    """A second copy of a message does not begin while the lease of the first one holds."""
    late = LateStarts(history)
    for source, deliveries in history.given.items():
        for cid, some in by_cid(deliveries).items():
            for first, second in ((a, b) for a in some for b in some if a is not b):
                if not first.begun <= second.begun < first.over:
                    continue
                if excused(history, first, second.begun):
                    continue
                if history.lost_between(first.begun, second.begun):
                    continue
                if not late.forgives(second, first.begun):
                    what = (
                        f"{second.process} began at {second.begun:.4f} while {first.process} had it "
                        f"from {first.begun:.4f} to {first.over:.4f}"
                    )
                    yield Violation("beside", source, cid, what)


def order(history: History) -> Iterator[Violation]:
    """Messages of a key begin when all before them have ended, one at a time, and never go back.

    Only what was confirmed has a place in the order of its producer.
    """
    for source, sent in history.sent.items():
        keys: dict[str, list[Sent]] = defaultdict(list)
        for one in sent.values():
            if one.key is not None and history.kept(one):
                keys[one.key].append(one)
        if keys:
            deliveries = by_cid(history.given[source])
            late = LateStarts(history)
            for some in keys.values():
                some.sort(key=lambda one: one.number)
                yield from _order_of_key(history, late, some, deliveries)


def _order_of_key(
    history: History, late: LateStarts, sent: list[Sent], deliveries: dict[str, list[Given]]
) -> Iterator[Violation]:
    """Check one key: its messages in the order of sending."""
    position = {one.cid: place for place, one in enumerate(sent)}
    begun = [given for one in sent for given in deliveries.get(one.cid, ())]
    begun.sort(key=lambda given: given.begun)
    ended = [
        min((one.over for one in deliveries.get(message.cid, ()) if one.handled), default=math.inf)
        for message in sent
    ]
    furthest = -1
    for index, given in enumerate(begun):
        source, place = given.source, position[given.cid]
        if place < furthest:
            after = next(one for one in begun[:index] if position[one.cid] == furthest)
            if not history.lost_between(after.begun, given.begun):
                if not late.forgives(given, after.begun):
                    what = f"began at {given.begun:.4f}, after {after.cid} at {after.begun:.4f}"
                    yield Violation("order", source, given.cid, what)
            continue
        for between in range(max(furthest, 0), place):
            if ended[between] > given.begun:
                what = f"began at {given.begun:.4f}, before {sent[between].cid} had ended"
                yield Violation("order", source, given.cid, what)
        furthest = place
        for other in begun[:index]:
            if other.cid != given.cid and other.over > given.begun:
                lost = history.lost_between(other.begun, given.begun)
                if not lost and not excused(history, other, given.begun):
                    what = f"began at {given.begun:.4f} while {other.cid} was with {other.process}"
                    yield Violation("order", source, given.cid, what)


def early(history: History) -> Iterator[Violation]:
    """No message begins before its time, no retry before its pause is over."""
    for source, deliveries in history.given.items():
        for cid, some in by_cid(deliveries).items():
            sent = history.sent[source].get(cid)
            for given in some:
                if sent is not None and given.begun < sent.begun + sent.delay - CLOCKS:
                    wait = given.begun - sent.begun
                    what = f"began {wait:.4f} s after its send, which asked for {sent.delay} s"
                    yield Violation("early", source, cid, what)
                # The failures that this attempt follows; one of them was the one that counted.
                before = [
                    one.over + one.pause
                    for one in some
                    if one.attempt == given.attempt - 1 and one.end in ("failed", "later")
                ]
                if before and given.begun < min(before) - CLOCKS:
                    what = f"attempt {given.attempt} began {min(before) - given.begun:.4f} s early"
                    yield Violation("early", source, cid, what)


def paused(history: History) -> Iterator[Violation]:
    """What is sent to a queue that is paused begins with nobody until it is not."""
    for pause in history.pauses:
        if history.lost_between(pause.begin, pause.end):
            continue
        sent = history.sent[pause.source]
        for given in history.given[pause.source]:
            if pause.begin < given.begun < pause.end and given.cid in sent:
                if sent[given.cid].begun > pause.begin:
                    what = f"began at {given.begun:.4f}, paused from {pause.begin:.4f} to {pause.end:.4f}"
                    yield Violation("paused", pause.source, given.cid, what)


def counts(history: History) -> Iterator[Violation]:
    """Ready, delayed, in flight and dead add up to what is not handled."""
    for sample in history.samples:
        if history.lost_between(sample.begin, sample.end):
            continue
        sent, some = history.sent[sample.source], history.given[sample.source]
        # A rejected message is a dead letter, and counts on.
        gone = {
            one.cid
            for one in some
            if one.end == "done" and one.over <= sample.end and one.refused is None
        }
        certain = {
            one.cid
            for one in some
            if one.end == "done" and one.settled is not None and one.settled <= sample.begin
            if not history.forgotten(one.settled)
        }
        least = sum(
            1
            for one in sent.values()
            if one.confirmed is not None and one.confirmed <= sample.begin and one.cid not in gone
            if history.kept(one)
        )
        most = sum(1 for one in sent.values() if one.begun <= sample.end and one.cid not in certain)
        if not least <= sample.count <= most:
            what = f"{sample.count} messages at {sample.end:.4f}, not {least} to {most}"
            yield Violation("counts", sample.source, "", what)
    for final in history.finals:
        ready, delayed, in_flight, dead = final.counts
        if (ready, delayed, in_flight) != (0, 0, 0) or dead != len(final.dead):
            what = f"ready, delayed, in flight, dead: {final.counts}; {len(final.dead)} are listed"
            yield Violation("counts", final.source, "", what)


def dead_letters(history: History) -> Iterator[Violation]:
    """Who is dead was rejected or has failed for good; who was rejected for good is dead."""
    for final in history.finals:
        some = by_cid(history.given[final.source])
        listed = Counter(cid for cid, _, _ in final.dead)
        for cid, times in listed.items():
            if times > 1 and not history.losses:
                yield Violation("dead_letters", final.source, cid, f"is there {times} times")
        for cid, _, reason in final.dead:
            ends = some.get(cid, [])
            if reason == "rejected":
                known = any(one.end == "rejected" for one in ends)
            else:
                known = reason == "attempts" and any(one.final for one in ends)
            if not known:
                yield Violation(
                    "dead_letters", final.source, cid, f"died by {reason!r}: nobody did"
                )
        for cid, ends in some.items():
            for one in ends:
                if one.handled and one.end != "done" and one.settled and cid not in listed:
                    if not history.forgotten(one.settled):
                        what = "its end was confirmed, and it is not among the dead letters"
                        yield Violation("dead_letters", final.source, cid, what)


RULES: tuple[Rule, ...] = (
    lost,
    ghosts,
    stored_twice,
    settled_twice,
    begun_after_its_end,
    repeated,
    beside,
    order,
    early,
    paused,
    counts,
    dead_letters,
)
