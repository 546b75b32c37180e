"""A queue in a list at a server: put it into a state, run an operation, read the state back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from millstream.driver.blocking import BlockingDriver
from millstream.policy import AtMostOnce
from millstream.protocol import consume
from millstream.protocol.fetched import Fetched
from millstream.protocol.keys import queue_keys
from millstream.protocol.settlement import Settlement
from tests.lua.state import NOW, State

LEASE = 30_000
NUDGE = b"ms1 wake\n"
"""The element that is no message."""

FOREIGN_ELEMENTS = [
    *(b"", b"ms1 ", b"ms1 1-0", b"ms1 x\n1", b"ms1 1-0 {\n1", b"\xff\n", b"ms1 1-0\r\n"),
    *(b'ms1 1-0 "a"\n1', b"ms1 " + b"1" * 40 + b"-1\n1", b"ms2 1-0\n1"),
]
"""Bodies, whatever they look like."""


def element(id: str, body: str = "1", **fields: Any) -> bytes:
    """A message as it is stored; the field `s` as a dictionary."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
    more = f" {json.dumps(texts)}" if fields else ""
    return f"ms1 {id}{more}\n{body}".encode()


@dataclass(frozen=True)
class Element:
    """One of a list, read as docs/wire-format.md says; without an id it is a plain body."""

    id: str | None
    body: bytes
    fields: dict[str, str]

    @property
    def state(self) -> dict[str, Any]:
        """The field `s`; empty when there is none."""
        state: dict[str, Any] = json.loads(self.fields.get("s", "{}"))
        return state


def read(stored: bytes) -> Element:
    head, line_end, body = stored.partition(b"\n")
    if not (line_end and head.startswith(b"ms1 ")):
        return Element(None, stored, {})
    id, _, more = head.decode().removeprefix("ms1 ").partition(" ")
    return Element(id, body, json.loads(more or "{}"))


class ListState(State):
    """One queue. Lists are named by what their names end in: `list`, `front`, `suspect`, `landing`."""

    def __init__(self, driver: BlockingDriver, namespace: str) -> None:
        super().__init__(driver, namespace)
        self.keys = queue_keys(namespace, "orders", store="list")

    def key(self, name: str) -> str:
        listed = {"list": 0, "suspect": 1, "leases": 2, "landing": 7, "seen": 9, "front": 12}
        return self.keys.listed[listed[name]] if name in listed else super().key(name)

    # Putting

    def push(self, *elements: bytes, to: str = "list") -> None:
        """Push elements, as a foreign producer would; the first one is the next to be taken."""
        self.do("RPUSH" if to == "landing" else "LPUSH", self.key(to), *elements)

    # Acting

    def take(
        self, consumer: str = "a", most: int = 10, *, suspect: bool = False, now_ms: int = NOW
    ) -> Fetched:
        reads = [*([("s", 1)] if suspect else []), ("", most)]
        return self.run(consume.fetch(self.keys, consumer, reads=reads, now_ms=now_ms))

    def give(self, consumer: str, *elements: bytes, now_ms: int = NOW) -> list[bytes]:
        """Push elements and have a consumer take them, which it must be able to do; their tokens."""
        self.push(*elements)
        found = self.take(consumer, len(elements), now_ms=now_ms).envelopes
        assert len(found) == len(elements)
        return [one.token for one in found]

    def pop(self, most: int = 10, *ends: Settlement, now_ms: int | None = NOW) -> Fetched:
        """Take at most once."""
        reads = [("", most)] if most else []
        return self.run(
            consume.fetch(self.keys, "w", ends, reads, limits=AtMostOnce(), now_ms=now_ms)
        )

    # Reading back

    def list(self, name: str = "list") -> Sequence[bytes]:
        """What is stored, the next to be taken first."""
        found: Sequence[bytes] = self.do("LRANGE", self.key(name), 0, -1)
        return found if name == "landing" else found[::-1]

    def elements(self, name: str = "list") -> Sequence[Element]:
        """The messages, the next to be taken first."""
        return [read(one) for one in self.list(name) if one != NUDGE]

    def nudged(self) -> bool:
        """Whether a reader that sleeps would be woken by something that is no message."""
        assert self.list().count(NUDGE) <= 1
        return NUDGE in self.list()

    def held(self, consumer: str) -> dict[bytes, Element]:
        """Token -> the message that a consumer has."""
        flat = self.do("HGETALL", self.keys.processing(consumer))
        return {token: read(stored) for token, stored in zip(flat[::2], flat[1::2], strict=True)}

    def ends_of_leases(self) -> dict[str, int]:
        """Token, a space and the consumer -> when its lease ends, in ms."""
        return self._scores("leases")

    def seen(self) -> dict[str, int]:
        """Consumer -> when it was heard of, in ms."""
        return self._scores("seen")

    def now(self) -> int:
        """The server's time, in ms."""
        seconds, microseconds = self.do("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def _scores(self, name: str) -> dict[str, int]:
        rows = self.do("ZRANGE", self.key(name), 0, -1, "WITHSCORES")
        return {row.decode(): int(score) for row, score in zip(rows[::2], rows[1::2], strict=True)}


def bodies(found: Fetched) -> list[bytes | None]:
    return [envelope.body for envelope in found.envelopes]
