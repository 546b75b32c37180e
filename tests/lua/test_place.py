"""place.lua: messages go where they belong, once; and what follows at their gates."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.message import Receipt
from millstream.protocol import consume
from millstream.protocol.admin import peek_ready, purge, stats
from millstream.protocol.place import Placement
from millstream.protocol.settlement import Settlement, ack, expire, reject, release
from tests.lua.state import NOW, State, out_of_memory, refused
from tests.support.leaks import leaked
from tests.support.servers import Server

ORDERED: dict[str, Any] = {"key": "k", "gate": "ordered"}
ODD_KEYS = ["{a}", "a b\n\r\tc", "k:k", "k" * 500, "\u00fc\U0001f600", "[", "(", "\x01", "a/b"]

SENDS: dict[str, dict[str, Any]] = {
    "delayed": {"time": "+1000"},
    "ordered": ORDERED,
    "urgent": {"priority": 5},
    "unique": {"unique": "u"},
    "window": {"unique": "u", "unique_for": "window:5000"},
    "short-lived": {"ttl": "5000"},
    "all": {**ORDERED, "time": "+1000", "priority": 9, "unique": "u", "ttl": "5000 drop"},
}


def retry(token: bytes, delay_ms: int = 0) -> Settlement:
    return Settlement("retry", token, delay_ms=delay_ms, failed=True)


def take(state: State, *, now_ms: int = NOW, count: int = 10) -> list[bytes]:
    """Deliver what can be delivered to `a`; the tokens."""
    tokens: list[bytes] = []
    for urgent, reads in ((str(count), [("f", count)]), ("", [("", count)])):
        op = consume.fetch(state.keys, "a", reads=reads, urgent=urgent, now_ms=now_ms)
        tokens += [envelope.token for envelope in state.run(op).envelopes]
    return tokens


def finish(token: bytes) -> Settlement:
    return ack(token, plain=False)


def everything(state: State) -> list[Any]:
    """All that there is of the queue."""
    return [
        *(state.entries(lane) for lane in ("ready", "front", "suspect", "dead")),
        *(state.stored(), state.due(), state.lines(), state.holders(), state.urgent()),
        state.unique(),
    ]


# Where they go


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"headers": b'{"a":"b"}'}, {"h": '{"a":"b"}'}),
        ({"key": "k"}, {"k": "k"}),
        ({"ttl": "5000"}, {"x": str(NOW + 5000)}),
        ({"ttl": "5000 drop"}, {"x": f"{NOW + 5000} drop"}),
        ({"unique": "u"}, {"u": "done:u"}),
        ({"unique": "u", "unique_for": "started"}, {"u": "started:u"}),
        ({"unique": "u", "unique_for": "window:9"}, {}),
        ({"time": "+0"}, {}),
        ({"time": str(NOW)}, {}),
        ({"time": "0"}, {}),
    ],
)
def test_at_once(state: State, options: dict[str, Any], fields: dict[str, str]) -> None:
    """A message that waits for nothing is an entry of its own id, with what there is to say."""
    id = state.place_one(1, **options)

    assert state.only("ready").id == id
    assert state.only("ready").fields == {"b": "1", **fields}
    assert state.counters() == {"sent": 1}
    assert state.stored() == {}


@pytest.mark.parametrize(("time", "due"), [("+1000", NOW + 1000), (str(NOW + 9), NOW + 9)])
def test_later(state: State, time: str, due: int) -> None:
    """It waits under an id of its own, and a sleeping reader learns of it."""
    id = state.place_one(1, time=time, **ORDERED)

    assert id == f"{NOW}-1000000"
    assert state.due() == {id: due}
    fields = {"b": "1", "k": "k", "o": "ordered", "s": f'{{"id":"{id}"}}'}
    assert state.stored() == {id: fields}
    assert state.wakes() == [{"due": str(due)}]
    assert state.holders() == {}


def test_only_the_earliest_time_wakes(state: State) -> None:
    """Readers know of the first due time; a later one is no news."""
    for number, delay in enumerate((500, 900, 400), 1):
        state.place_one(number, time=f"+{delay}")

    assert state.wakes() == [{"due": str(NOW + 500)}, {"due": str(NOW + 400)}]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_lines(state: State, key: str) -> None:
    """One message of a key is in circulation, the others wait behind it; other keys do not."""
    ids = [state.place_one(n, str(n), key=key, gate="ordered") for n in range(1, 4)]
    other = state.place_one(4, "other", key=f"{key}!", gate="ordered")

    assert state.bodies() == ["1", "other"]
    assert state.holders() == {key: ids[:1], f"{key}!": [other]}
    assert state.lines() == [(key, ids[1]), (key, ids[2])]
    assert set(state.stored()) == set(ids[1:])
    assert [one.state.id for one in state.run(peek_ready(state.keys, 10))] == [
        ids[0],
        other,
        *ids[1:],
    ]
    assert state.run(stats(state.keys)).ready == 4


def test_a_numbered_gate(state: State) -> None:
    """So many at a time, and the next one for each that ends."""
    state.register("a")
    ids = [state.place_one(n, str(n), key="k", gate="2") for n in range(1, 5)]
    first, second = take(state)
    assert state.holders() == {"k": ids[:2]}

    state.settle("a", retry(first, 1000))

    assert state.holders() == {"k": ids[1:3]}
    state.settle("a", finish(second), now_ms=NOW + 1000)
    # The retry comes before those that were sent after it, when there is room.
    assert state.holders() == {"k": [ids[2], ids[3]]}
    assert state.lines() == [("k", ids[0])]


def test_priorities(state: State) -> None:
    """They wait by priority, then by age; the first one wakes a reader."""
    ids = [state.place_one(n, priority=priority) for n, priority in enumerate((3, 9, 3, 1), 1)]

    assert state.urgent() == [(9, ids[1]), (3, ids[0]), (3, ids[2]), (1, ids[3])]
    assert state.wakes() == [{"priority": ids[0]}]
    found = state.run(consume.fetch(state.keys, "a", now_ms=NOW))
    assert found.priorities == [9, 3, 1]


def test_a_priority_within_a_line(state: State) -> None:
    """A key's order comes first: an urgent message waits for its turn, and is urgent then."""
    state.register("a")
    state.place_one(1, **ORDERED)
    urgent = state.place_one(2, "urgent", priority=9, **ORDERED)
    assert state.urgent() == []
    [token] = take(state)

    state.settle("a", finish(token))

    assert state.urgent() == [(9, urgent)]
    [token] = take(state)
    state.settle("a", finish(token))
    assert state.stored() == {}
    assert state.holders() == {}


# Once


@pytest.mark.parametrize("name", SENDS)
def test_a_repeated_batch(state: State, name: str) -> None:
    """It stores nothing, and gets its first answer, though the queue has gone on meanwhile."""
    batch = [Placement(body=b"%d" % n, **SENDS[name]) for n in range(3)]
    first = state.place(*batch)
    before = everything(state)

    assert state.place(*batch, now_ms=NOW + 1) == first
    assert everything(state) == before
    assert state.place(*batch[:1], number=0) == first
    state.drive(purge(state.keys))
    assert state.place(*batch, now_ms=NOW + 2) == first
    assert everything(state) == [[], [], [], [], {}, {}, [], {}, [], {}]


def test_duplicates_within_a_batch(state: State) -> None:
    """The second message of a unique key is none, also when both come together."""
    batch = [Placement(body=b"%d" % n, unique=unique) for n, unique in enumerate("aba")]
    first, second, third = state.place(*batch)

    assert third == Receipt(first.id, duplicate=True)
    assert not second.duplicate
    assert state.unique() == {"a": first.id, "b": second.id}
    assert state.counters() == {"sent": 2}


def test_modes_share_their_keys(state: State) -> None:
    """A key that a message has is taken, however the next one would have it."""
    modes = ("done", "started", "window:5000")
    for first in modes:
        for second in modes:
            key = f"{first}/{second}"
            batch = [Placement(body=b"", unique=key, unique_for=mode) for mode in (first, second)]
            number = int(state.counters().get("sent", 0)) + 1
            assert [one.duplicate for one in state.place(*batch, number=number)] == [False, True]


def test_a_window_expires(state: State) -> None:
    """Its key goes away by itself."""
    state.place_one(1, unique="u", unique_for="window:5000")

    assert 0 < state.do("PTTL", state.keys.window("u")) <= 5000
    assert state.unique() == {}


# Ids


def test_ids_only_grow(state: State) -> None:
    """Whatever the clock does: the order of a key is that of its ids."""
    times = [NOW, NOW, NOW - 3_600_000, NOW - 1, NOW + 1, NOW, NOW + 1]
    ids = [state.place_one(n, now_ms=now, **ORDERED) for n, now in enumerate(times, 1)]

    assert ids == [
        *(f"{NOW}-{1000000 + n}" for n in range(4)),
        *(f"{NOW + 1}-{1000000 + n}" for n in range(3)),
    ]
    assert [id for _, id in state.lines()] == ids[1:]


def test_ids_grow_as_texts(state: State) -> None:
    """While the clock is behind for hours, the number in them keeps its seven digits."""
    state.do("HSET", state.keys.counters, "last_ms", NOW, "last_number", 8_999_998)
    ids = [state.place_one(n, now_ms=NOW - 1, **ORDERED) for n in (1, 2, 3)]

    assert ids == [f"{NOW}-9999999", f"{NOW + 1}-1000000", f"{NOW + 1}-1000001"]
    assert ids == sorted(ids)


# Without memory


@pytest.mark.parametrize("name", SENDS)
def test_a_refused_batch_stores_nothing(own_server: Server, own_state: State, name: str) -> None:
    """Not even a part of it, and it can be sent again."""
    own_state.place_one(1, unique="first")
    batch = [
        Placement(body=b"", unique="first"),
        *(Placement(body=b"%d" % n, **SENDS[name]) for n in range(3)),
    ]
    before = everything(own_state)

    with out_of_memory(own_server), refused("OOM"):
        own_state.place(*batch, number=2)

    assert everything(own_state) == before
    assert len(own_state.place(*batch, number=2)) == 4


@pytest.mark.parametrize("options", [{}, ORDERED, {"priority": 3}, {"key": "k", "gate": "2"}])
def test_what_is_due_stays_due(
    own_server: Server, own_state: State, options: dict[str, Any]
) -> None:
    """A promotion that is refused changes nothing, and is done later."""
    own_state.register("a")
    own_state.place_one(1, time="+1000", **options)
    before = everything(own_state)

    with out_of_memory(own_server):
        found = own_state.settle("a", now_ms=NOW + 1000)

    assert found.next_due_ms == 1000
    assert everything(own_state) == before
    assert own_state.settle("a", now_ms=NOW + 1000).next_due_ms is None
    [token] = take(own_state)
    own_state.settle("a", finish(token))
    assert everything(own_state) == [[], [], [], [], {}, {}, [], {}, [], {}]


def test_an_ack_always_works(own_server: Server, own_state: State) -> None:
    """It frees what the next message of its key needs."""
    own_state.register("a")
    ids = [own_state.place_one(n, unique=str(n), **ORDERED) for n in range(1, 4)]
    for left in (2, 1, 0):
        [token] = take(own_state)
        with out_of_memory(own_server):
            found = own_state.settle("a", finish(token))
        assert (found.lost, found.kept) == ([], {})
        assert own_state.holders() == ({"k": [ids[3 - left]]} if left else {})
        assert len(own_state.unique()) == left


def test_urgent_messages_need_no_memory(own_server: Server, own_state: State) -> None:
    """A full server hands them out, for their end will free some."""
    own_state.register("a")
    own_state.settle("a", now_ms=NOW)  # the server knows the script now
    id = own_state.place_one(1, priority=9)

    with out_of_memory(own_server):
        op = consume.fetch(own_state.keys, "a", reads=[("f", 1)], urgent="1", now_ms=NOW)
        found = own_state.run(op)

    assert [envelope.state.id for envelope in found.envelopes] == [id]
    assert (found.priorities, found.next_due_ms, own_state.urgent()) == ([], None, [])


def test_urgent_messages_of_a_paused_queue(state: State) -> None:
    """Nobody is told of them while nobody may have them."""
    state.register("a")
    state.place_one(1, priority=9)
    state.do("HSET", state.keys.paused, "ready", "0-0")

    found = state.run(consume.fetch(state.keys, "a", reads=[("f", 1)], urgent="1", now_ms=NOW))

    assert (found.envelopes, found.priorities) == ([], [])
    state.do("DEL", state.keys.paused)
    assert len(take(state)) == 1


# The end of the one before


@pytest.mark.parametrize("end", [finish, lambda token: reject(token, "no"), expire])
def test_an_end_lets_the_next_one_in(state: State, end: Any) -> None:
    """Those whose time is over meanwhile are skipped, and buried."""
    state.register("a")
    first = state.place_one(1, "1", **ORDERED)
    state.place_one(2, "late", ttl="1000", **ORDERED)
    state.place_one(3, "late", ttl="1000 drop", **ORDERED)
    fourth = state.place_one(4, "4", **ORDERED)
    [token] = take(state)
    assert state.holders() == {"k": [first]}

    state.settle("a", end(token), now_ms=NOW + 1000)

    assert state.holders() == {"k": [fourth]}
    assert state.bodies() == ["4"]
    assert [one.body for one in state.entries("dead") if one.state["reason"] == "expired"][-1:] == [
        "late"
    ]
    assert state.counters()["dropped"] == 1


def test_thousands_that_expired_in_a_line(state: State) -> None:
    """They are found out in parts: one call does not keep the server busy for all of them."""
    state.register("a")
    state.place_one(1, "first", **ORDERED)
    late = Placement(body=b"late", ttl="1000", **ORDERED)
    state.place(*[late] * 450, number=2)
    last = state.place_one(3, "last", **ORDERED)
    buried, calls = 0, 0
    tokens = take(state)
    while state.holders() != {"k": [last]}:
        ends = [finish(tokens[0]) if not calls else expire(tokens[0])]
        state.settle("a", *ends, now_ms=NOW + 1000)
        died = len(state.entries("dead"))
        assert died - buried <= 101
        buried, calls = died, calls + 1
        tokens = take(state, now_ms=NOW + 1000)

    assert (buried, state.lines()) == (450, [])


def test_a_narrower_gate(state: State) -> None:
    """When fewer may run than before, the next one waits until the others have ended."""
    state.register("a")
    for n in range(1, 4):
        state.place_one(n, str(n), key="k", gate="3")
    narrow = state.place_one(4, "narrow", key="k", gate="1")
    first, second, third = take(state)
    for token in (first, second):
        state.settle("a", finish(token))
        assert state.lines() == [("k", narrow)]

    state.settle("a", finish(third))

    assert state.holders() == {"k": [narrow]}
    assert state.bodies() == ["narrow"]


# What others wrote

ODD: dict[str, dict[str, str]] = {
    "a gate without a key": {"o": "ordered"},
    "a key without a gate": {"k": "k"},
    "no gate at all": {"k": "k", "o": ""},
    "a gate for nobody": {"k": "k", "o": "0"},
    "fewer than nobody": {"k": "k", "o": "-7"},
    "no number": {"k": "k", "o": "nan"},
    "more than all": {"k": "k", "o": "1e400"},
    "a priority of its own": {"p": "99"},
    "no priority": {"p": "high"},
    "half a priority": {"p": "1.5"},
    "some day": {"x": "soon"},
    "no time at all": {"x": ""},
    "a time for ever": {"x": "9" * 400},
    "no mode": {"u": "u"},
    "no unique key": {"u": "done:"},
    "no colon": {"u": "started"},
    "another mode": {"u": "forever:u"},
    "a line break": {"k": "a\nb", "o": "ordered", "u": "done:a\nb"},
    "a zero byte": {"k": "k\0k", "o": "ordered"},
    "nothing but a zero byte": {"k": "\0", "o": "ordered", "u": "done:\0"},
    "no bytes": {"k": "", "o": "ordered", "p": "", "x": "", "u": ""},
    "a long key": {"k": "k" * 100_000, "o": "ordered"},
    "no text": {"k": "\udcff", "o": "\udcff", "p": "\udcff", "x": "\udcff", "u": "\udcff"},
}


def as_bytes(fields: dict[str, str]) -> list[bytes]:
    return [part.encode("utf-8", "surrogateescape") for pair in fields.items() for part in pair]


@pytest.mark.parametrize("name", ODD)
def test_odd_fields(state: State, name: str) -> None:
    """Nothing that stands in an entry keeps it, or others, from being handled to their end."""
    state.register("a")
    state.place_one(1, "ours", **ORDERED)
    fields = as_bytes({"b": "odd", **ODD[name]})
    for _ in range(2):
        state.do("XADD", state.keys.ready, "*", *fields)
    for delay in (0, 1000):
        tokens = take(state)
        ends = [retry(token, delay) for token in tokens[1:]]
        assert state.settle("a", release(tokens[0]), *ends).kept == {}
        state.settle("a", now_ms=NOW + delay)
    handled = 0
    while tokens := take(state, now_ms=NOW + 1000):
        for token in tokens:
            found = state.settle("a", finish(token), now_ms=NOW + 1000)
            assert (found.lost, found.kept) == ([], {})
        handled += len(tokens)

    assert handled == 3
    assert everything(state) == [[], [], [], [], {}, {}, [], {}, [], {}]


def test_repeated_fields(state: State) -> None:
    """Of several fields of one name the last one counts, as for those who read it."""
    state.register("a")
    twice = ["k", "x", "k", "k", "o", "3", "o", "ordered", "p", "1", "p", "9", "b", "1", "b", "2"]
    state.do("XADD", state.keys.ready, "*", *twice)
    [token] = take(state)
    state.settle("a", retry(token), now_ms=NOW)
    state.settle("a")

    assert list(state.holders()) == ["k"]
    [(level, _)] = state.urgent()
    assert level == 9
    [token] = take(state)
    state.settle("a", finish(token))
    assert everything(state) == [[], [], [], [], {}, {}, [], {}, [], {}]


def test_the_same_id_twice(state: State, any_server: Server, namespace: str) -> None:
    """Entries that claim the same id take turns like others, and leave no gate shut."""
    state.register("a")
    for _ in range(3):
        state.put(state={"id": "1-1"}, extra={"k": "k", "o": "ordered"})
    tokens = take(state)
    state.settle("a", *(retry(token) for token in tokens))
    handled = 0
    while tokens := take(state):
        handled += len(tokens)
        state.settle("a", *(finish(token) for token in tokens))

    assert handled == 3
    assert state.holders() == {}
    assert leaked(any_server.admin(), namespace) == []
