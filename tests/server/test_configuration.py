"""The file is what was asked for, and each server reads it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.server.access import Access
from millstream.server.configuration import File, configuration
from millstream.server.launcher import Running
from millstream.server.layout import single
from millstream.server.program import Program
from millstream.server.settings import Aof, SavePoint, Settings
from tests.server.conftest import client_of, free, one, run, watched
from tests.support.mortal import Mortal
from tests.support.wait import until

AOFS: list[Aof] = ["everysec", "always", "no"]
POINTS = st.builds(SavePoint, st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1))
SETTINGS = st.builds(
    Settings,
    save=st.lists(POINTS, max_size=3, unique=True).map(tuple),
    aof=st.sampled_from(AOFS),
    rewrite_percentage=st.integers(0, 1000),
    rewrite_min_size=st.integers(0, 2**40),
    maxmemory=st.one_of(st.just(0), st.integers(2**27, 2**40)),
)
NAMES = st.text(
    st.characters(exclude_characters="/\0*?[", exclude_categories=["Cs"]), min_size=1, max_size=20
)


def in_effect(port: int) -> dict[str, str]:
    with redis.Redis(port=port, decode_responses=True) as client:
        config: dict[str, str] = client.config_get("*")
    return config


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=SETTINGS, name=NAMES.filter(lambda name: name not in {".", ".."}))
def test_all_that_was_given_is_in_effect(any_program: Program, wanted: Settings, name: str) -> None:
    """Each option has its effect by CONFIG GET, in a directory of any name."""
    folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
    data = folder / name
    file = File(free(lambda port: single(data, port=port)), wanted, Access(), any_program)
    found: dict[str, str] = {}
    try:
        outcome = run(file, lambda running: found.update(in_effect(file.layout.nodes[0].port)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    assert outcome.status == 0
    points = " ".join(f"{point.seconds} {point.changes}" for point in sorted(wanted.save))
    assert found["save"] == points
    assert found["appendonly"] == ("no" if wanted.aof == "no" else "yes")
    assert found["maxmemory"] == str(wanted.maxmemory)
    assert found["maxmemory-policy"] == "noeviction"
    assert Path(found["dir"]) == data
    if wanted.aof != "no":
        assert found["appendfsync"] == wanted.aof
        assert found["auto-aof-rewrite-percentage"] == str(wanted.rewrite_percentage)
        assert found["auto-aof-rewrite-min-size"] == str(wanted.rewrite_min_size)


def test_what_is_printed_starts(folder: Path, any_program: Program) -> None:
    """Whoever keeps the printed files starts each process with them by hand."""
    file = watched(folder, any_program, Access("secret", link="hidden"))
    for node in file.layout.nodes:
        node.directory.mkdir(parents=True)
        path = node.directory / "kept.conf"
        path.write_text(configuration(file, node))
        kind = ["--sentinel"] if node.role == "sentinel" else []
        password = None if kind else "secret"
        with (
            (node.directory / "log").open("wb") as log,
            Mortal[bytes]([file.program.path, path, *kind], stdout=log),
            client_of(node, password) as client,
        ):
            until(lambda c=client: answers(c), message=f"{node}")  # type: ignore[misc]


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def test_what_is_printed_says_what_is_lost(folder: Path, program: Program) -> None:
    """The file warns, too, where nothing persists."""
    file = one(folder, program, Settings(aof="no"))
    text = configuration(file, file.layout.nodes[0])

    assert "NOTHING PERSISTS" in text
    assert "NOTHING PERSISTS" not in configuration(
        replace(file, settings=Settings()), file.layout.nodes[0]
    )


@pytest.mark.parametrize("role", ["master", "replica", "sentinel"])
def test_files_have_their_reasons(folder: Path, program: Program, role: str) -> None:
    """Each section of each file begins with a comment, and lines fit on a screen."""
    file = watched(folder, program)
    node = next(node for node in file.layout.nodes if node.role == role)
    text = configuration(file, node)

    assert max(map(len, text.splitlines())) <= 110
    assert text.count("# ---") == (3 if role == "sentinel" else 8)


def test_a_running_server_is_as_private(folder: Path, program: Program) -> None:
    """Nobody else can read its files, its directory, or what its process was given."""
    file = one(folder, program)

    def look(running: Running) -> None:
        files = [path for path in (folder / "data").rglob("*") if not path.is_dir()]
        assert {path.stat().st_mode & 0o077 for path in [folder / "data", *files]} == {0}

    assert run(file, look).status == 0
