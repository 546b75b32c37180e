"""gather.lua: who is asked, what workers hear of it, and nobody when nobody is there."""

from __future__ import annotations

import pytest

from millstream.errors import ServerRefused
from millstream.protocol.control import hear
from millstream.protocol.gathering import gathering
from millstream.protocol.partitions import EXPIRY_MS, join, leave
from millstream.protocol.requests import Address, Outgoing, address_of
from tests.lua.state import NOW, State, out_of_memory
from tests.support.servers import Server

ADDRESS = Address("caller", 7, gather=True)


def serve(state: State, *names: str, now_ms: int = NOW) -> None:
    for name in names:
        state.run(join(state.keys, name, None, now_ms=now_ms))
    state.do("PEXPIRE", state.keys.members, 60_000)  # its time is the server's, not the test's


def gather(
    state: State, body: bytes = b"1", headers: bytes = b"", now_ms: int = NOW
) -> tuple[str, list[str]]:
    call = Outgoing(body, headers, 5000, str(ADDRESS))
    id, members = state.run(gathering(state.keys, call, now_ms=now_ms))
    return id, sorted(members)


def calls(state: State) -> list[str]:
    return [entry.id for entry in state.entries("control") if entry.fields["op"] == "call"]


def test_all_who_serve_are_asked(state: State) -> None:
    """The caller learns who they are, and there is one word for all of them."""
    serve(state, "a", "b", "c")

    id, members = gather(state)

    assert members == ["a", "b", "c"]
    assert calls(state) == [id]


def test_it_has_what_a_request_has(state: State) -> None:
    """Body, headers, deadline and address come to workers as they were given."""
    serve(state, "a")
    id, _ = gather(state, b'{"x":1}', b'{"trace":"t"}')

    words, heard = state.run(hear({state.keys.control: "0-0"}, 1))

    [call] = [word.call for word in words if word.call is not None]
    assert call.body == b'{"x":1}'
    assert call.headers == {"trace": "t"}
    assert call.expiry == NOW + 5000
    assert address_of(call) == ADDRESS
    assert call.state.id == id
    assert call.malformed is None
    assert heard == {state.keys.control: id}


def test_without_headers_there_is_no_field_for_them(state: State) -> None:
    """What was not said is not stored."""
    serve(state, "a")
    gather(state)

    assert "h" not in state.entries("control")[-1].fields


def test_nobody_serves_it(state: State) -> None:
    """Nothing is said, and nothing is left behind."""
    assert gather(state) == ("", [])
    assert state.do("EXISTS", state.keys.control) == 0


def test_who_has_left_is_not_asked(state: State) -> None:
    """A worker that was stopped is no member any more."""
    serve(state, "a", "b")
    state.run(leave(state.keys, "a", now_ms=NOW))

    assert gather(state)[1] == ["b"]


def test_who_is_silent_is_not_asked(state: State) -> None:
    """Whose time is over does not count, whether somebody has removed it yet or not."""
    serve(state, "dead")
    serve(state, "alive", now_ms=NOW + 1)

    assert gather(state, now_ms=NOW + EXPIRY_MS - 1)[1] == ["alive", "dead"]
    assert gather(state, now_ms=NOW + EXPIRY_MS)[1] == ["alive"]
    assert gather(state, now_ms=NOW + EXPIRY_MS + 1) == ("", [])


def test_it_is_old_news_soon(state: State) -> None:
    """Calls go away by themselves, and there is a bound to them."""
    serve(state, "a")
    for _ in range(1300):
        gather(state, b"x" * 100)

    assert 0 < state.do("PTTL", state.keys.control) <= 60_000
    assert 1000 <= len(calls(state)) < 1300


def test_without_memory_nobody_is_asked(own_server: Server, own_state: State) -> None:
    """The caller hears why; it does not wait for answers that cannot come."""
    serve(own_state, "a")

    with out_of_memory(own_server), pytest.raises(ServerRefused) as refused:
        gather(own_state)
    assert refused.value.code == "OOM"
