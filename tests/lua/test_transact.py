"""transact.lua: all of it for the owner of a delivery, once, and nothing at all for anybody else."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import millstream as ms
from millstream.errors import QueueFull, ServerRefused
from millstream.protocol.draft import Draft
from millstream.protocol.keys import queue_keys
from millstream.protocol.place import Placement
from millstream.protocol.publish import Publication
from millstream.protocol.settlement import Settlement, ack, reject, release
from millstream.protocol.transaction import Commit, Committed, commit
from tests.lua.list_state import ListState
from tests.lua.state import State, out_of_memory, refused
from tests.support.servers import Server

ORDERS: ms.Queue[Any] = ms.Queue("orders")
LISTED: ms.Queue[Any] = ms.Queue("orders", store="list")
NEXT: ms.Queue[Any] = ms.Queue("next")
PLACED: ms.Topic[Any] = ms.Topic("placed")


class Keys:
    """Keys of the test's own, and what they hold."""

    def __init__(self, state: State) -> None:
        self.prefix = f"t-app-{{{uuid.uuid4().hex[:12]}}}"
        self.key = f"{self.prefix}:key"
        self.count = f"{self.prefix}:count"
        self._state = state

    def held(self) -> Any:
        return self._state.do("DUMP", self.key)

    def delete(self) -> None:
        self._state.do("DEL", self.key, self.count)


@pytest.fixture
def app(state: State) -> Iterator[Keys]:
    """Keys that are not Millstream's; they are deleted after the test."""
    keys = Keys(state)
    yield keys
    keys.delete()


def draft(*writes: tuple[Any, ...], sends: int = 0, publishes: int = 0) -> Draft:
    """A transaction with these writes, and so many messages."""
    made = Draft("queue 'orders'")
    for verb, key, *arguments in writes:
        made.write(verb, key, *arguments)
    for n in range(sends):
        made.put(NEXT, Placement(body=b"%d" % n))
    for n in range(publishes):
        made.put(PLACED, Publication(body=b"%d" % n, subject="a.b"))
    return made


def asked(
    state: State,
    token: bytes,
    what: Draft,
    *,
    consumer: str = "a",
    number: int = 1,
    source: ms.Queue[Any] = ORDERS,
    end: Callable[[bytes], Settlement] = ack,
) -> Commit:
    return Commit(source, state.keys, consumer, end(token), what, "lane", number)


def run(state: State, token: bytes, what: Draft, **options: Any) -> Committed | None:
    """Commit it; what came of it."""
    return state.drive(commit(asked(state, token, what, **options), set()))


def sent(state: State) -> int:
    """How many messages the next queue has."""
    keys = queue_keys(state.keys.namespace, "next")
    return int(state.do("XLEN", keys.ready))


def published(state: State) -> int:
    return int(state.do("XLEN", f"{state.keys.namespace}:{{placed}}:log"))


@pytest.mark.parametrize("lane", ["ready", "front", "suspect"])
def test_the_owner_commits(state: State, app: Keys, lane: str) -> None:
    """All of it is done, the message is gone, and everything is counted, from each lane."""
    state.register("a")
    token = state.own("a", lane)

    done = run(state, token, draft(("INCRBY", app.count, 2), sends=2, publishes=1))

    assert done is not None
    assert len(done.receipts) == 3
    assert (sent(state), published(state)) == (2, 1)
    assert state.do("GET", app.count) == b"2"
    assert state.entries(lane) == []
    assert state.owners(lane) == {}
    assert state.do("HGET", state.keys.counters, "acked") == b"1"
    assert state.do("HGET", queue_keys(state.keys.namespace, "next").counters, "sent") == b"2"


@pytest.mark.parametrize(
    "over", ["taken over", "acked", "rejected", "released", "flushed", "never"]
)
def test_nobody_else_does(state: State, app: Keys, over: str) -> None:
    """Whoever does not own the delivery any more changes nothing, whatever has become of it."""
    state.register("a", "b")
    token = state.own("a")
    if over == "taken over":
        state.do("XCLAIM", state.keys.ready, state.keys.group, "b", 0, token)
    elif over == "flushed":
        state.do("DEL", state.keys.ready)
    elif over == "never":
        token = b"1-1"
    else:
        state.settle("a", {"acked": ack, "released": release}.get(over, _rejected)(token))
    before = [state.entries(lane) for lane in ("ready", "front", "dead")]

    assert run(state, token, draft(("INCRBY", app.count, 1), sends=1, publishes=1)) is None

    assert (sent(state), published(state)) == (0, 0)
    assert state.do("GET", app.count) is None
    assert [state.entries(lane) for lane in ("ready", "front", "dead")] == before


def _rejected(token: bytes) -> Settlement:
    return reject(token, "no")


def test_a_repeated_commit(state: State, app: Keys) -> None:
    """It changes nothing and gets its first answer; the next one of its lane is another one."""
    state.register("a")
    first, second = state.own("a"), state.own("a")
    what = draft(("INCRBY", app.count, 1), sends=1)

    done = [run(state, first, what) for _ in range(3)]

    assert done[0] is not None
    assert done == [done[0]] * 3
    assert run(state, second, what, number=2) is not None
    assert (sent(state), state.do("GET", app.count)) == (2, b"2")


def test_a_late_copy_of_an_older_commit(state: State, app: Keys) -> None:
    """It changes nothing, though its delivery is still there: nobody waits for it any more."""
    state.register("a")
    old, new = state.own("a"), state.own("a")
    what = draft(("INCRBY", app.count, 1))
    run(state, new, what, number=2)

    run(state, old, what, number=1)

    assert state.do("GET", app.count) == b"1"
    assert list(state.owners().values()) == ["a"]


def test_memory_of_commits_ends(state: State) -> None:
    """What is remembered of a commit goes by itself; nothing else is left."""
    state.register("a")
    run(state, state.own("a"), draft(sends=1))

    assert 0 < state.do("PTTL", state.keys.producer("lane")) <= 600_000


def test_a_list(lists: ListState) -> None:
    """The owner is who has it in its hash; its commit takes it out."""
    lists.register("a", "b")
    [token] = lists.give("a", b"1")
    what = draft(sends=1)

    assert run(lists, token, what, consumer="b", source=LISTED) is None
    assert sent(lists) == 0
    assert run(lists, token, what, source=LISTED) is not None
    assert sent(lists) == 1
    assert run(lists, token, what, number=2, source=LISTED) is None
    assert lists.held("a") == {}


# What would be refused


def text(state: State, key: str) -> None:
    state.do("SET", key, "text")


HELD: dict[str, Callable[[State, str], object]] = {
    "nothing": lambda _, __: None,
    "text": text,
    "number": lambda state, key: state.do("SET", key, 7),
    "zeros": lambda state, key: state.do("SET", key, "007"),
    "largest": lambda state, key: state.do("SET", key, 2**63 - 1),
    "list": lambda state, key: state.do("RPUSH", key, 1),
    "set": lambda state, key: state.do("SADD", key, 1),
    "hash": lambda state, key: state.do("HSET", key, "text", "x"),
}

Wanted = list[tuple[Any, ...]]

REFUSED: list[tuple[str, Wanted, str]] = [
    ("text", [("SADD", 1)], "WRONGTYPE"),
    ("list", [("INCRBY", 1)], "WRONGTYPE"),
    ("set", [("HSET", "a", 1)], "WRONGTYPE"),
    ("hash", [("ZADD", 1, "a")], "WRONGTYPE"),
    ("set", [("RPUSH", 1)], "WRONGTYPE"),
    ("text", [("INCRBY", 1)], "ERR"),
    ("zeros", [("INCRBY", 1)], "ERR"),
    ("largest", [("INCRBY", 1)], "ERR"),
    ("hash", [("HINCRBY", "text", 1)], "ERR"),
    ("nothing", [("SET", "x"), ("INCRBY", 1)], "ERR"),
    ("nothing", [("SET", 1), ("SADD", 1)], "WRONGTYPE"),
    ("nothing", [("INCRBY", 2**62), ("INCRBY", 2**62)], "ERR"),
    ("nothing", [("HSET", "a", "x"), ("HINCRBY", "a", 1)], "ERR"),
    ("list", [("DEL",), ("SADD", 1), ("INCRBY", 1)], "WRONGTYPE"),
]


@pytest.mark.parametrize(("held", "writes", "code"), REFUSED)
def test_a_write_that_its_key_does_not_fit(
    state: State, app: Keys, held: str, writes: Wanted, code: str
) -> None:
    """The server would refuse it in the middle; so it is seen before anything is done."""
    state.register("a")
    HELD[held](state, app.key)
    before = app.held()
    token = state.own("a")
    what = draft(
        ("INCRBY", app.count, 1),
        *((verb, app.key, *arguments) for verb, *arguments in writes),
        sends=1,
    )

    with pytest.raises(ServerRefused, match=re.escape(app.key)) as caught:
        run(state, token, what)

    assert caught.value.code == code
    assert "text" not in str(caught.value)
    assert app.held() == before
    assert (sent(state), state.do("GET", app.count)) == (0, None)
    assert list(state.owners().values()) == ["a"]


TAKEN: list[tuple[str, Wanted, tuple[str, ...], Any]] = [
    ("number", [("INCRBY", -10)], ("GET",), b"-3"),
    ("nothing", [("INCRBY", 2**62), ("INCRBY", -(2**62))], ("GET",), b"0"),
    ("list", [("DEL",), ("INCRBY", 2), ("INCRBY", -5)], ("GET",), b"-3"),
    ("hash", [("SET", "10"), ("INCRBY", 1)], ("GET",), b"11"),
    ("text", [("DEL",), ("HSET", "a", 1), ("HINCRBY", "a", 1)], ("HGET", "a"), b"2"),
    ("hash", [("HSET", "text", 1), ("HINCRBY", "text", 1)], ("HGET", "text"), b"2"),
    ("hash", [("HDEL", "text"), ("HINCRBY", "text", 3)], ("HGET", "text"), b"3"),
    ("hash", [("SET", "x", "PX", 60_000), ("DEL",), ("ZADD", 1, "a")], ("ZCARD",), 1),
]


@pytest.mark.parametrize(("held", "writes", "look", "found"), TAKEN)
def test_writes_that_follow_one_another(
    state: State, app: Keys, held: str, writes: Wanted, look: tuple[str, ...], found: Any
) -> None:
    """Each is judged by what those before it leave, and not by what the key held."""
    state.register("a")
    HELD[held](state, app.key)

    done = run(state, state.own("a"), draft(*((verb, app.key, *rest) for verb, *rest in writes)))

    assert done is not None
    verb, *rest = look
    assert state.do(verb, app.key, *rest) == found


def test_a_command_that_the_user_may_not_use(own_server: Server, own_state: State) -> None:
    """Where the server can be asked, that is seen before anything is done; else the writes come first."""
    own_state.register("a")
    token = own_state.own("a")
    user = own_server.limited_url.partition("//")[2].partition(":")[0]
    admin: Any = own_server.admin()
    admin.execute_command("ACL", "SETUSER", user, "-sadd")
    try:
        with pytest.raises(ServerRefused) as caught:
            run(own_state, token, draft(("SADD", "t-members", 1), sends=1))
    finally:
        admin.execute_command("ACL", "SETUSER", user, "+sadd")
    # Redis 6.2 has no code for it.
    assert caught.value.code in ("NOPERM", "ERR")
    assert sent(own_state) == 0
    assert list(own_state.owners().values()) == ["a"]


def test_without_memory(own_server: Server, own_state: State) -> None:
    """Nothing is done; the delivery is as it was, and can be committed when there is memory."""
    own_state.register("a")
    token = own_state.own("a")
    what = draft(("INCRBY", "t-count", 1), sends=1)
    with out_of_memory(own_server), refused("OOM"):
        run(own_state, token, what)

    assert sent(own_state) == 0
    assert own_state.do("GET", "t-count") is None
    assert run(own_state, token, what, number=2) is not None
    assert sent(own_state) == 1


def test_no_room(state: State, app: Keys) -> None:
    """A full output refuses all of it, wherever it stands; the length is that of its queue."""
    state.register("a")
    full: ms.Queue[Any] = ms.Queue("full", bound=ms.Bound(1))
    what = draft(("INCRBY", app.count, 1), sends=1)
    what.put(full, Placement(body=b"1"))
    first, second = state.own("a"), state.own("a")

    assert run(state, first, what) is not None
    with pytest.raises(QueueFull) as caught:
        run(state, second, what, number=2)

    assert (caught.value.length, caught.value.bound) == (1, 1)
    assert (sent(state), state.do("GET", app.count)) == (1, b"1")
    assert list(state.owners().values()) == ["a"]


def test_no_room_in_one_of_two_that_drop(state: State) -> None:
    """What drops its oldest message loses none when another output has no room: all are looked at first."""
    state.register("a")
    ring = ms.Bound(1, on_full="drop_oldest")
    free: ms.Queue[Any] = ms.Queue("free", bound=ring)
    busy: ms.Queue[Any] = ms.Queue("busy", bound=ring)
    what = Draft("queue 'orders'")
    what.put(free, Placement(body=b"1"))
    what.put(busy, Placement(body=b"1"))
    assert run(state, state.own("a"), what) is not None
    before = state.do("XRANGE", queue_keys(state.keys.namespace, "free").ready, "-", "+")
    keys = queue_keys(state.keys.namespace, "busy")
    state.do("XGROUP", "CREATE", keys.ready, keys.group, "0")
    state.do("XREADGROUP", "GROUP", keys.group, "b", "STREAMS", keys.ready, ">")

    with pytest.raises(QueueFull):
        run(state, state.own("a"), what, number=2)

    assert state.do("XRANGE", queue_keys(state.keys.namespace, "free").ready, "-", "+") == before
