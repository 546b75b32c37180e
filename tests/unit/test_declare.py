"""Queues as values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any, Literal

import msgspec
import pytest

from millstream.declare import DEFAULT_MAX_BODY, Queue, check_name
from millstream.endpoint import Endpoint
from millstream.errors import UsageError
from millstream.policy import AtMostOnce, Backoff, Bound, Limits, Rate, Retain, Retry
from millstream.topic import Topic


class Order(msgspec.Struct):
    id: int


def test_the_defaults() -> None:
    """A queue needs a name, and nothing else."""
    queue: Queue[Any] = Queue("orders")

    assert queue.name == "orders"
    assert queue.body_type is Any
    assert queue.retry == Retry(max_attempts=5, backoff=Backoff(), max_crashes=3)
    assert queue.lease_ms == 30_000
    assert queue.max_body == DEFAULT_MAX_BODY
    assert queue.limits is None


def test_everything_can_be_said() -> None:
    """What is declared is what the queue has."""
    retry = Retry(max_attempts=1)
    queue = Queue(
        "orders", Order, retry=retry, lease=timedelta(seconds=2), codec="msgpack", max_body=10
    )

    assert (queue.body_type, queue.retry, queue.lease_ms, queue.max_body) == (
        Order,
        retry,
        2000,
        10,
    )
    assert queue.encode(Order(1)) == b"\x81\xa2id\x01"


@pytest.mark.parametrize(
    "limits", [Limits(Rate(5), None), Limits(None, 3), Limits(Rate(5, burst=1), 3)]
)
def test_limits(limits: Limits) -> None:
    """A rate, a number that may run, or both."""
    queue = Queue("orders", rate=limits.rate, max_running=limits.max_running)

    assert (queue.rate, queue.max_running, queue.limits) == (
        limits.rate,
        limits.max_running,
        limits,
    )


def test_a_queue_is_a_value() -> None:
    """Producers and workers may declare it apart; it cannot be changed, and shows itself."""
    queue = Queue("orders", Order)

    assert queue == Queue("orders", Order)
    assert queue != Queue("orders", Order, lease=1)
    assert len({queue, Queue("orders", Order), Queue("other", Order)}) == 2
    assert repr(queue).startswith("Queue(name='orders', body_type=")
    with pytest.raises(AttributeError):
        queue.name = "other"  # type: ignore[misc] # that is the point


NAMES = [
    "orders",
    "Orders.v2",
    "a",
    "x" * 200,
    "b\u00fccher",
    "a:b",
    "a-b_c",
    "*",
    "\U0001f600",
    "1",
]
NO_NAMES = [
    "",
    "x" * 201,
    "a b",
    "a\tb",
    "a\nb",
    "a\n",
    "a\u00a0b",
    "{a}",
    "a{",
    "a}",
    "a/b",
    "a\x00",
    "a\x7f",
    "a\ud800",
    None,
    7,
    b"orders",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_be(name: str) -> None:
    """Any text that people can type and that stays one key."""
    assert check_name(name, "name") == name
    assert Queue(name).name == name


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_may_not_be(name: Any) -> None:
    """Whatever would change the hash tag, or cannot be typed."""
    with pytest.raises(UsageError, match=r"^namespace must be 1 to 200 characters"):
        check_name(name, "namespace")
    with pytest.raises(UsageError, match=r"^the queue's name must be"):
        Queue(name)


@pytest.mark.parametrize("name", ["{shop}.orders", "{a:b}.c.d", "{\u00fc}.\u00fc"])
def test_a_name_may_begin_with_a_tag(name: str) -> None:
    """It shares its slot with others then, also as a durable topic."""
    assert Queue(name).name == name
    assert Topic(name).name == name


@pytest.mark.parametrize(
    "name",
    ["{}.a", "{a}", "{a}.", "{a}b", "{a}.b:c", "{a}.b{c}", "{a/1}.b", "{a b}.c", "{a.b", "{{a}}.b"],
)
def test_a_tag_may_not_be(name: str) -> None:
    """Whatever would change the hash tag again, or be taken for the end of a name."""
    with pytest.raises(UsageError, match=r"^the queue's name must be a tag"):
        Queue(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry": 5}, "queue 'orders': retry must be a Retry, not 5"),
        ({"retry": Backoff()}, "queue 'orders': retry must be a Retry"),
        ({"lease": 0.05}, r"queue 'orders': lease must be between 0\.1 and"),
        ({"lease": None}, "queue 'orders': lease must be seconds or a timedelta"),
        ({"codec": "pickle"}, "queue 'orders': codec must be"),
        ({"body_type": complex}, "queue 'orders': cannot decode"),
        ({"max_body": 0}, "queue 'orders': max_body must be a whole number from 1, not 0"),
        ({"max_body": 1.5}, "queue 'orders': max_body must be"),
        ({"max_body": True}, "queue 'orders': max_body must be"),
        ({"rate": 100}, "queue 'orders': rate must be a Rate, not 100"),
        ({"max_running": 0}, "queue 'orders': max_running must be a whole number from 1, not 0"),
        ({"max_running": -5}, "queue 'orders': max_running must be"),
        ({"max_running": 1.5}, "queue 'orders': max_running must be"),
        ({"max_running": True}, "queue 'orders': max_running must be"),
        ({"rate": Rate(1), "ordered": True, "partitions": 2}, "queue 'orders': rate holds for"),
        ({"max_running": 1, "ordered": True, "partitions": 2}, "queue 'orders': max_running hol"),
        ({"bound": 10}, "queue 'orders': bound must be a Bound, not 10"),
        (
            {"bound": Bound(10), "ordered": True, "partitions": 2},
            "queue 'orders': bound=10 and partitions=2 do not go together",
        ),
        ({"keep": 60}, "queue 'orders': keep must be a Retain, not 60"),
        ({"keep": Retain()}, r"queue 'orders': keep=Retain\(\) without max_age.*: give a bound"),
        (
            {"keep": Retain(max_length=5, until_consumed=False)},
            "queue 'orders': keep: until_consumed is for topics",
        ),
        ({"delivery": "exactly_once"}, "queue 'orders': delivery must be 'at_least_once' or"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    """The error names the queue and the parameter."""
    with pytest.raises(UsageError, match=f"^{message}"):
        Queue("orders", **options)


@pytest.mark.parametrize("store", ["stream", "list"])
@pytest.mark.parametrize(
    "options",
    [
        {"ordered": True},
        {"ordered": True, "partitions": 2},
        {"max_running_per_key": 1},
        {"rate": Rate(5)},
        {"max_running": 1},
        {"retry": Retry()},
        {"lease": 30},
    ],
    ids=str,
)
def test_at_most_once_refuses_what_it_cannot_keep(
    options: dict[str, Any], store: Literal["stream", "list"]
) -> None:
    """The error names the parameter and what it does not go with, whatever the value is."""
    with pytest.raises(
        UsageError, match=f"^queue 'orders': {next(iter(options))} does not go with"
    ):
        Queue("orders", delivery="at_most_once", store=store, **options)


def test_at_most_once_goes_with_the_rest() -> None:
    """What bounds or chooses messages before they are taken may be declared."""
    queue: Queue[Any] = Queue(
        "orders",
        codec="msgpack",
        max_body=10,
        priorities="weighted",
        expired="drop",
        bound=Bound(10),
        delivery="at_most_once",
    )

    assert queue.limits == AtMostOnce()
    assert Queue("orders", store="list", delivery="at_most_once").delivery == "at_most_once"
    assert Queue("orders").delivery == "at_least_once"


@pytest.mark.parametrize("body_type", [bytes, str, Any])
def test_an_oversize_body_is_refused(body_type: Any) -> None:
    """The bytes that would be stored count, and the error says how many there are."""
    queue: Queue[Any] = Queue("orders", body_type, max_body=10)
    fits: Any = b"x" * 10 if body_type is bytes else "x" * 8
    large: Any = fits + fits[:1]

    assert len(queue.encode(fits)) == 10
    with pytest.raises(UsageError, match="queue 'orders': the body has 11 bytes, 10 are allowed"):
        queue.encode(large)


def test_a_wrong_body_is_refused() -> None:
    """The queue's own check is the codec's."""
    with pytest.raises(UsageError, match="queue 'orders' takes Order, not dict"):
        Queue("orders", Order).encode({"id": 1})  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize("kind", [Queue, Topic, Endpoint])
def test_a_declaration_may_name_its_types(kind: Any) -> None:
    """``Queue[Order]("orders")`` is the same value as without the type, and as constant."""
    named = kind[(Any, Any) if kind is Endpoint else Any]("orders")

    assert named == kind("orders")
    for name in ("name", "unknown"):
        with pytest.raises(FrozenInstanceError, match=f"'{name}'"):
            setattr(named, name, "other")
