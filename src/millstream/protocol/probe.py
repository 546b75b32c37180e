"""Whether a server can confirm what is sent to it."""

from __future__ import annotations

from typing import Any

from millstream.durability import FSYNC
from millstream.errors import BrokerError, ServerRefused, UnsupportedServer
from millstream.protocol.op import Command, Op

__all__ = ["hint", "probe"]

_AOF_OFF = "it has no append-only file: CONFIG SET appendonly yes, and in its configuration file"


def hint(problem: Exception) -> str:
    """Return what can be done about an answer to WAITAOF; empty: it speaks for itself."""
    return f" ({_AOF_OFF})" if "appendonly" in str(problem) else ""


def probe(durability: str, url: str) -> Op[None]:
    """Ask whether a server can confirm this at all, before anything is stored.

    Raises:
        UnsupportedServer: it knows no WAITAOF.
        ServerRefused: it has no append-only file or never syncs it, or the user may not wait.
    """
    if durability != FSYNC:
        # For no replica, which is there at once.
        return Op((Command(("WAIT", 0, 1)),), lambda _: None)
    commands = (
        Command(("WAITAOF", 1, 0, 1), optional=True),
        Command(("CONFIG", "GET", "appendfsync"), optional=True),
        Command(("INFO", "server"), optional=True),
    )

    def decode(replies: list[Any]) -> None:
        answer, policy, info = replies
        if isinstance(answer, Exception):
            raise _refused(answer, info, url)
        # A user who may not ask is told when it comes to it.
        if isinstance(policy, list) and policy[1:2] == [b"no"]:
            message = (
                f"{url} has appendfsync no, so it never says that anything is on disk: "
                "CONFIG SET appendfsync everysec (or always), and in its configuration file. "
                "Nothing was sent"
            )
            raise ServerRefused(message)

    return Op(commands, decode)


def _refused(answer: Exception, info: Any, url: str) -> BrokerError:
    text = str(answer)
    if "unknown command" in text.lower():
        version = _version(info)
        message = (
            f"durability 'fsync' needs WAITAOF, which Redis has from 7.2 on, and every Valkey: {url} "
            f"runs Redis {version}. Nothing was sent; 'replicas:N' and 'memory' work there"
        )
        return UnsupportedServer(message, version=version)
    return ServerRefused(f"{url} cannot confirm 'fsync': {text}{hint(answer)}. Nothing was sent")


def _version(info: Any) -> str:
    if isinstance(info, bytes):
        for line in info.decode("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == "redis_version":
                return value
    return "?"
