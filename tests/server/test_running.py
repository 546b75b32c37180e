"""One server: its start, its end, and what ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from millstream.driver.embedded import start_or_join
from millstream.errors import NotConnected, UsageError
from millstream.server.access import Access
from millstream.server.configuration import File
from millstream.server.launcher import Failed, Running, serve
from millstream.server.layout import single
from millstream.server.program import Program
from millstream.server.settings import SavePoint, Settings
from tests.server.conftest import client_of, ended_by, free, kill, one, run
from tests.support.mortal import Mortal
from tests.support.wait import until


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_it(folder: Path, program: Program, number: int) -> None:
    """Each ends the server in order, with 0, and what it has is there at the next start."""
    file = one(folder, program)
    pids: list[int] = []

    def ready(running: Running) -> None:
        pids.extend(running.pids)
        with client_of(file.layout.nodes[0]) as client:
            client.incr("starts")
            assert client.get("starts") == str(len(pids)).encode()
        os.kill(os.getpid(), number)

    assert serve(file, ready=ready, tell=print) == 0
    assert serve(file, ready=ready, tell=print) == 0
    assert all(map(gone, pids))


def test_a_socket_alone(folder: Path, any_program: Program) -> None:
    """On a socket there is no port, and only this user gets in."""
    path = folder / "s o.sock"
    layout = single(folder / "data", port=None, socket=path)
    file = File(layout, Settings(), Access(), any_program)

    def look(_: Running) -> None:
        assert path.stat().st_mode & 0o077 == 0
        with redis.Redis(unix_socket_path=str(path)) as client:
            assert client.config_get("port")["port"] == "0"

    assert run(file, look).status == 0


def test_a_death_is_told(folder: Path, program: Program) -> None:
    """When the server is killed, the run ends with 1 and says how it ended."""
    file = one(folder, program)

    outcome = ended_by(file, lambda running: kill(running.pids[0]))
    assert outcome.status == 1
    assert outcome.said(f"the server on port {file.layout.nodes[0].port} ended: signal 9")
    assert "Ready to accept connections" in outcome.told[-1]


def test_a_second_signal_does_not_wait(folder: Path, program: Program) -> None:
    """A server that does not end by itself is killed, with 130."""
    file = one(folder, program)

    def hang(running: Running) -> None:
        os.kill(running.pids[0], signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTERM)
        # From another process, as it comes while this one waits for the end.
        script = f"import os, time; time.sleep(0.5); os.kill({os.getpid()}, {signal.SIGTERM})"
        impatient.append(Mortal[bytes]([sys.executable, "-c", script]))

    impatient: list[Mortal[bytes]] = []
    assert serve(file, ready=hang, tell=print) == 130
    impatient[0].wait()


def test_its_servers_end_with_it(folder: Path, program: Program) -> None:
    """When the program itself is killed, the kernel ends the server in order."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent has died")
    port = one(folder, program).layout.nodes[0].port
    words = ["server", "--port", str(port), "--dir", str(folder / "data"), "--json"]
    command = [sys.executable, "-m", "millstream", *words]
    with Mortal[str](command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.kill()
        until(lambda: "bye bye" in (folder / "data/server.log").read_text())


def test_a_server_that_does_not_start(folder: Path, program: Program) -> None:
    """The error has what the server says, without the hashes of passwords; nothing is left running."""
    users = (f"user ann on #{'0' * 64} +no-such-command",)
    file = replace(one(folder, program), access=Access(users=users, link="x"))

    with pytest.raises(Failed, match=r"did not start: status 1.*no-such-command") as error:
        run(file)
    assert "0" * 64 not in str(error.value)


def test_a_port_in_use(folder: Path, program: Program) -> None:
    """It is said before a server is started."""
    file = one(folder, program)
    with (
        socket.create_server(("127.0.0.1", file.layout.nodes[0].port)),
        pytest.raises(UsageError, match="is in use: give another --port"),
    ):
        run(file)
    assert run(file).status == 0


def test_a_socket_in_use(folder: Path, program: Program) -> None:
    """A socket that answers is in use, one of a dead server is not, another file is not removed."""
    path = folder / "x"
    file = File(single(folder / "data", port=None, socket=path), Settings(), Access(), program)

    path.write_text("precious")
    with pytest.raises(UsageError, match="is no socket"):
        run(file)
    assert path.read_text() == "precious"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(UsageError, match=r"socket .* is in use"):
            run(file)
    assert run(file).status == 0
    lost = replace(file, layout=single(folder / "data", port=None, socket=folder / "no/x"))
    with pytest.raises(UsageError, match="does not exist"):
        run(lost)


@pytest.mark.parametrize("name", ["a*", "what?", "data[1]", "F[\\"])
def test_a_directory_that_a_server_takes_for_a_pattern(
    folder: Path, program: Program, name: str
) -> None:
    """It is refused: the server would start without its configuration, open to everybody."""
    data = folder / name
    with pytest.raises(UsageError, match="pattern"):
        run(File(free(lambda port: single(data, port=port)), Settings(), Access(), program))
    assert not data.exists()


def test_a_directory_in_use(folder: Path, program: Program) -> None:
    """Two servers do not share a directory; the error names the process that has it."""
    file = one(folder, program)

    def again(running: Running) -> None:
        other = replace(file, layout=free(lambda port: single(folder / "data", port=port)))
        with pytest.raises(UsageError, match=rf"in use by servers .*\({running.pids[0]}\)"):
            run(other)

    assert run(file, again).status == 0


def test_an_embedded_server_has_the_directory(folder: Path, program: Program) -> None:
    """Neither takes the directory while the other uses it; one after the other has the same data."""
    file = one(folder, program)
    with start_or_join(folder / "data") as embedded:
        with redis.Redis(unix_socket_path=str(embedded.socket_path)) as client:
            client.set("sent", "before")
        with pytest.raises(UsageError, match="in use as embedded://"):
            run(file)

    def look(_: Running) -> None:
        with pytest.raises(NotConnected, match="millstream server"):
            start_or_join(folder / "data", timeout=0.1)
        with client_of(file.layout.nodes[0]) as client:
            assert client.get("sent") == b"before"
            client.set("sent", "later")

    assert run(file, look).status == 0
    with (
        start_or_join(folder / "data") as embedded,
        redis.Redis(unix_socket_path=str(embedded.socket_path)) as client,
    ):
        assert client.get("sent") == b"later"


def test_from_snapshots_to_an_append_only_file(folder: Path, any_program: Program) -> None:
    """A server that had snapshots only keeps its messages when it begins to write everything."""
    file = one(folder, any_program, Settings(aof="no", save=(SavePoint(100, 1),)))

    def send(_: Running) -> None:
        with client_of(file.layout.nodes[0]) as client:
            client.xadd("queue", {"b": "1"})

    def look(running: Running) -> None:
        with client_of(file.layout.nodes[0]) as client:
            assert client.xlen("queue") == 1
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            client.xadd("queue", {"b": "2"})
        kill(running.pids[0])

    def look_again(_: Running) -> None:
        with client_of(file.layout.nodes[0]) as client:
            assert client.xlen("queue") == 2

    assert run(file, send).status == 0
    # As a server leaves it that is killed while it begins to write everything.
    (folder / "data/appendonlydir").mkdir()
    (folder / "data/appendonlydir/temp-appendonly.aof.incr").touch()
    always = replace(file, settings=Settings(aof="always"))
    assert ended_by(always, look).status == 1
    assert run(always, look_again).status == 0
    with pytest.raises(UsageError, match="would not load"):
        run(file)


def test_data_of_a_newer_server(folder: Path, program: Program) -> None:
    """Redis 6 is not started beside data that it does not see."""
    file = one(folder, program)
    assert run(file).status == 0
    old = replace(program, name="Redis", version="6.2.14", numbers=(6, 2))

    with pytest.raises(UsageError, match=r"Redis 6\.2\.14 would start without the messages"):
        run(replace(file, program=old))
