"""What a server must be able to do, checked when a client connects."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from redis import exceptions

from millstream.driver.server_check import check_probe, check_server
from millstream.errors import NotConnected, ServerRefused, UnsupportedServer
from millstream.protocol.probe import probe
from tests.driver.drivers import KINDS, Kind, op, opened
from tests.support.servers import Server

URL = "redis://host:6379"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which of the two drivers."""
    kind: Kind = request.param
    return kind


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("millstream") and record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize(
    "version", ["6.2.0", "6.2.18", "7.0.15", "7.4.2", "8.2.2", "8.10.0", "9.0"]
)
def test_supported_versions(version: str, caplog: pytest.LogCaptureFixture) -> None:
    """Redis from 6.2 on is fine, without a word."""
    check_server({"redis_version": version}, URL)

    assert warnings(caplog) == []


@pytest.mark.parametrize("version", ["6.0.16", "5.0.14", "2.8", "6.1.240", "", "unknown"])
def test_old_versions_are_refused(version: str) -> None:
    """An older server, or one that does not say what it is, is refused with its version."""
    with pytest.raises(UnsupportedServer, match=r"needs Redis 6\.2") as caught:
        check_server({"redis_version": version} if version else {}, URL)

    assert caught.value.version == version
    assert URL in str(caught.value)


@pytest.mark.parametrize("version", ["8.2.0", "8.2.1"])
def test_versions_that_crash(version: str, caplog: pytest.LogCaptureFixture) -> None:
    """Redis 8.2.0 and 8.2.1 can be crashed by stream commands: a warning names the CVE."""
    check_server({"redis_version": version}, URL)

    (warning,) = warnings(caplog)
    assert version in warning
    assert "CVE-2025-62507" in warning
    assert URL in warning


def test_valkey_is_told_by_its_own_version(caplog: pytest.LogCaptureFixture) -> None:
    """Valkey says that it is some Redis, too; what is wrong with that Redis is not its fault."""
    check_server({"redis_version": "8.2.0", "valkey_version": "9.0.0"}, URL)

    assert warnings(caplog) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_eviction(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that may evict keys loses messages: a warning says how to forbid it."""
    check_server({"redis_version": "7.0.0", "maxmemory_policy": policy}, URL)

    (warning,) = warnings(caplog)
    assert policy in warning
    assert "CONFIG SET maxmemory-policy noeviction" in warning


async def test_real_servers(
    any_server: Server, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    """Every supported server passes the check; the one with the crash is warned of."""
    async with opened(kind, any_server.limited_url) as driver:
        info: Any = any_server.admin().info("server")
        assert await driver.run(op("PING")) == b"PONG"

    crash = "valkey_version" not in info and info["redis_version"] in ("8.2.0", "8.2.1")
    assert len(warnings(caplog)) == crash


async def test_a_real_server_that_evicts(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """The warning comes once a client, when it connects."""
    with Server(extra=["maxmemory-policy allkeys-lru"]) as server:
        async with opened(kind, server.url) as driver:
            for _ in range(3):
                await driver.run(op("PING"))

    (warning,) = warnings(caplog)
    assert "allkeys-lru" in warning


async def test_a_user_who_may_not_ask(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """A user without the right to INFO connects without a check and without a warning."""
    with Server(extra=["user quiet on >pw ~* &* +@all -info"]) as server:
        async with opened(kind, f"redis://quiet:pw@127.0.0.1:{server.port}") as driver:
            assert await driver.run(op("PING")) == b"PONG"

    assert warnings(caplog) == []


async def test_a_server_that_hides_what_it_is(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """A server without INFO, as some managed ones are, is used unchecked and without a warning."""
    with Server(extra=['rename-command INFO ""']) as server:
        async with opened(kind, server.url) as driver:
            assert await driver.run(op("PING")) == b"PONG"

    assert warnings(caplog) == []


def test_who_cannot_confirm_at_the_moment() -> None:
    """A server that is loading is asked again; a replica is told by what follows; others are refused."""
    refused = exceptions.ResponseError("WAITAOF cannot be used when appendonly is disabled.")
    replica = exceptions.ResponseError("WAIT cannot be used with replica instances.")
    loading = exceptions.BusyLoadingError("Redis is loading the dataset in memory")

    check_probe(probe("replicas:1", URL), [replica], URL)
    for durability, replies in (("replicas:1", [loading]), ("fsync", [loading, loading, b""])):
        with pytest.raises(NotConnected):
            check_probe(probe(durability, URL), replies, URL)
    with pytest.raises(ServerRefused, match="CONFIG SET appendonly yes"):
        check_probe(probe("fsync", URL), [refused, [], b""], URL)
    with pytest.raises(ServerRefused, match="NOPERM"):
        check_probe(probe("replicas:1", URL), [exceptions.NoPermissionError("no")], URL)
