"""Queues and subscriptions, looked at twice: what grows, what is stuck, what nobody takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from millstream.errors import BrokerError, ServerRefused
from millstream.message import ConsumerStats, QueueStats, SubscriptionStats, TopicStats
from millstream.protocol import whole
from millstream.protocol.discovery import list_queues, list_topics, look
from millstream.protocol.doctor.facts import Refusal
from millstream.protocol.doctor.finding import Finding, loses, note, risk
from millstream.protocol.keys import QueueKeys, queue_keys, topic_keys
from millstream.protocol.op import Command, Op, Plan
from millstream.protocol.subscriptions import topic_stats

__all__ = ["Backlog", "Survey", "Watched", "backlogs", "survey", "watched"]

GROWN = 10
"""Messages. Less may be what happened to be on its way."""
WAITED = 60.0
"""Seconds after which somebody should have begun with a message."""
HEARD_OF = 60.0
"""Seconds within which every consumer that lives asks for messages, or extends its leases."""
DEFAULT_LEASE = 30.0
LOSSES = 3
"""So many queues of a cluster may be out of reach before the rest is left out."""


class Backlog(msgspec.Struct, frozen=True):
    """What a queue or a subscription has to do, at one moment.

    Attributes:
        waiting: messages that are ready.
        oldest: how many seconds the oldest of these has waited; None: there is none.
        in_flight: messages that a consumer owns.
        dead: dead letters.
        ended: messages that were handled, have died or were dropped so far.
        trimmed: messages so far that retention deleted before a subscription had them.
        consumers: who reads.
        paused: whether nobody gets a message.
        lease: seconds: the longest that a consumer has; 0: there are none.
        kept: of a subscription: how many messages its topic keeps, and their bytes.
    """

    waiting: int = 0
    oldest: float | None = None
    in_flight: int = 0
    dead: int = 0
    ended: int = 0
    trimmed: int = 0
    consumers: tuple[ConsumerStats, ...] = ()
    paused: bool = False
    lease: float = DEFAULT_LEASE
    kept: tuple[int, int] | None = None


class Survey(msgspec.Struct, frozen=True):
    """All queues and subscriptions of a namespace, at one moment.

    Attributes:
        backlogs: by name; that of a subscription has a slash.
        refused: what could not be looked at.
    """

    backlogs: Mapping[str, Backlog] = msgspec.field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()


class Watched(msgspec.Struct, frozen=True):
    """A queue or subscription, before and after.

    Attributes:
        name: with a slash for a subscription.
        before, after: what it had to do.
        seconds: between the two.
    """

    name: str
    before: Backlog
    after: Backlog
    seconds: float

    @property
    def subject(self) -> str:
        """What findings call it."""
        return f"{'subscription' if '/' in self.name else 'queue'} {self.name!r}"


Drive = Callable[[Plan[Any]], Any]


def survey(namespace: str, drive: Drive, nodes: Sequence[Drive] = ()) -> Survey:
    """Look at all queues and topics of a namespace, one after the other.

    Args:
        namespace: first part of all keys.
        drive: what runs a plan.
        nodes: what runs one at each node of a cluster that can be reached; it is asked what is there.

    What cannot be looked at is noted, and the rest is looked at.
    """
    queues: set[str] = set()
    topics: set[str] = set()
    refused: list[Refusal] = []
    for ask in nodes or (drive,):
        try:
            queues |= {*ask(list_queues(namespace))}
            topics |= {*ask(list_topics(namespace))}
        except BrokerError as error:
            what = f"the queues and topics of namespace {namespace!r}"
            refused.append(Refusal(what, str(error)))
    found: dict[str, Backlog] = {}
    # A node that is away takes some of the queues along, and not the others.
    losses = LOSSES if nodes else 1
    wanted = [*((_queue, "queue", name) for name in sorted(queues))]
    wanted += ((_topic, "topic", name) for name in sorted(topics))
    for look_at, what, name in wanted:
        try:
            found.update(drive(look_at(namespace, name)))
        except ServerRefused as error:
            refused.append(Refusal(f"{what} {name!r}", str(error)))
        except BrokerError as error:
            # The server cannot serve at the moment, and each try takes its time.
            losses -= 1
            rest = "" if losses else ", and what comes behind it,"
            refused.append(Refusal(f"{what} {name!r}{rest}", str(error)))
            if not losses:
                break
        except (ValueError, KeyError, msgspec.MsgspecError) as error:
            reason = f"somebody else has written to its keys ({error})"
            refused.append(Refusal(f"{what} {name!r}", reason))
    return Survey(found, tuple(refused))


def _queue(namespace: str, name: str) -> Plan[dict[str, Backlog]]:
    known = yield look(namespace, name)
    keys = queue_keys(namespace, name, store=known.store)
    counts: QueueStats = yield from whole.stats(keys)
    lease: float = yield _lease(keys)
    return {
        name: Backlog(
            waiting=counts.ready,
            oldest=counts.oldest_ready,
            in_flight=counts.in_flight,
            dead=counts.dead,
            ended=counts.acked + counts.died + counts.dropped + counts.cancelled,
            consumers=counts.consumers,
            paused=counts.paused,
            lease=lease,
        )
    }


def _topic(namespace: str, name: str) -> Plan[dict[str, Backlog]]:
    keys = topic_keys(namespace, name)
    counts: TopicStats = yield from topic_stats(keys)
    found: dict[str, Backlog] = {}
    for one in counts.subscriptions:
        lease: float = yield _lease(keys.subscription(one.name))
        found[f"{name}/{one.name}"] = _subscription(one, counts, lease)
    return found


def _subscription(one: SubscriptionStats, topic: TopicStats, lease: float) -> Backlog:
    return Backlog(
        waiting=one.lag,
        oldest=one.oldest_unhandled,
        in_flight=one.in_flight,
        dead=one.dead,
        ended=one.acked + one.died + one.filtered,
        trimmed=one.trimmed,
        consumers=one.consumers,
        paused=one.paused,
        lease=lease,
        kept=(topic.length, topic.bytes),
    )


def _lease(keys: QueueKeys) -> Op[float]:
    def decode(replies: list[list[bytes]]) -> float:
        leases = [int(value) / 1000 for value in replies[0][1::2] if value.isdigit()]
        return max(leases, default=DEFAULT_LEASE)

    return Op((Command(("HGETALL", keys.consumers)),), decode)


def watched(before: Survey, after: Survey, seconds: float) -> list[Watched]:
    """Put two looks together; what is new has had nothing to do before."""
    return [
        Watched(name, before.backlogs.get(name, Backlog()), found, seconds)
        for name, found in after.backlogs.items()
    ]


def backlogs(one: Watched) -> Iterator[Finding]:
    """Look at one queue or subscription."""
    after = one.after
    if after.paused:
        yield note(
            "queue.paused",
            f"it is paused; {after.waiting:,} messages wait",
            why="nobody gets a message until it is resumed",
            fix=f"millstream resume {one.name}",
            subject=one.subject,
        )
    else:
        yield from _unconsumed(one)
        yield from _growing(one)
    yield from _consumers(one)
    yield from _ends(one)


def _alive(now: Backlog) -> list[ConsumerStats]:
    return [one for one in now.consumers if one.idle <= _silence(now)]


def _silence(now: Backlog) -> float:
    return now.lease + HEARD_OF


def _unconsumed(one: Watched) -> Iterator[Finding]:
    after = one.after
    if not after.waiting or (after.oldest or 0) < WAITED or _alive(after):
        return
    waits = f"{after.waiting:,} messages wait, the oldest for {after.oldest:,.0f} s"
    if after.kept is None:
        yield risk(
            "queue.unconsumed",
            f"nobody takes its messages: {waits}",
            why="they wait for ever, and fill the memory",
            fix="start a worker for it: millstream run MODULE:WORKER",
            subject=one.subject,
        )
        return
    length, size = after.kept
    topic, _, name = one.name.partition("/")
    yield risk(
        "topic.forgotten",
        f"nobody reads it: {waits}",
        why=f"the topic keeps what a subscription has not handled, {length:,} messages of "
        f"{size:,} bytes now, until the memory is full and sends are refused",
        fix=f"millstream unsubscribe {topic} {name}, or start its worker",
        subject=one.subject,
    )


def _growing(one: Watched) -> Iterator[Finding]:
    before, after = one.before, one.after
    grown = after.waiting - before.waiting
    # What waits must be old: a burst that is being worked off is no backlog.
    if grown < GROWN or (after.oldest or 0) < one.seconds or not _alive(after):
        return
    rate = grown / one.seconds
    done = (after.ended - before.ended) / one.seconds
    yield risk(
        "queue.growing",
        f"its backlog grows by {rate:,.0f} messages a second, to {after.waiting:,} now; "
        f"{done:,.0f} a second are handled, by {len(_alive(after))} consumers",
        why=f"messages are late by {after.oldest:,.0f} s and more, until the memory is full",
        fix="start more workers or raise concurrency=; a bound= makes producers wait",
        subject=one.subject,
    )


def _consumers(one: Watched) -> Iterator[Finding]:
    after = one.after
    gone = [each for each in after.consumers if each.idle > _silence(after)]
    stuck = sum(each.in_flight for each in gone)
    if stuck:
        longest = max(each.idle for each in gone if each.in_flight)
        yield risk(
            "queue.stuck",
            f"{stuck:,} messages are in flight with consumers that were last heard of "
            f"{longest:,.0f} s ago, and their leases have run out",
            why="a worker or a receive loop takes over what the dead leave; none runs",
            fix="start a worker for it: millstream run MODULE:WORKER",
            subject=one.subject,
        )
    idle = [each.name for each in gone if not each.in_flight]
    if idle:
        yield note(
            "queue.gone",
            f"{len(idle)} of its consumers have died or left without a word, such as {idle[0]!r}",
            why="they own nothing, so no message is at stake",
            fix="nothing: the next worker that runs removes them",
            subject=one.subject,
        )


def _ends(one: Watched) -> Iterator[Finding]:
    before, after = one.before, one.after
    if after.trimmed > before.trimmed:
        yield loses(
            "topic.trimmed",
            f"retention deleted {after.trimmed - before.trimmed:,} messages just now that it had not "
            f"handled, {after.trimmed:,} in all",
            why="the subscription never gets them",
            fix="start more workers, keep more (Retain), or pass until_consumed=True",
            subject=one.subject,
        )
    elif after.trimmed:
        yield note(
            "topic.trimmed_before",
            f"retention has deleted {after.trimmed:,} messages that it had not handled",
            why="the subscription never got them",
            fix="keep more (Retain), or pass until_consumed=True",
            subject=one.subject,
        )
    if after.dead:
        yield note(
            "queue.dead_letters",
            f"it has {after.dead:,} dead letters",
            why="nobody handles them unless they are sent back",
            fix=f"millstream dead {one.name}, then redrive or purge --dead",
            subject=one.subject,
        )
