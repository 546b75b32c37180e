"""await_result.lua, and what other scripts do for it: results of messages, and who waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from millstream.policy import Limits, Rate, Retain
from millstream.protocol import admin, consume, control, kept, waiting
from millstream.protocol.consume import Fetched
from millstream.protocol.kept import span_of
from millstream.protocol.mailbox import Mail
from millstream.protocol.op import Op
from millstream.protocol.place import Placement
from millstream.protocol.recover import hand_over_some
from millstream.protocol.results import NOTED_MS, Look, Question, ask, mails_of
from millstream.protocol.settlement import Settlement, ack, expire, reject, release
from tests.lua.state import NOW, State, out_of_memory
from tests.support.servers import Server

KEEP_MS = 60_000
LIMITS = Limits(Rate(1000), 1000)


@pytest.fixture(params=["settle", "take"])
def limits(request: pytest.FixtureRequest) -> Limits | None:
    """Both scripts by which a queue settles."""
    return LIMITS if request.param == "take" else None


def send(state: State, number: int = 1, **options: Any) -> str:
    return state.place_one(number, result_ms=KEEP_MS, **options)


def take(state: State, now_ms: int = NOW) -> list[bytes]:
    """Deliver what can be delivered to `a`; the tokens."""
    # Reads behind a script that the server does not know yet come before what it promotes.
    state.run(consume.fetch(state.keys, "a", now_ms=now_ms))
    op = consume.fetch(
        *(state.keys, "a"), reads=[("f", 9), ("", 9), ("s", 9)], urgent="9", now_ms=now_ms
    )
    return [envelope.token for envelope in state.run(op).envelopes]


def settle(
    state: State,
    *ends: Settlement,
    limits: Limits | None = None,
    keep: Retain | None = None,
    now_ms: int = NOW,
) -> Fetched:
    op = consume.fetch(
        *(state.keys, "a", ends), limits=limits, keep=keep, results=True, now_ms=now_ms
    )
    return state.run(op)


def done(token: bytes, value: bytes = b"=1") -> Settlement:
    return replace(ack(token, plain=False), note=value)


def look(state: State, id: str, address: str = "", *, now_ms: int = NOW) -> Look:
    [found] = state.run(ask(state.keys, [Question(id, address)], now_ms=now_ms))
    return found


def stored(state: State) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The results, when they end, and who waits."""
    results, ends, waiters = state.keys.resulting
    return (
        state.do("HGETALL", results),
        state.do("ZRANGE", ends, 0, -1, "WITHSCORES"),
        state.do("HGETALL", waiters),
    )


def expected(state: State) -> Sequence[str]:
    """The ids of unfinished messages that are known to want a result."""
    return [id for name, id in state.unique().items() if name == "\0" + id]


# The way of a result


def test_what_is_acknowledged_has_its_result(state: State, limits: Limits | None) -> None:
    """From then on, for the time that its sender has asked for, and no longer."""
    state.register("a")
    id = send(state)
    assert look(state, id) == Look("waits", state="queued")
    assert expected(state) == [id]
    [token] = take(state)
    assert look(state, id) == Look("waits", state="running")

    found = settle(state, done(token, b'={"n":1}'), limits=limits)

    assert (found.lost, found.kept, list(found.awaited)) == ([], {}, [])
    assert look(state, id) == Look("done", b'={"n":1}')
    assert look(state, id, now_ms=NOW + KEEP_MS - 1).kind == "done"
    assert look(state, id, now_ms=NOW + KEEP_MS).kind == "unknown"
    assert (expected(state), state.entries(), state.counters()["acked"]) == ([], [], 1)


@pytest.mark.parametrize(
    ("options", "waits"),
    [
        ({"time": "+1000"}, "delayed"),
        ({"priority": 5}, "queued"),
        ({"key": "k", "gate": "ordered"}, "unknown"),
        ({"unique": "u", "ttl": "5000"}, "queued"),
        ({"key": "k", "gate": "2", "priority": 9, "unique": "u", "ttl": "9000"}, "queued"),
    ],
    ids=["delayed", "urgent", "ordered", "unique", "all"],
)
def test_with_other_options(state: State, options: Any, waits: str) -> None:
    """Wherever it waits, its result is expected until it is there."""
    state.register("a")
    id = send(state, **options)
    assert look(state, id) == Look("waits", state=waits)

    [token] = take(state, NOW + 2000)
    assert look(state, id).kind == "waits"
    settle(state, done(token, b"=7"), now_ms=NOW + 2000)

    assert look(state, id, now_ms=NOW + 2000) == Look("done", b"=7")
    assert (state.unique(), state.holders(), state.stored()) == ({}, {}, {})


def test_who_is_late_leaves_no_result(state: State) -> None:
    """A message that another consumer owns by now gets the result of that one."""
    state.register("a", "b")
    id = send(state)
    [token] = take(state)
    state.run(hand_over_some(state.keys, "a", crashed=True, max_crashes=3))

    found = settle(state, done(token, b"=1"))

    assert list(found.lost) == [token]
    assert look(state, id) == Look("waits", state="unknown")
    assert stored(state)[0] == []
    state.register("a")
    [again] = take(state)
    settle(state, done(again, b"=2"))
    assert look(state, id) == Look("done", b"=2")


def test_a_retry_and_a_release_keep_the_wait_going(state: State) -> None:
    """Nothing ends by them, and the one that waits is not told."""
    state.register("a")
    id = send(state)
    look(state, id, "c 1")
    [token] = take(state)

    found = settle(state, Settlement("retry", token, 1000, failed=True))

    assert list(found.awaited) == []
    assert look(state, id) == Look("waits", state="delayed")
    [token] = take(state, NOW + 1000)
    assert list(settle(state, release(token)).awaited) == []
    [token] = take(state)
    found = settle(state, done(token))
    assert list(mails_of(found.awaited)) == [Mail("c", 1, "result", id.encode())]


def test_acknowledged_by_hand(state: State, limits: Limits | None) -> None:
    """There is a result without a value."""
    state.register("a")
    id = send(state)

    settle(state, ack(take(state)[0], plain=False), limits=limits)

    assert look(state, id) == Look("done", b"-")


def test_what_is_kept_is_sent_again_without_the_wish(state: State, limits: Limits | None) -> None:
    """Beside `keep`; nobody has the id of the new message to ask for its result."""
    state.register("a")
    id = send(state, unique="u")
    settle(state, done(take(state)[0]), limits=limits, keep=Retain(max_length=10))
    assert look(state, id).kind == "done"
    assert [entry.fields["r"] for entry in state.entries("kept")] == [f"result={KEEP_MS}"]

    assert state.drive(kept.resend(state.keys, span_of(None, None), producer="me", rate=None)) == 1

    assert [set(entry.fields) for entry in state.entries()] == [{"b"}]
    assert state.unique() == {}


def test_nobody_wants_a_result(state: State, limits: Limits | None) -> None:
    """Of a message that was sent without the wish, or with that of a request, none is kept."""
    state.register("a")
    state.own("a", extra={"r": "client 1"})
    state.own("a", extra={"r": "result=x"})
    tokens = [entry.id.encode() for entry in state.entries()]

    found = settle(state, *map(done, tokens), limits=limits)

    assert list(found.lost) == []
    assert stored(state) == ([], [], [])


def test_a_worker_that_knows_of_no_results(state: State) -> None:
    """It ends the message as any other, and then nothing is known of a result."""
    state.register("a")
    id = send(state)

    state.settle("a", ack(take(state)[0], plain=False))

    assert look(state, id) == Look("unknown")
    assert state.unique() == {}


# Ends without a result


def cancelled_in_flight(state: State, id: str) -> None:
    take(state)
    state.drive(control.cancel_running(state.keys, id))


def died(state: State, _: str) -> None:
    take(state)
    state.run(hand_over_some(state.keys, "a", crashed=True, max_crashes=0))


def expired(state: State, _: str) -> None:
    settle(state, expire(take(state)[0]))


def rejected(state: State, _: str) -> None:
    settle(state, reject(take(state)[0], "no"))


@pytest.mark.parametrize("end", [cancelled_in_flight, died, expired, rejected])
def test_a_dead_message_is_not_expected_until_it_is_sent_back(state: State, end: Any) -> None:
    """However it died; the dead letter says why, and redriven it may get its result."""
    state.register("a")
    id = send(state, ttl="60000")
    end(state, id)
    assert look(state, id) == Look("unknown")
    assert (state.only("dead").state["id"], state.unique()) == (id, {})

    assert state.drive(admin.redrive(state.keys, ids=None, reason=None, rate=None)) == 1

    assert look(state, id).kind == "waits"
    state.register("a")
    settle(state, done(take(state)[0]))
    assert look(state, id).kind == "done"


@pytest.mark.parametrize("options", [{}, {"time": "+9000"}, {"priority": 3}, {"ttl": "1 drop"}])
def test_deleted_before_it_was_done(state: State, options: Any) -> None:
    """Cancelled, purged or dropped: nothing is known of it any more."""
    state.register("a")
    first, second = send(state, 1, **options), send(state, 2, **options)
    if "ttl" in options:
        settle(state, *map(expire, take(state)))
    else:
        assert state.drive(waiting.cancel(state.keys, first))
        assert state.drive(admin.purge(state.keys)) == 1

    assert [look(state, id).kind for id in (first, second)] == ["unknown"] * 2
    assert state.unique() == {}


# Who waits


def test_all_who_wait_are_told_once(state: State, limits: Limits | None) -> None:
    """Of each message that ends, with or without a result; each address once."""
    state.register("a")
    ids = [send(state, number) for number in (1, 2, 3)]
    for address in ("one 1", "one 1", "two 7"):
        look(state, ids[0], address)
    look(state, ids[1], "one 2")
    tokens = take(state)

    found = settle(
        *(state, done(tokens[0]), reject(tokens[1], "no"), done(tokens[2])), limits=limits
    )

    mails = {(mail.client, mail.slot, mail.content.decode()) for mail in mails_of(found.awaited)}
    assert mails == {("one", 1, ids[0]), ("two", 7, ids[0]), ("one", 2, ids[1])}
    assert stored(state)[2] == []


def test_a_note_is_good_for_some_time(state: State) -> None:
    """Who does not renew it is not told; who does is, and writes no more often than it needs."""
    state.register("a")
    id = send(state)
    look(state, id, "gone 1")
    look(state, id, "there 1")
    [_, noted] = stored(state)[2]
    look(state, id, "there 1", now_ms=NOW + NOTED_MS // 4)
    assert stored(state)[2][1] == noted
    look(state, id, "there 1", now_ms=NOW + NOTED_MS - 1000)
    look(state, id, "other 1", now_ms=NOW + NOTED_MS + 1000)

    found = settle(state, done(take(state)[0]))

    assert {mail.client for mail in mails_of(found.awaited)} == {"there", "other"}


def test_notes_of_what_died_alone_are_forgotten(state: State) -> None:
    """Others who wait for other messages see to that."""
    state.register("a")
    dead, living = send(state, 1), send(state, 2)
    look(state, dead, "c 1")
    state.drive(waiting.cancel(state.keys, dead))

    look(state, living, "c 2", now_ms=NOW + NOTED_MS + 1)

    assert stored(state)[2][::2] == [living.encode()]


def test_what_is_done_needs_no_note(state: State) -> None:
    """Nor does what nobody knows."""
    state.register("a")
    id = send(state)
    settle(state, done(take(state)[0]))

    assert look(state, id, "c 1").kind == "done"
    assert look(state, "1-1", "c 1").kind == "unknown"
    assert stored(state)[2] == []


def test_before_the_first_consumer(state: State) -> None:
    """There is no group yet, and the message waits all the same."""
    assert look(state, send(state), "c 1") == Look("waits", state="queued")


# Bounds


def test_nothing_stays_for_ever(state: State) -> None:
    """Results go when their time is over, some at each new one, and their keys with the last one."""
    state.register("a")
    count = 30
    ids = [send(state, number) for number in range(1, count + 1)]
    for token in [*take(state), *take(state), *take(state), *take(state)]:
        settle(state, done(token))
    results, ends, _ = state.keys.resulting
    assert [state.do(*call) for call in (("HLEN", results), ("ZCARD", ends))] == [count, count]
    assert all(0 < state.do("PTTL", key) <= KEEP_MS + 1 for key in (results, ends))

    later = NOW + KEEP_MS + 1
    last = [send(state, number, now_ms=later) for number in range(40, 44)]
    for token in take(state, later):
        settle(state, done(token), now_ms=later)

    assert {id.decode() for id in state.do("HKEYS", results)} == set(last)
    assert state.do("ZCARD", ends) == len(last)
    assert [look(state, id, now_ms=later).kind for id in ids] == ["unknown"] * count


def test_a_shorter_time_does_not_end_a_longer_one(state: State) -> None:
    """The keys live as long as the result that is kept for longest."""
    state.register("a")
    for number, result_ms in enumerate([KEEP_MS, 10], 1):
        state.place_one(number, result_ms=result_ms)
    settle(state, *map(done, take(state)))

    assert all(state.do("PTTL", key) > KEEP_MS / 2 for key in state.keys.resulting[:2])


def test_a_full_server(own_state: State, own_server: Server) -> None:
    """It acknowledges, with the result: the message frees what the result needs. Asking needs nothing."""
    state = own_state
    state.register("a")
    ids = [send(state, number) for number in (1, 2)]
    tokens = take(state)

    with out_of_memory(own_server):
        found = settle(state, done(tokens[0], b"=5"))
        waits = look(state, ids[1], "c 1")

    assert (found.lost, found.kept) == ([], {})
    assert look(state, ids[0]) == Look("done", b"=5")
    assert waits.kind == "waits"


def test_a_batch_of_questions(state: State) -> None:
    """Each has its answer, in order; a repeated send gets the first one's id, and one mark."""
    state.register("a")
    placements = [Placement(body=b"1", result_ms=KEEP_MS), Placement(body=b"2")]
    receipts = state.place(*placements)
    assert [one.id for one in state.place(*placements)] == [one.id for one in receipts]

    op: Op[list[Look]] = ask(state.keys, [Question(one.id) for one in receipts], now_ms=NOW)

    assert [one.kind for one in state.run(op)] == ["waits", "unknown"]
    assert expected(state) == [receipts[0].id]
