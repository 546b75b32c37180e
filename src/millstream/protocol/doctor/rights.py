"""May this user do what a role needs? The server is asked, and nothing is done.

Commands are queued in a transaction that is bound to fail: the server checks the rights to each when
it is queued, on every version, and without rights to look at ACLs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from millstream.protocol.access import Role, commands_of
from millstream.protocol.doctor.facts import Refusal
from millstream.protocol.doctor.finding import Finding, note, risk
from millstream.protocol.keys import mailbox_key
from millstream.protocol.op import Command, Op, Plan

__all__ = ["lacking", "rights"]

_FAILS = Command(("GET",), optional=True)
"""Without its key it makes the transaction fail."""

_UNASKED = frozenset({"multi", "exec", "select", "memory|usage"})
"""The first two are seen by the answer itself. The others would make a cluster's driver take their first
word for a key."""
SHOWN = 8
"""So many commands are named; the fix has all of them."""

# How to call each, for a server that looks at the number of words first. `K` is a key. All do nothing
# should they ever run, but for the key that expires.
_CALLS = """
acl|whoami; asking; blmove K K left right 0.01; client|id; client|unblock 0; cluster|info; cluster|nodes; cluster|slots;
config|get save; del K;
evalsha 0 0; exists K; get K; hdel K f; hexists K f; hget K f; hgetall K; hincrby K f x; hkeys K; hlen K;
hmget K f; hrandfield K; hset K f v f; hsetnx K f v; hvals K; info server; latency|latest;
llen K; lmove K K left x; lpos K e; lpush K e; lrange K 0 0; lrem K 0 e; ltrim K 0 -1;
pexpire K x; ping; psubscribe K; publish K m; punsubscribe K; rpop K;
scan 0; script|load x; set K v x; slowlog|get 1; spublish K m; ssubscribe K; subscribe K;
sunsubscribe K; time; type K; unlink K; wait 0 1; waitaof 0 0 1; unsubscribe K; xack K g 0-1; xadd K nomkstream * f v; xclaim K g c 0 0-1;
xdel K 0-1; xgroup|create K g 0; xgroup|createconsumer K g c; xgroup|delconsumer K g c; xgroup|destroy K g;
xgroup|setid K g 0; xinfo|consumers K g; xinfo|groups K; xinfo|stream K; xlen K; xpending K g; xrange K - +;
xread STREAMS K 0; xreadgroup group g c STREAMS K >; xrevrange K + -; xtrim K maxlen 0; zadd K x m; zcard K;
zcount K 0 1; zrange K 0 0; zrangebylex K - +; zrangebyscore K 0 1; zrem K m; zremrangebyscore K 0 1;
zscore K m
"""


def calls() -> dict[str, list[str]]:
    """Return how to call each command that a role may need, by its name in ACL rules."""
    rows = [row.split() for row in _CALLS.split(";")]
    # Capitals, as everywhere: who looks for the keys of a command knows no others.
    return {name: " ".join([*name.split("|"), *words]).upper().split() for name, *words in rows}


def lacking(namespace: str, commands: Sequence[str]) -> Plan[list[str] | Refusal]:
    """Ask which of some commands the user of this connection may not use, or the server has not.

    Args:
        namespace: first part of all keys.
        commands: as ACL rules name them.

    The result says why it could not be asked, if it could not.
    """
    # If there are no transactions here, nothing else may be sent: it would be done.
    refused = yield _queued([])
    if refused[0] is not None:
        return Refusal("MULTI", refused[0])
    known, key = calls(), mailbox_key(namespace, "doctor")
    names = [name for name in commands if name not in _UNASKED]
    asked = [
        Command([key if word == "K" else word for word in known[name]], optional=True)
        for name in names
    ]
    _, *answers = yield _queued(asked)
    return [
        name
        for name, answer in zip(names, answers, strict=True)
        if answer is not None and _is_about_the_command(answer)
    ]


def _queued(commands: Sequence[Command]) -> Op[list[str | None]]:
    """Queue commands and drop them; the result is what was said against MULTI and against each."""
    multi, end = Command(("MULTI",), optional=True), Command(("EXEC",), optional=True)

    def decode(replies: list[Any]) -> list[str | None]:
        told = [replies[0], *replies[2:-1]]
        return [str(reply) if isinstance(reply, Exception) else None for reply in told]

    return Op((multi, _FAILS, *commands, end), decode)


def _is_about_the_command(answer: str) -> bool:
    # Not about its keys or channels: a user may have been given some only.
    return "to run the" in answer or "unknown command" in answer.lower()


def rights(
    user: str | None, missing: Iterable[tuple[Role, Sequence[str]]], *, asked: bool
) -> Iterator[Finding]:
    """Say which roles a user cannot play.

    Args:
        user: of the connection; None: unknown.
        missing: of each role the commands that the user may not use.
        asked: whether somebody wants the user to play these roles.
    """
    find = risk if asked else note
    who = f"user {user!r}" if user else "this user"
    for role, commands in missing:
        if not commands:
            continue
        some = ", ".join(commands[:SHOWN]) + (", …" if len(commands) > SHOWN else "")
        every = {*commands} >= {*commands_of(role)} - _UNASKED
        yield find(
            f"rights.{role}",
            f"{who} may not do what a {role} does: {'any of it' if every else some}",
            why=f"a {role} with this URL fails when it comes to these",
            fix=f"ACL SETUSER {user or 'NAME'} {' '.join(f'+{name}' for name in commands)}"
            if not every
            else f"millstream acl {role} prints the rules that it needs",
        )
