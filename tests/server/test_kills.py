"""What the command says of each choice of persistence is true: messages across a kill -9."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from millstream import Client, Queue
from millstream.server.launcher import Running
from millstream.server.program import Program
from millstream.server.settings import SavePoint, Settings
from tests.server.conftest import client_of, ended_by, kill, one, run
from tests.support.wait import until

ORDERS = Queue("orders", int)
OFTEN = (SavePoint(1, 1),)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (Settings(aof="everysec"), 3),
        (Settings(aof="always"), 3),
        (Settings(aof="no", save=OFTEN), 2),
        (Settings(aof="no"), 0),
    ],
    ids=["everysec", "always", "snapshots", "nothing"],
)
def test_a_kill(folder: Path, any_program: Program, settings: Settings, kept: int) -> None:
    """With a file of all changes nothing is lost; with snapshots what came after the last; else all."""
    file = one(folder, any_program, settings)
    url = file.layout.urls()[0]
    node = file.layout.nodes[0]

    def send(running: Running) -> None:
        with Client(url) as mq, client_of(node) as client:
            mq.send_many(ORDERS, [1, 2])
            if settings.save:
                until(lambda: client.info("persistence")["rdb_changes_since_last_save"] == 0)
                client.config_set("save", "")
            mq.send(ORDERS, 3)
            if settings.aof == "everysec":
                # While a flush goes on, what is written waits for it in the server.
                until(lambda: client.info("persistence")["aof_buffer_length"] == 0)
        kill(running.pids[0])

    def count(_: Running) -> None:
        with Client(url) as mq:
            found.append(mq.stats(ORDERS).ready)

    found: list[int] = []
    assert ended_by(file, send).status == 1
    assert run(file, count).status == 0
    assert found == [kept]


@pytest.mark.parametrize(("save", "kept"), [(OFTEN, 1), ((), 0)])
def test_an_orderly_restart(
    folder: Path, program: Program, save: tuple[SavePoint, ...], kept: int
) -> None:
    """With save points the last snapshot is written at the end; without any, even that loses all."""
    later = tuple(replace(point, seconds=3600) for point in save)
    file = one(folder, program, Settings(aof="no", save=later))
    url = file.layout.urls()[0]
    found: list[int] = []

    def send(_: Running) -> None:
        with Client(url) as mq:
            mq.send(ORDERS, 1)

    def count(_: Running) -> None:
        with Client(url) as mq:
            found.append(mq.stats(ORDERS).ready)

    assert run(file, send).status == 0
    assert run(file, count).status == 0
    assert found == [kept]
