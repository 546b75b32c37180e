"""All that is proven from the history of a run."""

from __future__ import annotations

from tests.chaos.checker import RULES, Violation, check
from tests.chaos.features import FEATURES
from tests.chaos.history import History
from tests.chaos.limits import LIMITS
from tests.chaos.requests import check_requests
from tests.chaos.sources import ECHO

__all__ = ["prove"]


def prove(history: History) -> list[Violation]:
    """Return what was broken; empty: nothing was."""
    return [*check(history, (*RULES, *FEATURES, *LIMITS)), *check_requests(history, ECHO.name)]
