"""Clients of an embedded server that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import millstream as ms
from millstream.driver import embedded
from millstream.driver import embedded_supervisor as supervisor
from tests.api.clients import Kind, connecting, take_one
from tests.support.embedded import data_directory, held, server_pid, stopped
from tests.support.wait import auntil

EVERYTHING = (supervisor.SUPERVISOR_LOCK, supervisor.SERVER_LOCK)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A data directory; after the test no process may be left in it."""
    with data_directory() as path:
        yield path


def kill(directory: Path, *locks: str) -> None:
    """Kill -9 who holds these locks."""
    for pid in [held(directory, lock) for lock in locks]:
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def joined(directory: Path) -> Iterator[Any]:
    """A connection of redis-py to the server of a directory."""
    server = embedded.start_or_join(str(directory))
    with contextlib.closing(server), redis.Redis(unix_socket_path=str(server.socket_path)) as admin:
        yield admin


async def another_server(directory: Path, than: int) -> None:
    await auntil(lambda: server_pid(directory) not in (0, than), 30)


@pytest.mark.parametrize("locks", [(supervisor.SERVER_LOCK,), EVERYTHING], ids=["server", "both"])
async def test_a_client_goes_on(kind: Kind, directory: Path, locks: tuple[str, ...]) -> None:
    """What was sent is there, and the next call finds a server, whoever has to start it."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    async with connecting(kind, f"embedded://{directory}", "ms") as connect:
        mq = await connect()
        await mq.send(queue, 1)
        before = server_pid(directory)

        kill(directory, *locks)
        await auntil(lambda: server_pid(directory) != before, 30)

        await asyncio.gather(*(mq.send(queue, number) for number in range(2, 6)))
        assert sorted(one.body for one in await mq.peek(queue)) == [1, 2, 3, 4, 5]
        await another_server(directory, before)


async def test_who_only_waits_goes_on(kind: Kind, directory: Path) -> None:
    """A receiver that sleeps in a read starts the server that others then send to."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    url = f"embedded://{directory}"
    async with connecting(kind, url, "ms") as connect:
        mq = await connect()
        await mq.send(queue, 1)
        await (await take_one(mq, queue)).ack()
        receiving = asyncio.create_task(take_one(mq, queue, wait=60))

        with joined(directory) as admin:
            await auntil(lambda: admin.info("clients")["blocked_clients"] == 1, 30)
        before = server_pid(directory)
        kill(directory, *EVERYTHING)
        await another_server(directory, before)

        async with ms.AsyncClient(url) as other:
            await other.send(queue, 2)
        assert (await receiving).body == 2


async def test_a_directory_that_is_gone(kind: Kind, directory: Path) -> None:
    """There is nothing to start: the error says which directory it is."""
    queue: ms.Queue[Any] = ms.Queue("orders")
    async with connecting(kind, f"embedded://{directory}", "ms") as connect:
        mq = await connect(timeout=3)
        await mq.send(queue, 1)
        kill(directory, *EVERYTHING)
        await auntil(lambda: stopped(directory), 30)
        shutil.rmtree(directory)

        with pytest.raises(ms.NotConnected, match=str(directory)):
            await mq.send(queue, 2)
