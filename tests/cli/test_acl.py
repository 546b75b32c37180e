"""`millstream acl`: lines that servers take, and passwords that nobody knows by mistake."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
import redis

import millstream as ms
from tests.cli.conftest import Cli
from tests.support.servers import Server, installed


def test_a_line_for_each_role(cli: Cli, namespace: str) -> None:
    """By default each role gets a user of its own, with what it needs in the namespace."""
    lines = cli("acl").out.splitlines()

    assert [line.split()[1] for line in lines] == [
        f"millstream-{role}" for role in ("producer", "worker", "operator", "doctor")
    ]
    for line in lines:
        assert f" reset on #SHA256-OF-THE-PASSWORD resetchannels ~{namespace}:{{*}}:* " in line
        assert "@" not in line
        assert "~* " not in line


def test_several_roles_in_one_user(cli: Cli) -> None:
    """With --user there is one line, which may do what each of the roles does."""
    [both] = cli("acl", "producer", "worker", "--user", "shop").out.splitlines()
    [first, second] = cli("acl", "producer", "worker").out.splitlines()

    assert both.startswith("user shop reset on ")
    assert {*both.split()[4:]} == {*first.split()[4:], *second.split()[4:]}


def test_names_narrow_the_keys(cli: Cli, namespace: str) -> None:
    """Only the named queues, topics and endpoints, with their partitions, and the mailboxes."""
    words = ["--queue", "orders", "--topic", "placed", "--topic", "ticks.*", "--endpoint", "quote"]
    [line] = cli("acl", "worker", *words).out.splitlines()
    rules = line.split()

    assert [rule for rule in rules if rule.startswith("~")] == [
        f"~{namespace}:{{{name}}}:*"
        for name in ("orders", "orders/*", "placed", "placed/*", "quote", "quote/*")
    ] + [f"~{namespace}:{{client/*}}:mailbox"]
    assert [rule for rule in rules if rule.startswith("&")] == [
        f"&{namespace}:{{placed}}:channel",
        f"&{namespace}:{{ticks.*}}:channel",
    ]


def test_signs_of_patterns_mean_themselves(cli: Cli, namespace: str) -> None:
    """A queue's name with a star in it is one queue."""
    [line] = cli("acl", "producer", "--queue", "a*[b]?").out.splitlines()

    assert rf"~{namespace}:{{a\*\[b\]\?}}:*" in line


@pytest.mark.parametrize("name", installed())
@pytest.mark.parametrize("sharded", [False, True])
def test_servers_take_the_lines(
    name: str, sharded: bool, cli: Cli, namespace: str, tmp_path: Any
) -> None:
    """In an ACL file and by ACL SETUSER; the password from stderr opens the door."""
    if sharded and name == "redis-6.2":
        return  # it has no sharded channels
    words = ["--queue", "a'b\"c*", "--generate", *(["--cluster"] if sharded else [])]
    made = cli("acl", "producer", "doctor", *words)
    passwords = re.findall(r"the password of (\S+) is (\S+)", made.err)
    assert len(passwords) == 2
    users = tmp_path / "users.acl"
    users.write_text(f"user default on nopass ~* &* +@all\n{made.out}")
    with Server(name) as server:
        admin: Any = server.admin()
        for line in made.out.splitlines():
            admin.execute_command("ACL", "SETUSER", *line.split()[1:])
        for user, password in passwords:
            login = redis.Redis(
                unix_socket_path=str(server.socket_path), username=user, password=password
            )
            assert login.info("server")
            login.close()
        with ms.Client(
            f"unix://{passwords[0][0]}:{passwords[0][1]}@{server.socket_path}", namespace=namespace
        ) as client:
            assert client.send(ms.Queue("a'b\"c*"), 1).id
    with Server(name, extra=made.out.splitlines()) as server:
        assert "millstream-doctor" in str(server.admin().acl_list())


def test_no_server_takes_the_placeholder(cli: Cli, any_server: Server) -> None:
    """Who forgets to set a password gets an error, not a user whose password is public."""
    [line] = cli("acl", "worker").out.splitlines()
    admin: Any = any_server.admin()

    with pytest.raises(redis.ResponseError, match="hash"):
        admin.execute_command("ACL", "SETUSER", *line.split()[1:])
    admin.execute_command("ACL", "DELUSER", "millstream-worker")


def test_json(cli: Cli) -> None:
    """One object a user; the password is in it only if it was made."""
    [plain] = cli("acl", "worker", "--json").objects
    [made] = cli("acl", "worker", "--json", "--generate").objects

    assert {*plain} == {"user", "roles", "line"}
    assert plain["roles"] == ["worker"]
    digest = hashlib.sha256(made["password"].encode()).hexdigest()
    assert f" #{digest} " in made["line"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["king"], "there is no role 'king'"),
        (["worker", "--queue", "a b"], "whitespace"),
        (["worker", "--topic", "a/b"], "a/b"),
        (["worker", "--topic", ""], "topic"),
        (["worker", "--user", "a b"], "user's name"),
        (["worker", "--user", ""], "user's name"),
        (["worker", "--user", "a\nuser b nopass"], "user's name"),
    ],
)
def test_bad_words(cli: Cli, words: list[str], said: str) -> None:
    """A name that no rule can have is refused with the status 2, before anything is printed."""
    outcome = cli("acl", *words)

    assert (outcome.status, outcome.out) == (2, "")
    assert said in outcome.err


def test_lines_for_sentinels(cli: Cli) -> None:
    """They may tell where servers are, and nothing else; the doctor asks how they are, too."""
    [worker] = cli("acl", "worker", "--sentinel").out.splitlines()
    [doctor] = cli("acl", "doctor", "--sentinel", "--user", "watch").out.splitlines()
    asked = {f"+sentinel|{verb}" for verb in ("master", "masters", "replicas")}

    head, rules = worker.split()[:5], {*worker.split()[5:]}
    assert head == [*("user", "millstream-worker", "reset", "on", "#SHA256-OF-THE-PASSWORD")]
    assert rules == asked | {"resetchannels", "+sentinel|get-master-addr-by-name"}
    assert {*doctor.split()[5:]} - rules == {"+info", "+sentinel|sentinels", "+sentinel|ckquorum"}


@pytest.mark.parametrize("words", [["--queue", "orders"], ["--cluster"], ["--fsync"]])
def test_sentinels_have_no_queues(cli: Cli, words: list[str]) -> None:
    """Options that mean nothing there are refused."""
    outcome = cli("acl", "worker", "--sentinel", *words)

    assert (outcome.status, outcome.out) == (2, "")


def test_a_cluster_without_sharded_channels(cli: Cli) -> None:
    """Redis 6.2 gets no names that it does not know."""
    sharded = cli("acl", "producer", "--cluster").out
    plain = cli("acl", "producer", "--cluster", "--no-sharded").out

    assert {*sharded.split()} - {*plain.split()} == {"+spublish"}
    assert {"+asking", "+cluster|slots"} <= {*plain.split()}
