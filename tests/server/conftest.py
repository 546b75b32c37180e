"""Run set-ups in this process: what a test looks at is done while they are ready."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from millstream.errors import UsageError
from millstream.server.access import Access
from millstream.server.configuration import File
from millstream.server.launcher import Running, serve
from millstream.server.layout import Layout, Node, clustered, replicated, single
from millstream.server.ports import check_free
from millstream.server.program import Program, find_program
from millstream.server.settings import Settings
from tests.support.servers import binary, installed

FIRST_PORT, PORTS = 11_000, 250
"""Each of six processes of a run has as many. With what lies above them (a bus, Sentinels), they are
below the ports of outgoing connections."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    status: int
    told: list[str]

    def said(self, start: str) -> bool:
        """Whether a note begins so; a slow machine makes for others beside it."""
        return any(text.startswith(start) for text in self.told)


def run(file: File, during: Callable[[Running], object] | None = None) -> Outcome:
    """Run a set-up, do something while it is ready, and stop it as SIGTERM does."""
    told: list[str] = []

    def ready(running: Running) -> None:
        if during is not None:
            during(running)
        os.kill(os.getpid(), signal.SIGTERM)

    status = serve(file, ready=ready, tell=told.append)
    return Outcome(status, told)


def ended_by(file: File, deed: Callable[[Running], None]) -> Outcome:
    """Run a set-up until what is done to it ends it."""
    told: list[str] = []
    return Outcome(serve(file, ready=deed, tell=told.append), told)


def kill(pid: int) -> None:
    """End a server on the spot."""
    os.kill(pid, signal.SIGKILL)


def client_of(
    node: Node, password: str | None = None, *, username: str | None = None
) -> redis.Redis:
    """A client of one process, on its port, that tries nothing twice."""
    once = Retry(NoBackoff(), 0)
    return redis.Redis(port=node.port, username=username, password=password, retry=once)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty directory with a short path, as unix sockets need it."""
    path = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session", params=installed())
def any_program(request: pytest.FixtureRequest) -> Program:
    """Each supported server program in turn."""
    return find_program(str(binary(request.param)))


@pytest.fixture(scope="session")
def program() -> Program:
    """Valkey 8.1."""
    return find_program(str(binary("valkey-8.1")))


def free(make: Callable[[int], Layout]) -> Layout:
    """A layout on ports that nobody uses at this moment."""
    # Two processes must not find the same ones free, and then both begin to use them.
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 6
    first = FIRST_PORT + process * PORTS
    while True:
        # Not the common generator: Hypothesis has it begin anew for each example.
        layout = make(first + random.SystemRandom().randrange(PORTS - 10))
        try:
            check_free(layout)
        except UsageError:
            continue
        return layout


def one(folder: Path, program: Program, settings: Settings | None = None) -> File:
    """A single server."""
    layout = free(lambda port: single(folder / "data", port=port))
    return File(layout, settings or Settings(), Access(), program)


def watched(
    folder: Path, program: Program, access: Access | None = None, *, replicas: int = 2
) -> File:
    """A master with replicas and three Sentinels."""
    layout = free(
        lambda port: replicated(folder / "data", port=port, replicas=replicas, sentinels=3)
    )
    return File(layout, Settings(), access or Access(), program)


def cluster(folder: Path, program: Program, access: Access | None = None) -> File:
    """A cluster of three masters, each with a replica."""
    layout = free(lambda port: clustered(folder / "data", port=port, masters=3, replicas=1))
    return File(layout, Settings(), access or Access(), program)
