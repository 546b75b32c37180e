"""One delivery that ends by itself, and not along with a fetch."""

from __future__ import annotations

from typing import Any

from millstream.errors import NotConnected, ServerRefused, TimedOut
from millstream.policy import AtMostOnce, Limits, Retain, Sieve
from millstream.protocol import lists
from millstream.protocol.consume import fetch
from millstream.protocol.fetched import Fetched
from millstream.protocol.keys import QueueKeys, in_special_lane
from millstream.protocol.op import Command, Op, Plan, load_script
from millstream.protocol.settlement import Settlement

__all__ = ["acknowledge", "owns", "settle"]

_ACK = load_script("ack")


def settle(
    keys: QueueKeys,
    consumer: str,
    settlement: Settlement,
    *,
    limits: Limits | Sieve | AtMostOnce | None = None,
    keep: Retain | None = None,
    results: bool = False,
) -> Plan[bool | None]:
    """End one delivery; the result is whether this consumer still owned it.

    None: a reply was lost, and it is not ours any more. So it is settled, unless its lease ended
    before that, which only who knows the time can tell.

    Args:
        keys: of the queue.
        consumer: who owns it.
        settlement: how it ends.
        limits: of the queue, so that others learn that there is room for another delivery.
        keep: what the queue keeps of what is acknowledged; None: nothing.
        results: whether the queue has results.

    Raises:
        ServerRefused: it could not be stored (out of memory); it is still owned.
    """
    if limits is None and keep is None and _is_plain(keys, settlement):
        op = acknowledge(keys, settlement.token)
    else:
        op = fetch(
            *(keys, consumer, [settlement]), wake=True, limits=limits, keep=keep, results=results
        )
    again = False
    try:
        done: Fetched = yield op
    except (NotConnected, TimedOut):
        # Did it arrive?
        still_ours: bool = yield owns(keys, consumer, settlement.token)
        if not still_ours:
            return None
        again, done = True, (yield op)
    if settlement.token in done.kept:
        problem = done.kept[settlement.token]
        message = f"{keys.title}: the server could not store the message: {problem}"
        raise ServerRefused(message, code=problem.partition(" ")[0])
    if again and done.lost:
        # The first copy of it may have been on its way for longer than the question.
        return None
    return not done.lost


def _is_plain(keys: QueueKeys, settlement: Settlement) -> bool:
    """Tell whether nothing follows from an end, and its message had one owner in its life."""
    return (
        settlement.verb == "ack"
        and keys.store == "stream"
        and not keys.subscription
        and not in_special_lane(settlement.token)
    )


def acknowledge(keys: QueueKeys, token: bytes) -> Op[Fetched]:
    """Acknowledge one plain message of a queue's ready lane.

    It does less than a fetch, which a single end costs most of its time: Lua makes the functions of
    all includes anew at each call.

    Args:
        keys: of the queue, which keeps nothing and has no limits.
        token: which delivery.
    """
    command = _ACK.call([*keys.common[:7], *keys.queueing], [keys.group, token])

    def decode(replies: list[Any]) -> Fetched:
        return Fetched(envelopes=[], lost=() if replies[0] else (token,))

    return Op((command,), decode, repeatable=False)


def owns(keys: QueueKeys, consumer: str, token: bytes) -> Op[bool]:
    """Tell whether a consumer owns a delivery."""
    if keys.store == "list":
        return lists.owns(keys, consumer, token)
    prefix = token[:1] if token[:1] in (b"f", b"s") else b""
    entry = token[len(prefix) :]
    command = Command(("XPENDING", keys.lane(prefix.decode()), keys.group, entry, entry, 1))

    def decode(replies: list[Any]) -> bool:
        return bool(replies[0]) and replies[0][0][1] == consumer.encode()

    return Op((command,), decode)
