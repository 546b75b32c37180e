"""Schedules of the fault suite: decided by the seed, complete, and within their bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.breaking import KINDS, NETWORKS
from tests.chaos.schedule import FIRST, schedule
from tests.chaos.single import SINGLE

ALL = (*SINGLE, *KINDS, *NETWORKS)


@given(st.integers(0, 2**32), st.floats(1, 600))
def test_the_seed_decides(seed: int, seconds: float) -> None:
    """The same seed breaks the same things; all within the time, each for as long as its kind lasts."""
    faults = schedule(seed, seconds, ALL)

    assert faults == schedule(seed, seconds, ALL)
    assert faults == sorted(faults, key=lambda fault: fault.at)
    kinds = {kind.name: kind for kind in ALL}
    for fault in faults:
        kind = kinds[fault.kind]
        assert FIRST <= fault.at <= seconds
        assert fault.target in kind.targets
        assert kind.shortest - 0.001 <= fault.seconds <= kind.longest + 0.001


@given(st.integers(0, 2**32))
def test_a_long_run_has_all(seed: int) -> None:
    """In ten minutes, each kind of fault happens."""
    assert {fault.kind for fault in schedule(seed, 600, ALL)} == {kind.name for kind in ALL}


@given(st.integers(0, 2**32), st.floats(1, 300), st.floats(0, 300))
def test_a_shorter_run_begins_alike(seed: int, seconds: float, more: float) -> None:
    """What a long run has found at its beginning, a short one can find again."""
    short, long = schedule(seed, seconds, ALL), schedule(seed, seconds + more, ALL)

    assert long[: len(short)] == short


def test_other_seeds_differ() -> None:
    """Another seed is another run."""
    assert schedule(1, 60, ALL) != schedule(2, 60, ALL)
