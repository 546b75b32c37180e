"""``millstream acl``: the rules of users that may do what their role needs, and nothing else."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Annotated

import typer

from millstream.cli.options import Json, Namespace
from millstream.cli.output import say, show_json, show_text
from millstream.errors import UsageError
from millstream.protocol.access import ROLES, Names, Role, roles_of, rules_for, sentinel_rules

__all__ = ["acl"]

PLACEHOLDER = "#SHA256-OF-THE-PASSWORD"
"""No server accepts it: a user cannot be made by mistake with a password that everybody knows."""

_USER = re.compile(r"[^\s'\"\\\x00-\x1f\x7f\ud800-\udfff]{1,200}")


_Only = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only these; repeat it.")]


_Roles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ROLE",
        help="producer, worker, operator, doctor. Default: all, one line each.",
        show_default=False,
    ),
]
_User = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", help="One user for all.", show_default=False),
]
_Generate = Annotated[
    bool, typer.Option("--generate", help="Make passwords: they go to stderr, hashes to lines.")
]
_Cluster = Annotated[bool, typer.Option("--cluster", help="For the nodes of a cluster.")]
_NoSharded = Annotated[
    bool, typer.Option("--no-sharded", help="With --cluster: one of Redis 6.2, without SPUBLISH.")
]
_Sentinel = Annotated[
    bool, typer.Option("--sentinel", help="Not for servers, but for the Sentinels' own ACL.")
]
_Fsync = Annotated[
    bool, typer.Option("--fsync", help='With WAITAOF, for durability="fsync" (7.2 or newer).')
]


def acl(
    roles: _Roles = None,
    *,
    queue: _Only = None,
    topic: _Only = None,
    endpoint: _Only = None,
    user: _User = None,
    generate: _Generate = False,
    cluster: _Cluster = False,
    no_sharded: _NoSharded = False,
    sentinel: _Sentinel = False,
    fsync: _Fsync = False,
    json_output: Json = False,
    namespace: Namespace = "ms",
) -> None:
    """Print least-privilege users, as lines for an ACL file or for ACL SETUSER.

    It asks no server: the lines are the same for all versions.
    """
    names = Names(tuple(queue or ()), tuple(topic or ()), tuple(endpoint or ()))
    if sentinel and (cluster or fsync or names != Names()):
        message = "Sentinels have no queues, topics, endpoints and slots: leave these options out"
        raise UsageError(message)
    for name, parts in _users(user, roles_of(roles or ROLES)):
        rules = (
            sentinel_rules(parts)
            if sentinel
            else rules_for(
                parts,
                namespace=namespace,
                names=names,
                cluster=cluster,
                sharded=cluster and not no_sharded,
                fsync=fsync,
            )
        )
        password = secrets.token_urlsafe(24) if generate else None
        line = " ".join(["user", name, "reset", "on", _secret(password), *rules])
        if json_output:
            extra = {} if password is None else {"password": password}
            show_json({"user": name, "roles": parts, "line": line, **extra})
            continue
        show_text(line)
        if password is not None:
            say(f"the password of {name} is {password}")


def _users(user: str | None, roles: list[Role]) -> list[tuple[str, list[Role]]]:
    if user is None:
        return [(f"millstream-{role}", [role]) for role in roles]
    if not _USER.fullmatch(user):
        message = f"a user's name has no spaces, quotes and backslashes: {user!r}"
        raise UsageError(message)
    return [(user, roles)]


def _secret(password: str | None) -> str:
    if password is None:
        return PLACEHOLDER
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"
