"""Save points, sizes, and what the command warns of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import UsageError
from millstream.server.settings import (
    USUAL_SAVE_POINTS,
    SavePoint,
    Settings,
    parse_save,
    parse_size,
    persistence_warning,
    size,
)


def test_save_points() -> None:
    """They are seconds and changes, several, or an empty word for none."""
    assert parse_save(["100:1", "300:10"], "no") == (SavePoint(100, 1), SavePoint(300, 10))
    assert parse_save([""], "no") == ()


def test_save_points_by_default() -> None:
    """Beside an append-only file there are none, without one those that the server has itself."""
    assert parse_save([], "everysec") == ()
    assert parse_save([], "no") == USUAL_SAVE_POINTS


@pytest.mark.parametrize(
    "words", [["100"], ["1:"], ["0:1"], ["1:0"], ["1:99999999999"], ["-1:5"], ["", "1:1"], ["x:y"]]
)
def test_what_is_no_save_point(words: list[str]) -> None:
    """Anything else is refused, with an example."""
    with pytest.raises(UsageError, match="100:1"):
        parse_save(words, "no")


@given(st.integers(0, 2**62))
def test_sizes_round_trip(number: int) -> None:
    """A size that is written is read as the same number of bytes."""
    assert parse_size(size(number)) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("7b", 7),
        ("1k", 1000),
        ("64MB", 64 * 1024**2),
        ("2gb", 2 * 1024**3),
        ("3m", 3_000_000),
    ],
)
def test_sizes(text: str, number: int) -> None:
    """Units are those of the server: with a b they are binary."""
    assert parse_size(text) == number


@pytest.mark.parametrize("text", ["", "mb", "1tb", "-1", "1.5gb", "50%", "9999999999gb", "1 mb"])
def test_what_is_no_size(text: str) -> None:
    """Anything else is refused, with an example."""
    with pytest.raises(UsageError, match="64mb"):
        parse_size(text)


def test_too_little_memory() -> None:
    """A forgotten unit does not make a server that refuses everything."""
    with pytest.raises(UsageError, match="2gb"):
        Settings(maxmemory=2)


def test_what_does_not_persist() -> None:
    """It is said when nothing is kept, and when snapshots alone are; an append-only file is enough."""
    nothing = Settings(aof="no")
    some = replace(nothing, save=(SavePoint(100, 1),))

    assert "loses every queued message" in (persistence_warning(nothing) or "")
    assert "in 100 s" in (persistence_warning(some) or "")
    assert persistence_warning(Settings()) is None
    assert persistence_warning(Settings(aof="always")) is None
