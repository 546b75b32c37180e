"""Users of each role at a test's server, and a witness of what each of them asks the server for."""

from __future__ import annotations

import re
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import redis

from millstream.protocol.access import ROLES, Names, Role, rules_for
from millstream.protocol.op import load_script
from tests.support.servers import Server

PASSWORD = "only-here"  # noqa: S105 - of users that exist for one test

DISPENSABLE = {
    # A client tells its name and version; Redis 6.2 reports the first word only.
    *("client|setinfo", "client"),
    # Who sends with durability="fsync" asks for the policy, and takes no answer for an answer.
    "config|get",
}

_LINE = re.compile(r'\[\d+ (?P<address>[^\]]+)\] (?P<words>"[^"]*"(?: "[^"]*")?)')
_CONTAINERS = {"client", "script", "config", "slowlog", "latency", "cluster", "acl"}


def add_users(
    server: Server,
    namespace: str,
    *,
    names: Names | None = None,
    without: str | None = None,
    **more_of: bool,
) -> dict[Role, str]:
    """Make a user for each role; return how each reaches the server.

    `more_of` is for `rules_for`: `cluster`, `sharded`, `fsync`.
    """
    urls: dict[Role, str] = {}
    for role in ROLES:
        rules = rules_for([role], namespace=namespace, names=names or Names(), **more_of)
        name = f"{namespace}-{role}"
        more = [] if without is None else [f"-{without}"]
        admin: Any = server.admin()
        admin.execute_command("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", *rules, *more)
        urls[role] = server.tcp_url.replace("redis://", f"redis://{name}:{PASSWORD}@")
    return urls


def remove_users(server: Server, namespace: str) -> None:
    admin: Any = server.admin()
    admin.execute_command("ACL", "DELUSER", *(f"{namespace}-{role}" for role in ROLES))


def refusals(server: Server) -> set[tuple[str, str]]:
    """What users were refused since the last look: who, and what; not what they do well without."""
    admin: Any = server.admin()
    entries = [{**one} for one in admin.acl_log()]
    admin.acl_log_reset()
    found = {(str(one["username"]), str(one["object"])) for one in entries}
    return {(user, what) for user, what in found if what not in DISPENSABLE}


class Witness:
    """Reads what MONITOR tells, and whose connection it was."""

    def __init__(self, server: Server) -> None:
        self._admin = redis.Redis.from_url(server.url)
        self._users: dict[str, str] = {}
        self._names = {load_script(name).sha: name for name in _all_scripts()}
        self.seen: set[tuple[str, str]] = set()
        self._token = uuid.uuid4().hex
        self._here = threading.Event()
        self._connection = socket.create_connection(("127.0.0.1", server.port))
        self._file = self._connection.makefile("r", encoding="utf-8", errors="replace")
        self._connection.sendall(b"MONITOR\r\n")
        assert self._file.readline() == "+OK\n"
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._file:
            match = _LINE.search(line)
            if match is None or match["address"] == "lua":
                continue
            address = match["address"]
            if address.startswith("unix:"):  # the test's own
                if self._token in match["words"]:
                    self._here.set()
                continue
            self._look_for(address)
            first, *second = [word.strip('"').lower() for word in match["words"].split(" ")]
            if first == "evalsha":
                self.seen.add((address, self._names.get(second[0], "?") + ".lua"))
            self.seen.add((address, f"{first}|{second[0]}" if first in _CONTAINERS else first))

    def _look_for(self, address: str) -> None:
        # A connection is the default user's until it has said whose it is.
        if self._users.get(address, "default") == "default":
            for client in self._admin.client_list():
                self._users[client["addr"]] = client["user"]

    def catch_up(self) -> None:
        """Return when all is read that was asked so far: whose a connection was is told while it is."""
        self._here.clear()
        self._admin.echo(self._token)
        assert self._here.wait(30), "MONITOR is silent"

    def close(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._file.close()
        self._connection.close()
        self._admin.close()

    def of(self, user: str) -> tuple[set[str], set[str]]:
        """The scripts that a user has run, and the other commands that it has sent."""
        mine = {what for address, what in self.seen if self._users.get(address) == user}
        scripts = {what.removesuffix(".lua") for what in mine if what.endswith(".lua")}
        return scripts, {what for what in mine if not what.endswith(".lua")}


def _all_scripts() -> Iterator[str]:
    for path in (resources.files("millstream.protocol") / "lua").iterdir():
        if path.name.endswith(".lua"):
            yield path.name.removesuffix(".lua")


@contextmanager
def watching(server: Server) -> Iterator[Witness]:
    """Watch what is asked of a server until the block ends."""
    witness = Witness(server)
    try:
        yield witness
    finally:
        witness.close()
