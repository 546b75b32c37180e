"""Every option of a send does the same on every way to send: clients, send_many, command line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import millstream as ms
from millstream.cli.app import execute
from tests.api.clients import take_one

FAR = datetime(2099, 1, 31, 8, tzinfo=UTC)

Way = Callable[[ms.AsyncClient, ms.Queue[Any], dict[str, Any]], Awaitable[int]]
"""Sends the body 1 with options; 0, or the exit status of the command line for bad ones."""


async def one(mq: ms.AsyncClient, queue: ms.Queue[Any], options: dict[str, Any]) -> int:
    await mq.send(queue, 1, **options)
    return 0


async def many(mq: ms.AsyncClient, queue: ms.Queue[Any], options: dict[str, Any]) -> int:
    (receipt,) = await mq.send_many(queue, [1], **options)
    assert not receipt.duplicate
    return 0


async def many_by_function(
    mq: ms.AsyncClient, queue: ms.Queue[Any], options: dict[str, Any]
) -> int:
    if "key" in options:
        key = options["key"]
        options = {**options, "key": lambda _: key}
    return await many(mq, queue, options)


async def command(mq: ms.AsyncClient, queue: ms.Queue[Any], options: dict[str, Any]) -> int:
    words = ["send", "--namespace", mq.namespace, queue.name, "1"]
    words += ["--ordered"] if queue.ordered else []
    words += ["--bound", str(queue.bound.length)] if queue.bound else []
    for name, value in options.items():
        if name == "headers":
            words += [f"--header={header}={text}" for header, text in value.items()]
        elif isinstance(value, timedelta):
            words += [f"--{name}", str(value.total_seconds())]
        else:
            text = value.isoformat() if isinstance(value, datetime) else str(value)
            words += [f"--{name.replace('_', '-')}={text}"]
    return await asyncio.to_thread(execute, words)


WAYS = [one, many, many_by_function, command]


@pytest.fixture(params=WAYS, ids=[way.__name__ for way in WAYS])
def way(
    request: pytest.FixtureRequest, url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> Way:
    """One of the ways."""
    way: Way = request.param
    if way is command and kind == "async":
        pytest.skip("the command line is one way, not two")
    monkeypatch.setenv("MILLSTREAM_URL", url)
    return way


async def shown(mq: ms.AsyncClient, queue: ms.Queue[Any]) -> dict[str, Any]:
    """The message as people see it; times as seconds from its acceptance."""
    (message,) = [*await mq.peek(queue), *await mq.peek(queue, delayed=True)]
    found: dict[str, Any] = {"body": message.body, "headers": message.headers}
    for name in ("key", "priority"):
        if value := getattr(message, name):
            found[name] = value
    for name in ("due", "expires"):
        if time := getattr(message, name):
            found[name] = round((time - message.sent_at).total_seconds())
    return found


@pytest.mark.parametrize("bound", [None, ms.Bound(1)], ids=["unbounded", "bounded"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"delay": 3600}, {"due": 3600}),
        ({"delay": timedelta(hours=1)}, {"due": 3600}),
        ({"delay": 0}, {}),
        ({"at": datetime(1980, 1, 1, tzinfo=UTC)}, {}),
        ({"key": "k"}, {"key": "k"}),
        ({"priority": 9}, {"priority": 9}),
        ({"priority": 0}, {}),
        ({"ttl": 60.5}, {"expires": 60}),
        ({"headers": {"a": "b", "c": "="}}, {"headers": {"a": "b", "c": "="}}),
        (
            {"delay": 60, "key": "ü 1", "priority": 3, "ttl": 120, "headers": {"a": ""}},
            {"due": 60, "key": "ü 1", "priority": 3, "expires": 120, "headers": {"a": ""}},
        ),
    ],
)
async def test_what_they_say(
    mq: ms.AsyncClient,
    way: Way,
    options: dict[str, Any],
    expected: dict[str, Any],
    bound: ms.Bound | None,
) -> None:
    """The message that is stored is the same, in a queue with a bound, too."""
    queue: ms.Queue[Any] = ms.Queue("orders", ordered=True, bound=bound)

    assert await way(mq, queue, options) == 0

    found = await shown(mq, queue)
    assert found == {"body": 1, "headers": {}, **expected}
    if "due" not in expected:
        delivery = await take_one(mq, queue)
        assert (delivery.body, delivery.key) == (1, expected.get("key"))
        assert delivery.headers == expected.get("headers", {})


async def test_a_time_far_away(mq: ms.AsyncClient, way: Way) -> None:
    """A moment is the same for all of them, in whatever zone it is told."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    await way(mq, queue, {"at": FAR})

    (message,) = await mq.peek(queue, delayed=True)
    assert message.due == FAR


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": -1}, "delay must be"),
        ({"delay": 1, "at": FAR}, "delay .* or at .*, not both"),
        ({"at": FAR.replace(tzinfo=None)}, "time zone"),
        ({"key": ""}, "key must be"),
        ({"priority": 10}, "priority must be"),
        ({"priority": -1}, "priority must be"),
        ({"ttl": 0}, "ttl must be"),
        ({"ttl": 5, "delay": 5}, "ttl .* must be longer than delay"),
    ],
)
async def test_what_makes_no_sense(
    mq: ms.AsyncClient,
    way: Way,
    capfd: pytest.CaptureFixture[str],
    options: dict[str, Any],
    words: str,
) -> None:
    """Each says what is wrong and sends nothing; the command line ends with 2."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    if way is command:
        assert await way(mq, queue, options) == 2
        text = " ".join(capfd.readouterr().err.split())
    else:
        with pytest.raises(ms.UsageError) as caught:
            await way(mq, queue, options)
        text = str(caught.value)

    assert re.search(words, text), text
    assert (await mq.stats(queue)).sent == 0
