"""A primary, its replicas, and the Sentinels that watch them: all processes of this machine.

They fail over within some seconds. A test reads the roles from the Sentinels each time, since a slow
machine can make them fail over once more than the test has asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import redis

from tests.support.servers import PASSWORD, USER, Server
from tests.support.wait import until

SERVICE = "main"
"""The name under which the Sentinels know the primary."""

SLOW = 60.0
"""Seconds in which everything has happened, on a busy machine too."""

QUICK = (
    # How often they look and talk, in ms: by default, most of it is once in one to ten seconds.
    *("info-period", 100, "ping-period", 100, "ask-period", 100),
    # They make a server a replica that has been a primary for four times as long against their
    # will; the new primary of a failover must not be taken for such a one.
    *("publish-period", 500),
    # A machine that hangs for two seconds would keep them from failing over for half a minute.
    *("tilt-trigger", 60_000, "election-timeout", 2_000),
)


class SentinelSetup:
    """One primary with replicas, watched by Sentinels. Use it as a context manager.

    In the block, the replicas are in sync, and all Sentinels know each other and all servers::

        with SentinelSetup() as setup:
            mq = ms.Client(setup.url)
            old = setup.primary
            old.kill()                      # or old.pause()
            setup.wait_for_failover(old)    # the Sentinels name another primary, which is one
            old.start()                     # comes back as a primary, and is made a replica
            setup.settle()
            setup.fail_over()               # as an operator asks for it, with all servers well

    Servers stay at their ports. `setup.primary` is the server that the Sentinels name now.

    Args:
        name: which server is the primary and the replicas; the Sentinels are Valkey's.
        replicas: how many.
        sentinels: how many; more than half of them must agree.
        down_after: seconds without an answer after which a server counts as down. Shorter ones
            mistake a busy machine for a dead server.
        appendonly: whether the servers write what they have to disk.
        extra: lines for the configuration of primary and replicas.
        sentinel_extra: lines for that of the Sentinels.
    """

    def __init__(
        self,
        name: str = "valkey-8.1",
        *,
        replicas: int = 1,
        sentinels: int = 3,
        down_after: float = 1.0,
        appendonly: bool = False,
        extra: Iterable[str] = (),
        sentinel_extra: Iterable[str] = (),
    ) -> None:
        self._name = name
        self._replicas = replicas
        self._count = sentinels
        self._down_after = down_after
        self._appendonly = appendonly
        self._extra = list(extra)
        self._sentinel_extra = list(sentinel_extra)
        self._stack = ExitStack()
        self.servers: list[Server] = []
        """Primary and replicas, in the order of their start: the first was the first primary."""
        self.sentinels: list[Server] = []

    @property
    def hosts(self) -> str:
        """Where the Sentinels are, as a part of a URL."""
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def url(self) -> str:
        """For clients, as a user who may do everything."""
        return f"redis+sentinel://{self.hosts}/{SERVICE}"

    @property
    def limited_url(self) -> str:
        """For clients, as a user who may touch only keys and channels that start with `t-`."""
        return f"redis+sentinel://{USER}:{PASSWORD}@{self.hosts}/{SERVICE}"

    @property
    def primary(self) -> Server:
        """The server that the Sentinels name, or most of them if they do not agree."""
        named = [port for port in map(_named, self.sentinels) if port]
        port = max(named, key=named.count)
        return next(server for server in self.servers if server.port == port)

    @property
    def replicas(self) -> list[Server]:
        """All servers but the primary, those that are down included."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def admin(self) -> redis.Redis:
        """A blocking client of the primary that may do everything."""
        return self.primary.admin()

    def fail_over(self) -> Server:
        """Have the Sentinels make a replica the primary, though nothing is wrong; return it."""
        old = self.primary
        _eventually(lambda: self._asked(old), "a failover that was asked for")
        return self.wait_for_failover(old)

    def wait_for_failover(self, old: Server) -> Server:
        """Wait until all Sentinels that live name another primary; return it."""
        _eventually(lambda: self._agreed(other_than=old), "a failover")
        return self.primary

    def settle(self) -> None:
        """Wait until all servers that live are the primary or replicas in sync with it."""
        _eventually(self._agreed, "the Sentinels agree")
        _eventually(self._in_sync, "all replicas are in sync")
        _eventually(self._known, "the Sentinels know all servers and each other")

    def close(self) -> None:
        """End all processes and delete their data."""
        self._stack.close()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        first = self._server([])
        for _ in range(self._replicas):
            self._server([f"replicaof 127.0.0.1 {first.port}"])
        lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} {self._count // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE} {int(self._down_after * 1000)}",
            # After a vote without a winner, or a failover, they wait for twice as long.
            f"sentinel failover-timeout {SERVICE} 1500",
            *self._sentinel_extra,
        ]
        for _ in range(self._count):
            server = Server("valkey-8.1", sentinel=True, extra=lines)
            self.sentinels.append(self._stack.enter_context(server))
            _ask(server, "DEBUG", *QUICK)
        self.settle()

    def _server(self, lines: list[str]) -> Server:
        extra = ["repl-ping-replica-period 1", *self._extra, *lines]
        server = Server(self._name, appendonly=self._appendonly, extra=extra)
        self.servers.append(self._stack.enter_context(server))
        return server

    def _asked(self, old: Server) -> bool:
        """Ask for a failover unless there was one: one that has begun may be given up."""
        if self.primary is not old:
            return True
        sentinel = next(filter(_alive, self.sentinels))
        with suppress(redis.ResponseError):  # one goes on, or no replica is good enough yet
            _ask(sentinel, "FAILOVER", SERVICE)
        return False

    def _agreed(self, other_than: Server | None = None) -> bool:
        ports = {_named(sentinel) for sentinel in self.sentinels if _alive(sentinel)}
        if len(ports) != 1 or (other_than is not None and other_than.port in ports):
            return False
        primary = self.primary
        return _alive(primary) and _replication(primary)["role"] == "master"

    def _in_sync(self) -> bool:
        primary = self.primary
        for server in self.servers:
            if server is primary or not _alive(server):
                continue
            state = _replication(server)
            if state.get("master_port") != primary.port or state["master_link_status"] != "up":
                return False
        return True

    def _known(self) -> bool:
        living = {server.port for server in self.servers if _alive(server)}
        for sentinel in filter(_alive, self.sentinels):
            admin: Any = sentinel.admin()
            state = admin.sentinel_master(SERVICE)
            others = state["num-other-sentinels"], state["num-slaves"]
            if others != (self._count - 1, self._replicas) or state["flags"] != "master":
                return False
            for replica in admin.sentinel_slaves(SERVICE):
                state = (replica[name] for name in ("flags", "role-reported", "master-link-status"))
                if replica["port"] in living and tuple(state) != ("slave", "slave", "ok"):
                    return False
        return True


def _eventually(condition: Callable[[], bool], what: str) -> None:
    def holds() -> bool:
        try:
            return condition()
        except redis.RedisError:  # Sentinels cut all connections to a server whose role they change
            return False

    until(holds, SLOW, message=what)


def _alive(server: Server) -> bool:
    return server.running and not server.paused


def _named(sentinel: Server) -> int | None:
    """Tell the port of the primary that this Sentinel names."""
    if not _alive(sentinel):
        return None
    reply = _ask(sentinel, "GET-MASTER-ADDR-BY-NAME", SERVICE)
    return int(reply[1]) if reply else None


def _ask(sentinel: Server, *arguments: str | int) -> Any:
    admin: Any = sentinel.admin()
    return admin.execute_command("SENTINEL", *arguments)


def _replication(server: Server) -> Any:
    return server.admin().info("replication")
