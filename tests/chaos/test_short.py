"""The fault suite in short: `make faults` is the long form."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.report import as_markdown, timeline
from tests.chaos.run import Plan, run
from tests.chaos.single import single

SHORT = {"seconds": 10.0, "rate": 40.0, "gap": 0.7}
"""Most of a short run is its start and its end, so its faults follow closely upon each other."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_seconds(tmp_path: Path) -> None:
    """Through some random faults, no promise is broken; a failure names the seed."""
    seed = random.SystemRandom().randrange(10**6)
    outcome = run(Plan(seed, **SHORT), single(), tmp_path)

    lines = [as_markdown(outcome, f"Plan({seed}, **{SHORT})")]
    for violation in outcome.violations[:10]:
        lines += [str(violation), *timeline(outcome.events, violation.cid)]
    assert not outcome.violations, "\n".join(lines)
