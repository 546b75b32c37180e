"""Replay: the pages of a stream, and replay.lua, which reads those of a filter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.errors import UsageError
from millstream.protocol.keys import TopicKeys, topic_keys
from millstream.protocol.replay import LOOKED_AT, PAGE_BYTES, Page, Pages, span
from millstream.subject import matches
from tests.lua.state import State

TOKENS = st.sampled_from(["eu", "us", "e", "%a", "a-b", "ü", "^$", "[", "x" * 20])
# Other producers may write subjects that this library would refuse.
ODD = st.text(st.sampled_from("eu.%*>\0ü"), max_size=8)
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(".".join) | ODD
FILTERS = (
    st.tuples(st.lists(TOKENS | st.just("*"), max_size=4), st.sampled_from(["", ">"]))
    .map(lambda parts: ".".join([*parts[0], *parts[1]]))
    .filter(bool)
)


@pytest.fixture
def topic(state: State) -> TopicKeys:
    return topic_keys(state.keys.namespace, "placed")


def put(state: State, topic: TopicKeys, id: str, *fields: str) -> None:
    state.do("XADD", topic.log, id, "b", id, *fields)


def fill(state: State, topic: TopicKeys, first: int, last: int, body: str, *fields: str) -> None:
    """Many entries at once."""
    call = "redis.call('XADD', KEYS[1], n .. '-0', unpack(ARGV))"
    script = f"for n = {first}, {last} do {call} end"
    state.do("EVAL", script, 1, topic.log, "b", body, *fields)


def read(state: State, pages: Pages) -> list[Page]:
    found: list[Page] = []
    if not state.run(pages.end()):
        return found
    while True:
        found.append(state.run(pages.ask()))
        if not pages.turn(found[-1]):
            return found


def ids(pages: list[Page]) -> list[str]:
    return [id.decode() for page in pages for id, _ in page.entries]


def at(ms: float) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)


@given(st.lists(SUBJECTS, min_size=1, max_size=30), FILTERS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_filter_is_the_reference_matcher(
    state: State, topic: TopicKeys, subjects: list[str], wanted: str
) -> None:
    """The server passes what the reference passes; an entry without a subject never."""
    state.do("DEL", topic.log)
    put(state, topic, "1-0")
    for number, subject in enumerate(subjects, 2):
        put(state, topic, f"{number}-0", "t", subject)
    expected = [f"{n}-0" for n, one in enumerate(subjects, 2) if matches(wanted, one)]

    assert ids(read(state, Pages(topic.log, span(None, None, 0), filter=wanted))) == expected
    state.do("DEL", topic.log)


@pytest.mark.parametrize("wanted", [None, "eu.*"])
def test_the_end_is_where_it_was_at_the_beginning(
    state: State, topic: TopicKeys, wanted: str | None
) -> None:
    """What is published meanwhile is left out, and nothing comes twice or is missed."""
    for number in range(1, 101):
        put(state, topic, f"{number}-0", "t", "eu.paid" if number % 2 else "us")
    pages = Pages(topic.log, span(None, None, 0), filter=wanted)
    assert state.run(pages.end())
    put(state, topic, "500-0", "t", "eu.paid")

    found: list[Page] = []
    while not found or pages.turn(found[-1]):
        found.append(state.run(pages.ask()))

    expected = [f"{n}-0" for n in range(1, 101) if wanted is None or n % 2]
    assert ids(found) == expected
    state.do("DEL", topic.log)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, ["5-0", "5-1", "6-0", "7-0"]),
        (at(5), at(6), ["5-0", "5-1"]),
        (at(5.5), at(6.001), ["6-0"]),
        ("5-1", "6-0", ["5-1", "6-0"]),
        ("5-1/2", "6-0/2", ["6-0"]),
        (None, at(-1), []),
        (at(8), None, []),
        (at(7), at(6), []),
    ],
)
def test_bounds(
    state: State, topic: TopicKeys, since: Any, until: Any, expected: list[str]
) -> None:
    """Times are a half-open span, ids are both included; those of another partition sort behind."""
    for id in ("5-0", "5-1", "6-0", "7-0"):
        put(state, topic, id)
    partition = 1 if since == "5-1/2" else 0
    pages = Pages(topic.log, span(since, until, partition))

    # In partition 1 an id of partition 2 stands behind the same number.
    if partition:
        expected = ["6-0"]
        assert span(since, until, 1).first == "(5-1"
        assert span(since, until, 3).first == "5-1"
        assert span(since, until, 3).last == "(6-0"
    assert ids(read(state, pages)) == expected
    state.do("DEL", topic.log)


@pytest.mark.parametrize("moment", [datetime(2030, 1, 1), "yesterday", 7, ""])  # noqa: DTZ001 - that is the mistake
@pytest.mark.parametrize("name", ["since", "until"])
def test_no_bounds(name: str, moment: Any) -> None:
    """The error names the parameter."""
    both = {"since": None, "until": None, name: moment}
    with pytest.raises(UsageError, match=rf"^{name} "):
        span(**both, partition=0)


def test_pages_fit_into_memory(state: State, topic: TopicKeys) -> None:
    """They shrink when entries are large, and grow while these are small; a limit is kept."""
    fill(state, topic, 1, 30, "x" * (PAGE_BYTES // 4))
    fill(state, topic, 31, 2500, "1")

    sizes = [len(page.entries) for page in read(state, Pages(topic.log, span(None, None, 0)))]

    assert sizes[:4] == [16, 3, 3, 3]
    assert max(sizes) == 1000
    assert sum(sizes) == 2500
    limited = read(state, Pages(topic.log, span(None, None, 0), limit=1234))
    assert ids(limited) == [f"{n}-0" for n in range(1, 1235)]
    state.do("DEL", topic.log)


def test_a_filter_that_nothing_matches_is_bounded(state: State, topic: TopicKeys) -> None:
    """A call looks at so many entries, and says where to go on."""
    fill(state, topic, 1, LOOKED_AT + 1, "1", "t", "us")
    pages = read(state, Pages(topic.log, span(None, None, 0), filter="eu"))

    assert [len(page.entries) for page in pages] == [0, 0]
    assert pages[0].start == f"({LOOKED_AT}-0".encode()
    state.do("DEL", topic.log)
