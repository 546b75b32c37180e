"""A client that has asked leaves nothing behind when it is closed: no key, no reader, no connection."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack

import pytest
import redis

from millstream import AsyncClient, Client, Endpoint, NoResponders
from tests.support.servers import Server

NOBODY = Endpoint("nobody.serves.it")
READER = "millstream-mailbox"


def mailboxes(admin: redis.Redis, namespace: str) -> list[bytes]:
    return list(admin.scan_iter(f"{namespace}:{{client/*}}:mailbox"))


async def test_an_async_client_ends_its_reader(
    url: str, namespace: str, admin: redis.Redis
) -> None:
    """Whether its reader sleeps by then or is about to, it ends, and the mailbox is deleted."""
    for turns in range(20):
        async with AsyncClient(url, namespace=namespace) as mq:
            with pytest.raises(NoResponders):
                await mq.request(NOBODY, 1)
            assert len(mailboxes(admin, namespace)) == 1
            for _ in range(turns):
                await asyncio.sleep(0)

        assert mailboxes(admin, namespace) == []
        assert READER not in {task.get_name() for task in asyncio.all_tasks()}


def test_a_blocking_client_ends_its_reader(url: str, namespace: str, admin: redis.Redis) -> None:
    """The same of its thread."""
    for _ in range(20):
        with Client(url, namespace=namespace) as mq:
            with pytest.raises(NoResponders):
                mq.request(NOBODY, 1)
            assert len(mailboxes(admin, namespace)) == 1

        assert mailboxes(admin, namespace) == []
        assert READER not in {thread.name for thread in threading.enumerate()}


async def test_what_a_mailbox_is_woken_by_makes_none(
    url: str, namespace: str, admin: redis.Redis
) -> None:
    """A mailbox that has expired meanwhile is not made again by closing it."""
    async with AsyncClient(url, namespace=namespace) as mq:
        with pytest.raises(NoResponders):
            await mq.request(NOBODY, 1)
        admin.delete(*mailboxes(admin, namespace))

    assert mailboxes(admin, namespace) == []


@pytest.mark.parametrize("away", ["gone", "hung"])
async def test_a_server_that_is_away_does_not_hold_up_the_end(away: str) -> None:
    """A mailbox expires by itself, so closing waits for its server for a moment only."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server("valkey-8.1"))
        mq = await stack.enter_async_context(AsyncClient(server.url, timeout=120))
        with pytest.raises(NoResponders):
            await mq.request(NOBODY, 1)
        if away == "gone":
            server.kill()
        else:
            server.pause()
        began = time.monotonic()

    assert time.monotonic() - began < 30  # without it, 120
