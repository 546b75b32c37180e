"""The pages that list things list all of them, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from millstream.cli.app import make_app
from millstream.protocol.keys import QueueKeys, queue_keys

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def code_in(page: str) -> str:
    """What stands in backquotes on a page, together."""
    return " ".join(
        re.findall(r"(?<!`)`([^`\n]+)`(?!`)", (ROOT / "docs" / page).read_text("utf-8"))
    )


def test_the_wire_format_names_every_key() -> None:
    """A key that a queue can have is on the page."""
    keys, text = queue_keys("ms", "orders"), code_in("wire-format.md")
    names = {*QueueKeys.__struct_fields__} - {"namespace", "name", "partition", "prefix"}
    some = {keys.producer("<"), keys.window("<"), keys.removed("<")} | {
        getattr(keys, n) for n in names
    }

    assert [key for key in sorted(some) if key not in text] == []


def test_the_internals_name_every_script() -> None:
    """A script of the server is on the page."""
    scripts = (ROOT / "src/millstream/protocol/lua").glob("*.lua")
    named = set(re.findall(r"[a-z_]+", code_in("internals.md")))

    assert [path.stem for path in sorted(scripts) if path.stem not in named] == []


def test_the_command_line_names_every_option() -> None:
    """A command has its section, which has each of its options that not all commands have."""
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    common = sections["What all commands have in common"]
    commands: Any = typer.main.get_command(make_app())
    lost = [
        f"{name} {option}"
        for name, command in commands.commands.items()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
        if option not in sections[name] + common
    ]

    assert lost == []


def anchors_of(page: Path) -> set[str]:
    """Where links into a page may lead: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Each link inside of the documentation leads to a file, and to a heading in it."""
    lost: list[str] = []
    for path, anchor in LINK.findall(page.read_text("utf-8")):
        if "://" in path:
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            lost.append(f"{path}#{anchor}")

    assert lost == []
