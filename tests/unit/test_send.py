"""Sending: chunks, receipts, and what goes out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.message import Receipt
from millstream.protocol.keys import queue_keys
from millstream.protocol.send import (
    CHUNK_BYTES,
    CHUNK_MESSAGES,
    REMEMBERED_MS,
    chunks,
    send,
)

KEYS = queue_keys("ms", "orders")

# Few different bodies, for speed; their sizes lie on both sides of what fits a chunk.
sizes = st.sampled_from(
    [0, 1, 100, CHUNK_BYTES // 3, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1]
)
bodies = st.lists(sizes, max_size=40).map(lambda some: [bytes(size) for size in some]) | (
    st.integers(0, 3 * CHUNK_MESSAGES).map(lambda count: [b"%d" % n for n in range(count)])
)


@given(bodies=bodies)
def test_chunks_lose_nothing(bodies: list[bytes]) -> None:
    """Put together they are what was given, in order; none is empty."""
    found = list(chunks(bodies, None))

    assert [body for some, _ in found for body in some] == bodies
    assert all(some for some, _ in found)
    assert all(headers is None for _, headers in found)


@given(bodies=bodies, data=st.data())
def test_chunks_keep_bodies_and_headers_together(bodies: list[bytes], data: st.DataObject) -> None:
    """Each chunk has as many headers as bodies, and they belong to each other."""
    size = data.draw(st.sampled_from([0, 10, CHUNK_BYTES // 2]))
    headers = [
        b"%d" % number + bytes(size if number % 7 == 0 else 0) for number in range(len(bodies))
    ]

    found = list(chunks(bodies, headers))

    pairs = [pair for some, theirs in found for pair in zip(some, theirs or (), strict=True)]
    assert pairs == list(zip(bodies, headers, strict=True))


@given(bodies=bodies, header=st.sampled_from([0, 100, CHUNK_BYTES // 10, CHUNK_BYTES]))
def test_chunks_are_bounded(bodies: list[bytes], header: int) -> None:
    """A chunk is over the bound by its last message at most, headers included."""
    headers = [bytes(header)] * len(bodies)

    for some, theirs in chunks(bodies, headers if header else None):
        weights = [
            len(body) + len(one)
            for body, one in zip(some, theirs or [b""] * len(some), strict=True)
        ]
        assert len(some) <= CHUNK_MESSAGES
        assert sum(weights[:-1]) < CHUNK_BYTES


@given(bodies=bodies)
def test_chunks_are_not_smaller_than_they_need_to_be(bodies: list[bytes]) -> None:
    """Only the last one may be neither full nor heavy."""
    for some, _ in list(chunks(bodies, None))[:-1]:
        assert len(some) == CHUNK_MESSAGES or sum(map(len, some)) >= CHUNK_BYTES


def test_a_batch_without_headers() -> None:
    """One argument a message, behind what the repetition is known by."""
    op = send(KEYS, "p1", 7, [b"1", b"2"])

    [command] = op.commands
    assert command.script is not None
    assert command.script.name == "send"
    assert list(command.arguments[2:]) == [
        3,
        "ms:{orders}:ready",
        "ms:{orders}:counters",
        "ms:{orders}:producer:p1",
        7,
        REMEMBERED_MS,
        "b",
        b"1",
        b"2",
    ]
    assert op.repeatable
    assert op.decode([b"5-1"]) == [Receipt("5-1"), Receipt("5-2")]


def test_a_batch_with_headers() -> None:
    """Body and headers in turn, empty where there are none."""
    op = send(KEYS, "p1", 7, [b"1", b"2"], [b"{}", b""])

    assert list(op.commands[0].arguments[8:]) == ["bh", b"1", b"{}", b"2", b""]


def test_receipts_count_on() -> None:
    """The ids of a batch follow each other, also above what a double can count."""
    op = send(KEYS, "p1", 7, [b"1", b"2", b"3"])

    receipts = op.decode([b"5-1152921504606846976"])

    assert receipts == [
        Receipt("5-1152921504606846976"),
        Receipt("5-1152921504606846977"),
        Receipt("5-1152921504606846978"),
    ]
    assert receipts[0].duplicate is False
    assert receipts[0].durability == "memory"
