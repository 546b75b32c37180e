"""What a server must be able to do, checked once when a client connects."""

from __future__ import annotations

import logging
from typing import Any

from millstream.driver.faults import ERROR_REPLIES, first_error, is_hidden, refusal
from millstream.errors import NotConnected, UnsupportedServer
from millstream.protocol.doctor.versions import STREAM_CRASHES
from millstream.protocol.op import Command, Op

__all__ = ["check_probe", "check_replies", "check_server", "server_info"]

logger = logging.getLogger("millstream.driver")

OLDEST = (6, 2)


def server_info() -> Op[dict[str, str]]:
    """Ask for what ``check_server`` looks at."""
    sections = ("server", "memory")
    return Op(tuple(Command(("INFO", section)) for section in sections), decode=_parse)


def _parse(replies: list[bytes]) -> dict[str, str]:
    text = b"\r\n".join(replies).decode("utf-8", "replace")
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value for name, separator, value in lines if separator}


def check_replies(op: Op[dict[str, str]], replies: list[Any], url: str) -> None:
    """Look at what a server has answered to ``server_info``; a user may be refused an answer.

    Raises:
        UnsupportedServer: see ``check_server``.
        BrokerError: it has refused something else.
    """
    if any(is_hidden(reply) for reply in replies):
        return
    for reply in replies:
        if isinstance(reply, ERROR_REPLIES):
            raise refusal(reply, url) from reply
    check_server(op.decode(replies), url)


def check_probe(op: Op[None], replies: list[Any], url: str) -> None:
    """Look at what a server has answered to ``probe``.

    Raises:
        NotConnected: it cannot serve at the moment.
        UnsupportedServer, ServerRefused: it can never confirm it.
    """
    errors = [reply for reply in replies if isinstance(reply, ERROR_REPLIES)]
    if any("replica instances" in str(error) for error in errors):
        # It is no master any more; what comes behind this is told so, too, and where to go.
        return
    for error in errors:
        if isinstance(problem := refusal(error, url), NotConnected):
            raise problem from error
    if (refused := first_error(op, replies)) is not None:
        raise refusal(refused, url) from refused
    op.decode(replies)


def check_server(info: dict[str, str], url: str) -> None:
    """Refuse a server that is too old, and warn of what can lose messages.

    Raises:
        UnsupportedServer: it is older than Redis 6.2.
    """
    version = info.get("redis_version", "")
    valkey = info.get("valkey_version")
    if _numbers(version) < OLDEST:
        message = f"{url} runs Redis {version or '?'}; Millstream needs Redis 6.2 or Valkey 7.2"
        raise UnsupportedServer(message, version=version)
    if valkey is None and version in STREAM_CRASHES:
        logger.warning(
            "%s runs Redis %s, which stream commands can crash (CVE-2025-62507): use 8.2.3 or later",
            url,
            version,
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        logger.warning(
            "%s may evict keys (maxmemory-policy %s), which loses messages: "
            "CONFIG SET maxmemory-policy noeviction",
            url,
            policy,
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
