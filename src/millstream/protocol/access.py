"""What each role may do at the server: the one list of commands, and the ACL rules that follow from it.

A role runs some scripts and sends some plain commands. What a script calls is read from its source,
so that a script that changes takes its rights along; what is sent beside scripts is listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import msgspec

from millstream.declare import check_name
from millstream.errors import UsageError
from millstream.protocol.ephemeral import channel_of
from millstream.protocol.keys import mailbox_key, queue_keys, topic_keys
from millstream.protocol.op import load_script
from millstream.topic import Topic

__all__ = [
    "CLUSTER",
    "FSYNC",
    "ROLES",
    "SENTINEL",
    "SHARDED",
    "Names",
    "Role",
    "commands_of",
    "roles_of",
    "rules_for",
    "sentinel_rules",
    "uses_of",
]

Role = Literal["producer", "worker", "operator", "doctor"]
ROLES: tuple[Role, ...] = get_args(Role)


class Uses(msgspec.Struct, frozen=True):
    """What a role does at the server.

    Attributes:
        scripts: that it runs.
        commands: that it sends beside them, as ACL rules name them: ``xadd``, ``client|id``.
    """

    scripts: tuple[str, ...]
    commands: tuple[str, ...]


class Names(msgspec.Struct, frozen=True):
    """What a user works on; with nothing at all, everything in the namespace.

    Attributes:
        queues, topics, endpoints: their names. A topic that keeps nothing may be a pattern.
    """

    queues: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()


# INFO: the check of the server at the start. SELECT: a URL may name a database.
_CONNECT = ("info", "select")
_SCRIPTS = ("evalsha", "script|load")
# A connection that sleeps in a read is asked for its number, and woken by it.
_SLEEP = ("client|id", "client|unblock")
_MAILBOX = ("xadd", "pexpire", "xread", "del")
_DISCOVER = ("scan", "exists", "hget", "hgetall", "hmget", "xlen")
_LISTEN = ("subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ping")

_USES: Mapping[Role, Uses] = {
    "producer": Uses(
        scripts=(
            *("send", "place", "line_up", "list_send", "list_place", "await_result"),
            *("publish", "retain", "trim", "expire_subscription"),
            *("request", "withdraw", "inquire", "gather", "attend"),
        ),
        commands=(
            *(*_CONNECT, *_SCRIPTS, *_SLEEP, *_MAILBOX, "publish", "multi", "exec", "wait"),
            # How a queue is divided; why a request or a message has died; late replies.
            *("hget", "hsetnx", "xrange", "hincrby"),
        ),
    ),
    "worker": Uses(
        scripts=(
            *(
                "register",
                "settle",
                "ack",
                "transact",
                "take",
                "sift",
                "start",
                "extend",
                "sweep",
                "hand_over",
                "attend",
            ),
            *("join", "subscribe", "trim", "expire_subscription", "tidy", "pop_begin", "pop_end"),
            *("list_register", "list_fetch", "list_pending", "list_extend", "list_sweep"),
            *("list_hand_over", "list_nudge", "list_pop"),
            *("declare_schedule", "claim_schedule", "fire_schedule"),
        ),
        commands=(
            *(*_CONNECT, *_SCRIPTS, *_SLEEP, *_MAILBOX, *_LISTEN),
            *("xreadgroup", "xclaim", "xpending", "multi", "exec", "blmove", "hexists"),
            "wait",
            *("hget", "hsetnx", "hkeys", "exists", "time"),
        ),
    ),
    "operator": Uses(
        scripts=(
            *(
                "stats",
                "topic_stats",
                "peek",
                "peek_delayed",
                "in_flight",
                "redrive",
                "purge",
                "pause",
            ),
            *("resume", "cancel", "cancel_running", "find", "reschedule", "vacate"),
            *("seek", "replay", "resend", "unsubscribe"),
            *("pause_schedule", "resume_schedule", "remove_schedule"),
            *("list_stats", "list_peek", "list_redrive", "list_purge", "list_pause"),
            *("list_find", "list_cancel_running", "list_in_flight"),
        ),
        commands=(
            *(*_CONNECT, *_SCRIPTS, *_DISCOVER, "xrange", "xrevrange", "xtrim", "time"),
            *("hset", "hsetnx", "zcard"),
        ),
    ),
    "doctor": Uses(
        scripts=("stats", "topic_stats", "list_stats"),
        commands=(
            *(*_CONNECT, *_SCRIPTS, *_DISCOVER, "time", "config|get", "slowlog|get"),
            *("latency|latest", "cluster|info", "acl|whoami", "multi", "exec"),
        ),
    ),
}

# Who has which slot, and a slot that is on its way.
_FOLLOW = ("cluster|slots", "asking")

CLUSTER: Mapping[Role, tuple[str, ...]] = {
    "producer": _FOLLOW,
    "worker": _FOLLOW,
    "operator": _FOLLOW,
    "doctor": (*_FOLLOW, "cluster|nodes"),
}
"""Needed beside on a cluster, at each node."""

SHARDED: Mapping[Role, tuple[str, ...]] = {
    "producer": ("spublish",),
    "worker": ("ssubscribe", "sunsubscribe"),
}
"""Needed beside on a cluster that shards channels. A server before 7.0 refuses rules with these names."""

FSYNC: Mapping[Role, tuple[str, ...]] = {"producer": ("waitaof",), "worker": ("waitaof",)}
"""Needed beside for ``durability="fsync"``. A server before 7.2 refuses rules with this name."""

# Where the primary is; what tells a newer answer from an older one; replicas to read from; and the names that
# there are, for who has misspelt one.
_ASK = ("get-master-addr-by-name", "master", "replicas", "masters")

SENTINEL: Mapping[Role, tuple[str, ...]] = {
    "producer": _ASK,
    "worker": _ASK,
    "operator": _ASK,
    "doctor": (*_ASK, "sentinels", "ckquorum"),
}
"""What each role asks Sentinels."""

_CALL = re.compile(r"\bp?call\((?=(?P<given>[^\n]*))")
_WORDS = re.compile(r"^(?:\([^()]*\) and )?'(\w+)'(?: or '(\w+)')?(?:, '(\w+)')?")
_CONTAINERS = frozenset({"XGROUP", "XINFO", "MEMORY"})
"""Commands whose second word says what they do, and which ACL rules tell apart by it."""

_GLOB = str.maketrans({**{sign: f"\\{sign}" for sign in "*?[]\\"}, "'": "?", '"': "?"})
"""The signs of the server's globs, each without its meaning. Quotes end a word of an ACL file."""


def roles_of(names: Iterable[str]) -> list[Role]:
    """Return the roles of these names, each once.

    Raises:
        UsageError: there is no such role.
    """
    wanted = [*names]
    for name in wanted:
        if name not in ROLES:
            message = f"there is no role {name!r}: it is one of {', '.join(ROLES)}"
            raise UsageError(message)
    return [role for role in ROLES if role in wanted]


def uses_of(role: Role) -> Uses:
    """Return what a role does at the server."""
    return _USES[role]


def commands_of(
    role: Role, *, cluster: bool = False, sharded: bool = False, fsync: bool = False
) -> list[str]:
    """Return all commands that a role needs, sorted, as ACL rules name them.

    Args:
        role: which one.
        cluster: whether the server is a node of a cluster.
        sharded: whether it is one of Redis 7.0 or Valkey, which shards channels.
        fsync: whether it asks for ``durability="fsync"``.
    """
    uses = _USES[role]
    called = {command for name in uses.scripts for command in called_by(load_script(name).source)}
    further = (
        *(CLUSTER[role] if cluster or sharded else ()),
        *(SHARDED.get(role, ()) if sharded else ()),
        *(FSYNC.get(role, ()) if fsync else ()),
    )
    return sorted(called.union(uses.commands, further))


def called_by(source: str) -> set[str]:
    """Return the commands that a script calls, as ACL rules name them."""
    found: set[str] = set()
    for call in _CALL.finditer(source):
        words = _WORDS.match(call["given"])
        if words is None:  # its name is given elsewhere: a function that calls
            continue
        first, other, second = words.groups()
        found.add(f"{first}|{second}" if first in _CONTAINERS else first)
        found.update([other] if other else [])
    return {command.lower() for command in found}


def rules_for(
    roles: Iterable[Role],
    *,
    namespace: str,
    names: Names,
    cluster: bool = False,
    sharded: bool = False,
    fsync: bool = False,
) -> list[str]:
    """Return the ACL rules of a user: keys, channels and commands, after a ``reset``.

    Args:
        roles: what the user does; with several, each of them on all the names. (Rules that differ
            by key would need Redis 7.0.)
        namespace: first part of all keys.
        names: what it works on.
        cluster, sharded, fsync: see ``commands_of``.

    Raises:
        UsageError: there can be no such name.
    """
    chosen = [*roles]
    commands = {
        one
        for role in chosen
        for one in commands_of(role, cluster=cluster, sharded=sharded, fsync=fsync)
    }
    return [
        "resetchannels",
        *(f"~{pattern}" for pattern in _keys(chosen, namespace, names)),
        *(f"&{pattern}" for pattern in _channels(chosen, namespace, names)),
        *(f"+{command}" for command in sorted(commands)),
    ]


def sentinel_rules(roles: Iterable[Role]) -> list[str]:
    """Return the ACL rules of a user of Sentinels, who have neither keys nor messages, after a ``reset``.

    Args:
        roles: what the user does.
    """
    chosen = {*roles}
    asked = {f"+sentinel|{verb}" for role in chosen for verb in SENTINEL[role]}
    # The doctor looks at a Sentinel's version as at that of any server.
    return ["resetchannels", *(["+info"] if "doctor" in chosen else []), *sorted(asked)]


def _keys(roles: list[Role], namespace: str, names: Names) -> list[str]:
    space = check_name(namespace, "namespace").translate(_GLOB)
    owners = [*names.queues, *names.endpoints, *(n for n in names.topics if not _is_pattern(n))]
    if not (owners or names.topics):
        return [f"{queue_keys(space, '*').prefix}:*"]
    literal = sorted({check_name(name, "the name").translate(_GLOB) for name in owners})
    # With its further partitions.
    found = [f"{queue_keys(space, name).prefix}:*" for one in literal for name in (one, f"{one}/*")]
    if {"producer", "worker"} & {*roles}:
        found.append(mailbox_key(space, "*"))
    return found


def _channels(roles: list[Role], namespace: str, names: Names) -> list[str]:
    if not {"producer", "worker"} & {*roles}:
        return []
    space = namespace.translate(_GLOB)
    if not (names.queues or names.endpoints or names.topics):
        return [topic_keys(space, "*").channel]
    # The server compares a pattern that is listened to with the rule, letter by letter.
    return [_channel(namespace, name) for name in sorted({*names.topics})]


def _channel(namespace: str, name: str) -> str:
    if _is_pattern(name):
        topic = Topic(name, bytes, durable=False)
        return channel_of(namespace, topic).name.decode()
    return topic_keys(namespace, check_name(name, "the topic")).channel.translate(_GLOB)


def _is_pattern(name: str) -> bool:
    return Topic(name, bytes, durable=False).is_pattern
