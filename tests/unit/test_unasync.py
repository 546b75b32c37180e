"""The generator of the sync API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import unasync

ASYNC = '''
"""A client."""

from __future__ import annotations

from contextlib import suppress

from millstream.aio.delivery import Delivery, DeliveryState
from millstream.driver.aio import AsyncDriver


class AsyncClient:
    async def __aenter__(self) -> AsyncClient:
        return self

    async def aclose(self) -> None:
        async with AsyncDriver() as driver:
            [part async for part in await driver.run()]
'''

SYNC = '''
# GENERATED from src/millstream/aio/client.py by tools/unasync.py - do not edit
"""A client."""

from __future__ import annotations

from millstream.driver.blocking import BlockingDriver


class Client:
    def __enter__(self) -> Client:
        return self

    def close(self) -> None:
        with BlockingDriver() as driver:
            [part for part in driver.run()]
'''


TABLE = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\baclose\b", "close"),
    (r"\bAsyncClient\b", "Client"),
    (r"\bAsyncDriver\b", "BlockingDriver"),
    (r"\bDelivery\b", "SyncDelivery"),
    (r"\bmillstream\.aio\b", "millstream.sync"),
    (r"\bdriver\.aio\b", "driver.blocking"),
]


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of this file's own: the real one follows the needs of the real sources."""
    monkeypatch.setattr(unasync, "SUBSTITUTIONS", TABLE)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project whose aio/ has one module."""
    aio = tmp_path / unasync.SOURCE
    aio.mkdir(parents=True)
    (aio / "client.py").write_text(ASYNC.lstrip())
    return tmp_path


def test_generates(tree: Path) -> None:
    """Syntax, types and names become sync ones, and unused imports go."""
    assert unasync.main([], tree) == 0
    assert (tree / unasync.TARGET / "client.py").read_text() == SYNC.lstrip()


def test_whole_words_only() -> None:
    """A name that only contains one of ours stays."""
    assert unasync.translate("Delivery, DeliveryState", set()) == "SyncDelivery, DeliveryState"


def test_check_accepts_what_was_written(tree: Path) -> None:
    """After a run, the check is content."""
    unasync.main([], tree)

    assert unasync.main(["--check"], tree) == 0


@pytest.mark.parametrize("change", ["differs", "missing", "surplus"])
def test_check_names_what_is_wrong(
    tree: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed, missing or surplus file fails the check, which writes nothing."""
    unasync.main([], tree)
    generated = tree / unasync.TARGET / "client.py"
    match change:
        case "differs":
            generated.write_text(generated.read_text() + "\n")
        case "missing":
            generated.unlink()
        case _:
            generated = generated.with_name("old.py")
            generated.touch()
    before = generated.exists() and generated.read_text()

    assert unasync.main(["--check"], tree) == 1
    assert f"{generated.relative_to(tree)}: {change}" in capsys.readouterr().out
    assert (generated.exists() and generated.read_text()) == before


def test_a_run_removes_surplus_files(tree: Path) -> None:
    """A module that was renamed in aio/ leaves nothing behind in sync/."""
    unasync.main([], tree)
    (tree / unasync.TARGET / "old.py").touch()

    assert unasync.main([], tree) == 0
    assert not (tree / unasync.TARGET / "old.py").exists()


def test_an_unused_substitution_fails(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A substitution that no file needs is reported."""
    source = tree / unasync.SOURCE / "client.py"
    source.write_text(ASYNC.lstrip().replace("aclose", "leave"))

    assert unasync.main([], tree) == 1
    assert "without a use: \\baclose\\b" in capsys.readouterr().out


def test_without_sources_all_is_well(tmp_path: Path) -> None:
    """No aio/ yet, no sync/ needed."""
    assert unasync.main(["--check"], tmp_path) == 0
