"""Topics and subscriptions as values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from millstream.errors import UsageError
from millstream.policy import Retain, Retry, Sieve
from millstream.topic import EARLIEST, LATEST, Subscription, Topic

PLACED: Topic[Any] = Topic("orders.placed")


class Order(msgspec.Struct):
    id: int


def test_the_defaults() -> None:
    """A topic needs a name, a subscription a topic and a name."""
    email = PLACED.subscription("email")

    assert (PLACED.durable, PLACED.ordered, PLACED.partitions) == (True, False, 1)
    assert (PLACED.retry, PLACED.retain, PLACED.lease_ms) == (Retry(), None, 30_000)
    assert (email.start, email.filter, email.expires_ms) == (LATEST, None, 31 * 86_400_000)
    assert (email.retry, email.lease_ms, email.codec) == (Retry(), 30_000, PLACED.codec)


def test_everything_can_be_said() -> None:
    """What is declared is what there is; a subscription may have its own policy."""
    retain = Retain(max_age=timedelta(days=7), max_length=10, max_bytes=1000, until_consumed=False)
    own = Retry(max_attempts=1)
    topic = Topic(
        "placed", Order, retain=retain, lease=2, ordered=True, partitions=3, codec="msgpack"
    )
    audit = topic.subscription(
        "audit", start=EARLIEST, filter="eu.>", retry=own, lease=5, expires=None
    )

    assert topic.retain == retain
    assert (retain.max_age_ms, retain.bounded) == (7 * 86_400_000, True)
    assert topic.encode(Order(1)) == b"\x81\xa2id\x01"
    assert (audit.start, audit.filter, audit.expires_ms) == (EARLIEST, "eu.>", None)
    assert (audit.retry, audit.lease_ms) == (own, 5000)
    assert (audit.name, audit.ordered, audit.partitions) == ("placed/audit", True, 3)
    assert (audit.priorities, audit.max_running) == ("strict", None)
    assert audit.limits == Sieve("eu.>", ordered=True)
    assert Topic("plain").subscription("audit").limits is None
    assert audit == Subscription(
        topic, "audit", start=EARLIEST, filter="eu.>", retry=own, lease=5, expires=None
    )


@pytest.mark.parametrize("start", [EARLIEST, LATEST, "12-3", datetime(2026, 1, 1, tzinfo=UTC)])
def test_starts(start: Any) -> None:
    """One end of the topic, a time, or a message."""
    assert PLACED.subscription("email", start=start).start == start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"durable": "no"}, "topic 'placed': durable must be True or False, not 'no'"),
        ({"ordered": 1}, "topic 'placed': ordered must be True or False"),
        ({"retry": 5}, "topic 'placed': retry must be a Retry"),
        ({"retain": 7}, "topic 'placed': retain must be a Retain"),
        ({"lease": 0}, "topic 'placed': lease must be between"),
        ({"max_body": 0}, "topic 'placed': max_body must be"),
        ({"partitions": 2}, "topic 'placed': partitions=2 needs ordered=True"),
        ({"partitions": 0, "ordered": True}, "topic 'placed': partitions must be a number"),
        ({"durable": False, "retain": Retain()}, "topic 'placed': retain needs messages that"),
        ({"durable": False, "retry": Retry()}, "topic 'placed': retry needs messages that"),
        ({"durable": False, "ordered": True}, "topic 'placed': ordered needs messages that"),
    ],
)
def test_topics_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    """The error names the topic and the parameter."""
    with pytest.raises(UsageError, match=f"^{message}"):
        Topic("placed", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "new"}, "subscription 'orders.placed/email': start must be the id of a message"),
        ({"start": 5}, "subscription 'orders.placed/email': start must be EARLIEST"),
        ({"start": datetime(2026, 1, 1)}, "subscription 'orders.placed/email': start must have a"),  # noqa: DTZ001 - that is the point
        ({"filter": "eu.>.x"}, "filter must be"),
        ({"retry": 5}, "subscription 'orders.placed/email': retry must be a Retry"),
        ({"lease": 0}, "subscription 'orders.placed/email': lease must be between"),
        ({"expires": 0}, "subscription 'orders.placed/email': expires must be between"),
    ],
)
def test_subscriptions_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    """The error names the subscription and the parameter."""
    with pytest.raises(UsageError, match=f"^{message}"):
        PLACED.subscription("email", **options)


def test_names() -> None:
    """What would change the keys is refused, and so is a subscription of what keeps nothing."""
    with pytest.raises(UsageError, match=r"^the topic's name must be"):
        Topic("a/b")
    with pytest.raises(UsageError, match=r"^the subscription's name must be"):
        PLACED.subscription("a b")
    with pytest.raises(UsageError, match=r"^subscription 'ticks/a': a topic with durable=False"):
        Topic("ticks", durable=False).subscription("a")
    with pytest.raises(UsageError, match=r"^topic must be a Topic, not 'placed'"):
        Subscription("placed", "a")  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_age": 0}, "Retain.max_age must be between"),
        ({"max_length": 0}, "Retain.max_length must be a whole number from 1"),
        ({"max_bytes": True}, "Retain.max_bytes must be a whole number from 1"),
        ({"until_consumed": 1, "max_age": 1}, "Retain.until_consumed must be True or False"),
        ({"until_consumed": False}, "Retain.until_consumed=False without max_age"),
    ],
)
def test_retentions_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    """The error names the parameter."""
    with pytest.raises(UsageError, match=f"^{message}"):
        Retain(**options)


@pytest.mark.parametrize("name", ["*", ">", "ticks.*", "*.eu.*", "ticks.>"])
def test_patterns(name: str) -> None:
    """A topic that keeps nothing may stand for many."""
    assert Topic(name, durable=False).is_pattern
    assert not Topic(name.translate({42: "x", 62: "x"}), durable=False).is_pattern
    with pytest.raises(UsageError, match="can only be listened to: durable=False"):
        Topic(name)


@pytest.mark.parametrize("name", ["tick*", ">.eu", "a.>.b", "**", "a>", "a..*"])
def test_patterns_that_make_no_sense(name: str) -> None:
    """A sign stands for whole tokens, and > is the last."""
    with pytest.raises(UsageError, match=r"in a pattern \* stands for one token"):
        Topic(name, durable=False)


def test_an_oversize_body_is_refused() -> None:
    """The bytes that would be stored count, and the error says how many there are."""
    with pytest.raises(UsageError, match="topic 'small': the body has 12 bytes, 10 are allowed"):
        Topic("small", max_body=10).encode("x" * 10)
