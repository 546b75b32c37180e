"""How deliveries end: acknowledged, tried again, rejected or handed back."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Literal

import msgspec

from millstream.errors import TimedOut
from millstream.policy import Retry
from millstream.protocol.envelope import Envelope
from millstream.text import text_of

__all__ = [
    "Settlement",
    "ack",
    "describe",
    "expire",
    "fail",
    "failure",
    "reject",
    "release",
    "unclear",
]

Verb = Literal["ack", "retry", "reject", "release", "expire", "finish", "woken", "fail"]

_LONGEST_TEXT = 2000
_TRACEBACK_LINES = 5

_WORKER = str(Path(__file__).parents[1] / "worker")

_encode = msgspec.json.Encoder().encode


class Settlement(msgspec.Struct, frozen=True):
    """The end of one delivery.

    Args:
        verb: what to do with the message.
        token: which delivery.
        delay_ms: for a retry: how long it waits.
        failed: whether the handler failed, which counts as an attempt.
        note: JSON object merged into the message's state: reason, error, traceback. Of one that is
            done (``finish``): its result (see ``results``), or an empty object.
        envelope: the message, when the server does not have it any more (see ``popping``).
        number: of what a consumer hands back of those, counted from 1.
    """

    verb: Verb
    token: bytes
    delay_ms: int = 0
    failed: bool = False
    note: bytes = b"{}"
    envelope: Envelope | None = None
    number: int = 0


def ack(token: bytes, *, plain: bool = True) -> Settlement:
    """The message is done; it gets no result by this.

    Args:
        token: which delivery.
        plain: whether nothing follows from that (see ``Envelope.plain``).
    """
    return Settlement("ack" if plain else "finish", token)


def release(token: bytes) -> Settlement:
    """Hand the message back at once, without blame."""
    return Settlement("release", token)


def fail(token: bytes) -> Settlement:
    """The message is lost with its handler: it is gone from the queue, so this only counts."""
    return Settlement("fail", token)


def expire(token: bytes) -> Settlement:
    """The time to live is over: to the dead letters, or nowhere, as its sender wanted."""
    return Settlement("expire", token)


def reject(
    token: bytes, reason: str | BaseException, *, error: str | None = None, trace: str | None = None
) -> Settlement:
    """Move the message to the dead letters."""
    return Settlement("reject", token, note=_note(reason, error, trace))


def failure(
    envelope: Envelope,
    policy: Retry,
    *,
    reason: str,
    luck: float,
    delay_ms: int | None = None,
    error: str | None = None,
    trace: str | None = None,
) -> Settlement:
    """Try the message again, or move it to the dead letters when its attempts are used up.

    Args:
        envelope: the delivery that failed.
        policy: attempts and backoff.
        reason: why, kept with the message.
        luck: random number from 0 to 1 for the jitter.
        delay_ms: the wait; None: by the policy's backoff.
        error: the exception as one line.
        trace: the last lines of its traceback.
    """
    failures = envelope.state.attempts + 1
    if failures >= policy.max_attempts:
        note = _note("attempts", error or reason, trace)
        return Settlement("reject", envelope.token, failed=True, note=note)
    if delay_ms is None:
        delay_ms = policy.backoff.delay(failures, luck)
    note = _note(reason, error, trace)
    return Settlement("retry", envelope.token, delay_ms=delay_ms, failed=True, note=note)


def unclear(title: str, url: str) -> TimedOut:
    """Return the error for who settles a delivery of which nobody can tell how it has ended.

    Args:
        title: of the queue.
        url: of the server.
    """
    message = (
        f"{title}: the connection was lost while a delivery was settled, and its lease may have "
        "ended before: it is settled, or another consumer has the message"
    )
    return TimedOut(message, url=url)


def describe(error: BaseException) -> tuple[str, str]:
    """Return an exception as one line, and the last lines of its traceback."""
    text = "".join(traceback.format_exception_only(error))
    line = " ".join(part.strip() for part in text.splitlines()).strip()
    frames = traceback.extract_tb(error.__traceback__)
    # How the worker came to the handler is no news.
    theirs = [frame for frame in frames if not frame.filename.startswith(_WORKER)]
    frames = traceback.StackSummary.from_list((theirs or frames)[-_TRACEBACK_LINES:])
    return _cut(line), _cut("".join(traceback.format_list(frames)).rstrip())


def _note(reason: str | BaseException, error: str | None, trace: str | None) -> bytes:
    texts = {"reason": reason, "error": error, "traceback": trace}
    return _encode({name: _cut(text_of(text)) for name, text in texts.items() if text is not None})


def _cut(text: str) -> str:
    """Bound a text that goes to the server, and make it encodable."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= _LONGEST_TEXT else clean[:_LONGEST_TEXT] + "…"
