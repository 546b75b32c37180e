"""Connecting: what a client may be made from, what it says when that fails, what it leaves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import millstream as ms
from tests.api.clients import Connect, Kind, counts, drain, make, take_one
from tests.support.embedded import data_directory, stopped
from tests.support.servers import PASSWORD, USER, Server, free_port
from tests.support.wait import auntil


async def works(mq: ms.AsyncClient) -> None:
    """A message goes out, comes back, and comes back again after a failure."""
    queue = ms.Queue("orders", dict[str, int])
    await mq.send(queue, {"n": 1}, headers={"a": "é"})
    await (await take_one(mq, queue)).retry(delay=0.01)
    again = await take_one(mq, queue)
    assert (again.body, again.headers, again.attempt) == ({"n": 1}, {"a": "é"}, 2)
    await again.ack()
    assert await counts(mq, queue) == (0, 0, 0, 0)


# --- URLs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_tcp(connect: Connect, server: Server, scheme: str) -> None:
    """A redis:// or valkey:// URL with user, password and database connects over TCP."""
    mq = await connect(f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{server.port}/0")

    await works(mq)
    assert mq.url == f"{scheme}://{USER}:***@127.0.0.1:{server.port}/0"


async def test_other_database(connect: Connect, server: Server, namespace: str) -> None:
    """The database in the URL is the one that is used."""
    mq = await connect(f"redis://127.0.0.1:{server.port}/5")
    queue = ms.Queue("orders", int)
    await mq.send(queue, 1)

    with redis.Redis(port=server.port, db=5) as fifth:
        assert fifth.exists(f"{namespace}:{{orders}}:ready")
        assert len(await drain(mq, queue)) == 1
        fifth.flushdb()


async def test_the_environment_names_the_server(
    kind: Kind, url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a URL, $MILLSTREAM_URL is used."""
    monkeypatch.setenv("MILLSTREAM_URL", url)

    async with make(kind, None, namespace=namespace) as mq:
        await works(mq)
        assert mq.url.startswith("unix://")


async def test_the_first_operation_connects(kind: Kind, url: str, namespace: str) -> None:
    """A client that was not told to connect does so by itself."""
    mq = make(kind, url, namespace=namespace)

    await works(mq)
    await mq.aclose()


async def test_a_client_that_was_never_used_can_be_closed(kind: Kind, url: str) -> None:
    """Closing a client that has not connected is fine, and then it does not connect any more."""
    mq = make(kind, url)

    await mq.aclose()

    with pytest.raises(ms.UsageError, match="closed"):
        await mq.connect()


# --- embedded ---------------------------------------------------------------------------------


async def test_embedded(kind: Kind, namespace: str) -> None:
    """embedded:// starts a server; a second client joins it, and what it stores survives both."""
    queue = ms.Queue("orders", int)
    with data_directory() as directory:
        url = f"embedded://{directory}"
        async with make(kind, url, namespace=namespace) as mq:
            assert mq.url == url
            await works(mq)
            await mq.send(queue, 7)
            async with make(kind, url, namespace=namespace) as second:
                assert await counts(second, queue) == (1, 0, 0, 0)
        async with make(kind, url, namespace=namespace) as mq:
            assert [delivery.body for delivery in await drain(mq, queue)] == [7]


async def test_embedded_is_the_default(
    kind: Kind,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a URL and a variable, the server of the usual data directory is used, and the log says so."""
    caplog.set_level("INFO", "millstream.driver")
    with data_directory() as directory:
        monkeypatch.delenv("MILLSTREAM_URL", raising=False)
        monkeypatch.setenv("XDG_DATA_HOME", str(directory))
        monkeypatch.setenv("HOME", str(directory))
        async with make(kind, None, namespace=namespace) as mq:
            used = Path(mq.url.removeprefix("embedded://"))
            assert used.is_relative_to(directory)
            await works(mq)
        await auntil(lambda: stopped(used))
    assert "by $MILLSTREAM_URL: using an embedded one" in caplog.text


# --- ready-made clients -----------------------------------------------------------------------


@pytest.mark.parametrize("module", [redis, redis.asyncio], ids=["blocking", "asyncio"])
@pytest.mark.parametrize(
    "options", [{}, {"decode_responses": True, "protocol": 3}], ids=["plain", "decoding"]
)
@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_ready_made_clients(
    connect: Connect, server: Server, module: Any, options: dict[str, Any], transport: str
) -> None:
    """Address and credentials of a redis-py client of either kind are taken, and nothing else."""
    where: dict[str, Any] = (
        {"port": server.port}
        if transport == "tcp"
        else {"unix_socket_path": str(server.socket_path)}
    )
    client = module.Redis(**where, username=USER, password=PASSWORD, socket_timeout=0.01, **options)

    mq = await connect(client)

    await works(mq)
    assert PASSWORD not in mq.url.replace(f"{USER}:", "")


async def test_a_ready_made_client_stays_its_owners(connect: Connect, server: Server) -> None:
    """The client that was passed is neither used nor closed."""
    with redis.Redis(port=server.port) as client:
        mq = await connect(client)
        await mq.aclose()

        assert client.ping()


@pytest.mark.parametrize("source", [7, b"redis://localhost", object(), ["redis://localhost"]])
async def test_no_server_at_all(kind: Kind, source: Any) -> None:
    """What is neither a URL nor a client is a UsageError that says what is expected."""
    with pytest.raises(ms.UsageError, match="URL or a redis-py client"):
        make(kind, source)


@pytest.mark.parametrize(
    "source", ["", "localhost", "http://x", "redis://host/shop", "redis+cluster://h1,h2/shop"]
)
async def test_no_server_at_all_by_its_url(kind: Kind, source: Any) -> None:
    """What can be no URL of a server is refused where the client is made, not at its first use."""
    with pytest.raises(ms.UsageError, match="URL"):
        make(kind, source)


@pytest.mark.parametrize(
    "source",
    [
        "redis://a:p%2Fw@host/3",
        "valkeys://[::1]:7000/0?ssl_cert_reqs=none",
        "unix:///tmp/no.sock?db=2",
        "redis+sentinel://h1,h2:26380/name/2",
        "rediss+cluster://h1,h2:7000",
        "embedded://",
    ],
)
async def test_nothing_is_connected_by_making_a_client(kind: Kind, source: Any) -> None:
    """A client of any kind of URL is made without asking anybody."""
    make(kind, source)


# --- what cannot be connected to --------------------------------------------------------------


async def test_nobody_listens(kind: Kind) -> None:
    """A refused connection is NotConnected at once; the error names the URL, not the password."""
    url = f"redis://app:s3cret@127.0.0.1:{free_port()}"
    started = time.monotonic()

    with pytest.raises(ms.NotConnected) as caught:
        await make(kind, url).connect()

    assert time.monotonic() - started < 4
    assert caught.value.url == url.replace("s3cret", "***")
    assert str(caught.value.url) in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_no_socket(kind: Kind, tmp_path: Path) -> None:
    """A unix socket that does not exist is NotConnected, too."""
    with pytest.raises(ms.NotConnected, match=r"none\.sock"):
        await make(kind, f"unix://{tmp_path}/none.sock").connect()


async def test_an_unknown_host(kind: Kind) -> None:
    """A name that cannot be resolved is NotConnected."""
    with pytest.raises(ms.NotConnected, match=r"nowhere\.invalid"):
        await make(kind, "redis://nowhere.invalid").connect()


async def test_a_failed_client_may_try_again(kind: Kind, namespace: str) -> None:
    """A client that could not connect connects once its server is there."""
    server = Server()
    mq = make(kind, server.tcp_url, namespace=namespace)
    with pytest.raises(ms.NotConnected):
        await mq.connect()

    with server:
        await mq.connect()
        await works(mq)
        await mq.aclose()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("namespace", ""),
        ("namespace", "a b"),
        ("namespace", "a{b}"),
        ("namespace", None),
        ("connect_timeout", 0),
        ("connect_timeout", "5"),
        ("timeout", -1),
        ("timeout", None),
    ],
)
def test_wrong_settings(kind: Kind, url: str, parameter: str, value: Any) -> None:
    """A setting that makes no sense is a UsageError that names it."""
    with pytest.raises(ms.UsageError, match=parameter):
        make(kind, url, **{parameter: value})


FORKS = """
import asyncio, os, sys
import millstream as ms

queue = ms.Queue("orders")

async def use(mq):
    await mq.connect()
    await mq.send(queue, "parent")
    return mq

kind, url, namespace = sys.argv[1:]
if kind == "async":
    loop = asyncio.new_event_loop()
    mq = loop.run_until_complete(use(ms.AsyncClient(url, namespace=namespace)))
    send = lambda body: loop.run_until_complete(mq.send(queue, body))
else:
    mq = ms.Client(url, namespace=namespace)
    send = lambda body: mq.send(queue, body)
    send("parent")
if os.fork() == 0:
    try:
        send("child")
    except ms.UsageError as error:
        os._exit(42 if "fork" in str(error) else 1)
    os._exit(0)
status = os.waitstatus_to_exitcode(os.wait()[1])
send("parent again")
sys.exit(status)
"""


async def test_a_fork(mq: ms.AsyncClient, kind: Kind, url: str, namespace: str) -> None:
    """A client that was made before a fork refuses to work in the child, and goes on in the parent."""
    command = [sys.executable, "-W", "ignore", "-c", FORKS, kind, url, namespace]

    done = await asyncio.to_thread(subprocess.run, command, timeout=30, check=False)

    assert done.returncode == 42
    assert await counts(mq, ms.Queue("orders")) == (2, 0, 0, 0)


# --- what is left behind ----------------------------------------------------------------------


async def test_a_closed_client_leaves_nothing(kind: Kind, namespace: str) -> None:
    """After the close there is no connection and no thread of it left."""
    with Server() as server:
        admin = server.admin()
        admin.ping()
        async with make(kind, server.url, namespace=namespace) as mq:
            await works(mq)
            held = mq.receive(ms.Queue("orders", int), wait=0)
            async for _ in held:
                pass
            assert _connections(admin) > 1

        await auntil(lambda: _connections(admin) == 1)
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("millstream")]


def _connections(admin: redis.Redis) -> int:
    clients: Any = admin.client_list()
    return len(clients)
