"""The long tests begin first, spread over the workers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.order import is_long, long_first


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 6))
def test_each_block_begins_with_its_long_ones(which: list[bool], workers: int) -> None:
    """No test is lost or changes places with one of its kind in a block; each block has its part of them."""
    items: list[Any] = [*enumerate(which)]
    long = [item for item in items if item[1]]
    ordered: list[Any] = long_first(items, long, workers)

    assert sorted(ordered) == items
    assert [item for item in ordered if not item[1]] == [item for item in items if not item[1]]
    start = 0
    for number in range(workers):  # as pytest-xdist divides them
        size = (len(items) - start) // (workers - number)
        # Where most are long, a block may be too small for its part.
        if size >= len(long[number::workers]) and len(long) * workers <= len(items):
            block = ordered[start : start + size]
            assert block[: len(long[number::workers])] == long[number::workers]
            assert not any(is_it_long for _, is_it_long in block[len(long[number::workers]) :])
        start += size


@pytest.mark.timeout(61)
def test_a_time_limit_of_its_own_makes_it_long(request: pytest.FixtureRequest) -> None:
    """Who needs more than the usual time says so: that is the mark."""
    assert is_long(request.node)


def test_others_are_not_long(request: pytest.FixtureRequest) -> None:
    """Most tests have no mark."""
    assert not is_long(request.node)
