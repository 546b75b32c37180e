"""Who may do what on the server: passwords and ACL users, which files only have as hashes."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from millstream.errors import UsageError

__all__ = ["LINK", "Access", "make_link", "parse_users"]

LINK = "millstream-link"
"""The user that replicas, Sentinels and this program are, where the server asks for a password."""


@dataclass(frozen=True, slots=True)
class Access:
    """How clients authenticate.

    Attributes:
        password: of the user ``default``; None: it has none.
        users: further users, as lines of the server's configuration, without passwords in the clear.
        link: the password of ``LINK``; None: there is no such user.
    """

    password: str | None = field(default=None, repr=False)
    users: tuple[str, ...] = field(default=(), repr=False)
    link: str | None = field(default=None, repr=False)

    @property
    def asked(self) -> bool:
        """True when there are passwords or users at all."""
        return self.password is not None or bool(self.users)

    @property
    def open(self) -> bool:
        """True when who comes without a password may do everything."""
        default = next((line.split() for line in self.users if _name(line) == "default"), None)
        if default is None:
            return self.password is None
        return "nopass" in default and "off" not in default

    def lines(self) -> list[str]:
        """Return the lines of the configuration."""
        lines: list[str] = []
        if self.users:
            # Redis 6.2 would give new users all channels, later versions none.
            lines = ["acl-pubsub-default resetchannels", *self.users]
        if self.password is not None:
            lines.insert(0, f"user default on #{_hash(self.password)} ~* &* +@all")
        if self.link is not None:
            lines.append(f"user {LINK} on #{_hash(self.link)} ~* &* +@all")
        return lines

    def __post_init__(self) -> None:
        names = [_name(line) for line in self.users]
        if self.password is not None and "default" in names:
            message = (
                "give the password of the user default either in the ACL file or apart, not both"
            )
            raise UsageError(message)
        if LINK in names:
            message = f"the user {LINK} is made by this program: give yours another name"
            raise UsageError(message)


def make_link() -> str:
    """Make a password for ``LINK``: a new one at each start."""
    return secrets.token_urlsafe(24)


def parse_users(lines: Iterable[str], source: str) -> tuple[str, ...]:
    """Read users as the server's ACL files have them: ``user NAME RULE ...``, one a line.

    Passwords in the clear (``>secret``) become hashes. Empty lines and those that begin with ``#``
    are left out. The rules themselves are for the server to judge.

    Args:
        lines: of the file.
        source: its name, for errors.

    Raises:
        UsageError: a line is none of these, or a user comes twice. The text has no rule, as those
            may have passwords.
    """
    users: list[str] = []
    for number, line in enumerate(lines, start=1):
        # As the server splits it: other kinds of spaces may be in a password.
        words = re.findall(r"[^ \t\r\n]+", line)
        if not words or words[0].startswith("#"):
            continue
        if words[0].lower() != "user" or len(words) < 2:  # noqa: PLR2004 - user NAME
            message = f"line {number} of {source} is not 'user NAME RULE ...'"
            raise UsageError(message)
        users.append(" ".join(["user", *(_rule(word) for word in words[1:])]))
    names = [_name(user) for user in users]
    if twice := next((name for name in names if names.count(name) > 1), None):
        message = f"{source} has the user {twice} twice"
        raise UsageError(message)
    return tuple(users)


def _rule(word: str) -> str:
    if word.startswith((">", "<")):  # adds or removes a password
        return f"{'#' if word[0] == '>' else '!'}{_hash(word[1:])}"
    # The server's configuration has quotes, its ACL files have not.
    return '"{}"'.format(word.replace("\\", "\\\\").replace('"', '\\"')) if _special(word) else word


def _special(word: str) -> bool:
    return any(char in "\"'\\" for char in word)


def _hash(password: str) -> str:
    return hashlib.sha256(password.encode("utf-8", "surrogateescape")).hexdigest()


def _name(line: str) -> str:
    return line.split()[1]
