"""What can go wrong at the server: redis-py's errors to ours, and when to try again."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from redis import exceptions

from millstream.errors import BrokerError, NotConnected, ServerRefused, TimedOut, UsageError
from millstream.protocol.op import Op
from millstream.protocol.slots import keys_of

__all__ = [
    "CONNECTION_LOSS",
    "ERROR_REPLIES",
    "NoTurn",
    "Tries",
    "any_error",
    "code_of",
    "first_error",
    "forked",
    "is_connection_loss",
    "is_demotion",
    "is_hidden",
    "refusal",
    "translate",
]

TRY_AGAIN = frozenset(
    {
        # A replica was promoted, is being promoted, or is loading; a script or slot is busy.
        *("LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN"),
        *("TRYAGAIN", "ASK", "UNBLOCKED", "BUSY"),
    }
)
"""Answers that pass by themselves."""

DEMOTED = frozenset({"READONLY", "MASTERDOWN"})
"""Answers of a server that is no master any more. Its address may lead to another one by now, so
the connection is made anew."""

_HINTS = {
    "OOM": "it is out of memory: raise maxmemory, or let the workers catch up",
    "NOPERM": "the user of this connection lacks a permission: millstream acl prints what each role "
    "needs",
    "NOAUTH": "it wants a password",
    "WRONGPASS": "the user or password is wrong",
    "WRONGTYPE": "another program uses a key of this name",
    "MOVED": "it is one node of a cluster: begin the URL with redis+cluster://",
}

_TLS_HINTS = {
    "mismatch": "its certificate is for another host: use the name that is in it",
    "CERTIFICATE_VERIFY_FAILED": "nobody whom this client trusts vouches for its certificate: name "
    "the file with the authority, by ssl_ca_certs in the URL or Security(ca_certs=)",
    "CERTIFICATE_REQUIRED": "it wants a certificate of this client: ssl_certfile and ssl_keyfile in "
    "the URL, or Security(certfile=, keyfile=)",
}

CONNECTION_LOSS = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError)
"""What redis-py and Python raise when a connection ends or does not answer."""

ERROR_REPLIES = (
    exceptions.ResponseError,
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.BusyLoadingError,
)
"""Answers of the server that redis-py raises. The last three count as lost connections there, but
the connection is fine."""


class NoTurn(TimeoutError):
    """A thread had no turn to send in time, so nothing was sent."""


_CODES = (
    (exceptions.MovedError, "MOVED"),
    (exceptions.AskError, "ASK"),
    (exceptions.AuthenticationError, "WRONGPASS"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.NoScriptError, "NOSCRIPT"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.TryAgainError, "TRYAGAIN"),
)
"""redis-py cuts these codes off; only its newer versions keep them as ``status_code``. Derived
classes stand before their bases."""

_OWNER = re.compile(r"[^{]*\{[^}]+\}[^:]*:")
"""What the keys of a queue or topic begin with, such as ``ms:{orders}:``."""

_CHANNELS = frozenset({"PUBLISH", "SPUBLISH"})
"""Commands that name a channel; who publishes says so (see ``ephemeral.explained``)."""

_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -?([A-Z]{3,}) ")
"""How Redis 6.2 reports a command's error in a script: behind an ``ERR`` and the position."""


def code_of(error: BaseException) -> str:
    """Return the first word of a server's error; that of the command, if a script ran it."""
    text = str(error)
    code = getattr(error, "status_code", None)
    if not code:
        if text.startswith("Authentication required"):
            return "NOAUTH"
        code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    if code in (None, "ERR") and (inner := _IN_SCRIPT.search(text)):
        return inner[1]
    first = text.partition(" ")[0]
    # A text that begins in small letters has lost an ERR.
    return str(code) if code else first if first.isupper() else "ERR"


def is_hidden(reply: object) -> bool:
    """Tell whether a reply says that a command is not for us: a managed server hides some."""
    unknown = isinstance(reply, ERROR_REPLIES) and str(reply).startswith("unknown command")
    return unknown or isinstance(reply, exceptions.NoPermissionError)


def is_connection_loss(error: BaseException) -> bool:
    """Tell whether the connection is at fault, rather than the command or the password."""
    return isinstance(error, CONNECTION_LOSS) and not isinstance(error, ERROR_REPLIES)


def is_demotion(reply: object) -> bool:
    """Tell whether it is the answer of a server that is no master any more."""
    # What slept there was woken as it lost its role.
    return isinstance(reply, ERROR_REPLIES) and code_of(reply) in DEMOTED | {"UNBLOCKED"}


def forked() -> UsageError:
    """Return what is said to who uses a client of the parent process."""
    return UsageError("this client was made before a fork: make one in each process")


def translate(error: BaseException, url: str) -> BrokerError:
    """Turn an error of redis-py into ours, naming the server."""
    if isinstance(error, NoTurn):
        return TimedOut(f"nothing was sent to {url}: {error}", url=url, state="unsent")
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        text = str(error) or "no reply"
        return TimedOut(f"{url} did not answer in time ({text})", url=url)
    if is_connection_loss(error):
        return NotConnected(f"cannot reach {url}: {error}{_hint_about_tls(error)}", url=url)
    return refusal(error, url)


def _hint_about_tls(error: BaseException) -> str:
    text = str(error)
    hints = (hint for sign, hint in _TLS_HINTS.items() if sign in text)
    return next((f" ({hint})" for hint in hints), "")


def refusal(error: BaseException, url: str, op: Op[Any] | None = None) -> BrokerError:
    """Turn the server's error into ours, with what it means.

    Args:
        error: the server's.
        url: of the server.
        op: what it has refused; the server does not say which key the user may not touch.
    """
    code = code_of(error)
    if code in TRY_AGAIN:
        return NotConnected(f"{url} cannot serve at the moment: {code} {error}", url=url)
    hint = f" ({_HINTS[code]})" if code in _HINTS else ""
    text = str(error) if str(error).startswith(code) else f"{code} {error}"
    keys = _keys(op) if code == "NOPERM" and op is not None else ""
    return ServerRefused(f"{url} refused: {text}{keys}{hint}", code=code)


def _keys(op: Op[Any]) -> str:
    """Name the keys of an operation, as the rules for users do."""
    commands = [one for one in op.commands if one.arguments[0] not in _CHANNELS]
    names = [
        key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
        for command in commands
        for key in keys_of(command)
    ]
    owners = ((_OWNER.match(name), name) for name in names)
    patterns = {f"{owner[0]}*" if owner else name: None for owner, name in owners}
    return f", on the keys {' '.join(patterns)}" if patterns else ""


def any_error(replies: Sequence[Any]) -> bool:
    """Tell whether an error is among raw replies, as it nearly never is."""
    for reply in replies:  # noqa: SIM110 - this is on every call's way, and any() costs twice as much
        if isinstance(reply, Exception):
            return True
    return False


def first_error(op: Op[Any], replies: Sequence[Any]) -> Exception | None:
    """Return the first error for which an operation has failed."""
    if any_error(replies):
        for command, reply in zip(op.commands, replies, strict=False):
            if isinstance(reply, ERROR_REPLIES) and not command.optional:
                return reply
    return None


class Tries(msgspec.Struct):
    """When to try again after a loss: soon, then less often, until the time is over.

    Args:
        deadline: on the caller's clock, in seconds.
        pause: seconds before the next try; it doubles up to a second, with jitter, so that
            clients of a restarted server do not all come at once.
    """

    deadline: float
    pause: float = 0.02

    def next_pause(self, now: float) -> float | None:
        """Return how long to wait before the next try; None: give up."""
        pause = self.pause * (0.5 + random.random())  # noqa: S311 - spreads load, no secret
        self.pause = min(self.pause * 2, 1.0)
        remaining = self.deadline - now
        # The last try is at the deadline: a short timeout would be cut by half otherwise.
        return min(pause, remaining) if remaining > 0 else None
