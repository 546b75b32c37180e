"""The hash slots of a cluster: keys of one slot are together, whatever happens to the nodes."""

from __future__ import annotations

from binascii import crc_hqx

__all__ = ["slot_of"]

SLOTS = 16384


def slot_of(key: str) -> int:
    """Return the slot of a key: of what stands between its first braces, if it has any there."""
    data = key.encode()
    opening = data.find(b"{")
    if opening >= 0:
        closing = data.find(b"}", opening + 1)
        if closing > opening + 1:
            data = data[opening + 1 : closing]
    return crc_hqx(data, 0) % SLOTS
