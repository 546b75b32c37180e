"""list_fetch.lua: deliveries end, due messages come back, and messages are taken."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.policy import Retry
from millstream.protocol import consume, control
from millstream.protocol.lists import PROMOTED_AT_ONCE
from millstream.protocol.recover import hand_over_some
from millstream.protocol.settlement import Settlement, ack, expire, failure, reject, release
from tests.lua.list_state import FOREIGN_ELEMENTS, LEASE, NUDGE, ListState, bodies, element
from tests.lua.state import NOW, OLD_ID, out_of_memory, refused
from tests.support.servers import Server

MOVED = {"id": OLD_ID, "attempts": 2, "crashes": 1}


@pytest.fixture(autouse=True)
def registered(request: pytest.FixtureRequest) -> None:
    """The queue of each test has two consumers."""
    name = "own_lists" if "own_lists" in request.fixturenames else "lists"
    lists: ListState = request.getfixturevalue(name)
    lists.register("a", "b", lease_ms=LEASE)


def retry(token: bytes, delay_ms: int = 500) -> Settlement:
    return Settlement("retry", token, delay_ms=delay_ms, failed=True, note=b'{"reason":"failed"}')


# Take


def test_takes_in_order(lists: ListState) -> None:
    """The oldest first, no more than was asked for; each has a lease from now on, and stands as it came."""
    lists.push(element("5-1"), element("5-2", "2", k="key", h='{"a":"b"}'), element("5-3", "3"))

    found = lists.take("a", 2)

    assert [(one.token, one.body) for one in found.envelopes] == [(b"5-1", b"1"), (b"5-2", b"2")]
    assert found.envelopes[1].key == "key"
    assert found.envelopes[1].headers == {"a": "b"}
    assert (found.lost, found.kept, found.next_due_ms, found.now_ms) == ([], {}, None, NOW)
    assert [one.id for one in lists.elements()] == ["5-3"]
    held = lists.held("a")
    assert (held[b"5-1"].fields, held[b"5-2"].fields["k"]) == ({}, "key")
    assert lists.ends_of_leases() == {"5-1 a": NOW + LEASE, "5-2 a": NOW + LEASE}
    assert lists.seen()["a"] == NOW


def test_nothing_to_take(lists: ListState) -> None:
    """An empty queue gives nothing, and nothing comes into being."""
    found = lists.take()

    assert (found.envelopes, found.next_due_ms, found.outlook) == ([], None, None)
    assert lists.do("EXISTS", *lists.keys.listed, lists.keys.processing("a")) == 2


@pytest.mark.parametrize("body", FOREIGN_ELEMENTS)
def test_any_element_is_a_message(lists: ListState, body: bytes) -> None:
    """What is not in our form is a body, and gets an id for good."""
    [token, behind] = lists.give("a", body, element("5-1"))

    held = lists.held("a")
    assert token == f"{NOW}-1000000".encode()
    assert (held[token].id, held[token].body) == (token.decode(), body)
    assert held[behind].id == "5-1"


def test_copies_are_messages_of_their_own(lists: ListState) -> None:
    """Each copy of an element, in one call or in two, is a delivery of its own with the same id."""
    tokens = lists.give("a", element("5-1"), element("5-1", "2"))
    tokens += lists.give("a", element("5-1", "3"))

    assert len(set(tokens)) == 3
    assert tokens[0] == b"5-1"
    shown = lists.drive(consume.own_pending(lists.keys, "a"))
    assert [one.state.id for one in shown] == ["5-1"] * 3
    assert lists.settle("a", acks=(tokens[1],)).lost == []
    assert {one.body for one in lists.held("a").values()} == {b"1", b"3"}


def test_a_message_that_comes_again(lists: ListState) -> None:
    """It has its id and its counts, and a new token, so that a late owner owns nothing."""
    [token] = lists.give("a", element(OLD_ID, s=MOVED))

    assert token != OLD_ID.encode()
    [one] = lists.drive(consume.own_pending(lists.keys, "a"))
    assert (one.state.id, one.state.attempts, one.state.crashes) == (OLD_ID, 2, 1)


def test_the_order_of_the_lists(lists: ListState) -> None:
    """One suspect, if it is wanted, comes on top of the others; the front comes before the rest."""
    lists.push(element("7-1", "r1"), element("7-2", "r2"))
    lists.push(element("6-1", "f1"), element("6-2", "f2"), to="front")
    lists.push(*(element(f"5-{n}", f"s{n}", s={"crashes": 2}) for n in (1, 2)), to="suspect")

    found = lists.take("a", 3, suspect=True)

    assert bodies(found) == [b"s1", b"f1", b"f2", b"r1"]
    assert [one.token[:1] for one in found.envelopes] == [b"s", b"f", b"f", b"7"]
    assert found.suspect == 1
    assert bodies(lists.take("b", 3)) == [b"r2"]
    assert bodies(lists.take("b", 0, suspect=True)) == [b"s2"]
    assert lists.take("b", 3).suspect == 0


@pytest.mark.parametrize("name", ["front", "suspect"])
def test_one_wakes_the_next(lists: ListState, name: str) -> None:
    """Who leaves something where no sleep sees it wakes another reader."""
    lists.push(*(element(f"5-{n}", s={"crashes": 2}) for n in (1, 2)), to=name)

    lists.take("a", 1, suspect=True)
    assert lists.nudged()
    lists.take("b", 2, suspect=True)
    assert not lists.nudged()


def test_a_wake_up_is_no_message(lists: ListState) -> None:
    """It is thrown away by whoever comes to it, and counts for nothing."""
    lists.push(element("5-1"), NUDGE, element("5-2", "2"), element("5-3", "3"))

    assert bodies(lists.take("a", 2)) == [b"1", b"2"]
    assert lists.list() == [element("5-3", "3")]


def test_what_woke_a_reader(lists: ListState) -> None:
    """It is the next to be taken, by whoever looks first; of several wake-ups one is put back."""
    lists.push(element("5-3", "3"))
    lists.push(element("5-1"), element("5-2", "2"), NUDGE, NUDGE, to="landing")
    assert bodies(lists.take("a", 2)) == [b"1", b"2"]

    lists.take("a")
    lists.push(NUDGE, NUDGE, to="landing")
    lists.push(NUDGE)
    lists.settle("a")
    assert lists.list() == [NUDGE]
    assert lists.list("landing") == []


def test_many_in_one_call(lists: ListState) -> None:
    """More than Lua hands over at once."""
    lists.push(*(element(f"5-{n}") for n in range(1200)))

    tokens = [one.token for one in lists.take("a", 1100).envelopes]

    assert tokens == [f"5-{n}".encode() for n in range(1100)]
    assert len(lists.held("a")) == len(lists.ends_of_leases()) == 1100
    assert len(lists.list()) == 100
    assert lists.settle("a", acks=tuple(tokens)).lost == []
    assert lists.counters() == {"acked": 1100}
    assert lists.ends_of_leases() == {}


def test_a_consumer_that_is_not_known(lists: ListState) -> None:
    """It takes nothing before it is; what it has to settle, it can."""
    [token] = lists.give("a", element("5-1"))
    lists.push(element("5-2"))
    lists.do("DEL", lists.keys.consumers)
    with refused("NOGROUP"):
        lists.take("a")

    assert lists.settle("a", acks=(token,)).lost == []
    assert [one.id for one in lists.elements()] == ["5-2"]


def test_a_paused_queue(lists: ListState) -> None:
    """Nothing is taken, and the answer tells from where to listen; what is in flight ends."""
    [token] = lists.give("a", element("5-1"))
    lists.push(element("5-2"))
    lists.run(control.pause(lists.keys))
    last = lists.entries("control")[-1].id

    found = lists.run(consume.fetch(lists.keys, "a", reads=[("", 9)], acks=[token], now_ms=NOW))

    assert (found.envelopes, found.lost) == ([], [])
    assert found.outlook is not None
    assert (found.outlook.kind, found.outlook.since) == ("paused", (last.encode(),))
    lists.do("DEL", lists.keys.control)
    assert lists.take("a").outlook.since == (b"0-0",)  # type: ignore[union-attr] # it is paused
    assert [one.id for one in lists.elements()] == ["5-2"]


# Settle


@pytest.mark.parametrize("verb", ["plain", "ack", "finish"])
def test_ack(lists: ListState, verb: Any) -> None:
    """The message is gone, and counted."""
    [one, two] = lists.give("a", element("5-1"), element("5-2"))
    ends = () if verb == "plain" else (Settlement(verb, one),)

    assert lists.settle("a", *ends, acks=() if ends else (one,)).lost == []

    assert list(lists.held("a")) == [two]
    assert lists.ends_of_leases() == {f"{two.decode()} a": NOW + LEASE}
    assert lists.counters() == {"acked": 1}


@pytest.mark.parametrize("end", [ack, retry, lambda t: reject(t, "no"), release, expire])
def test_a_late_end_is_refused(lists: ListState, end: Any) -> None:
    """Who does not own the delivery any more changes nothing, neither twice nor beside others."""
    [late, ours] = lists.give("a", element("5-1"), element("5-2"))
    lists.run(hand_over_some(lists.keys, "b", crashed=True, max_crashes=3))
    lists.run(hand_over_some(lists.keys, "a", crashed=True, max_crashes=3, now_ms=NOW, limit=1))
    before = (lists.list("front"), lists.counters())

    for _ in range(2):
        assert lists.settle("a", end(late)).lost == [late]
        assert lists.settle("b", end(ours)).lost == [ours]
    assert lists.settle("b", acks=(late, ours)).lost == [late, ours]

    assert (lists.list("front"), lists.counters()) == before
    assert lists.delayed() == {}
    assert lists.entries("dead") == []
    assert list(lists.held("a")) == [ours]
    assert lists.settle("a", acks=(late, ours)).lost == [late]
    assert lists.counters()["acked"] == 1


def test_retry(lists: ListState) -> None:
    """It waits for its time with all that it has, and one attempt more; then it is taken anew."""
    fields: dict[str, Any] = {"k": "key", "h": '{"a":"b"}', "x": str(NOW + 1)}
    lists.push(element("6-1", s=MOVED, **fields))
    [got] = lists.take().envelopes
    end = failure(got, Retry(), reason="failed", luck=0, delay_ms=500, error="ValueError: no")

    found = lists.settle("a", end)

    assert found.next_due_ms == 500
    state = {**MOVED, "attempts": 3, "reason": "failed"}
    [(id, waits)] = lists.delayed().items()
    assert (id, waits.due) == (OLD_ID, NOW + 500)
    assert waits.state == {**state, "error": "ValueError: no"}
    assert {k: waits.fields[k] for k in "bkhx"} == {"b": "1", **fields}
    assert lists.counters() == {"retried": 1}
    assert lists.held("a") == {}

    [again] = lists.take("a", now_ms=NOW + 500).envelopes
    assert (again.state.id, again.state.attempts) == (OLD_ID, 3)
    assert again.token not in (got.token, OLD_ID.encode())
    assert lists.delayed() == {}


def test_retries_of_copies(lists: ListState) -> None:
    """None pushes the other out while they wait, and both come back with their id."""
    [one, two] = lists.give("a", element("5-1"), element("5-1", "2"))
    lists.settle("a", retry(one), retry(two))
    assert set(lists.delayed()) == {"5-1", f"5-1/{two.decode()}"}

    found = lists.take("a", now_ms=NOW + 500)
    assert sorted(bodies(found), key=str) == [b"1", b"2"]
    assert [one.state.id for one in found.envelopes] == ["5-1", "5-1"]


@pytest.mark.parametrize(("wake", "known"), [(True, None), (False, None), (True, 100)])
def test_who_learns_of_a_retry(lists: ListState, wake: bool, known: int | None) -> None:
    """A sleeper is woken, if that was asked for and the retry is due before what it knows."""
    [token] = lists.give("a", element("5-1"))
    if known is not None:
        lists.delay("4-1", NOW + known)
    lists.settle("a", retry(token), wake=wake)

    assert lists.nudged() is (wake and known is None)


def test_reject(lists: ListState) -> None:
    """It is a dead letter, with the reason and all that it had."""
    [token] = lists.give("a", element("6-1", s=MOVED, k="key"))
    lists.settle("a", reject(token, "no", error="ValueError: no"))

    letter = lists.only("dead")
    assert (letter.body, letter.fields["k"]) == ("1", "key")
    assert letter.state == {**MOVED, "reason": "no", "error": "ValueError: no", "at": NOW}
    assert lists.counters() == {"died": 1}
    assert lists.held("a") == {}


def test_release(lists: ListState) -> None:
    """It is at the front without blame, in the order of the call; a suspect stays one."""
    lists.push(element("7-1", "s", s={"crashes": 2}), to="suspect")
    [suspect] = [one.token for one in lists.take("a", 0, suspect=True).envelopes]
    [one, two] = lists.give("a", element("5-1"), element("5-2", "2"))
    lists.settle("a", release(one), release(two), release(suspect))

    assert [(it.id, it.body) for it in lists.elements("front")] == [("5-1", b"1"), ("5-2", b"2")]
    assert [it.state["crashes"] for it in lists.elements("suspect")] == [2]
    assert lists.counters() == {}
    assert lists.nudged()


@pytest.mark.parametrize(("x", "counted"), [("7", "died"), ("7 drop", "dropped")])
def test_expire(lists: ListState, x: str, counted: str) -> None:
    """It is a dead letter, or nobody misses it."""
    [token] = lists.give("a", element("5-1", x=x))
    lists.settle("a", expire(token))

    assert [one.state["reason"] for one in lists.entries("dead")] == ["expired"] * (
        counted == "died"
    )
    assert lists.counters() == {counted: 1, "expired": 1}
    assert lists.held("a") == {}


# Promote


def test_what_is_due_comes_back(lists: ListState) -> None:
    """At its time, not a ms earlier, behind what waits; the answer tells of the next one."""
    lists.push(element("7-1", "waits"))
    lists.delay("5-1", NOW, "due")
    lists.delay("6-1", NOW + 5, "later")

    found = lists.take("a", now_ms=NOW - 1)
    assert (bodies(found), found.next_due_ms) == ([b"waits"], 1)
    lists.push(element("7-2", "waits"))
    found = lists.take("a", now_ms=NOW)
    assert (bodies(found), found.next_due_ms) == ([b"waits", b"due"], 5)
    assert found.envelopes[1].state.id == "5-1"
    assert list(lists.delayed()) == ["6-1"]


def test_a_suspect_stays_one(lists: ListState) -> None:
    """Waiting does not make it harmless; who takes suspects is woken for it."""
    lists.delay("5-1", NOW, crashes=2)
    lists.settle("b")

    assert [one.state["crashes"] for one in lists.elements("suspect")] == [2]
    assert lists.nudged()


def test_a_time_to_live_that_ends_meanwhile(lists: ListState) -> None:
    """A message that nobody has begun with is a dead letter; one that was begun with goes on."""
    for number, body in enumerate((b"new", b"tried"), 1):
        lists.place_one(number, body.decode(), time="+50", ttl="100")
    [new, tried] = lists.take("a", now_ms=NOW + 50).envelopes
    lists.settle("a", retry(tried.token), now_ms=NOW)
    lists.settle("a", Settlement("retry", new.token, delay_ms=500), now_ms=NOW)

    assert bodies(lists.take("a", now_ms=NOW + 500)) == [b"tried"]
    assert lists.only("dead").body == "new"
    assert lists.only("dead").state["reason"] == "expired"
    assert lists.delayed() == {}


def test_a_call_promotes_some(lists: ListState) -> None:
    """The first ones; the answer says to come again at once."""
    for number in range(PROMOTED_AT_ONCE + 1):
        lists.delay(f"{number + 1}-1", NOW - 1000 + number)

    assert lists.settle("a").next_due_ms == 0
    assert list(lists.delayed()) == [f"{PROMOTED_AT_ONCE + 1}-1"]
    assert lists.settle("a").next_due_ms is None


# A full server


def test_a_full_server_gives_nothing(own_server: Server, own_lists: ListState) -> None:
    """What is taken has to be noted, so it stays; what is due waits a second."""
    own_lists.push(element("5-1"), b"2")
    own_lists.delay("4-1", NOW)
    with out_of_memory(own_server):
        assert own_lists.settle("a").next_due_ms == 1000
        with refused("OOM"):
            own_lists.take("a")

    assert len(own_lists.list()) == 2
    assert own_lists.held("a") == {}
    assert own_lists.ends_of_leases() == {}
    assert bodies(own_lists.take("a")) == [b"1", b"2", b"1"]


@pytest.mark.parametrize("end", [retry, lambda t: reject(t, "no"), release, expire])
def test_a_full_server_keeps_what_it_cannot_move(
    own_server: Server, own_lists: ListState, end: Any
) -> None:
    """The consumer has it still, and is told why; acknowledgements go on."""
    [one, two] = own_lists.give("a", element("5-1", x="7"), element("5-2"))
    with out_of_memory(own_server):
        found = own_lists.settle("a", end(one))
        assert list(found.kept) == [one]
        assert found.kept[one].startswith("OOM ")
        assert own_lists.settle("a", acks=(two,)).lost == []
    assert list(own_lists.held("a")) == [one]
    assert list(own_lists.ends_of_leases()) == [f"{one.decode()} a"]

    found = own_lists.settle("a", end(one))
    assert (found.kept, found.lost) == ({}, [])
    assert own_lists.held("a") == {}
