"""What makes no sense is refused before anything is sent; the error names the parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import millstream as ms
from tests.api.clients import counts

NAIVE = datetime(2099, 1, 1)  # noqa: DTZ001 - the point
SOON = datetime(2099, 1, 1, tzinfo=UTC)
BOUNDED: ms.Queue[Any] = ms.Queue("orders", bound=ms.Bound(10))
ORDERED: ms.Queue[Any] = ms.Queue("orders", ordered=True)

kinds = pytest.mark.parametrize(
    "queue", [ms.Queue("orders"), BOUNDED, ORDERED], ids=["plain", "bounded", "ordered"]
)
NO_DURATION: list[Any] = [
    -1,
    -0.001,
    math.nan,
    math.inf,
    True,
    "1",
    b"1",
    [1],
    timedelta(-1),
    10**12,
]
NO_TEXT: list[Any] = ["", "x" * 501, "a\0b", "\ud800", 7, b"a", True, ["a"]]

TIMES: list[tuple[dict[str, Any], str]] = [
    *(({"delay": wrong}, "^delay must be") for wrong in NO_DURATION),
    *(({"at": wrong}, "^at must be a datetime") for wrong in (1_700_000_000, "2099-01-01", True)),
    ({"at": NAIVE}, "^at must have a time zone"),
    ({"at": SOON, "delay": 1}, "^pass delay .* or at .*, not both"),
]
COMMON = [
    *TIMES,
    *(({"priority": wrong}, "^priority must be") for wrong in (-1, 10, 1.0, True, "high", None)),
    *(({"ttl": wrong}, "^ttl must be") for wrong in [0, *NO_DURATION]),
    ({"ttl": 5, "delay": 5}, "^ttl .* must be longer than delay"),
    *(({"key": wrong}, "^key must be") for wrong in NO_TEXT),
]
UNIQUE = [
    *(({"unique": wrong}, "^unique must be") for wrong in NO_TEXT),
    *(
        ({"unique": "a", "unique_for": wrong}, "^unique_for must be")
        for wrong in ["ever", "", 0, *NO_DURATION]
    ),
    ({"unique_for": "done"}, "^unique_for needs a unique key"),
]


async def refused(call: Callable[..., Any], words: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(ms.UsageError, match=words):
        await call(*arguments, **options)


@kinds
async def test_send(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """Each option of its own, whatever kind of queue it is."""
    for options, words in [*COMMON, *UNIQUE]:
        await refused(mq.send, words, queue, 1, **options)

    assert await counts(mq, queue) == (0, 0, 0, 0)


@kinds
async def test_send_many(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """The same; a unique key would have all messages but the first vanish."""
    for options, words in COMMON:
        await refused(mq.send_many, words, queue, [1, 2], **options)
    for wrong in NO_TEXT:
        key = {1: "a", 2: wrong}.get
        await refused(mq.send_many, "^key must be", queue, [1, 2], key=key)
    await refused(mq.send_many, "^unique is for one message", queue, [1, 2], unique="a")
    await refused(mq.send_many, "^unique_for is for one message", queue, [1, 2], unique_for=5)

    assert await counts(mq, queue) == (0, 0, 0, 0)


@kinds
async def test_unknown_options(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """A misspelt option is not swallowed; the error names the function that was called."""
    misspelt: Any = {"prioritty": 1}
    with pytest.raises(TypeError) as caught:
        await mq.send(queue, 1, **misspelt)
    told = "() got an unexpected keyword argument 'prioritty'. Did you mean 'priority'?"
    assert str(caught.value) == f"send{told}"
    for bodies in ([1], []):
        with pytest.raises(TypeError) as caught:
            await mq.send_many(queue, bodies, **misspelt)
        assert str(caught.value) == f"send_many{told}"

    assert await counts(mq, queue) == (0, 0, 0, 0)


@pytest.mark.parametrize(("durable", "name"), [(True, "a"), (False, None)])
async def test_unknown_options_of_subscribe(
    mq: ms.AsyncClient, durable: bool, name: str | None
) -> None:
    """Those of the other kind of topic are unknown, too."""
    topic: ms.Topic[Any] = ms.Topic("placed", durable=durable)
    for option in ("wiat", "buffer" if durable else "prefetch"):
        wrong: Any = {option: 1}
        with pytest.raises(TypeError, match=rf"^subscribe\(\) got .* argument '{option}'"):
            mq.subscribe(topic, name, **wrong)


async def test_reschedule(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> None:
    """It needs one time that makes sense, and the id of a message."""
    receipt = await mq.send(queue, 1, delay=3600)
    for options, words in [*TIMES, ({}, "^pass delay .* or at")]:
        await refused(mq.reschedule, words, queue, receipt.id, **options)
    for wrong in ("orders", "", 1, None, receipt):
        await refused(mq.reschedule, "^id must be", queue, wrong, delay=1)
        await refused(mq.cancel, "^id must be", queue, wrong)

    [message] = await mq.peek(queue, delayed=True)
    assert message.due is not None
    assert message.due - message.sent_at <= timedelta(seconds=3600, milliseconds=1)


@pytest.mark.parametrize(
    "name",
    [
        "cancel",
        "reschedule",
        "pause",
        "resume",
        "schedules",
        "pause_schedule",
        "resume_schedule",
        "remove_schedule",
        "send",
        "send_many",
        "repartition",
        "stats",
        "peek",
    ],
)
async def test_what_is_no_queue(mq: ms.AsyncClient, name: str) -> None:
    """A queue's name is no queue."""
    arguments: dict[str, tuple[Any, ...]] = {
        "cancel": ("1-1",),
        "reschedule": ("1-1",),
        "send": (1,),
        "send_many": ([1],),
        "pause_schedule": ("nightly",),
        "resume_schedule": ("nightly",),
        "remove_schedule": ("nightly",),
    }
    options = {"delay": 1} if name == "reschedule" else {}

    await refused(
        getattr(mq, name),
        "^expected a Queue, a Subscription or a Topic, not str"
        if name == "stats"
        else "^expected a Queue( or a Subscription)?, not str",
        "orders",
        *arguments.get(name, ()),
        **options,
    )


QUEUE: ms.Queue[Any] = ms.Queue("orders")
TOPIC: ms.Topic[Any] = ms.Topic("placed")
ENDPOINT: ms.Endpoint[Any, Any] = ms.Endpoint("quote")


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        *((one, ENDPOINT, "pass endpoint.queue") for one in ("stats", "peek", "purge", "resend")),
        *((one, ENDPOINT, "pass endpoint.queue") for one in ("declare", "schedules")),
        ("send", ENDPOINT, "^send is for queues: use request for endpoint 'quote'$"),
        ("send_many", ENDPOINT, "^send is for queues: use request for endpoint 'quote'$"),
        ("publish", ENDPOINT, "^publish is for topics: use request for endpoint 'quote'$"),
        ("request", QUEUE, "^request is for endpoints: send to queue 'orders' instead$"),
        ("request", TOPIC, "^expected an Endpoint, not Topic: 'placed'$"),
        ("resend", TOPIC, "^expected a Queue, not Topic: 'placed'$"),
        ("send", 500 * "x", "^expected a Queue, not str: 'x+...x+'$"),
    ],
)
async def test_another_kind_of_declaration(
    mq: ms.AsyncClient, name: str, source: Any, words: str
) -> None:
    """The error names what was given, what is called instead, and is a line long."""
    bodies = {"send": (1,), "send_many": ([1],), "publish": (1,), "request": (1,)}
    with pytest.raises(ms.UsageError, match=words) as raised:
        await getattr(mq, name)(source, *bodies.get(name, ()))
    assert len(str(raised.value)) < 100


@pytest.mark.parametrize("wrong", [5, None, "abc", b"abc", {"a": 1}])
async def test_one_body_where_many_are_sent(mq: ms.AsyncClient, wrong: Any) -> None:
    """A text is not sent letter by letter, and what has no parts is no raw TypeError."""
    for name, declared in (("send_many", QUEUE), ("publish_many", TOPIC)):
        with pytest.raises(ms.UsageError, match=f"^{name} takes a list of bodies, not "):
            await getattr(mq, name)(declared, wrong)
    assert await counts(mq, QUEUE) == (0, 0, 0, 0)


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_the_name_of_a_start(mq: ms.AsyncClient, start: str) -> None:
    """The two places that have a name are no strings, and the error says what they are."""
    with pytest.raises(ms.UsageError, match=f"start must be ms.{start.upper()}, not '{start}'"):
        TOPIC.subscription("mail", start=start)
    with pytest.raises(ms.UsageError, match=f"to must be ms.{start.upper()}, not '{start}'"):
        await mq.seek(TOPIC, "mail", to=start)
