"""Several processes: replicas with Sentinels, and clusters."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from millstream.errors import UsageError
from millstream.server.access import Access
from millstream.server.configuration import File, configuration
from millstream.server.forming import make_cluster
from millstream.server.launcher import Running, serve
from millstream.server.layout import Node, replicated, single
from millstream.server.program import Program
from millstream.server.settings import Settings
from tests.server.conftest import Outcome, client_of, cluster, ended_by, free, kill, run, watched
from tests.support.wait import until

PASSWORD = "se cret"  # noqa: S105 - of servers that live for a test
ACCESS = Access(PASSWORD, link="hidden")


def run_beside(file: File, deed: Callable[[Running], None]) -> Outcome:
    """Do something while the launcher watches its processes, and does not stop at a death."""
    failed: list[BaseException] = []
    told: list[str] = []

    def do(running: Running) -> None:
        try:
            deed(running)
        except BaseException as error:  # noqa: BLE001 - raised where the test can see it
            failed.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    def ready(running: Running) -> None:
        threading.Thread(target=do, args=(running,)).start()

    status = serve(file, ready=ready, tell=told.append, keep_going=True)
    if failed:
        raise failed[0]
    return Outcome(status, told)


def master_of(file: File) -> int:
    """The port of the master that a Sentinel names."""
    sentinel = file.layout.having("sentinel")[0]
    with client_of(sentinel) as client:
        found: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "millstream")
    return int(found[1])


def data_nodes(file: File) -> tuple[Node, ...]:
    return file.layout.having("master", "replica")


def pid_of(running: Running, port: int) -> int:
    ports = [node.port for node in running.file.layout.nodes]
    return running.pids[ports.index(port)]


def info(node: Node, password: str | None = None) -> dict[str, Any]:
    with client_of(node, PASSWORD) as client:
        found: dict[str, Any] = client.info("replication")
    return found


def test_replicas_and_sentinels(folder: Path, any_program: Program) -> None:
    """When it is ready, replicas have what the master has, and each Sentinel knows all."""
    file = watched(folder, any_program, ACCESS)

    def look(_: Running) -> None:
        port = master_of(file)
        roles = {node.port: info(node, PASSWORD)["role"] for node in data_nodes(file)}
        assert roles == {one: "master" if one == port else "slave" for one in roles}
        (master,) = (node for node in file.layout.nodes if node.port == port)
        with client_of(master, PASSWORD) as client:
            client.set("sent", "1")
            assert client.wait(2, 10_000) == 2
            assert client.config_get("min-replicas-to-write") == {"min-replicas-to-write": "1"}

    assert run(file, look).status == 0


def test_one_replica_does_not_hold_up_its_master(folder: Path, program: Program) -> None:
    """After a failover to the only replica, sends are not refused for want of another."""
    file = watched(folder, program, replicas=1)
    texts = [configuration(file, node) for node in file.layout.nodes]

    assert not [text for text in texts if "min-replicas" in text]


def test_a_failover_and_a_restart(folder: Path, program: Program) -> None:
    """With keep_going a replica takes over, and it is the master at the next start, too."""
    file = watched(folder, program, ACCESS)
    first = file.layout.nodes[0].port
    second: list[int] = []

    def fail_over(running: Running) -> None:
        kill(pid_of(running, first))
        until(lambda: master_of(file) != first, timeout=40)
        second.append(master_of(file))
        (node,) = (one for one in file.layout.nodes if one.port == second[0])
        with client_of(node, PASSWORD) as client:
            until(lambda: sends(client), timeout=40)

    outcome = run_beside(file, fail_over)
    assert outcome.status == 0
    assert outcome.said(f"the master on port {first} ended; 5 go on: signal 9")

    def look(running: Running) -> None:
        for node, pid in zip(file.layout.nodes, running.pids, strict=True):
            with client_of(node, None if node.role == "sentinel" else PASSWORD) as client:
                assert client.info("server")["process_id"] == pid
        assert master_of(file) == second[0]
        assert info(file.layout.nodes[0], PASSWORD)["role"] == "slave"
        with client_of(file.layout.nodes[0], PASSWORD) as client:
            assert client.get("sent") == b"later"

    assert run(file, look).status == 0


def sends(client: redis.Redis) -> bool:
    try:
        return bool(client.set("sent", "later"))
    except redis.exceptions.RedisError:  # it is still a replica, or has none yet
        return False


def test_a_cluster(folder: Path, any_program: Program) -> None:
    """When it is ready, all slots are served and copied; the next start finds its keys."""
    file = cluster(folder, any_program, ACCESS)
    first = file.layout.nodes[0].port
    starts: list[int] = []

    def look(_: Running) -> None:
        starts.append(1)
        client = redis.RedisCluster(host="127.0.0.1", port=first, password=PASSWORD)
        with client:
            assert {client.incr(f"key-{n}") for n in range(20)} == {len(starts)}
        for node in file.layout.nodes:
            with client_of(node, PASSWORD) as one:
                found: Any = one.cluster("info")
            assert (found["cluster_state"], found["cluster_known_nodes"]) == ("ok", "6")
        roles = [info(node, PASSWORD)["role"] for node in file.layout.nodes]
        assert sorted(roles) == ["master"] * 3 + ["slave"] * 3

    assert run(file, look).status == 0
    assert run(file, look).status == 0


def test_a_cluster_that_was_not_finished(
    folder: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that was stopped half-way is begun anew, not gone on with."""
    file = cluster(folder, program)

    def stop(processes: Any, until: Any) -> None:
        make_cluster(processes[:2], until)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("millstream.server.launcher.make_cluster", stop)
        assert serve(file, ready=lambda _: None, tell=print) == 0
    assert run(file).status == 0


@pytest.mark.parametrize("make", [watched, cluster])
def test_a_death_ends_all(
    folder: Path, program: Program, make: Callable[[Path, Program], File]
) -> None:
    """When one process dies, the others are stopped, and it says which one it was."""
    file = make(folder, program)
    last = file.layout.nodes[-1]

    outcome = ended_by(file, lambda running: kill(running.pids[-1]))
    assert outcome.status == 1
    assert outcome.said(f"{last} ended; stopping the others: signal 9")


def test_keep_going_ends_with_the_last(folder: Path, program: Program) -> None:
    """When none is left there is nothing to keep, and it ends with 1."""
    file = replicated_alone(folder, program)
    told: list[str] = []

    def kill_all(running: Running) -> None:
        for pid in running.pids:
            kill(pid)

    assert serve(file, ready=kill_all, tell=told.append, keep_going=True) == 1
    assert "none is left" in told[-1]


def test_a_directory_of_another_set_up(folder: Path, program: Program) -> None:
    """Data is not mixed: neither with a single server's, nor with that on other ports."""
    file = replicated_alone(folder, program)
    alone = replace(file, layout=free(lambda port: single(folder / "data", port=port)))
    more = replicated_alone(folder, program)

    assert run(file).status == 0
    with pytest.raises(UsageError, match="has the data of replicas on the ports"):
        run(alone)
    with pytest.raises(UsageError, match="give the same options as then"):
        run(more)
    other = folder / "other"
    assert run(replace(alone, layout=replace_directory(alone, other))).status == 0
    with pytest.raises(UsageError, match="has the data of a single server"):
        run(replace(file, layout=replace(file.layout, directory=other)))


def replicated_alone(folder: Path, program: Program) -> File:
    layout = free(lambda port: replicated(folder / "data", port=port, replicas=1))
    return File(layout, Settings(), Access(), program)


def replace_directory(file: File, directory: Path) -> Any:
    (node,) = file.layout.nodes
    return replace(file.layout, directory=directory, nodes=(replace(node, directory=directory),))
