"""The checker of the fault suite: it finds nothing in good histories, and each kind of bad ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.chaos.checker import RULES, Violation
from tests.chaos.feature_plants import FEATURE_PLANTS
from tests.chaos.feature_stories import feature_story
from tests.chaos.features import FEATURES
from tests.chaos.limits import LIMITS
from tests.chaos.plants import PLANTS, Plant
from tests.chaos.proof import prove
from tests.chaos.reading import history_of
from tests.chaos.stories import LEASE, SUBSCRIPTIONS, Story, story

SEEDS = st.integers(0, 2**32)
ALL = [
    *((story, rule, plant) for rule, plant in PLANTS),
    *((feature_story, rule, plant) for rule, plant in FEATURE_PLANTS),
]


def violations(told: Story) -> list[Violation]:
    return prove(history_of(told.events, lease=LEASE, subscriptions=SUBSCRIPTIONS))


@pytest.mark.parametrize("made", [story, feature_story])
@given(SEEDS)
def test_good_histories_pass(made: Callable[[int], Story], seed: int) -> None:
    """Retries, kills, stops that outlast a lease and late settlements are no violations."""
    assert violations(made(seed)) == []


@settings(max_examples=15)
@pytest.mark.parametrize(("made", "rule", "plant"), ALL, ids=[plant.__name__ for *_, plant in ALL])
@given(seed=SEEDS)
def test_each_violation_is_found(
    made: Callable[[int], Story], rule: str, plant: Plant, seed: int
) -> None:
    """A history in which one promise is broken fails, by the rule that is about it."""
    told = made(seed)
    assume(plant(told))

    assert rule in {one.rule for one in violations(told)}


def test_every_rule_has_a_plant() -> None:
    """No rule is trusted unseen."""
    rules = {rule.__name__ for rule in (*RULES, *FEATURES, *LIMITS)}

    assert {rule for _, rule, _ in ALL} == rules | {"requests"}
