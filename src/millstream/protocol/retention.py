"""Retention: what a topic keeps of what is handled."""

from __future__ import annotations

from typing import Any

import msgspec

from millstream.policy import Retain
from millstream.protocol.keys import TopicKeys
from millstream.protocol.op import Op, load_script

__all__ = ["retain", "text_of"]

_RETAIN = load_script("retain")


def text_of(policy: Retain | None) -> bytes:
    """Return a declaration as the server keeps it; empty: nothing is declared."""
    if policy is None:
        return b""
    bounds = {
        "max_age": policy.max_age_ms,
        "max_length": policy.max_length,
        "max_bytes": policy.max_bytes,
    }
    declared: dict[str, Any] = {name: one for name, one in bounds.items() if one is not None}
    if not policy.until_consumed:
        declared["until_consumed"] = False
    return msgspec.json.encode(declared)


def retain(keys: TopicKeys, policy: Retain) -> Op[None]:
    """Say what a topic keeps; the last one who says it counts.

    Args:
        keys: of one partition.
        policy: as declared.
    """
    command = _RETAIN.call([keys.config], [text_of(policy)])
    return Op((command,), decode=lambda _: None)
