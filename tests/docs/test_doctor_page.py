"""The page on the doctor names all that it can find."""

from __future__ import annotations

import re
from pathlib import Path

from millstream.protocol.access import ROLES
from millstream.protocol.doctor.examine import unchecked
from millstream.protocol.doctor.facts import Refusal

ROOT = Path(__file__).parents[2]
FOUND = re.compile(r'(?:loses|risk|note|find)\(\s*"(\w+\.\w+)"')
QUESTIONS = (
    *("INFO", "CONFIG GET", "SLOWLOG GET", "LATENCY LATEST", "CLUSTER INFO"),
    *("MULTI", "queue 'orders'"),
)


def test_the_page_names_every_check() -> None:
    """A check that the code can report is in a table, and the tables have no other."""
    code = [*(ROOT / "src/millstream/protocol/doctor").glob("*.py")]
    known = {name for path in code for name in FOUND.findall(path.read_text("utf-8"))}
    known |= {f"rights.{role}" for role in ROLES}
    known |= {one.check for one in unchecked((Refusal(each, "no") for each in QUESTIONS), None)}
    page = (ROOT / "docs" / "doctor.md").read_text("utf-8")
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]

    assert {name for row in rows for name in re.findall(r"`(\w+\.\w+)`", row)} == known
