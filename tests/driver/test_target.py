"""Where the server is: URLs and ready-made clients to targets, and what may be shown of them."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from millstream.driver.target import Target, hide_password, resolve
from millstream.errors import UsageError


@pytest.mark.parametrize(
    ("url", "transport", "options"),
    [
        ("redis://", "tcp", {}),
        ("redis://localhost", "tcp", {"host": "localhost"}),
        ("redis://host:7000/3", "tcp", {"host": "host", "port": 7000, "db": 3}),
        ("redis://host?db=3", "tcp", {"host": "host", "db": 3}),
        ("redis://host/", "tcp", {"host": "host"}),
        (
            "redis://user:a%2Fb@host/%33/",
            "tcp",
            {"host": "host", "db": 3, "username": "user", "password": "a/b"},
        ),
        ("redis://:pw@host", "tcp", {"host": "host", "password": "pw"}),
        (
            "redis://user:p%40ss%3A@host",
            "tcp",
            {"host": "host", "username": "user", "password": "p@ss:"},
        ),
        ("redis://[::1]:7000", "tcp", {"host": "::1", "port": 7000}),
        ("valkey://host", "tcp", {"host": "host"}),
        ("rediss://host", "tls", {"host": "host"}),
        (
            "valkeys://host?ssl_check_hostname=false&ssl_cert_reqs=none",
            "tls",
            {"host": "host", "ssl_check_hostname": False, "ssl_cert_reqs": "none"},
        ),
        ("unix:///run/redis.sock", "unix", {"path": "/run/redis.sock"}),
        (
            "unix://user:pw@/run/my%20redis.sock?db=2",
            "unix",
            {"path": "/run/my redis.sock", "db": 2, "username": "user", "password": "pw"},
        ),
        # Timeouts, retries, protocol and decoding are the driver's business.
        (
            "redis://host?socket_timeout=5&decode_responses=true&protocol=3&client_name=me",
            "tcp",
            {"host": "host", "client_name": "me"},
        ),
    ],
)
def test_urls(url: str, transport: str, options: dict[str, Any]) -> None:
    """Each scheme names a transport, and the URL says the rest."""
    target = resolve(url)

    assert target.transport == transport
    assert dict(target.options) == options
    assert target.embedded is None


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_urls_of_sentinels(scheme: str) -> None:
    """Login, database and options are for the servers; the Sentinels have options of their own."""
    tls = scheme in {"rediss", "valkeys"}
    url = (
        f"{scheme}+sentinel://user:p%40ss@h1,[::1]:7,h3:26380/my%20name/3?client_name=me"
        "&sentinel_username=watch&sentinel_password=p%26w"
    )

    target = resolve(url)

    assert target.transport == ("tls" if tls else "tcp")
    login = {"username": "user", "password": "p@ss"}
    assert target.options == {**login, "db": 3, "client_name": "me"}
    assert target.sentinels is not None
    assert target.sentinels.name == "my name"
    places: list[Any] = list(target.sentinels.places)
    assert [place.url for place in places] == ["h1:26379", "[::1]:7", "h3:26380"]
    for place in places:
        assert place.transport == target.transport
        assert place.options["username"] == "watch"
        assert place.options["password"] == "p&w"  # noqa: S105 - no secret
        assert "db" not in place.options
    assert target.replicas() is not None


def test_one_server_has_no_replicas() -> None:
    """Nobody tells where replicas of a plain URL are."""
    assert resolve("redis://host").replicas() is None


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://host?ssl_ca_certs=/ca.pem", "ssl_ca_certs is for TLS.*rediss://"),
        ("rediss://host?ssl_ca_certs=/none.pem", "ssl_ca_certs.*no file '/none.pem'"),
        ("rediss://host?ssl_cacerts=/ca.pem", "no option ssl_cacerts.*ssl_ca_certs"),
        ("redis+sentinel://h/name?ssl_keyfile=/k.pem", "ssl_keyfile is for TLS"),
        ("rediss+sentinel://h/name?ssl_keyfile=/none.pem", "ssl_keyfile.*no file"),
    ],
)
def test_options_of_tls_that_make_no_sense(url: str, text: str) -> None:
    """Options that TLS does not know, or a connection without it, are named by the error."""
    with pytest.raises(UsageError, match=text):
        resolve(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:6379",
        "http://localhost",
        "redis:localhost",
        "unix+sentinel://host/name",
        "redis+sentinel://host",
        "redis+sentinel://host/",
        "redis+sentinel:///name",
        "redis+sentinel://host,/name",
        "redis+sentinel://host:port/name",
        "redis+sentinel://host:99999/name",
        "redis+sentinel://[::1/name",
        "redis+sentinel://host/name/three",
        "redis+sentinel://host/name/1/2",
        "redis+sentinel://host/name?sentinel_port=1",
        "redis+cluster://host",
        "REDIS//host",
        "redis://host:port",
        "redis://host:99999",
        "redis://[::1",
        "redis://host?db=three",
        "redis://host/three",
        "redis://host/1/2",
        "valkeys://user:pw@host:7000/three?ssl_cert_reqs=none",
    ],
)
def test_urls_that_make_no_sense(url: str) -> None:
    """What is no URL of a server is a UsageError."""
    with pytest.raises(UsageError, match="URL"):
        resolve(url)


def test_the_error_lists_the_schemes() -> None:
    """The error for an unknown scheme says which ones there are."""
    with pytest.raises(UsageError) as caught:
        resolve("amqp://localhost")

    plain = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://", "embedded://")
    for scheme in (*plain, "redis+sentinel://", "rediss+sentinel://"):
        assert scheme in str(caught.value)


SECRET = "s3cr3t"  # noqa: S105 - the word that must not be shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{SECRET}@host:1/0", "redis://:***@host:1/0"),
        (f"redis://user:{SECRET}@host", "redis://user:***@host"),
        (f"redis://user:{SECRET}@at@host", "redis://user:***@host"),
        (f"redis://user:{SECRET}:x@host", "redis://user:***@host"),
        (f"unix://user:{SECRET}@/run/a.sock?db=1", "unix://user:***@/run/a.sock?db=1"),
        (f"unix:///run/a.sock?password={SECRET}&db=1", "unix:///run/a.sock?password=***&db=1"),
        (f"rediss://host?ssl_password={SECRET}", "rediss://host?ssl_password=***"),
        ("redis://user@host", "redis://user@host"),
        ("redis://host:6379/1", "redis://host:6379/1"),
        ("unix:///run/a.sock", "unix:///run/a.sock"),
        ("redis://[::1]:7000", "redis://[::1]:7000"),
        (
            f"redis+sentinel://user:{SECRET}@h1:1,h2/name/3?sentinel_password={SECRET}&client_name=me",
            "redis+sentinel://user:***@h1:1,h2/name/3?sentinel_password=***&client_name=me",
        ),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    """A URL is shown as it is, but for its passwords."""
    assert hide_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        # Characters that should have been escaped, as people forget to do.
        f"redis://:{SECRET}/x@host:6379",
        f"redis://:x/{SECRET}@host:6379",
        f"redis://:x?{SECRET}@host",
        f"redis://:x#{SECRET}@host",
        f"redis://user:[{SECRET}@host",
        f"redis://user:x?y=z@host?sentinel_password={SECRET}",
        f"redis://user:x://{SECRET}@host",
        f"redis://host?PASSWORD={SECRET}",
        f"redis://host?pass%77ord={SECRET}",
        f"user:{SECRET}@host:6379",
        f"http://user:{SECRET}@host",
        f"redis//user:{SECRET}@host",
        f"redis://host:port?password={SECRET}",
        f"redis+sentinel://user:{SECRET}/x@host/name",
        f"redis+sentinel://user:x?{SECRET}@host/name",
        f"redis+sentinel://user:x,{SECRET}@host:port/name",
        f"redis+sentinel://host/name/x?sentinel_password={SECRET}",
        f"redis+sentinel://host?sentinel_password={SECRET}",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    """However broken a URL is, its password is neither in what is shown nor in the error."""
    assert SECRET not in hide_password(url)
    assert SECRET not in said_of(url)


def said_of(url: str) -> str:
    """What resolve says, in an error or in a target."""
    try:
        target = resolve(url)
    except UsageError as error:
        # What happened before is not shown, but error trackers find it.
        return traceback.format_exc().partition("UsageError")[2] + repr(error.__context__)
    return f"{target!r} {target.url}"


def test_a_target_does_not_show_its_password() -> None:
    """Neither the URL of a target nor its repr has the password in it."""
    target = resolve(f"redis://user:{SECRET}@host")

    assert repr(target) == "Target('redis://user:***@host')"
    assert SECRET not in f"{target} {target.url}"


# --- ready-made clients -----------------------------------------------------------------------


@pytest.mark.parametrize("module", [redis, redis.asyncio], ids=["blocking", "asyncio"])
def test_ready_made_clients(module: Any) -> None:
    """Address and credentials of a client are taken; its habits are not."""
    client = module.Redis(
        host="host",
        port=7000,
        db=3,
        username="user",
        password=SECRET,
        client_name="me",
        decode_responses=True,
        protocol=3,
        socket_timeout=0.5,
        health_check_interval=30,
        max_connections=5,
    )

    target = resolve(client)

    assert (target.transport, target.url) == ("tcp", "redis://host:7000")
    expected = {"host": "host", "port": 7000, "db": 3, "username": "user", "password": SECRET}
    # redis-py passes a marker for its own default of this one.
    options = {k: v for k, v in target.options.items() if k != "socket_keepalive_options"}
    assert options == {**expected, "client_name": "me"}


@pytest.mark.parametrize("module", [redis, redis.asyncio], ids=["blocking", "asyncio"])
@pytest.mark.parametrize(
    ("url", "transport", "shown"),
    [
        ("rediss://host:7000?ssl_cert_reqs=none", "tls", "rediss://host:7000"),
        ("unix:///run/a.sock", "unix", "unix:///run/a.sock"),
        ("redis://", "tcp", "redis://localhost:6379"),
    ],
)
def test_ready_made_clients_of_every_transport(
    module: Any, url: str, transport: str, shown: str
) -> None:
    """The transport of a client is recognised, whichever of the two kinds it is."""
    target = resolve(module.Redis.from_url(url))

    assert (target.transport, target.url) == (transport, shown)


def test_a_pool_that_blocks() -> None:
    """A client with a pool of another class is fine: only its settings count."""
    pool = redis.BlockingConnectionPool.from_url("redis://host:7000")

    assert resolve(redis.Redis(connection_pool=pool)).url == "redis://host:7000"


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
@pytest.mark.parametrize(("tls", "transport"), [({}, "tcp"), ({"ssl": True}, "tls")])
def test_clients_of_sentinels(module: Any, tls: dict[str, bool], transport: str) -> None:
    """The Sentinels of a client are taken, and who logs in where."""
    sentinels = module.Sentinel(
        [("h1", 26379), ("::1", 7)], sentinel_kwargs={"password": SECRET, **tls}
    )
    wanted = {"username": "user", "password": "other", "db": 3}
    master = sentinels.master_for("name", **wanted, **tls)

    target = resolve(master)

    scheme = "rediss" if tls else "redis"
    assert target.url == f"{scheme}+sentinel://h1:26379,[::1]:7/name"
    assert target.transport == transport
    assert {name: target.options[name] for name in wanted} == wanted
    assert "host" not in target.options


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
def test_clients_of_sentinels_that_are_refused(module: Any) -> None:
    """A client of replicas cannot send; one that knows better than its Sentinels is not guessed at."""
    with pytest.raises(UsageError, match=r"master_for.*read_from"):
        resolve(module.Sentinel([("host", 26379)]).slave_for("name"))
    with pytest.raises(UsageError, match="force_master_ip"):
        resolve(module.Sentinel([("h", 1)], force_master_ip="1.2.3.4").master_for("name"))


@pytest.mark.parametrize("source", [7, b"redis://host", object(), {"host": "host"}])
def test_no_source_at_all(source: Any) -> None:
    """Anything else is a UsageError that names its type."""
    with pytest.raises(UsageError, match=type(source).__name__):
        resolve(source)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a source, $MILLSTREAM_URL is used, and a wrong one is reported like any other."""
    monkeypatch.setenv("MILLSTREAM_URL", "redis://elsewhere:7000")
    assert resolve().url == "redis://elsewhere:7000"

    monkeypatch.setenv("MILLSTREAM_URL", "elsewhere")
    with pytest.raises(UsageError, match="elsewhere"):
        resolve()


@pytest.mark.parametrize("url", ["redis://host", "rediss://host", "unix:///run/a.sock"])
def test_connections(url: str) -> None:
    """Connections speak RESP2 without decoding, and have the timeouts that the driver gives."""
    target = resolve(url)

    blocking, asynchronous = target.blocking_connection(2, 7), target.async_connection(2)

    assert (blocking.socket_connect_timeout, blocking.socket_timeout) == (2, 7)
    assert (asynchronous.socket_connect_timeout, asynchronous.socket_timeout) == (2, None)
    for connection in (blocking, asynchronous):
        assert connection.protocol == 2
        assert connection.encoder.decode_responses is False


def test_targets_are_values() -> None:
    """Two targets of the same URL are equal."""
    assert resolve("redis://host:7000/1") == resolve("redis://host:7000/1")
    assert isinstance(resolve("redis://host"), Target)
