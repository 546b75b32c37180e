"""request.lua: requests are stored once, with their deadlines, if anybody serves the endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.errors import NoResponders
from millstream.message import Receipt
from millstream.protocol.partitions import join, leave
from millstream.protocol.requests import Outgoing, requesting
from tests.lua.state import State, out_of_memory, refused
from tests.support.servers import Server


def request(
    state: State, *some: Outgoing, producer: str = "p", number: int = 1
) -> list[Receipt | Any]:
    return list(state.run(requesting(state.keys)(producer, number, some, None)))


def one(
    body: bytes = b"1", headers: bytes = b"", *, left_ms: int = 5000, slot: int = 7
) -> Outgoing:
    return Outgoing(body, headers, left_ms, f"caller {slot}")


def server_ms(state: State) -> int:
    seconds, micros = state.do("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


@pytest.fixture
def served(state: State) -> State:
    """An endpoint with a worker."""
    state.run(join(state.keys, "worker", None))
    return state


def test_a_request(served: State) -> None:
    """It is an entry with its body, its deadline by the server's clock, and the address of its reply."""
    before = server_ms(served)
    [receipt] = request(served, one(b"1", left_ms=5000))
    after = server_ms(served)

    entry = served.only("ready")
    deadline, word = entry.fields.pop("x").split()
    assert entry.id == receipt.id
    assert entry.fields == {"b": "1", "r": "caller 7"}
    assert word == "drop"
    # Never early, not even by a part of a ms.
    assert before + 5000 <= int(deadline) <= after + 5001
    assert served.counters() == {"sent": 1}


def test_headers(served: State) -> None:
    """They are there if there are any."""
    request(served, one(headers=b'{"a":"b"}'), one())

    first, second = served.entries()
    assert first.fields["h"] == '{"a":"b"}'
    assert "h" not in second.fields


def test_a_batch(served: State) -> None:
    """All are stored in their order, each for its own slot; their ids follow from the first."""
    receipts = request(served, *(one(str(n).encode(), slot=n) for n in range(100)))

    entries = served.entries()
    assert [entry.id for entry in entries] == [receipt.id for receipt in receipts]
    assert [entry.body for entry in entries] == [str(n) for n in range(100)]
    assert [entry.fields["r"] for entry in entries] == [f"caller {n}" for n in range(100)]
    assert served.counters() == {"sent": 100}


def test_nobody_serves_it(state: State) -> None:
    """Nothing is stored, and each caller is told."""
    found = request(state, one(), one())

    assert [type(error) for error in found] == [NoResponders, NoResponders]
    assert state.entries() == []
    assert state.counters() == {}
    assert not state.do("EXISTS", state.keys.producer("p"))


def test_the_last_worker_has_left(served: State) -> None:
    """It is known at once."""
    served.run(join(served.keys, "other", None))
    served.run(leave(served.keys, "worker"))
    assert isinstance(request(served, one())[0], Receipt)

    served.run(leave(served.keys, "other"))
    assert isinstance(request(served, one(), number=2)[0], NoResponders)


def test_who_lives_keeps_it_served(served: State) -> None:
    """The sign of life lasts for two beats, not for ever."""
    assert 0 < served.do("PTTL", served.keys.members) <= 3200


def test_a_repeated_batch(served: State) -> None:
    """After a lost reply it stores nothing, and gets its first answer; also when nobody serves any more."""
    first = request(served, one(), one())
    served.run(leave(served.keys, "worker"))

    assert request(served, one(), one()) == first
    assert len(served.entries()) == 2
    assert served.counters() == {"sent": 2}


def test_a_repeated_refusal(state: State) -> None:
    """Nothing was stored, so the second try is as good as a first."""
    assert isinstance(request(state, one())[0], NoResponders)
    state.run(join(state.keys, "worker", None))

    assert isinstance(request(state, one())[0], Receipt)
    assert len(state.entries()) == 1


def test_what_is_remembered_expires(served: State) -> None:
    """Callers come and go."""
    request(served, one())

    assert served.do("PTTL", served.keys.producer("p")) > 0


def test_a_short_deadline(served: State) -> None:
    """One of a ms is later than now."""
    before = server_ms(served)
    request(served, one(left_ms=1))

    assert int(served.only("ready").fields["x"].split()[0]) > before


def test_without_memory(own_server: Server, own_state: State) -> None:
    """The server's refusal reaches the caller, and nothing is stored."""
    own_state.run(join(own_state.keys, "worker", None))

    with out_of_memory(own_server), refused("OOM"):
        request(own_state, one())
    assert own_state.entries() == []
