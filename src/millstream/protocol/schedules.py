"""Schedules at the server: each tick is granted to one worker, and sent once.

A worker asks for a tick (``claim``), makes the body, and sends it (``fire``), which does nothing
when the tick is not the next one any more. So it is the server that lets a tick through once,
whatever happens to workers between the two; the claim only keeps the others from making bodies in
vain. When the next tick is, is reckoned by the clients, from the server's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from millstream.message import Schedule
from millstream.protocol.envelope import encode_headers
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Argument, Command, Op, Plan, load_script
from millstream.schedule import Missed, Timing

__all__ = ["Claim", "Finding", "claim", "declare", "fire", "listing", "pause", "remove", "resume"]

_DECLARE = load_script("declare_schedule")
_CLAIM = load_script("claim_schedule")
_FIRE = load_script("fire_schedule")
_PAUSE = load_script("pause_schedule")
_RESUME = load_script("resume_schedule")
_REMOVE = load_script("remove_schedule")

REMEMBERED_MS = 86_400_000
"""How long a removal is told apart from a loss: far longer than a worker goes without a look."""

Finding = Literal["granted", "early", "taken", "paused", "changed", "removed", "lost"]

_Time = Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800_000)]  # until the year 9999


class _Stored(msgspec.Struct):
    """A schedule in its hash, as far as clients read it."""

    spec: str | Annotated[int, msgspec.Meta(gt=0)]
    tz: str
    missed: str
    next: _Time
    last: _Time | None = None
    paused: bool = False


_decoder = msgspec.json.Decoder(_Stored)


class Claim(msgspec.Struct, frozen=True):
    """What became of a claim.

    Attributes:
        finding: ``granted``: the tick is due, and ours for a while; ``early``: it is not due yet;
            ``taken``: another worker is at it; ``paused``; ``changed``: it was declared with other
            times since; ``removed`` by people; ``lost`` by the server.
        now: the server's time in ms.
        at: the tick, in ms since 1970; if taken, when it can be ours; else 0.
        missed: what becomes of missed ticks, by the last declaration.
    """

    finding: Finding
    now: int
    at: int
    missed: Missed


def declare(keys: QueueKeys, name: str, timing: Timing, missed: Missed) -> Plan[bool]:
    """Make a schedule known; the result is whether it is new or ticks at other times than before.

    It starts with the first tick after now. One that is known already goes on where it was, so
    that a restart misses nothing.
    """
    now = yield Op((Command(("TIME",)),), decode=_now, near=keys.schedules)
    arguments: list[Argument] = [name, _json(timing, missed=missed), timing.next_after(now)]
    changed = yield Op((_DECLARE.call(_keys_of(keys, name), arguments),), decode=_is_one)
    return bool(changed)


def claim(
    keys: QueueKeys,
    name: str,
    timing: Timing,
    worker: str,
    grant_ms: int,
    *,
    now_ms: int | None = None,
) -> Op[Claim]:
    """Ask for the due tick; whoever has it already has it for so long from now on.

    Args:
        keys: of the queue.
        name: of the schedule.
        timing: as this worker has declared it.
        worker: who asks.
        grant_ms: how long others leave the tick to this worker.
        now_ms: the time, for tests; None: the server's clock.
    """
    arguments: list[Argument] = [name, _json(timing), worker, grant_ms, _given(now_ms)]
    command = _CLAIM.call(_keys_of(keys, name), arguments)

    def decode(replies: list[Any]) -> Claim:
        finding, now, at, missed = replies[0]
        return Claim(finding.decode(), now, at, missed.decode())

    return Op((command,), decode)


def fire(
    keys: QueueKeys,
    name: str,
    timing: Timing,
    ticks: tuple[int, int],
    body: bytes | None,
    *,
    now_ms: int | None = None,
) -> Op[tuple[bool, int]]:
    """Send the message of a tick and go on to the next one, at once and once.

    Args:
        keys: of the queue.
        name: of the schedule.
        timing: as this worker has declared it.
        ticks: the tick and the next one, in ms since 1970.
        body: encoded; None: send nothing, only go on.
        now_ms: the time, for tests; None: the server's clock.

    The result is whether this was the next tick and is done now, and the server's time in ms.
    """
    tick, following = ticks
    arguments: list[Argument] = [name, _json(timing), tick, following, _given(now_ms)]
    if body is not None:
        told = {"schedule": name, "tick": _datetime(tick).isoformat()}
        arguments += [body, encode_headers(told)]
    command = _FIRE.call([keys.schedules, keys.ready, keys.counters], arguments)

    def decode(replies: list[Any]) -> tuple[bool, int]:
        done, now = replies[0]
        return done == 1, now

    return Op((command,), decode)


def listing(keys: QueueKeys) -> Op[list[Schedule]]:
    """Return the schedules of a queue, by name."""

    def decode(replies: list[Any]) -> list[Schedule]:
        pairs = zip(replies[0][::2], replies[0][1::2], strict=True)
        known = ((name.decode("utf-8", "replace"), _read(text)) for name, text in sorted(pairs))
        return [_shown(name, stored) for name, stored in known if stored is not None]

    return Op((Command(("HGETALL", keys.schedules)),), decode, readonly=True)


def pause(keys: QueueKeys, name: str) -> Op[bool]:
    """Pause a schedule; the result is whether there is one."""
    return Op((_PAUSE.call([keys.schedules], [name]),), decode=_is_one)


def resume(keys: QueueKeys, name: str) -> Plan[bool]:
    """Resume a schedule with its first tick after now; the result is whether there is one."""
    while True:
        stored, now = yield _look(keys, name)
        if stored is None:
            return False
        timing = Timing(stored.spec, stored.tz)
        arguments: list[Argument] = [name, _json(timing), timing.next_after(now)]
        # 0: somebody has declared it anew in between.
        if (yield Op((_RESUME.call([keys.schedules], arguments),), decode=_is_one)):
            return True


def remove(keys: QueueKeys, name: str) -> Op[bool]:
    """Remove a schedule; the result is whether there was one."""
    return Op((_REMOVE.call(_keys_of(keys, name), [name, REMEMBERED_MS]),), decode=_is_one)


def _look(keys: QueueKeys, name: str) -> Op[tuple[_Stored | None, int]]:
    commands = (Command(("HGET", keys.schedules, name)), Command(("TIME",)))
    return Op(commands, decode=lambda replies: (_read(replies[0]), _now(replies[1:])))


def _keys_of(keys: QueueKeys, name: str) -> Sequence[str]:
    return keys.schedules, keys.removed(name)


def _json(timing: Timing, **more: str) -> bytes:
    return msgspec.json.encode({"spec": timing.spec, "tz": timing.tz, **more})


def _given(now_ms: int | None) -> Argument:
    return "" if now_ms is None else now_ms


def _is_one(replies: list[Any]) -> bool:
    return bool(replies[0] == 1)


def _now(replies: list[Any]) -> int:
    seconds, micros = replies[0]
    return int(seconds) * 1000 + int(micros) // 1000


def _read(text: bytes | None) -> _Stored | None:
    """Read what is stored; what anybody else has written there is no schedule."""
    try:
        return _decoder.decode(text or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _shown(name: str, stored: _Stored) -> Schedule:
    return Schedule(
        name=name,
        spec=stored.spec if isinstance(stored.spec, str) else stored.spec / 1000,
        tz=stored.tz,
        missed=stored.missed,
        next=None if stored.paused else _datetime(stored.next),
        last=None if stored.last is None else _datetime(stored.last),
        paused=stored.paused,
    )


def _datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
