"""The configuration of a server for messages, as text with the reasons in it.

Only directives that Redis 6.2 knows, too: an unknown one keeps a server from starting.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import assert_never

from millstream.server.access import LINK, Access
from millstream.server.layout import FAILOVER_NEEDS, LOOPBACK, MASTER_NAME, Layout, Node
from millstream.server.program import Program
from millstream.server.settings import Settings, size

__all__ = ["File", "configuration", "quoted"]

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,+@%=")

NODE_TIMEOUT = 3000
"""Milliseconds of silence after which Sentinels, or nodes of a cluster, take one for dead: short,
so that a failover can be watched; a busy desktop still keeps it."""

FAILOVER_TIMEOUT = 10_000


@dataclass(frozen=True, slots=True)
class File:
    """What all files of one set-up are made of.

    Attributes:
        layout: all processes.
        settings: of those with data.
        access: who may do what.
        program: that reads it.
    """

    layout: Layout
    settings: Settings
    access: Access
    program: Program


def configuration(file: File, node: Node, master: int | None = None) -> str:
    """Write the configuration of one process.

    Args:
        file: of which set-up.
        node: which process.
        master: the port of the master, where a failover has made another one of it.
    """
    parts = [_head(file, node), _network(file, node), _place(node)]
    if node.role == "sentinel":
        parts += [_sentinel(file, master)]
    else:
        parts += [_snapshots(file.settings), _append_only(file.settings), _memory(file.settings)]
        parts += [_access(file.access), _clients(), _others(file, node, master)]
    return "\n".join(part for part in parts if part)


def quoted(word: str) -> str:
    """Write a value so that the server reads it as one word, whatever is in it."""
    if word and all(char in PLAIN for char in word):
        return word
    text = "".join(_escaped(char) for char in word)
    return f'"{text}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))


def _section(title: str, text: str) -> str:
    return f"# --- {title}\n{text.strip()}\n"


def _head(file: File, node: Node) -> str:
    who = "" if file.layout.kind == "server" else f", {node}"
    end = " --sentinel" if node.role == "sentinel" else ""
    return (
        f"# {file.program} for messages{who}.\n"
        "# Written by `millstream server`, and written anew at each start. To go on by hand: print it\n"
        "# (`millstream server --print`), keep it elsewhere, change it, and start\n"
        f"# `{file.program.name.lower()}-server FILE{end}`.\n"
    )


def _network(file: File, node: Node) -> str:
    local = "Only programs on this machine can connect." if file.layout.local else ""
    lines = [
        f"# {local or 'Other machines can connect: who has no password is refused.'}",
        f"bind {' '.join(file.layout.bind)}",
        *(["# No TCP, only the socket."] if node.port == 0 else []),
        f"port {node.port}",
    ]
    if node.socket is not None:
        lines += ["# Only this user can open it.", f"unixsocket {quoted(str(node.socket))}"]
        lines += ["unixsocketperm 700"]
    lines += ["protected-mode yes"]
    if node.role != "sentinel":
        lines += [
            "# Consumers sleep in reads: a connection that is silent is not closed, one whose",
            "# other end is gone is found.",
            "timeout 0",
            "tcp-keepalive 60",
        ]
    return _section("Where it listens", "\n".join(lines))


def _place(node: Node) -> str:
    return _section(
        "Where its files are",
        f"""
# The directory must exist. The log goes to standard output.
dir {quoted(str(node.directory))}
daemonize no
logfile ""
""",
    )


def _snapshots(settings: Settings) -> str:
    if not settings.save:
        return _section("Snapshots (RDB)", '# None are written.\nsave ""')
    points = "\n".join(f"save {one.seconds} {one.changes}" for one in sorted(settings.save))
    return _section(
        "Snapshots (RDB)",
        f"""
# save SECONDS CHANGES: one is written after so many seconds if so much was changed. It is also
# written when the server is stopped in order.
{points}
dbfilename dump.rdb
# When snapshots fail (a full disk), sends are refused: better than to lose them unseen.
stop-writes-on-bgsave-error yes
""",
    )


_FLUSHES = {
    "everysec": "It is flushed to disk every second: a power cut, or\n"
    "# a kill while the disk is slow, loses a second or two.",
    "always": "It is flushed to disk before a send is\n# answered: nothing is lost, at the speed of the disk.",
}


def _append_only(settings: Settings) -> str:
    title = "The append-only file (AOF)"
    if settings.aof == "no":
        loss = "What comes after the last snapshot is lost with the server."
        if not settings.save:
            loss = "NOTHING PERSISTS: every queued message is lost at a restart."
        return _section(title, f"# None is written. {loss}\nappendonly no")
    return _section(
        title,
        f"""
# Every change is written to it. {_FLUSHES[settings.aof]}
appendonly yes
appendfsync {settings.aof}
no-appendfsync-on-rewrite no
# It is rewritten, with what is there and no more, when it has grown by so many percent since the last
# time, and is so large.{" 0: never, so that it grows for ever." if not settings.rewrite_percentage else ""}
auto-aof-rewrite-percentage {settings.rewrite_percentage}
auto-aof-rewrite-min-size {size(settings.rewrite_min_size)}
aof-use-rdb-preamble yes
# After a crash its last entry may be cut off: the rest is loaded.
aof-load-truncated yes
""",
    )


def _memory(settings: Settings) -> str:
    text = "# No limit of its own: `--maxmemory` sets one, below what the machine can spare."
    if settings.maxmemory:
        text = "# Above this, sends are refused (OOM), and consumers go on."
    return _section(
        "Memory",
        f"""
{text}
maxmemory {size(settings.maxmemory)}
# No key is ever evicted: it would be a queue.
maxmemory-policy noeviction
""",
    )


def _access(access: Access) -> str:
    lines = "\n".join(access.lines())
    if not lines:
        return _section("Who may do what", "# Everybody who can connect may do everything.")
    note = "# Passwords are stored as hashes (SHA-256)."
    if access.link is not None:
        note += f"\n# {LINK} is for this program, replicas and Sentinels; its password is new at each start."
    return _section("Who may do what", f"{note}\n{lines}")


def _clients() -> str:
    return _section(
        "Clients that do not read what they asked for",
        """
# Consumers may be slow without being cut off. Who listens to an ephemeral topic and falls behind so
# far is, and hears of it.
client-output-buffer-limit normal 0 0 0
client-output-buffer-limit pubsub 32mb 8mb 60
client-output-buffer-limit replica 256mb 64mb 60
""",
    )


def _others(file: File, node: Node, master: int | None) -> str:
    """Write what concerns other processes."""
    match file.layout.kind:
        case "server":
            return ""
        case "replicas":
            return _section("Replication", _replication(file, node, master))
        case "cluster":
            return _section("The cluster", f"{_cluster()}\n{_replication(file, node, None)}")
        case kind:
            assert_never(kind)


def _replication(file: File, node: Node, master: int | None) -> str:
    lines = [
        "# A replica that was away gets what it missed, if it fits in here, instead of everything.",
        "repl-backlog-size 64mb",
        "repl-diskless-sync-delay 0",
        "replica-read-only yes",
    ]
    if file.access.link is not None:
        lines += [f"masteruser {LINK}", f"masterauth {file.access.link}"]
    if master is None and file.layout.kind == "replicas":
        master = file.layout.nodes[0].port
    if master not in (None, node.port):
        lines += [f"replicaof {LOOPBACK} {master}"]
    # With one replica alone, a failover would leave a master that refuses all sends.
    of_a_master = len(file.layout.having("replica")) // max(1, len(file.layout.having("master")))
    if of_a_master > 1:
        lines += [
            "# A master that has lost all of its replicas refuses sends: they would be lost in a failover.",
            "min-replicas-to-write 1",
            "min-replicas-max-lag 10",
        ]
    return "\n".join(lines)


def _cluster() -> str:
    return f"""
cluster-enabled yes
cluster-config-file nodes.conf
cluster-announce-ip {LOOPBACK}
# Milliseconds of silence after which a node is taken for dead.
cluster-node-timeout {NODE_TIMEOUT}
# When a node is lost for good, the queues on the others go on.
cluster-require-full-coverage no
""".strip()


def _sentinel(file: File, master: int | None) -> str:
    port = file.layout.nodes[0].port if master is None else master
    quorum = len(file.layout.having("sentinel")) // 2 + 1
    login = ""
    if (link := file.access.link) is not None:
        login = (
            f"sentinel auth-user {MASTER_NAME} {LINK}\nsentinel auth-pass {MASTER_NAME} {link}\n"
        )
    few = len(file.layout.having("sentinel")) < FAILOVER_NEEDS
    return _section(
        "What it watches",
        f"""
# So many Sentinels must agree that the master is gone.{" Three or more survive the loss of one." if few else ""}
sentinel monitor {MASTER_NAME} {LOOPBACK} {port} {quorum}
{login}# Milliseconds of silence after which it is taken for dead, and that a failover may take.
sentinel down-after-milliseconds {MASTER_NAME} {NODE_TIMEOUT}
sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT}
sentinel parallel-syncs {MASTER_NAME} 1
""",
    )
