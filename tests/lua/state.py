"""A queue at a server: put it into a state, run an operation, read the state back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import pytest

from millstream.driver.blocking import BlockingDriver
from millstream.errors import ServerRefused
from millstream.message import Receipt
from millstream.protocol import consume, send
from millstream.protocol.keys import LANES, QueueKeys, queue_keys
from millstream.protocol.op import Argument, Command, Op, Plan
from millstream.protocol.place import Placement, place
from millstream.protocol.settlement import Settlement
from tests.support.servers import Server

T = TypeVar("T")

NOW = 1_700_000_000_000
"""The time that tests pass in."""

OLD_ID = "1600000000000-7"
"""The id of a message that has been moved already."""

PREFIXES = {name: prefix for prefix, name in LANES.items()}
FOREIGN = {"trace": "abc", "b2": "\u00fc"}
"""Fields that Millstream does not know."""

NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Entry:
    """A stream entry as it is stored."""

    id: str
    fields: dict[str, str]

    @property
    def body(self) -> str | None:
        return self.fields.get("b")

    @property
    def state(self) -> dict[str, Any]:
        """The field `s`; empty when there is none."""
        state: dict[str, Any] = json.loads(self.fields.get("s", "{}"))
        return state


@dataclass(frozen=True)
class Delayed:
    """A message that waits for its time, as it is stored."""

    due: int
    fields: dict[str, str]

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.fields["s"])
        return state


class State:
    """One queue. Streams are named by the last word of their key: `ready`, `dead`, ..."""

    def __init__(self, driver: BlockingDriver, namespace: str, name: str = "orders") -> None:
        self.driver = driver
        self.keys: QueueKeys = queue_keys(namespace, name)

    def run(self, op: Op[T]) -> T:
        return self.driver.run(op)

    def drive(self, plan: Plan[T]) -> T:
        return self.driver.drive(plan)

    def do(self, *arguments: Argument) -> Any:
        """Run one command; the reply as the server sends it."""
        return self.run(Op((Command(arguments),), decode=lambda replies: replies[0]))

    def key(self, name: str) -> str:
        key: str = getattr(self.keys, name)
        return key

    # Putting

    def register(self, *consumers: str, lease_ms: int = 30_000) -> None:
        for consumer in consumers:
            self.run(consume.register(self.keys, consumer, lease_ms))

    def send(self, *bodies: bytes, producer: str = "p", number: int = 1) -> str:
        return self.run(send.send(self.keys, producer, number, bodies))[0].id

    def place(
        self, *placements: Placement, producer: str = "p", number: int = 1, now_ms: int = NOW
    ) -> list[Receipt]:
        """Send messages that are more than a body."""
        return self.run(place(self.keys, producer, number, placements, now_ms=now_ms))

    def place_one(self, number: int, body: str = "1", *, now_ms: int = NOW, **options: Any) -> str:
        """Send one of them; its id."""
        [receipt] = self.place(
            Placement(body=body.encode(), **options), number=number, now_ms=now_ms
        )
        return receipt.id

    def put(
        self,
        stream: str = "ready",
        body: str | None = "1",
        *,
        state: Mapping[str, Any] | str | None = None,
        id: str = "*",
        extra: Mapping[str, str] = NOTHING,
    ) -> str:
        """Append an entry, as a foreign producer would; the result is its id."""
        pairs: list[str] = []
        for name, value in {"b": body, **extra, "s": _json(state)}.items():
            pairs += (name, value) if value is not None else ()
        entry: bytes = self.do("XADD", self.key(stream), id, *pairs)
        return entry.decode()

    def own(
        self,
        consumer: str,
        stream: str = "ready",
        body: str | None = "1",
        *,
        state: Mapping[str, Any] | str | None = None,
        idle_ms: int = 0,
        extra: Mapping[str, str] = NOTHING,
    ) -> bytes:
        """Append an entry and deliver it; the result is the token of the delivery."""
        entry = self.put(stream, body, state=state, extra=extra)
        read = ("XREADGROUP", "GROUP", self.keys.group, consumer, "COUNT", 1, "STREAMS")
        [[_, [[got, _]]]] = self.do(*read, self.key(stream), ">")
        assert got.decode() == entry, f"{got} was unread, too"
        if idle_ms:
            self.set_idle(stream, entry, idle_ms)
        return (PREFIXES[stream] + entry).encode()

    def set_idle(self, stream: str, entry: str, idle_ms: int) -> None:
        """Have a delivery be that old: no test waits for a lease to end."""
        owner = self.owners(stream)[entry]
        key = self.key(stream)
        self.do("XCLAIM", key, self.keys.group, owner, 0, entry, "IDLE", idle_ms, "JUSTID")

    def delay(self, id: str, due: int, body: str = "1", *, crashes: int = 0) -> None:
        """Store a message that waits for its time."""
        state = {"id": id, "attempts": 1, "crashes": crashes}
        fields = ["b", body, "s", json.dumps(state)]
        self.do("ZADD", self.keys.due, due, id)
        self.do("HSET", self.keys.delayed, id, msgspec.msgpack.encode(fields))

    # Acting

    def settle(
        self,
        consumer: str,
        *settlements: Settlement,
        acks: tuple[bytes, ...] = (),
        wake: bool = False,
        now_ms: int = NOW,
    ) -> consume.Fetched:
        """Settle and promote, without a read."""
        return self.run(
            consume.fetch(self.keys, consumer, settlements, acks=acks, wake=wake, now_ms=now_ms)
        )

    def fetch(self, consumer: str, *reads: tuple[str, int], now_ms: int = NOW) -> consume.Fetched:
        return self.run(consume.fetch(self.keys, consumer, reads=reads, now_ms=now_ms))

    # Reading back

    def entries(self, stream: str = "ready") -> list[Entry]:
        return [
            Entry(entry.decode(), _pairs(fields))
            for entry, fields in self.do("XRANGE", self.key(stream), "-", "+")
        ]

    def bodies(self, stream: str = "ready") -> list[str | None]:
        return [entry.body for entry in self.entries(stream)]

    def only(self, stream: str) -> Entry:
        [entry] = self.entries(stream)
        return entry

    def owners(self, stream: str = "ready") -> dict[str, str]:
        """Entry -> the consumer that it is pending for."""
        if not self.do("EXISTS", self.key(stream)):
            return {}
        rows = self.do("XPENDING", self.key(stream), self.keys.group, "-", "+", 10_000)
        return {entry.decode(): consumer.decode() for entry, consumer, _, _ in rows}

    def delayed(self) -> dict[str, Delayed]:
        """Id -> the message that waits; the due set and the hash must agree."""
        scores = self.do("ZRANGE", self.keys.due, 0, -1, "WITHSCORES")
        packed = self.do("HGETALL", self.keys.delayed)
        bodies = dict(zip(packed[::2], packed[1::2], strict=True))
        assert set(bodies) == set(scores[::2])
        return {
            id.decode(): Delayed(int(due), _pairs(self.unpack(bodies[id])))
            for id, due in zip(scores[::2], scores[1::2], strict=True)
        }

    def unpack(self, packed: bytes) -> list[bytes]:
        """What Lua's cmsgpack has packed: msgspec refuses its strings that are no text."""
        fields: list[bytes] = self.do("EVAL", "return cmsgpack.unpack(ARGV[1])", 0, packed)
        return fields

    def consumers(self, stream: str = "ready") -> set[str]:
        rows = self.do("XINFO", "CONSUMERS", self.key(stream), self.keys.group)
        return {row[1].decode() for row in rows}

    def leases(self) -> dict[str, str]:
        return self._hash("consumers")

    def counters(self) -> dict[str, int]:
        """What has happened so far; without the ids that the hash keeps beside them."""
        counters = self._hash("counters")
        return {name: int(n) for name, n in counters.items() if not name.startswith("last_")}

    def holders(self) -> dict[str, list[str]]:
        """Key -> the ids in circulation."""
        return {key: ids.split(" ") for key, ids in self._hash("holders").items()}

    def lines(self) -> list[tuple[str, str]]:
        """Key and id of what waits for its turn, in order."""
        members = _texts(self.do("ZRANGE", self.keys.lines, 0, -1))
        return [(key, id) for key, _, id in (member.rpartition("\0") for member in members)]

    def urgent(self) -> list[tuple[int, str]]:
        """Priority and id of what waits above the normal, the next one first."""
        rows = _texts(self.do("ZRANGE", self.keys.priority, 0, -1, "WITHSCORES"))
        return [(-int(score), id) for id, score in zip(rows[::2], rows[1::2], strict=True)]

    def unique(self) -> dict[str, str]:
        """Unique key -> the message that has it."""
        return self._hash("unique")

    def due(self) -> dict[str, int]:
        """Id -> the time in ms, of what waits for it."""
        rows = _texts(self.do("ZRANGE", self.keys.due, 0, -1, "WITHSCORES"))
        return {id: int(score) for id, score in zip(rows[::2], rows[1::2], strict=True)}

    def stored(self) -> dict[str, dict[str, str]]:
        """Id -> the fields of what is in no lane."""
        packed = self.do("HGETALL", self.keys.delayed)
        bodies = dict(zip(packed[::2], packed[1::2], strict=True))
        return {id.decode(): _pairs(self.unpack(one)) for id, one in bodies.items()}

    def wakes(self) -> list[dict[str, str]]:
        return [entry.fields for entry in self.entries("wake")]

    def _hash(self, name: str) -> dict[str, str]:
        return _pairs(self.do("HGETALL", self.key(name)))


@contextmanager
def out_of_memory(server: Server) -> Iterator[None]:
    """Have the server refuse whatever needs memory."""
    server.admin().config_set("maxmemory", 1)
    try:
        yield
    finally:
        server.admin().config_set("maxmemory", 0)


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Expect an error of the server, told in the same way by each of them."""
    with pytest.raises(ServerRefused) as caught:
        yield
    assert caught.value.code == code


def _json(state: Mapping[str, Any] | str | None) -> str | None:
    return state if isinstance(state, str) or state is None else json.dumps(state)


def _texts(values: list[bytes]) -> list[str]:
    return [value.decode("utf-8", "surrogateescape") for value in values]


def _pairs(flat: list[bytes]) -> dict[str, str]:
    texts = _texts(flat)
    return dict(zip(texts[::2], texts[1::2], strict=True))
