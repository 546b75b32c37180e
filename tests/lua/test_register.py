"""register.lua: a queue is made ready for a consumer."""

from __future__ import annotations

import pytest

from millstream.protocol import consume
from millstream.protocol.keys import GROUP
from tests.lua.state import State, out_of_memory
from tests.support.servers import Server

STREAMS = ("ready", "front", "suspect", "wake")


@pytest.mark.parametrize("stream", STREAMS)
def test_creates_each_stream_with_its_group(state: State, stream: str) -> None:
    """All streams that a consumer reads exist, with the group, and are empty."""
    state.register("c")

    [group] = state.do("XINFO", "GROUPS", state.key(stream))
    assert group[1] == GROUP.encode()
    assert state.entries(stream) == []


def test_stores_the_lease(state: State) -> None:
    """The lease of each consumer is known to the sweeper; the last word counts."""
    state.register("a", lease_ms=1000)
    state.register("b", lease_ms=2000)
    state.register("a", lease_ms=3000)

    assert state.leases() == {"a": "3000", "b": "2000"}


def test_what_was_sent_before_is_delivered(state: State) -> None:
    """The group starts at the first entry, not at the end."""
    state.put(body="first", id="0-1")
    state.send(b"early")
    state.register("c")

    assert [one.body for one in state.fetch("c", ("", 10)).envelopes] == [b"first", b"early"]


def test_is_safe_to_repeat(state: State) -> None:
    """A second registration moves no position and takes no delivery away."""
    state.register("c")
    token = state.own("c")

    state.register("c")
    state.register("d")

    assert state.owners() == {token.decode(): "c"}
    assert state.fetch("d", ("", 10)).envelopes == []


@pytest.mark.parametrize("stream", STREAMS)
def test_repairs_what_is_missing(state: State, stream: str) -> None:
    """A group or stream that somebody removed comes back, from the first entry on."""
    state.register("c")
    state.do("DEL", state.key(stream))
    state.put(stream, "lonely")

    state.register("c")

    [group] = state.do("XINFO", "GROUPS", state.key(stream))
    assert group[1] == GROUP.encode()
    if stream != "wake":
        found = state.fetch("c", ("s", 1), ("f", 1), ("", 1)).envelopes
        assert [one.body for one in found] == [b"lonely"]


def test_a_known_queue_can_be_joined_without_memory(own_server: Server, own_state: State) -> None:
    """A worker that starts on a full server must get in: it will make room."""
    own_state.register("a")
    own_state.put(body="waiting")

    with out_of_memory(own_server):
        own_state.register("b")
        found = own_state.run(consume.fetch(own_state.keys, "b", reads=[("", 1)]))

    assert [one.body for one in found.envelopes] == [b"waiting"]
