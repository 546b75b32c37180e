"""Passwords become hashes, and errors do not tell them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import redis

from millstream.errors import UsageError
from millstream.server.access import LINK, Access, parse_users
from millstream.server.configuration import File, configuration
from millstream.server.launcher import Running
from millstream.server.program import Program
from tests.server.conftest import client_of, one, run, watched


def test_users_have_hashes() -> None:
    """Passwords in the clear are stored as hashes, whatever is in them."""
    word = "we\"ird'pw\u00a0x"
    lines = ["", "# people", f"user ann on >{word} ~ms:*", "user default off"]

    assert parse_users(lines, "f") == (
        f"user ann on #{sha256(word.encode()).hexdigest()} ~ms:*",
        "user default off",
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["ann on >secret"], "line 1 of f is not"),
        (["", "user"], "line 2 of f is not"),
        (["user a on >secret", "user a off"], "the user a twice"),
    ],
)
def test_bad_users(lines: list[str], said: str) -> None:
    """A line that is no user is named by its number, and not shown."""
    with pytest.raises(UsageError, match=said) as error:
        parse_users(lines, "f")
    assert "secret" not in str(error.value)


def test_contradictions() -> None:
    """The user default has one place, and nobody takes the name of our own user."""
    with pytest.raises(UsageError, match="not both"):
        Access("secret", ("user default off",))
    with pytest.raises(UsageError, match="another name"):
        Access(users=(f"user {LINK} on",))


def test_nothing_is_shown() -> None:
    """Neither the value nor the configuration of one server has the password."""
    access = Access("secret", link="hidden")

    assert "secret" not in repr(access)
    assert "hidden" not in repr(access)
    assert not [line for line in access.lines() if "secret" in line or "hidden" in line]


def test_each_server_asks_for_passwords(folder: Path, any_program: Program) -> None:
    """With a password and users, each gets in by their own and others do not."""
    users = parse_users(["user an\"n on >geheim' ~ms:* +@all &x"], "f")
    some = one(folder, any_program)
    file = File(some.layout, some.settings, Access("s3 cret", users, link="hidden"), any_program)

    def look(running: Running) -> None:
        node = running.file.layout.nodes[0]
        with client_of(node, "s3 cret") as client:
            assert client.auth("geheim'", 'an"n')
        with client_of(node, "geheim'", username='an"n') as ann:
            assert ann.publish("x", "") == 0
            with pytest.raises(redis.exceptions.NoPermissionError):
                ann.publish("y", "")
        with client_of(node) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
            nobody.ping()

    assert run(file, look).status == 0


def test_replication_has_a_user_of_its_own(folder: Path, program: Program) -> None:
    """The password of clients is in no file, in none of a set-up either."""
    file = watched(folder, program, Access("secret", link="hidden"))
    texts = [configuration(file, node) for node in file.layout.nodes]

    assert not [text for text in texts if "secret" in text]
    assert all(LINK in text for text in texts)


@pytest.mark.parametrize(
    ("line", "is_open"),
    [
        ("user default off", False),
        ("user default on >x ~* &* +@all", False),
        ("user default on nopass ~* &* +@all", True),
        ("user default off nopass", False),
        ("user ann on >x", True),
    ],
)
def test_who_comes_without_a_password(line: str, is_open: bool) -> None:
    """It is known whether somebody without a name and a password may do everything."""
    assert Access(users=parse_users([line], "f")).open is is_open
