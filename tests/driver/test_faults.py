"""redis-py's errors to ours, and when to try again."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from millstream.driver.faults import Tries, code_of, is_connection_loss, refusal, translate
from millstream.errors import BrokerError, NotConnected, ServerRefused, TimedOut
from millstream.protocol.keys import queue_keys
from millstream.protocol.op import Command, Op, load_script
from tests.support.servers import Server

URL = "redis://host:6379"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ConnectionError("Connection closed by server."), NotConnected),
        (exceptions.ConnectionError("max number of clients reached"), NotConnected),
        (ConnectionRefusedError(111, "refused"), NotConnected),
        (OSError(9, "bad descriptor"), NotConnected),
        (exceptions.TimeoutError("Timeout reading"), TimedOut),
        (TimeoutError(), TimedOut),
        (exceptions.BusyLoadingError("loading the dataset in memory"), NotConnected),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), NotConnected),
        (exceptions.MasterDownError("Link with MASTER is down"), NotConnected),
        (exceptions.ResponseError("UNBLOCKED force unblock from blocking"), NotConnected),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas"), NotConnected),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), NotConnected),
        (exceptions.AuthenticationError("invalid username-password pair"), ServerRefused),
        (exceptions.NoPermissionError("no permissions"), ServerRefused),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), ServerRefused),
        (exceptions.InvalidResponse("Protocol error"), ServerRefused),
        (exceptions.RedisError("something new"), ServerRefused),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}" if isinstance(value, Exception) else "",
)
def test_translate(error: Exception, expected: type[BrokerError]) -> None:
    """Every error becomes the one of ours that tells what to do, and names the server."""
    ours = translate(error, URL)

    assert type(ours) is expected
    assert URL in str(ours)
    assert "()" not in str(ours)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (exceptions.ConnectionError("closed"), True),
        (exceptions.TimeoutError("late"), True),
        (OSError(), True),
        (TimeoutError(), True),
        (exceptions.AuthenticationError("wrong"), False),
        (exceptions.AuthorizationError("wrong"), False),
        (exceptions.BusyLoadingError("loading"), False),
        (exceptions.ResponseError("ERR"), False),
        (exceptions.InvalidResponse("Protocol error"), False),
    ],
    ids=repr,
)
def test_connection_loss(error: Exception, *, lost: bool) -> None:
    """A lost connection is told from an answer of the server, whatever redis-py's classes say."""
    assert is_connection_loss(error) is lost


def test_a_refusal_says_what_it_means() -> None:
    """The server's words stay, with its code as an attribute and a hint for people."""
    error = refusal(exceptions.OutOfMemoryError("command not allowed"), URL)

    assert isinstance(error, ServerRefused)
    assert error.code == "OOM"
    assert str(error).startswith(f"{URL} refused: OOM command not allowed (")


def test_a_refusal_names_the_keys() -> None:
    """The server does not say which key a user may not touch; the error says which it was about."""
    error = exceptions.NoPermissionError("No permissions to access a key")
    script = load_script("peek")
    keys = queue_keys("ms", "{shop}.orders")
    calls = (script.call(keys.common, []), Command(("XLEN", b"ms:{shop}:dead")))
    of_users = Op((*calls, Command(("SET", "{shop}balance", 1))), list)
    of_channels = Op((Command(("PUBLISH", "ms:{ticks}:channel", b"")),), list)

    assert (
        "access a key, on the keys ms:{shop}.orders:* ms:{shop}:* {shop}balance (the user of this "
        "connection lacks a permission: millstream acl prints what each role needs)"
    ) in str(refusal(error, URL, of_users))
    assert "on the keys" not in str(refusal(error, URL, of_channels))
    assert "on the keys" not in str(refusal(exceptions.OutOfMemoryError("no"), URL, of_users))


def provoke(client: Any, *command: Any) -> Exception:
    with pytest.raises(exceptions.RedisError) as caught:
        client.execute_command(*command)
    return caught.value


WRITE = "return redis.call('XADD', KEYS[1], '*', 'b', '1')"


def test_codes_of_real_servers(any_server: Server, namespace: str) -> None:
    """The code is the same on every server, be it the command or a script that was refused."""
    admin: Any = any_server.admin()
    key = f"{namespace}:x"
    with redis.Redis.from_url(any_server.limited_url) as limited:
        assert code_of(provoke(limited, "SET", "foreign", "1")) == "NOPERM"
        assert code_of(provoke(limited, "FLUSHALL")) == "NOPERM"
    admin.set(key, "1", ex=60)
    assert code_of(provoke(admin, "XADD", key, "*", "b", "1")) == "WRONGTYPE"
    assert code_of(provoke(admin, "EVAL", WRITE, 1, key)) == "WRONGTYPE"
    assert code_of(provoke(admin, "EVALSHA", "0" * 40, 0)) == "NOSCRIPT"
    read = provoke(admin, "XREADGROUP", "GROUP", "g", "c", "STREAMS", "t-0", ">")
    assert code_of(read) == "NOGROUP"
    assert code_of(provoke(admin, "NONSENSE")) == "ERR"
    admin.config_set("maxmemory", 1)
    try:
        assert code_of(provoke(admin, "XADD", f"{key}2", "*", "b", "1")) == "OOM"
        assert code_of(provoke(admin, "EVAL", WRITE, 1, f"{key}2")) == "OOM"
    finally:
        admin.config_set("maxmemory", 0)
    login = f"nobody:x@127.0.0.1:{any_server.port}"
    with redis.Redis.from_url(f"redis://{login}", retry=Retry(NoBackoff(), 0)) as stranger:
        assert code_of(provoke(stranger, "PING")) == "WRONGPASS"


def test_codes_of_a_replica(any_server: Server, namespace: str) -> None:
    """A replica's refusal is READONLY, in a script, too; without its master it is MASTERDOWN."""
    admin: Any = any_server.admin()
    key = f"{namespace}:x"
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        assert code_of(provoke(admin, "SET", key, "1")) == "READONLY"
        assert code_of(provoke(admin, "EVAL", WRITE, 1, key)) == "READONLY"
        admin.config_set("replica-serve-stale-data", "no")
        assert code_of(provoke(admin, "GET", key)) == "MASTERDOWN"
    finally:
        admin.config_set("replica-serve-stale-data", "yes")
        admin.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exceptions.AuthenticationError("Authentication required."), "NOAUTH"),
        (exceptions.AuthenticationError("invalid username-password pair"), "WRONGPASS"),
        (exceptions.ReadOnlyError("You can't write"), "READONLY"),
        (exceptions.BusyLoadingError("loading the dataset"), "LOADING"),
        (exceptions.MasterDownError("Link with MASTER is down"), "MASTERDOWN"),
        (exceptions.OutOfMemoryError("command not allowed"), "OOM"),
        (exceptions.NoScriptError("No matching script."), "NOSCRIPT"),
        (exceptions.NoPermissionError("no permissions"), "NOPERM"),
        (exceptions.MovedError("1234 127.0.0.1:7001"), "MOVED"),
        (exceptions.ClusterDownError("The cluster is down"), "CLUSTERDOWN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_codes_that_redis_py_has_cut_off(error: Exception, code: str) -> None:
    """Older versions of redis-py leave only the class of an error to tell its code by."""
    assert code_of(error) == code


def test_tries_come_soon_then_seldom_and_end_in_time() -> None:
    """Pauses grow from some milliseconds to about a second; the last try is at the deadline."""
    tries, now, pauses = Tries(deadline=20.0), 0.0, []

    while (pause := tries.next_pause(now)) is not None:
        pauses.append(pause)
        now += pause

    assert pauses[0] <= 0.03
    assert max(pauses) <= 1.5
    assert now == pytest.approx(20)
    assert 15 < len(pauses) < 50
    assert len(set(pauses)) == len(pauses)


def test_no_tries_after_the_deadline() -> None:
    """When the time is over, there is no further try."""
    assert Tries(deadline=5.0).next_pause(5.0) is None
