"""`millstream run`."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream import Client, Queue
from millstream.cli.app import execute
from tests.cli.conftest import Spawn
from tests.support.wait import until

TASKS = """
import gc
import millstream as ms
worker = ms.Worker()
loaded = [[] for _ in range(1000)]

@worker.on(ms.Queue("orders"))
async def fulfil(order: dict[str, int]) -> None:
    print("got", order["id"], flush=True)
    if order["id"] == 2 and gc.get_freeze_count() < len(loaded):
        print("garbage collections go through what was loaded at the start")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a module that has a worker."""
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def restored() -> Iterator[None]:
    """The root logger and the environment, as they were."""
    root, level = logging.getLogger(), logging.getLogger().level
    handlers, environment = root.handlers[:], dict(os.environ)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.usefixtures("restored")
def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options reach the supervisor, whose result is the exit status."""
    given: dict[str, Any] = {}

    def supervise(target: str, **options: Any) -> int:
        given.update(options, target=target)
        return 5

    monkeypatch.setattr("millstream.worker.supervisor.supervise", supervise)
    monkeypatch.delenv("MILLSTREAM_URL", raising=False)

    line = "run a.b:c.d --processes 3 --concurrency 7 --burst --shutdown-timeout 1.5"
    more = "--url redis://x --namespace t-x --log-level warning"
    assert execute(f"{line} {more}".split()) == 5
    assert given == {
        "target": "a.b:c.d",
        "url": "redis://x",
        "namespace": "t-x",
        "processes": 3,
        "concurrency": 7,
        "burst": True,
        "shutdown_timeout": 1.5,
    }
    assert os.environ["MILLSTREAM_LOG_LEVEL"] == "warning"
    assert logging.getLogger().level == logging.WARNING

    assert execute(["run", "a:b"]) == 5
    assert given == {
        "target": "a:b",
        "url": None,
        "namespace": "ms",
        "processes": 1,
        "concurrency": None,
        "burst": False,
        "shutdown_timeout": None,
    }


def test_burst(spawn: Spawn, client: Client, queue: Queue[Any], folder: Path) -> None:
    """A worker of the current directory drains the queue and ends with 0; the log is on stderr."""
    client.send_many(queue, [{"id": 1}, {"id": 2}])
    process = spawn("run", "tasks:worker", "--burst", cwd=folder)

    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert out == "got 1\ngot 2\n"
    assert "INFO" in err
    assert client.stats(queue).acked == 2


def test_log_level(spawn: Spawn, folder: Path) -> None:
    """--log-level reaches supervisor and workers."""
    process = spawn("run", "tasks:worker", "--burst", "--log-level", "error", cwd=folder)

    _, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop(spawn: Spawn, client: Client, queue: Queue[Any], folder: Path, number: int) -> None:
    """Ctrl-C and SIGTERM end it in order, and the log says so."""
    process = spawn("run", "tasks:worker", "--shutdown-timeout", "12.5", cwd=folder)
    client.send(queue, {"id": 1})
    until(lambda: client.stats(queue).acked == 1)
    process.send_signal(number)

    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert out == "got 1\n"
    told = [line.partition(" INFO millstream.supervisor: ")[2] for line in err.splitlines()]
    assert told[-2:] == [
        "stopping: 12.5 s for running handlers",
        "stopped: all worker processes have ended",
    ]


@pytest.mark.parametrize("target", ["nothing:worker", "tasks:nothing"])
def test_no_such_worker(spawn: Spawn, folder: Path, target: str) -> None:
    """A target that is not there ends with 2."""
    process = spawn("run", target, "--log-level", "error", cwd=folder)

    _, err = process.communicate(timeout=40)
    assert process.returncode == 2, err
    assert err.startswith("millstream: ")


def test_no_server(spawn: Spawn, folder: Path) -> None:
    """Without a server it ends with 1 and one line."""
    process = spawn("run", "tasks:worker", "--url", "redis://127.0.0.1:1", cwd=folder)

    _, err = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "cannot reach redis://127.0.0.1:1" in err
    assert len(err.splitlines()) == 1
