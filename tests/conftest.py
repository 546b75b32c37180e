"""Fixtures for every test: servers, a namespace of one's own, and the key-leak check."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import TextIO

import pytest
import redis
from hypothesis import Phase, settings

from tests.support.leaks import leaked, wipe
from tests.support.newcomers import newcomers_asleep
from tests.support.order import is_long, long_first
from tests.support.servers import SHARDING, Server, installed
from tests.support.slots import watch_slots
from tests.support.watchdog import (
    GRACE,
    WHOLE,
    end_properties_too,
    forget_stacks,
    open_stacks,
    stacks,
    watch,
)

# A busy machine must not fail a property. What Hypothesis does to explain a failure traces each line, and
# has hung in it when the time limit came.
PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)
settings.register_profile("suite", deadline=None, phases=PHASES)
settings.load_profile("suite")

_failed = pytest.StashKey[bool]()
_output = pytest.StashKey[TextIO]()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Valkey 8.1 without persistence; one for each xdist worker."""
    with Server("valkey-8.1") as server:
        yield server


@pytest.fixture(scope="session", params=installed())
def any_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each supported server in turn: the test runs once on each that is installed."""
    with Server(request.param) as server:
        yield server


@pytest.fixture(scope="session", params=installed(SHARDING))
def cluster(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A node that is a cluster of its own, of each supported server that has sharded Pub/Sub."""
    with Server(request.param, cluster=True) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def asleep(server: Server) -> Callable[[], int]:
    """How many connections of this test sleep at `server`, in a read that waits."""
    return newcomers_asleep(server)


@pytest.fixture
def url(server: Server) -> str:
    """`server`, as a user who may touch only the tests' own keys and channels (`t-...`)."""
    return server.limited_url


@pytest.fixture
def any_url(any_server: Server) -> str:
    """`any_server`, as a user who may touch only the tests' own keys and channels (`t-...`)."""
    return any_server.limited_url


@pytest.fixture
def admin(server: Server) -> redis.Redis:
    """A blocking client of `server` that may do everything, for assertions."""
    return server.admin()


@pytest.fixture(autouse=True)
def key_leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test with a namespace: what it left behind is permanent by design, or expires."""
    used = {"server", "any_server", "cluster"} & set(request.fixturenames)
    if "namespace" not in request.fixturenames or not used:
        yield
        return
    namespace: str = request.getfixturevalue("namespace")
    servers: list[Server] = [request.getfixturevalue(name) for name in sorted(used)]
    yield
    for server in servers:
        left = leaked(server.admin(), namespace)
        wipe(server.admin(), namespace)
        if not request.node.stash.get(_failed, False):  # a failed test has said enough
            assert not left, f"keys without a time to live: {left}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember for the key-leak check that a test failed."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a run of several workers, the long tests begin first."""
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        items[:] = long_first(items, [*filter(is_long, items)], workers)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """The tests themselves never become garbage: who collects it in one of them need not search them."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Open the watchdog's file; the process that leads the run is watched as a whole."""
    # A run in the background may have inherited that these are ignored, and so would what tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    watch_slots()
    process = os.environ.get("PYTEST_XDIST_WORKER", "main")
    if process == "main":
        forget_stacks()
    config.stash[_output] = open_stacks(process)
    if getattr(config.option, "numprocesses", None):
        # Nobody is left to read it from a file.
        faulthandler.dump_traceback_later(WHOLE, exit=True, file=os.dup(sys.stderr.fileno()))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Tell at the very end where a process stood that was ended."""
    if not hasattr(config, "workerinput"):
        for line in stacks():
            print(line)  # noqa: T201 - pytest's own reporter is done by now


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer() -> Generator[None, object, object]:
    """A time limit ends a test also when Hypothesis runs it."""
    result = yield
    end_properties_too()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that cannot be stopped must not hang the run: it says where it stands, and fails."""
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker else item.config.getini("timeout"))
    output = item.config.stash[_output]
    with watch(limit + GRACE, output):
        return (yield)
