"""The page on the doctor names all that it can find."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOUND = re.compile(r'(?:loses|risk|note|find)\(\s*f?"([\w.{}]+)"')


def test_the_page_names_every_check() -> None:
    """A check that the code can report is in a table, and the tables have no other."""
    texts = (ROOT / "src/millstream/protocol/doctor").glob("*.py")
    in_code = {name for path in texts for name in FOUND.findall(path.read_text("utf-8"))}
    page = (ROOT / "docs" / "doctor.md").read_text("utf-8")
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+\.\w+)`", row)}
    families = {name for name in in_code if "{" in name}

    assert families == {"rights.{role}", "unchecked.{one.question.lower()"} or {
        name.partition(".")[0] for name in families
    } == {"rights"}
    fixed = {name for name in named if name.partition(".")[0] not in ("rights", "unchecked")}
    assert fixed == {name for name in in_code - families if name.partition(".")[0] != "unchecked"}
