"""The library runs under the users that `millstream acl` makes, and each right is of use."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import millstream as ms
from millstream.cli.app import execute
from millstream.protocol.access import ROLES, Role, called_by, commands_of, uses_of
from millstream.protocol.doctor.rights import calls
from tests.access.life import NAMES, PLAIN, live
from tests.access.users import add_users, remove_users, watching
from tests.support.servers import Server

SOURCE = Path(__file__).parents[2] / "src" / "millstream"

FREE = {"auth", "hello"}
"""Whoever connects may use them."""
RARE = {
    "select": "the URL names another database than 0",
    "wait": "a send asks for replicas",
    "ping": "a listener has heard nothing for five seconds",
}
"""Commands that a role needs, and when: what a test would have to wait for, or cannot have."""
HIDDEN = {"client|unblock"}
"""MONITOR does not show it. That it is not refused is seen in `now_and_then`."""


@pytest.fixture
def urls(any_server: Server, namespace: str) -> Iterator[dict[Role, str]]:
    """A user of each role, who may work on what the tests name."""
    yield add_users(any_server, namespace, names=NAMES)
    remove_users(any_server, namespace)


async def test_each_role_can_do_its_work(
    any_server: Server, urls: dict[Role, str], namespace: str
) -> None:
    """Sends, publishes, requests, handlers, recovery and what people do: nothing is refused.

    And nothing is allowed in vain: each role has run all the scripts, and sent all the commands
    beside, that its list has. What the scripts call is read from their sources.
    """
    with watching(any_server) as witness:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(ms.AsyncClient(urls[role], namespace=namespace))
                for role in ("producer", "worker", "operator")
            ]
            await live(*clients, before_an_end=witness.catch_up)
    if any_server.name != "valkey-8.1":
        return  # others do not show all commands
    for role in ("producer", "worker", "operator"):
        uses = uses_of(role)
        scripts, commands = witness.of(f"{namespace}-{role}")
        assert scripts == {*uses.scripts}, role
        assert commands - FREE == {*uses.commands} - {*RARE} - HIDDEN, role


async def test_a_right_that_is_missing_is_missed(any_server: Server, namespace: str) -> None:
    """Without one of its commands a role fails: the rules are what is checked, not something wider."""
    urls = add_users(any_server, namespace, without="xadd")
    try:
        async with ms.AsyncClient(urls["producer"], namespace=namespace) as mq:
            with pytest.raises(ms.ServerRefused, match=r"xadd|can't run this command"):
                await mq.send(PLAIN, 1)
    finally:
        remove_users(any_server, namespace)


@pytest.mark.parametrize("role", ["producer", "worker", "operator"])
async def test_a_user_stays_with_its_names(
    any_server: Server, urls: dict[Role, str], namespace: str, role: Role
) -> None:
    """Queues, topics and channels that were not named are refused."""
    other: ms.Queue[int] = ms.Queue("other", int)
    async with ms.AsyncClient(urls[role], namespace=namespace) as mq:
        with pytest.raises(ms.ServerRefused, match=r"NOPERM|ACL|access"):
            await (mq.stats(other) if role == "operator" else mq.send(other, 1))
        with pytest.raises(ms.ServerRefused, match="NOPERM"):
            await mq.publish(ms.Topic("other", int, durable=False), 1)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_do_harm(role: Role) -> None:
    """Nobody may flush, change the configuration or other users, or see what others do."""
    commands = commands_of(role, sharded=True, fsync=True)

    assert not {*commands} & {
        *("flushall", "flushdb", "keys", "config", "config|set", "acl", "acl|setuser", "monitor"),
        *("shutdown", "debug", "replicaof", "eval", "function", "client", "client|kill", "script"),
    }


def test_doctor_is_fully_answered(
    any_server: Server,
    urls: dict[Role, str],
    namespace: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The role doctor may ask all that `doctor` asks, also about queues that there are."""

    async def send() -> None:
        async with ms.AsyncClient(urls["producer"], namespace=namespace) as mq:
            await mq.send(PLAIN, 1)

    asyncio.run(send())
    execute(["doctor", "--url", urls["doctor"], "--namespace", namespace, "--seconds", "0"])
    out, err = capfd.readouterr()

    assert "persistence" not in err
    assert "was refused" not in out
    assert "could not be" not in out


def test_the_commands_of_scripts_are_found() -> None:
    """Each call of a script is seen, however many stand in a line."""
    source = """
    local a = redis.call('HGET', KEYS[1], redis.call('GET', KEYS[2])) or redis.pcall('XINFO', 'GROUPS', 'k')
    local n = redis.call((i < 5 or i == 8) and 'XLEN' or 'ZCARD', KEYS[i])
    local call = redis.call
    call('XADD', KEYS[1], '*', 'b', 1)
    """

    assert called_by(source) == {"hget", "get", "xinfo|groups", "xlen", "zcard", "xadd"}


def test_every_script_belongs_to_a_role() -> None:
    """A script that nobody may run is forgotten here."""
    known = {name for role in ROLES for name in uses_of(role).scripts}

    assert known == {path.stem for path in (SOURCE / "protocol" / "lua").glob("*.lua")}


def test_every_command_belongs_to_a_role() -> None:
    """A command that operations send, and that no role may send, is forgotten here."""
    sent = re.compile(r'Command\(\(\s*"([A-Z]+)"|\(\s*"([A-Z]{2,})",\s*(?:"[A-Z]+",|\w+\.|\w+,)')
    texts = [path.read_text("utf-8") for path in (SOURCE / "protocol").glob("*.py")]
    found = {(a or b).lower() for text in texts for a, b in sent.findall(text)}
    known = {
        word
        for role in ROLES
        for word in "|".join(commands_of(role, sharded=True, fsync=True)).split("|")
    }

    assert found - known - {"hello"} - {"idle", "block"} == set()
    assert {"xadd", "xreadgroup", "hsetnx", "xclaim", "blmove"} <= found


def test_doctor_can_ask_for_every_command() -> None:
    """The table of harmless calls has each command of each role, and no other."""
    needed = {command for role in ROLES for command in commands_of(role, sharded=True, fsync=True)}

    assert {*calls()} == needed - {"multi", "exec", "select", "memory|usage"}
