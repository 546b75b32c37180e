"""The fault suite in short: `make faults` is the long form."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.report import as_markdown, timeline
from tests.chaos.run import Plan, run
from tests.chaos.single import single


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_twenty_seconds(tmp_path: Path) -> None:
    """Through some random faults, no promise is broken; a failure names the seed."""
    seed = random.SystemRandom().randrange(10**6)
    outcome = run(Plan(seed, 20.0, rate=40.0), single(), tmp_path)

    lines = [as_markdown(outcome, f"seed {seed}")]
    for violation in outcome.violations[:10]:
        lines += [str(violation), *timeline(outcome.events, violation.cid)]
    assert not outcome.violations, "\n".join(lines)
