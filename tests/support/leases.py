"""How much of their leases deliveries have used up, as the server sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import redis

from tests.support.wait import until


def idle(admin: redis.Redis, stream: str) -> dict[bytes, int]:
    """How many ms of each delivery's lease are used up."""
    rows: Any = admin.xpending_range(stream, "workers", "-", "+", 5000)
    return {row["message_id"]: row["time_since_delivered"] for row in rows}


class Watch:
    """Looks at the leases again and again: how often each began anew, and how old any got."""

    def __init__(self, admin: redis.Redis, stream: str) -> None:
        self._admin, self._stream = admin, stream
        self._last: dict[bytes, int] = {}
        self.renewals: Counter[bytes] = Counter()
        self.oldest: Counter[bytes] = Counter()

    def look(self) -> None:
        now = idle(self._admin, self._stream)
        self.renewals.update(token for token, ms in now.items() if ms < self._last.get(token, 0))
        self.oldest |= Counter(now)
        self._last = now

    def renewed(self, times: int, tokens: Iterable[bytes] | None = None) -> bool:
        """Look; whether each (of these) has begun anew so often since the first look."""
        self.look()
        return all(self.renewals[token] >= times for token in tokens or self._last)


def oldest_until_renewed(times: int, admin: redis.Redis, stream: str) -> int:
    """The most that any lease was used up until each had begun anew so often."""
    watch = Watch(admin, stream)
    until(lambda: watch.renewed(times))
    return max(watch.oldest.values())
