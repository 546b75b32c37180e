"""What a subscription with a filter, or of an ordered topic, reads: what passes, and nothing else.

One script settles and reads, so that what does not pass never crosses the wire.
"""

from __future__ import annotations

from collections.abc import Sequence

from millstream.policy import Sieve
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Argument, Command, load_script

__all__ = ["sift"]

_SIFT = load_script("sift")

LOOKED_AT = 500
"""Bounds the time that one call keeps the server busy: about a millisecond."""


def sift(
    keys: QueueKeys,
    sieve: Sieve,
    reads: Sequence[tuple[str, int]],
    *,
    head: Sequence[Argument],
    tail: Sequence[Argument],
) -> Command:
    """Return the command that settles, and reads what passes.

    Args:
        keys: of the subscription.
        sieve: what passes.
        reads: prefixes of lanes, each with how many messages to read at most; all but suspects
            together, whatever the lane.
        head: the script's arguments before the sieve.
        tail: its arguments behind it: what to settle.
    """
    most = max((count for prefix, count in reads if prefix != "s"), default=0)
    suspects = any(prefix == "s" for prefix, _ in reads)
    arguments: list[Argument] = [*head, sieve.filter or "", int(sieve.ordered), LOOKED_AT]
    arguments += [most, int(suspects), *tail]
    return _SIFT.call([*keys.common, keys.topic.sleepers], arguments)
