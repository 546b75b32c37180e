"""Servers behind TLS: every way to use one works over it, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

import millstream as ms
from tests.api.clients import Connect, Kind, connecting, make, take_one
from tests.support.servers import PASSWORD, USER, Server
from tests.support.tls_proxy import tls_proxy
from tests.worker.running import becomes, running

QUEUE: ms.Queue[Any] = ms.Queue("orders")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who vouches for the server; nobody else trusts it."""
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> Path:
    """What a client has to have to trust the server."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def port(server: Server, authority: trustme.CA) -> Iterator[int]:
    """Where the server speaks TLS."""
    with tls_proxy(server.port, authority) as port:
        yield port


@pytest.fixture(params=["rediss", "valkeys"])
def secure_url(request: pytest.FixtureRequest, port: int, certificate: Path) -> str:
    """A URL that trusts the server's certificate."""
    login = f"{USER}:{PASSWORD}@localhost:{port}"
    return f"{request.param}://{login}?ssl_ca_certs={certificate}"


@pytest.fixture
async def secure(kind: Kind, secure_url: str, namespace: str) -> AsyncIterator[Connect]:
    """Makes clients of either kind that speak TLS."""
    async with connecting(kind, secure_url, namespace) as connect:
        yield connect


async def test_sends_and_receives(secure: Connect) -> None:
    """One by one, side by side, in large batches, and after a sleep at the server."""
    mq = await secure()
    await asyncio.gather(*(mq.send(QUEUE, number) for number in range(50)))
    await mq.send_many(QUEUE, ["x" * 1000] * 600)
    count = 0
    async for delivery in mq.receive(QUEUE, prefetch=500, wait=0):
        await delivery.ack()
        count += 1
    assert count == 650

    waiting = asyncio.create_task(take_one(mq, QUEUE))
    await mq.send(QUEUE, "later", delay=0.2)
    delivery = await waiting
    assert delivery.body == "later"
    await delivery.ack()


async def test_listens(secure: Connect) -> None:
    """Messages of all sizes are heard at once, while others begin and end to listen."""
    mq, topic = await secure(), ms.Topic("ticks", str, durable=False)
    texts = ["x" * size for size in (1, 16_000, 16_384, 100_000)]
    async with mq.subscribe(topic) as feed:
        for text in texts * 5:
            async with mq.subscribe(ms.Topic("other", durable=False)):
                await mq.publish_many(topic, [text, "end"])
                assert [await anext(feed), await anext(feed)] == [
                    ms.Heard(body=text, topic="ticks"),
                    ms.Heard(body="end", topic="ticks"),
                ]


async def test_a_worker(secure_url: str, namespace: str) -> None:
    """Its reads, its acknowledgements, and a lease that has to be extended."""
    queue: ms.Queue[Any] = ms.Queue("orders", lease=1.5)
    worker, handled = ms.Worker(), []

    @worker.on(queue)
    async def handle(body: Any) -> None:
        if body == 0:
            await asyncio.sleep(3)  # the work itself
        handled.append(body)

    async with ms.AsyncClient(secure_url, namespace=namespace) as mq:
        await mq.send_many(queue, range(500))
        async with running(worker, mq):
            await becomes(mq, queue, (0, 0, 0, 0))
    assert sorted(handled) == list(range(500))


async def test_a_ready_made_client(
    kind: Kind, port: int, certificate: Path, namespace: str
) -> None:
    """Its certificates are taken along with its address."""
    options = {"ssl": True, "ssl_ca_certs": str(certificate)}
    made = redis.Redis("localhost", port, username=USER, password=PASSWORD, **options)  # type: ignore[arg-type]
    async with connecting(kind, "", namespace) as connect:
        mq = await connect(made)
        await mq.send(QUEUE, 1)
        assert (await mq.stats(QUEUE)).ready == 1
    made.close()


async def test_a_check_that_asyncio_does_not_know(port: int, namespace: str) -> None:
    """A check that was asked for is not silently left out."""
    made = redis.Redis("localhost", port, ssl=True, ssl_validate_ocsp=True)
    with pytest.raises(ms.UsageError, match="ssl_validate_ocsp is not known"):
        await ms.AsyncClient(made, namespace=namespace).connect()


async def test_nobody_is_trusted_unasked(kind: Kind, port: int, namespace: str) -> None:
    """A certificate that nobody has vouched for is a clear error, which hides the password."""
    url = f"rediss://{USER}:{PASSWORD}@localhost:{port}"
    async with connecting(kind, url, namespace) as connect:
        with pytest.raises(ms.NotConnected, match="CERTIFICATE_VERIFY_FAILED") as raised:
            await connect()
    assert f"{USER}:***@localhost:{port}" in str(raised.value)
    assert f":{PASSWORD}@" not in str(raised.value)


async def test_a_certificate_for_another_host(
    kind: Kind, port: int, certificate: Path, namespace: str
) -> None:
    """A certificate of a trusted authority must be for the host of the URL, unless that is left out."""
    url = f"rediss://{USER}:{PASSWORD}@127.0.0.1:{port}?ssl_ca_certs={certificate}"
    async with connecting(kind, url, namespace) as connect:
        with pytest.raises(ms.NotConnected, match="certificate is for another host"):
            await connect()
        for mq in (
            await connect(f"{url}&ssl_check_hostname=false"),
            await connect(security=ms.Security(check_hostname=False)),
        ):
            await mq.send(QUEUE, 1)


async def test_security_beside_the_url(
    kind: Kind, port: int, certificate: Path, namespace: str
) -> None:
    """User, password and authority may stand beside the URL."""
    url = f"rediss://localhost:{port}"
    security = ms.Security(username=USER, password=PASSWORD, ca_certs=certificate)
    async with connecting(kind, url, namespace) as connect:
        mq = await connect(security=security)
        await mq.send(QUEUE, 1)
        assert mq.url == url
        # For tests: nobody needs to vouch for the server.
        login: Any = {"username": USER, "password": PASSWORD}
        await (await connect(security=ms.Security(verify=False, **login))).send(QUEUE, 1)


async def test_a_server_that_wants_certificates(
    kind: Kind, server: Server, authority: trustme.CA, tmp_path: Path, namespace: str
) -> None:
    """A client has its own certificate, in the URL or beside it; without one the error says so."""
    files: dict[str, Any] = {
        name: tmp_path / f"{name}.pem" for name in ("ca_certs", "certfile", "keyfile")
    }
    clients = trustme.CA()
    mine = clients.issue_cert("millstream")
    authority.cert_pem.write_to_path(str(files["ca_certs"]))
    mine.cert_chain_pems[0].write_to_path(str(files["certfile"]))
    mine.private_key_pem.write_to_path(str(files["keyfile"]))
    with tls_proxy(server.port, authority, clients=clients) as port:
        url = f"rediss://{USER}:{PASSWORD}@localhost:{port}"
        query = "&".join(f"ssl_{name}={path}" for name, path in files.items())
        async with connecting(kind, url, namespace) as connect:
            await (await connect(f"{url}?{query}")).send(QUEUE, 1)
            mq = await connect(security=ms.Security(**files))
            await mq.send(QUEUE, 1)
            with pytest.raises(ms.BrokerError, match=r"ssl_certfile and ssl_keyfile|reset|closed"):
                await connect(security=ms.Security(ca_certs=files["ca_certs"]))


async def test_sentinels(
    kind: Kind, port: int, authority: trustme.CA, certificate: Path, namespace: str
) -> None:
    """Sentinels and servers speak TLS; certificates are checked against the names that Sentinels tell."""
    names = ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"]
    # It cannot look after the server, since it does not speak TLS itself. It knows where it is.
    watched = [*names, f"sentinel monitor main localhost {port} 1"]
    with (
        Server(sentinel=True, extra=watched) as sentinel,
        tls_proxy(sentinel.port, authority) as there,
    ):
        url = f"rediss+sentinel://{USER}:{PASSWORD}@localhost:{there}/main"
        async with connecting(kind, url, namespace) as connect:
            for mq in (
                await connect(f"{url}?ssl_ca_certs={certificate}"),
                await connect(security=ms.Security(ca_certs=certificate)),
            ):
                await mq.send(QUEUE, 1)
                await (await take_one(mq, QUEUE)).ack()
            with pytest.raises(ms.NotConnected, match=r"no Sentinel answers.*ssl_ca_certs"):
                await connect()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ca_certs": "/none.pem"}, "ca_certs: there is no file '/none.pem'"),
        ({"keyfile": __file__}, "certfile"),
        ({"password": 7}, "password must be text"),
        ({"password": b"s3cret"}, "password must be text, not of the type bytes"),
        ({"verify": None}, "verify must be True or False"),
        ({"check_hostname": 1}, "check_hostname must be True or False"),
    ],
)
def test_security_that_makes_no_sense(options: dict[str, Any], text: str) -> None:
    """The error names the parameter, and shows no value that may be a secret."""
    with pytest.raises(ms.UsageError, match=text) as raised:
        ms.Security(**options)
    assert "s3cret" not in str(raised.value)


async def test_security_without_tls(kind: Kind, url: str) -> None:
    """Certificates for a connection without TLS, or users of an embedded server, are refused."""
    for source, security, text in (
        (url, ms.Security(verify=False), "for TLS"),
        ("embedded://", ms.Security(username="x"), "embedded"),
        (None, "s3cret", "must be a Security, not of the type str"),
    ):
        with pytest.raises(ms.UsageError, match=text) as raised:
            await make(kind, source, security=security).connect()
        assert "s3cret" not in str(raised.value)
