"""`millstream schedules`."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

import millstream as ms
from millstream import Client, Queue
from millstream.protocol.keys import queue_keys
from tests.cli.conftest import Cli
from tests.support.wait import auntil


@pytest.fixture
def declared(url: str, namespace: str, queue: Queue[Any]) -> None:
    """Two schedules, as workers have declared them."""
    worker = ms.Worker()
    worker.every("30 2 * * mon-fri", queue, tz="Europe/Berlin", missed="one", name="nightly")(int)
    worker.every(90_000, queue, name="other")(int)

    async def declare() -> None:
        async with ms.AsyncClient(url, namespace=namespace) as mq:
            running = asyncio.create_task(worker.run(mq))

            async def both() -> bool:
                return len(await mq.schedules(queue)) == 2

            await auntil(both)
            worker.stop()
            await running

    asyncio.run(declare())


@pytest.mark.usefixtures("declared")
def test_list(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Each schedule is a line with its next tick."""
    nightly = client.schedules(queue)[0].next
    assert nightly is not None

    done = cli("schedules", "orders")

    heading, first, second = done.out.splitlines()
    assert (done.status, done.err) == (0, "")
    assert heading.split() == ["schedule", "every", "time", "zone", "missed", "next", "in", "last"]
    assert first.split()[:8] == [
        *("nightly", "30", "2", "*", "*", "MON-FRI", "Europe/Berlin", "one")
    ]
    assert f"  {nightly:%Y-%m-%d %H:%M:%S}  " in first
    assert second.split()[:4] == ["other", "90000s", "UTC", "skip"]


@pytest.mark.usefixtures("declared")
def test_as_json(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """Each schedule is an object."""
    nightly, other = cli("schedules", "orders", "--json").objects

    expected = client.schedules(queue)[0].next
    assert datetime.fromisoformat(nightly.pop("next")) == expected
    assert nightly == {
        "queue": "orders",
        "name": "nightly",
        "spec": "30 2 * * MON-FRI",
        "tz": "Europe/Berlin",
        "missed": "one",
        "last": None,
        "paused": False,
    }
    assert (other["name"], other["spec"]) == ("other", 90_000.0)


@pytest.mark.usefixtures("declared")
def test_pause_resume_remove(cli: Cli, client: Client, queue: Queue[Any]) -> None:
    """One schedule is paused, resumed and removed; the other one stays as it is."""
    other = client.schedules(queue)[1]

    assert cli("schedules", "orders", "--pause", "nightly").out == (
        "schedule nightly of orders paused\n"
    )
    assert "paused" in cli("schedules", "orders").out.splitlines()[1]
    assert client.schedules(queue)[0].paused
    assert cli("schedules", "orders", "--resume", "nightly", "--json").objects == [
        {"queue": "orders", "schedule": "nightly", "done": "resumed"}
    ]
    assert not client.schedules(queue)[0].paused
    assert cli("schedules", "orders", "--remove", "nightly").status == 0
    assert client.schedules(queue) == [other]


def test_last(cli: Cli, admin: redis.Redis, namespace: str) -> None:
    """It shows how long ago the last tick was; foreign names cannot steer the terminal."""
    last = (datetime.now(UTC) - timedelta(hours=2)).timestamp() * 1000
    stored = {"spec": "0 * * * *", "tz": "UTC", "missed": "skip", "next": 0, "last": round(last)}
    key = queue_keys(namespace, "orders").schedules
    admin.hset(key, "x\x1b[31m", json.dumps(stored))

    row = cli("schedules", "orders").out.splitlines()[1]

    assert row.startswith(r"x\x1b[31m  0 * * * *  UTC")
    assert row.endswith("2h 0m ago")


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_what_is_not_there(cli: Cli, verb: str) -> None:
    """A name that the queue has not is an error in the command line."""
    done = cli("schedules", "orders", f"--{verb}", "nightly")

    assert done.status == 2
    assert done.err == "millstream: queue 'orders' has no schedule 'nightly'\n"


def test_nothing_to_remove(cli: Cli) -> None:
    """Removing what is not there is told, and fails."""
    done = cli("schedules", "orders", "--remove", "nightly")

    assert (done.status, done.out) == (1, "")
    assert done.err == "millstream: queue 'orders' has no schedule 'nightly'\n"


def test_nothing_to_list(cli: Cli) -> None:
    """An empty list is a note on stderr."""
    done = cli("schedules", "orders")

    assert (done.status, done.out) == (0, "")
    assert done.err == "millstream: queue 'orders' has no schedules\n"


def test_one_at_a_time(cli: Cli) -> None:
    """Two verbs at once are refused."""
    done = cli("schedules", "orders", "--pause", "a", "--remove", "b")

    assert done.status == 2
    assert "one at a time" in done.err
