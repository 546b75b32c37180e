"""What one server says of itself. What it does not say stays unknown, with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from millstream.protocol.op import Command, Op

__all__ = ["CONFIG", "Facts", "LatencyEvent", "Refusal", "SlowCall", "gather", "server_time"]

CONFIG = (
    *("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save"),
    *("maxmemory", "maxmemory-policy", "client-output-buffer-limit"),
    *("min-replicas-to-write", "min-replicas-max-lag", "replica-read-only"),
    *("timeout", "tcp-keepalive", "cluster-require-full-coverage"),
    *("cluster-node-timeout", "cluster-replica-no-failover"),
)
"""Asked for one by one: a pattern would bring passwords, too."""

SLOW_CALLS = 128


class SlowCall(msgspec.Struct, frozen=True):
    """A command that took long. What it was given is left out: bodies are in it.

    Attributes:
        command: its name.
        seconds: how long it took.
        at: when (seconds since 1970).
    """

    command: str
    seconds: float
    at: int


class LatencyEvent(msgspec.Struct, frozen=True):
    """Something that has held the server up, from its latency monitor.

    Attributes:
        name: such as ``fork`` or ``aof-fsync-always``.
        worst: seconds.
    """

    name: str
    worst: float


class Refusal(msgspec.Struct, frozen=True):
    """A question that the server did not answer, and what it said instead."""

    question: str
    reason: str


class Facts(msgspec.Struct, frozen=True):
    """What is known of a server.

    Attributes:
        info: fields of INFO.
        config: settings, those of ``CONFIG`` that could be read.
        slow: the newest calls of its log of slow ones.
        latency: what its latency monitor has seen.
        cluster: fields of CLUSTER INFO; empty for a server that is no node of a cluster.
        user: whom the connection acts as; None: unknown.
        refused: what it did not answer.
        now: its time (seconds since 1970); None: unknown.
        round_trips: seconds that some questions took, seen from here.
        clock_ahead: seconds that its clock is ahead of ours; None: unknown.
        alone: whether it is looked at by itself. Of several, who replicates whom is looked at as a whole.
    """

    info: Mapping[str, str] = msgspec.field(default_factory=dict)
    config: Mapping[str, str] = msgspec.field(default_factory=dict)
    slow: tuple[SlowCall, ...] = ()
    latency: tuple[LatencyEvent, ...] = ()
    cluster: Mapping[str, str] = msgspec.field(default_factory=dict)
    user: str | None = None
    refused: tuple[Refusal, ...] = ()
    now: float | None = None
    round_trips: tuple[float, ...] = ()
    clock_ahead: float | None = None
    alone: bool = True

    def setting(self, name: str) -> str | None:
        """Return a setting, from INFO where that tells it; None: unknown."""
        known = self.config.get(name)
        return known if known is not None else self.info.get(name.replace("-", "_"))

    def number(self, name: str) -> float | None:
        """Return a field of INFO as a number; None: unknown."""
        return number(self.info.get(name))

    def measured(self, *, now: float, round_trips: Iterable[float], ahead: float) -> Facts:
        """Return the same with what was measured beside."""
        return replace(self, now=now, round_trips=tuple(round_trips), clock_ahead=ahead)


def number(text: str | None) -> float | None:
    """Read a number; None when it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def gather() -> Op[Facts]:
    """Ask a server for everything that it says of itself.

    What it refuses is noted: a managed server hides some, and so may an ACL.
    """
    questions = (
        ("INFO",),
        ("ACL", "WHOAMI"),
        ("SLOWLOG", "GET", str(SLOW_CALLS)),
        ("LATENCY", "LATEST"),
        ("CLUSTER", "INFO"),
        *(("CONFIG", "GET", name) for name in CONFIG),
    )
    return Op(tuple(Command(one, optional=True) for one in questions), _read)


def server_time() -> Op[float]:
    """Ask for the server's time, in seconds since 1970."""
    return Op((Command(("TIME",)),), decode=lambda replies: _seconds(replies[0]))


def _seconds(reply: Any) -> float:
    return int(reply[0]) + int(reply[1]) / 1_000_000


def _read(replies: list[Any]) -> Facts:
    info, user, slow, latency, cluster, *settings = replies
    fields = {} if isinstance(info, Exception) else _fields(info)
    questions = {"INFO": info, "SLOWLOG GET": slow, "LATENCY LATEST": latency}
    if fields.get("cluster_enabled") == "1":
        questions["CLUSTER INFO"] = cluster
    refused = [
        Refusal(question, str(reply))
        for question, reply in questions.items()
        if isinstance(reply, Exception)
    ]
    config: dict[str, str] = {}
    for reply in settings:
        if isinstance(reply, Exception):
            continue
        config.update(zip(*[(_text(word) for word in reply)] * 2, strict=False))
    if not config:
        reasons = [str(reply) for reply in settings if isinstance(reply, Exception)]
        refused.append(Refusal("CONFIG GET", reasons[0] if reasons else "it returned nothing"))
    return Facts(
        info=fields,
        config=config,
        slow=() if isinstance(slow, Exception) else tuple(map(_slow, slow)),
        latency=() if isinstance(latency, Exception) else tuple(map(_event, latency)),
        cluster={} if isinstance(cluster, Exception) else _fields(cluster),
        user=None if isinstance(user, Exception) else _text(user),
        refused=tuple(refused),
    )


def _fields(reply: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in _text(reply).splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _slow(row: Any) -> SlowCall:
    _, at, microseconds, words, *_ = row
    return SlowCall(_text(words[0]).upper() if words else "?", microseconds / 1e6, at)


def _event(row: Any) -> LatencyEvent:
    name, _, _, worst, *_ = row
    return LatencyEvent(_text(name), worst / 1000)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
