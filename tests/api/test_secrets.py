"""Secrets stay secret: no log, error or repr has them, whatever goes wrong."""

from __future__ import annotations

import gc
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis.sentinel
import trustme
from rich.pretty import pretty_repr

import millstream as ms
from tests.api.clients import Kind, make, take_one
from tests.support.sentinel import SERVICE
from tests.support.servers import Server, free_port
from tests.support.tls_proxy import tls_proxy

SECRET = "Xk9-not-to-be-seen"  # noqa: S105 - the word that must not be shown
QUEUE: ms.Queue[Any] = ms.Queue("orders")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose users and Sentinel have the secret for a password."""
    users = [f"user app on >{SECRET} ~* &* +@all"]
    with Server(extra=users) as server:
        yield server


@pytest.fixture(scope="module")
def places(server: Server) -> Iterator[dict[str, Any]]:
    """Ways to the server, by name; the secret is in each of them."""
    authority = trustme.CA()
    watched = [
        f"sentinel monitor {SERVICE} 127.0.0.1 {server.port} 1",
        f"user w on >{SECRET} +@all",
    ]
    with (
        Server(sentinel=True, extra=watched) as sentinel,
        tls_proxy(server.port, authority) as tls,
    ):
        login, told = f"app:{SECRET}", f"sentinel_username=w&sentinel_password={SECRET}"
        hosts = [("127.0.0.1", sentinel.port)]
        sentinels: Any = redis.sentinel.Sentinel
        manager = sentinels(hosts, sentinel_kwargs={"username": "w", "password": SECRET})
        here = f"127.0.0.1:{server.port}"
        yield {
            "redis": f"redis://{login}@{here}",
            "query": f"valkey://{here}?username=app&password={SECRET}",
            "unix": f"unix://{login}@{server.socket_path}",
            "tls": f"rediss://{login}@localhost:{tls}?ssl_cert_reqs=none&ssl_check_hostname=false",
            "sentinel": f"redis+sentinel://{login}@127.0.0.1:{sentinel.port}/{SERVICE}?{told}",
            "client": redis.Redis("127.0.0.1", server.port, username="app", password=SECRET),
            "sentinels": manager.master_for(SERVICE, username="app", password=SECRET),
        }


NAMES = ("redis", "query", "unix", "tls", "sentinel", "client", "sentinels")


@pytest.fixture
def objects() -> Iterator[Callable[[], Iterator[object]]]:
    """All objects of this library that live and were made in the test: others have left thousands."""

    def made() -> Iterator[object]:
        for one in gc.get_objects():
            if type(one).__module__.startswith("millstream"):
                yield one

    gc.freeze()
    yield made
    gc.unfreeze()


@pytest.mark.parametrize("name", NAMES)
async def test_what_goes_well(
    kind: Kind,
    places: dict[str, Any],
    name: str,
    objects: Callable[[], Iterator[object]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither a log, nor the repr of any object of the library has a password of a URL or a client."""
    caplog.set_level(logging.DEBUG)
    async with make(kind, places[name]) as mq:
        await mq.send(QUEUE, 1)
        await (await take_one(mq, QUEUE)).ack()
        assert SECRET not in mq.url
        shown = [repr(one) for one in objects()]
        # A Struct tells rich all of its fields, whatever its repr says.
        shown += [pretty_repr(one) for one in objects() if isinstance(one, msgspec.Struct)]
    assert any("Target(" in text for text in shown)
    assert [text for text in shown if SECRET in text] == []
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", NAMES)
async def test_what_goes_wrong(
    kind: Kind, places: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither does an error, with its causes and as it is pickled, when the server is elsewhere."""
    caplog.set_level(logging.DEBUG)
    place = places[name]
    if not isinstance(place, str):
        place.connection_pool.connection_kwargs["db"] = 99  # there is none
    else:
        path, mark, query = place.partition("?")
        place = f"{path}{'?db=99' if name == 'unix' else '/99'}{mark}{query}"
    with pytest.raises(ms.BrokerError) as caught:
        await make(kind, place).connect()
    said = "".join(traceback.format_exception(caught.value))
    assert "out of range" in said
    assert SECRET not in said
    assert SECRET.encode() not in pickle.dumps(caught.value)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "redis://app:{secret}@127.0.0.1:{port}",
        "rediss://app:{secret}@127.0.0.1:{port}",
        "redis+sentinel://app:{secret}@127.0.0.1:{port}/main?sentinel_password={secret}",
        "unix://app:{secret}@/nowhere/{port}.sock",
        "redis://app:{secret}@nowhere.invalid:{port}?db=x",
        "redis+cluster://app:{secret}@127.0.0.1:{port}",
        "rediss://127.0.0.1:{port}?ssl_password={secret}&ssl_keyfile=/none.pem",
    ],
)
async def test_what_cannot_be_reached(
    kind: Kind, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does the error about a place where nobody is, or about a URL that makes no sense."""
    caplog.set_level(logging.DEBUG)
    where = url.format(secret=SECRET, port=free_port())
    with pytest.raises(ms.MillstreamError) as caught:
        await make(kind, where).connect()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", ["redis", "sentinel"])
async def test_a_wrong_password(
    kind: Kind, places: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A password that the server refuses is not shown, either."""
    caplog.set_level(logging.DEBUG)
    wrong = {
        "redis": {"password": f"{SECRET}-not"},
        "sentinel": {"sentinel_password": f"{SECRET}-not"},
    }
    security = ms.Security(**wrong[name])  # type: ignore[arg-type]
    with pytest.raises(ms.ServerRefused, match="password") as caught:
        await make(kind, places[name], security=security).connect()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text


def test_security_shows_no_secret() -> None:
    """The repr has who and where, but no password."""
    security = ms.Security(
        username="app",
        password=SECRET,
        keyfile=__file__,
        certfile=__file__,
        keyfile_password=SECRET,
        sentinel_password=SECRET,
    )
    assert "username='app'" in repr(security)
    assert SECRET not in f"{security} {security!r}"
