"""The other side of a stream by hand: what a caller, or a worker, in any language would write and read."""

from __future__ import annotations

from typing import Any

import redis

from millstream.protocol.keys import mailbox_key
from tests.support.wait import auntil

PATIENCE = 30.0
EXPIRY = 120


class Correspondent:
    """Has a mailbox, and writes to those of others."""

    def __init__(self, admin: redis.Redis, namespace: str, client: str = "by-hand") -> None:
        self.admin: Any = admin
        self.namespace = namespace
        self.client = client
        self.key = mailbox_key(namespace, client)
        self.admin.xadd(self.key, {"open": ""})
        self.admin.expire(self.key, EXPIRY)

    def write(self, to: str, kind: str, content: bytes = b"", **fields: Any) -> bool:
        """Put mail into the slot of a client, ``CLIENT SLOT``; False: it has no mailbox."""
        client, slot = to.split()
        entry = {kind: content, "c": slot, **fields}
        return (
            self.admin.xadd(mailbox_key(self.namespace, client), entry, nomkstream=True) is not None
        )

    @property
    def mail(self) -> list[dict[bytes, bytes]]:
        """All that has come."""
        return [fields for _, fields in self.admin.xrange(self.key)][1:]

    def of(self, kind: str) -> list[dict[bytes, bytes]]:
        """All of a kind."""
        return [one for one in self.mail if kind.encode() in one]

    async def gets(self, kind: str, count: int) -> list[dict[bytes, bytes]]:
        """Wait for so much of a kind, and for no more."""
        await auntil(lambda: len(self.of(kind)) >= count, PATIENCE, message=f"{count} of {kind}")
        assert len(self.of(kind)) == count
        return self.of(kind)
