"""The tests' own tools do what the tests rely on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.cluster import Cluster, Stage
from tests.support.leaks import kind, leaked, wipe
from tests.support.proxy import Proxy
from tests.support.servers import SERVERS, Server, binary
from tests.support.wait import auntil, until
from tests.support.watchdog import OutOfTime

ROOT = Path(__file__).parents[2]


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client behind the proxy that gives up soon and tries nothing twice."""
    once = Retry(NoBackoff(), 0)
    with redis.Redis.from_url(proxy.url, socket_timeout=0.3, retry=once) as client:
        yield client


class TestServer:
    @pytest.mark.parametrize("name", SERVERS)
    def test_each_supported_server_is_here(self, name: str) -> None:
        """A server that is missing is said once: no other test names those that are not here."""
        if binary(name) is None:
            pytest.skip(f"no {name} is installed: nothing has been tested on it")

    def test_each_supported_server_answers(self, any_server: Server) -> None:
        """Every server starts, on its socket and on its port, and is the version it is named."""
        info = any_server.admin().info("server")
        version = info.get("valkey_version", info["redis_version"])

        assert version.startswith(any_server.name.split("-")[1])
        with redis.Redis.from_url(any_server.tcp_url) as client:
            assert client.ping()

    def test_limited_user(self, any_server: Server) -> None:
        """The library's user reaches the tests' keys and channels and nothing else."""
        with redis.Redis.from_url(any_server.limited_url) as client:
            client.set("t-1:x", "1", px=1000)
            client.publish("t-1:x", "1")
            client.info("server")
            for refused in (["SET", "ms:x", "1"], ["PUBLISH", "ms:x", "1"], ["FLUSHALL"]):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*refused)

    def test_appendonly_survives_a_kill(self) -> None:
        """With fsync always, data, port and clients outlive SIGKILL."""
        with Server(appendonly=True, appendfsync="always") as server:
            server.admin().set("a", "1")
            before = server.pid
            server.kill()
            assert not server.running
            server.start()

            assert server.pid != before
            assert server.admin().get("a") == b"1"

    def test_without_persistence_a_restart_forgets(self) -> None:
        """A server without persistence comes back empty, under the same address."""
        with Server() as server:
            url = server.url
            server.admin().set("a", "1")
            server.restart()

            assert server.url == url
            assert server.admin().get("a") is None

    def test_a_paused_server_hangs(self) -> None:
        """A paused server keeps connections open, does not answer, and can go on."""
        with Server() as server, redis.Redis.from_url(server.url, socket_timeout=0.2) as client:
            client.set_retry(Retry(NoBackoff(), 0))
            client.ping()
            server.pause()
            with pytest.raises(redis.exceptions.TimeoutError):
                client.ping()
            server.resume()

            assert client.ping()

    def test_extra_configuration(self) -> None:
        """Extra lines reach the configuration."""
        with Server(extra=["maxmemory 20mb"]) as server:
            assert server.admin().config_get("maxmemory") == {"maxmemory": "20971520"}

    def test_a_taken_port_is_no_obstacle(self, server: Server) -> None:
        """When somebody else took the port in the meantime, another one is chosen."""
        other = Server()
        other.port = server.port
        with other:
            assert other.port != server.port

    def test_a_bad_configuration_is_explained(self) -> None:
        """A server that can't start says why, in the error."""
        server = Server(extra=["maxmemory lots"])
        with pytest.raises(RuntimeError, match="did not start"):
            server.start()
        server.close()

    @pytest.mark.parametrize("end", ["import os; os.kill(os.getpid(), 9)", "raise SystemExit"])
    def test_no_server_outlives_its_test_run(self, end: str) -> None:
        """A test process that dies, by whatever cause, takes its servers with it."""
        script = (
            "from tests.support.servers import Server; server = Server().start();"
            f"print(server.pid, server.directory, flush=True); {end}"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
        )
        pid, directory = done.stdout.split()

        until(lambda: not _exists(int(pid)), message="the server is gone")
        if end == "raise SystemExit":
            assert not Path(directory).exists()
        shutil.rmtree(directory, ignore_errors=True)  # SIGKILL left no time for that


class TestProxy:
    def test_forwards(self, proxy: Proxy, client: redis.Redis) -> None:
        """Requests and replies of any size pass."""
        big = b"x" * 1_000_000
        client.set("t-proxy", big, px=5000)

        assert client.get("t-proxy") == big
        assert proxy.connections == 1

    def test_cut(self, proxy: Proxy, client: redis.Redis) -> None:
        """A cut resets the connection; the next one works."""
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            proxy.cut()
            assert proxy.connections == 0
            with pytest.raises(ConnectionResetError):
                connection.recv(100)

        assert client.ping()

    def test_refuse_and_accept(self, proxy: Proxy, client: redis.Redis) -> None:
        """While it refuses, nobody connects; afterwards the same address works again."""
        proxy.refuse()
        with pytest.raises(redis.exceptions.ConnectionError):
            client.ping()
        proxy.accept()

        assert client.ping()

    @pytest.mark.parametrize("direction", [{}, {"replies": False}, {"requests": False}])
    def test_stall_and_resume(
        self, proxy: Proxy, client: redis.Redis, direction: dict[str, bool]
    ) -> None:
        """A stalled connection is open and silent, in either direction, and can go on."""
        client.ping()
        proxy.stall(**direction)
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
        proxy.resume()

        assert client.ping()

    def test_freeze(self, proxy: Proxy, client: redis.Redis, admin: redis.Redis) -> None:
        """A frozen connection is dead though nobody is told; the next one is good."""
        client.ping()
        number = client.client_id()
        proxy.freeze()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()

        assert client.ping()
        assert number in {int(one["id"]) for one in admin.client_list()}

    def test_delay(self, proxy: Proxy, client: redis.Redis) -> None:
        """A delay is added to every round trip."""
        client.ping()
        proxy.delay(0.05)
        begin = time.monotonic()
        client.ping()

        assert time.monotonic() - begin >= 0.05

    def test_drop_replies(self, proxy: Proxy, client: redis.Redis, admin: redis.Redis) -> None:
        """The server does it, the client can't know; once."""
        admin.delete("t-counter")
        proxy.drop_replies(to=b"INCR")
        client.ping()
        with pytest.raises(redis.exceptions.ConnectionError):
            client.incr("t-counter")

        assert proxy.lost == 1
        assert client.incr("t-counter") == 2
        admin.delete("t-counter")

    def test_drop_replies_after_some_bytes(
        self, proxy: Proxy, client: redis.Redis, admin: redis.Redis
    ) -> None:
        """A reply can get lost in its middle, also one that is awaited already."""
        admin.set("t-long", "x" * 1000, px=5000)
        client.ping()
        proxy.drop_replies(after=500)
        with pytest.raises(redis.exceptions.ConnectionError):
            client.get("t-long")

        assert client.get("t-long") == b"x" * 1000

    def test_a_server_that_is_down(self, server: Server) -> None:
        """Behind the proxy, a server that is down looks like a connection that breaks."""
        with Server() as down:
            port = down.port
        with Proxy(port) as proxy, redis.Redis.from_url(proxy.url) as client:
            client.set_retry(Retry(NoBackoff(), 0))
            with pytest.raises(redis.exceptions.ConnectionError):
                client.ping()


class TestLeaks:
    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("t-1:{orders}:ready", "ready"),
            ("t-1:{orders/1}:ready:2", "ready"),
            ("t-1:{a:b}:dead", "dead"),
            ("t-1:orders", None),
        ],
    )
    def test_kind(self, key: str, expected: str | None) -> None:
        """The kind of a key is the word after its hash tag."""
        assert kind(key) == expected

    def test_finds_what_would_stay(
        self, server: Server, admin: redis.Redis, namespace: str
    ) -> None:
        """A temporary key without a time to live is a leak; a permanent or expiring one is not."""
        admin.set(f"{namespace}:{{q}}:ready", "1")
        admin.set(f"{namespace}:{{q}}:reply", "1", px=5000)
        assert leaked(admin, namespace) == []
        admin.set(f"{namespace}:{{q}}:reply", "1")
        assert leaked(admin, namespace) == [f"{namespace}:{{q}}:reply"]
        wipe(admin, namespace)
        assert admin.keys(f"{namespace}*") == []


class TestWait:
    def test_until_returns_the_result(self) -> None:
        """The first true result comes back."""
        results = iter([0, "", 7])

        assert until(lambda: next(results)) == 7

    def test_until_names_the_condition(self) -> None:
        """A wait in vain says what it was waiting for, and what it saw last."""
        with pytest.raises(AssertionError, match=r"the mill turns \(last result: 0\)"):
            until(lambda: 0, timeout=0.01, message="the mill turns")

    async def test_auntil_takes_both_kinds(self) -> None:
        """A predicate may be plain or async."""

        async def later() -> int:
            return 2

        assert await auntil(lambda: 1) == 1
        assert await auntil(later) == 2
        with pytest.raises(AssertionError, match="the mill turns"):
            await auntil(lambda: 0, timeout=0.01, message="the mill turns")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed orphan stays a zombie until somebody adopts it; it is gone nevertheless.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


HANGS = """
import sys, threading
from tests.support.watchdog import watch

def nobody_ends_this():
    with watch(0.2, sys.stderr):
        threading.Event().wait()

nobody_ends_this()
"""


def test_a_test_that_hangs_ends_its_process() -> None:
    """The watchdog ends what nothing else does, and tells where it stood."""
    done = subprocess.run(
        [sys.executable, "-c", HANGS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    assert "nobody_ends_this" in done.stderr


def test_a_time_limit_ends_a_property() -> None:
    """Hypothesis does not go on, looking for a smaller example of a test that took too long."""
    tried: list[int] = []

    @given(number=st.integers())
    def takes_long(number: int) -> None:
        tried.append(number)
        signal.raise_signal(signal.SIGALRM)

    with pytest.raises(OutOfTime):
        takes_long()
    assert len(tried) == 1


def test_a_test_that_ends_is_left_alone() -> None:
    """Behind its block, the watchdog watches nobody."""
    script = "import sys, time\nfrom tests.support.watchdog import watch\nwith watch(0.1, sys.stderr): pass\ntime.sleep(0.3)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=30, check=False)

    assert done.returncode == 0


class TestCluster:
    def test_a_slot_moves_with_its_keys(self) -> None:
        """Each stage is told of once, and afterwards the other node has slot and key."""
        stages: list[Stage] = []
        with Cluster(masters=2) as cluster:
            source, target = cluster.masters
            key = next(f"k{n}" for n in range(100) if cluster.master_of(f"k{n}") is source)
            source.admin().set(key, "value")
            cluster.reshard(cluster.slot(key), target, between=stages.append)
            assert cluster.master_of(key) is target
            assert target.admin().get(key) == b"value"
        assert stages == ["importing", "migrating", "key", "moved", "owned"]

    def test_a_replica_takes_over_from_a_master_that_is_killed(self) -> None:
        """When `kill` returns, the replica is the master of what the dead node had."""
        with Cluster(masters=3, replicas=1, node_timeout_ms=500) as cluster:
            victim = cluster.masters[0]
            [replica] = cluster.replicas_of(victim)
            slot = next(slot for slot in range(16384) if cluster.master_of(slot) is victim)
            cluster.kill(victim)
            assert cluster.master_of(slot) is replica
