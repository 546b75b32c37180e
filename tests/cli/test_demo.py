"""The demo: it counts right, loses nothing, notices what is wrong, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import termios
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from millstream import Client
from millstream.cli.demo.command import commands_to_try, present
from millstream.cli.demo.count import (
    LONGEST,
    Contents,
    Figures,
    Function,
    add_up,
    count_alone,
    count_file,
    count_source,
    longest_of,
    source_files,
)
from millstream.cli.demo.crew import Crew
from millstream.cli.demo.outcome import (
    Alone,
    Asked,
    Counts,
    Outcome,
    Published,
    Reading,
    problems,
)
from millstream.cli.demo.place import Place, place_for
from millstream.cli.demo.show import Show
from millstream.cli.demo.stage import run_demo
from millstream.cli.demo.tally import Tally
from millstream.cli.demo.tasks import Counted
from millstream.cli.output import Failed
from tests.support.embedded import alive
from tests.support.mortal import Mortal
from tests.support.servers import Server
from tests.support.wait import until

SOURCE = b'''\
"""Everything that is counted."""
import os, sys
from pathlib import Path
if os:
    import json
class A:
    def method(self):
        async def inner(): ...
        return lambda: None
    class B: pass
try:
    def f(): ...
except OSError:
    def f(): ...
else:
    def f(): ...
finally:
    class C: ...
for _ in ():
    match _:
        case 1:
            with f():
                while True:
                    import re
'''

NAMES = [("method", 7, 3), ("inner", 8, 1), ("f", 12, 1), ("f", 14, 1), ("f", 16, 1)]
"""Names, lines and lengths of the functions in it, the longest first."""

TOTALS = Figures(files=3, functions=2, classes=1, imports=1, lines=9, unparsable=0)


# Counting


@pytest.mark.parametrize(
    ("source", "figures"),
    [
        (SOURCE, Figures(files=1, functions=5, classes=3, imports=4, lines=24)),
        (b"", Figures(files=1)),
        (b"x = 1\r\ny = 2\rz = 3", Figures(files=1, lines=3)),
        (b"# -*- coding: latin-1 -*-\nx = '\xe4'\n", Figures(files=1, lines=2)),
        (b"def f(:\n", Figures(files=1, lines=1, unparsable=1)),
        (b"# -*- coding: no-such-coding -*-\n", Figures(files=1, lines=1, unparsable=1)),
        (b"x = '\xe4'\n", Figures(files=1, lines=1, unparsable=1)),
        (b"x = 1\0\n", Figures(files=1, lines=1, unparsable=1)),
    ],
    ids=["everything", "empty", "line ends", "coding", "syntax", "no coding", "not utf-8", "null"],
)
def test_a_source_is_counted(source: bytes, figures: Figures) -> None:
    """Functions, classes and imports are counted wherever they stand; bad sources have lines."""
    assert count_source(source, "a.py").figures == figures


def test_the_longest_functions_of_a_source_are_found() -> None:
    """They have a name, a place and a length, from ``def`` to the last line."""
    assert count_source(SOURCE, "a.py").longest == [
        Function(name=name, file="a.py", line=line, lines=lines) for name, line, lines in NAMES
    ]


def test_the_longest_are_the_same_in_whatever_order_they_come() -> None:
    """Among equally long ones, file and line decide, and only so many are kept."""
    functions = [
        Function(name="f", file=file, line=line, lines=lines)
        for file in ("a", "b")
        for line in (1, 5)
        for lines in (2, 3)
    ]

    longest = longest_of(functions)
    assert [(one.lines, one.file, one.line) for one in longest] == [
        (3, "a", 1),
        (3, "a", 5),
        (3, "b", 1),
        (3, "b", 5),
        (2, "a", 1),
    ]
    assert longest_of(reversed(functions)) == longest
    assert len(longest) == LONGEST


def test_a_file_that_cannot_be_read_counts_as_unparsable(tmp_path: Path) -> None:
    """A file that vanished is a result like any other, not an error that is tried again."""
    gone = count_file(tmp_path / "gone.py")

    assert gone == Contents(figures=Figures(files=1, unparsable=1), longest=[])


def test_a_plain_loop_adds_up(tmp_path: Path) -> None:
    """It adds up, takes no notice of what the parser warns of, and tells how far it is."""
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    paths[0].write_bytes(SOURCE)
    paths[1].write_bytes(b"x = '\\d'\n")
    seen: list[int] = []

    first = count_file(paths[0])
    second = Figures(files=1, lines=1)
    assert count_alone(paths, seen.append) == Contents(
        figures=add_up([first.figures, second]),
        longest=first.longest,
        by_file={str(paths[0]): first.figures, str(paths[1]): second},
    )
    assert seen == [1, 2]


def test_source_files_are_those_of_the_library(tmp_path: Path) -> None:
    """Files of other packages, of other kinds, and links to nowhere are left out."""
    wanted = ["a.py", "package/b.py", "package/__init__.py"]
    for name in [*wanted, "site-packages/c.py", "package/dist-packages/d.py", "readme.txt"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "broken.py").symlink_to(tmp_path / "nowhere.py")

    assert source_files(tmp_path) == sorted(tmp_path / name for name in wanted)


# Adding up and judging


def result(file: str, *, crashes: int = 0, functions: int = 1) -> Counted:
    figures = Figures(files=1, functions=functions)
    return Counted(file=file, figures=figures, pid=1, crashes=crashes, began=0.0)


def test_a_second_result_for_a_file_is_dropped() -> None:
    """A file counts once, however often its result comes; the others are counted as duplicates."""
    tally = Tally()
    for one in (result("a"), result("b"), result("a", crashes=1), result("c", crashes=1)):
        tally.add(one)

    assert len(tally) == 3
    assert tally.totals() == Figures(files=3, functions=3)
    assert tally.duplicates == 1
    assert [one.file for one in tally.again] == ["a", "c"]


LONG = [
    Function(name="f", file="a", line=1, lines=9),
    Function(name="g", file="b", line=2, lines=8),
]


BY_PATH = {"a": Figures(files=1, functions=2), "b": Figures(files=2, lines=9)}


def reading(name: str, **changes: Any) -> Reading:
    """What a subscription should know."""
    right = Reading(
        subscription=name,
        pid=21,
        messages=4,
        replayed=0,
        duplicates=1,
        files=3,
        figures=None if name == "longest" else TOTALS,
        longest=None if name == "totals" else LONG,
    )
    return msgspec.structs.replace(right, **changes)


def answers(**changes: Any) -> Asked:
    """What callers should have been told: of the two files, and of one that there is not."""
    right = Asked(
        callers=50,
        questions=3,
        answers={**BY_PATH, "c": None},
        failed=[],
        seconds=0.5,
        p50=0.0123,
        p99=0.05,
    )
    return msgspec.structs.replace(right, **changes)


def outcome(
    counted: Figures = TOTALS,
    *,
    late: Reading | None = None,
    topic_dead: int = 0,
    asked: Asked | None = None,
    **changes: Any,
) -> Outcome:
    readings = [reading("totals"), reading("longest"), late or reading("late", replayed=2)]
    counts = Counts(
        figures=counted,
        workers=[11, 12, 13],
        seconds=2.0,
        deliveries=5,
        failed=0,
        killed=12,
        in_flight=2,
        redelivered=2,
        redelivered_after=0.05,
        duplicates=1,
        dead=0,
    )
    return Outcome(
        server="Valkey 1.2.3",
        python="3.11.0",
        workers=msgspec.structs.replace(counts, **changes),
        published=Published(messages=4, dead=topic_dead, readings=readings),
        asked=asked or answers(),
        alone=Alone(figures=TOTALS, longest=LONG, by_path=BY_PATH, seconds=1.0),
    )


def test_equal_totals_are_no_problem() -> None:
    """When both counts agree, there is nothing to complain about."""
    assert problems(outcome()) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (outcome(replace(TOTALS, functions=3)), "3 functions instead of 2"),
        (outcome(replace(TOTALS, files=2)), "1 files have no result"),
        (outcome(replace(TOTALS, lines=8)), "8 lines instead of 9"),
        (outcome(dead=1), "1 messages are in the dead letters"),
        (outcome(topic_dead=1), "1 messages of the topic are in the dead letters"),
        (outcome(late=reading("late", messages=3)), "subscription late: 1 messages did not come"),
        (
            outcome(late=reading("late", figures=replace(TOTALS, imports=2))),
            "subscription late: 2 imports instead of 1",
        ),
        (outcome(late=reading("longest", files=2)), "subscription longest: 2 files instead of 3"),
        (
            outcome(late=reading("longest", longest=LONG[:1])),
            "subscription longest: the longest functions are f (9) instead of f (9), g (8)",
        ),
        (
            outcome(asked=answers(answers={**BY_PATH, "a": Figures(files=1), "c": TOTALS})),
            "2 answers of the endpoint are wrong",
        ),
        (
            outcome(asked=answers(answers={**BY_PATH, "b": None, "c": None})),
            "1 answers of the endpoint are wrong",
        ),
        (
            outcome(asked=answers(answers=BY_PATH, failed=["TimedOut: too late"])),
            "1 questions have no answer, the first with TimedOut: too late",
        ),
    ],
    ids=[
        "double",
        "lost",
        "less",
        "dead",
        "dead of the topic",
        "not delivered",
        "double of a subscription",
        "lost by a subscription",
        "not the longest",
        "wrong answers",
        "an answer is missing from the index",
        "no answer",
    ],
)
def test_any_difference_fails(
    wrong: Outcome, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss, a double count or a dead letter is printed, and the exit status is 1."""
    with pytest.raises(Failed, match=re.escape(words)) as failed:
        present(wrong, json_output=True, commands=[])

    assert failed.value.status == 1
    assert words in json.loads(capsys.readouterr().out)["problems"]


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Both counts stand side by side, and what to try next stands below."""
    present(outcome(killed=None, redelivered_after=None), json_output=False, commands=["go on"])

    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["functions", "2", "2"] in rows
    assert ["messages/s", "2"] in rows
    assert ["in", "flight", "at", "the", "kill", "-"] in rows  # nobody was killed: no number
    assert ["lost", "0"] in rows
    assert ["subscription", "totals", "longest", "late", "1", "process", "alone"] in rows
    assert ["of", "them", "by", "replay", "0", "0", "2"] in rows
    assert ["classes", "1", "1", "1"] in rows  # longest does not count them
    assert ["g", "8", "b:2"] in rows
    assert ["endpoint", "50", "callers"] in rows
    assert ["right", "3"] in rows
    assert ["round", "trip,", "p50", "12.3", "ms"] in rows
    assert out.endswith("  go on\n")


def test_commands_name_the_same_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """They repeat --url, without its password, but not what $MILLSTREAM_URL says anyway."""
    monkeypatch.setenv("MILLSTREAM_URL", "redis://elsewhere")

    given = commands_to_try("redis://me:secret@host:1/2")
    assert all(command.endswith(" --url 'redis://me:***@host:1/2'") for command in given)
    assert "--url" not in "".join(commands_to_try("redis://elsewhere") + commands_to_try(None))


# The course of the demo


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Some files, so few that the demo takes a moment only."""
    paths = [tmp_path / f"{number}.py" for number in range(30)]
    for path in paths:
        path.write_bytes(SOURCE)
    return paths


def processes(words: str) -> list[str]:
    """The command lines with these words in them, of processes that live."""
    table = subprocess.run(
        ["ps", "-wweo", "stat=,args="], capture_output=True, text=True, check=True
    )
    lines = (line.partition(" ") for line in table.stdout.splitlines())
    return [args for state, _, args in lines if words in args and not state.startswith("Z")]


def demo_keys(admin: redis.Redis) -> list[bytes]:
    return list(admin.scan_iter("demo-*"))


def test_a_url_gets_its_own_namespace_and_no_keys_stay(
    server: Server, admin: redis.Redis, files: list[Path]
) -> None:
    """On a given server, other keys are not touched, and nothing stays; the count is right."""
    admin.set("t-demo-neighbour", "here")

    found = run_demo(files, Show(silent=True), url=server.url)

    assert problems(found) == []
    once = count_source(SOURCE, str(files[0]))
    assert found.workers.figures == add_up([once.figures] * len(files))
    totals, longest, late = found.published.readings
    assert totals.figures == late.figures == found.workers.figures
    assert longest.longest == late.longest
    assert found.published.messages == late.messages == late.files + late.duplicates
    assert late.replayed > 0
    assert found.right == found.asked.questions == len(found.asked.answers)
    assert found.asked.questions > len(files) + found.asked.callers  # folders, too
    assert found.workers.deliveries >= len(files)
    assert found.server.startswith("Valkey 8.1")
    assert not [pid for pid in found.workers.workers if alive(pid)]
    assert demo_keys(admin) == []
    assert admin.getdel("t-demo-neighbour") == b"here"


def test_a_wrong_count_is_noticed(server: Server, files: list[Path]) -> None:
    """When the single process comes to another result, the demo fails with status 1."""

    def miscount(_files: Sequence[Path], _advance: object) -> Contents:
        return Contents(figures=Figures(files=len(files), functions=1), longest=[])

    found = run_demo(files, Show(silent=True), url=server.url, alone=miscount)

    with pytest.raises(Failed, match="150 functions instead of 1") as failed:
        present(found, json_output=True, commands=[])
    assert failed.value.status == 1
    for name in ("totals", "late"):
        assert f"subscription {name}: 150 functions instead of 1" in str(failed.value)
    assert "subscription longest: the longest functions are method (3), " in str(failed.value)
    known = len(found.asked.answers) - found.asked.callers  # each asks for one that is not there
    assert f"{known} answers of the endpoint are wrong" in str(failed.value)


def test_without_work_nobody_is_killed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """When there was nothing in flight, the demo says so and invents no numbers."""
    found = run_demo([], Show(silent=False), url=server.url)

    assert (found.workers.killed, found.workers.in_flight, found.workers.redelivered) == (
        None,
        0,
        0,
    )
    assert found.workers.redelivered_after is None
    assert "not killed   no worker had a delivery in flight" in capsys.readouterr().out


def on_a_terminal(program: str, *arguments: str) -> str:
    """What a Python program prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-c", program, *arguments]
    with Mortal[bytes](command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while data := os.read(ours, 65_536):
                output += data
        os.close(ours)
        process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


TOLD = ("server", "workers", "topic", "sent", "joins late", "asked", "caught up", "check")
"""What is said whatever happens, in this order."""

ON_A_TERMINAL = """
import sys
from pathlib import Path
from millstream.cli.demo.show import Show
from millstream.cli.demo.stage import run_demo

run_demo([Path(name) for name in sys.argv[2:]], Show(silent=False), url=sys.argv[1])
"""


def test_people_see_all_acts(server: Server, files: list[Path]) -> None:
    """On a terminal, what happens stands above a bar, which is gone in the end."""
    out = on_a_terminal(ON_A_TERMINAL, server.url, *map(str, files))

    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    lines = [line.strip() for line in re.split(r"[\r\n]+", seen)]
    words = [line.split("  ")[0] for line in lines]
    told = [word for word in words if word in TOLD]
    assert told == list(TOLD)
    assert any(re.search(r"3/3 behind: totals 0   longest 0   late 0$", line) for line in lines)
    assert any(line.endswith("30/30 files") for line in lines)
    assert out.endswith("\x1b[2K")  # the line of the last bar is wiped


@contextlib.contextmanager
def crew_of_one(server: Server) -> Iterator[tuple[Crew, Client, Place]]:
    """A worker that is ready and has nothing to do."""
    with (
        place_for(server.url) as place,
        Client(place.url, namespace=place.namespace) as mq,
        Crew(place, 1) as crew,
    ):
        until(lambda: crew.at_work(mq), timeout=20)
        yield crew, mq, place


def test_an_idle_worker_is_not_killed(server: Server) -> None:
    """A worker without deliveries is left as it was: alive and not frozen."""
    with crew_of_one(server) as (crew, mq, _):
        (pid,) = crew.at_work(mq)

        assert crew.kill_one(mq) is None
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=True
        )
        assert state.stdout[:1] not in {b"T", b"Z", b""}


def test_the_end_of_the_workers_is_noticed(server: Server) -> None:
    """When the supervisor dies, the demo fails with the end of its log, and no worker stays."""
    with crew_of_one(server) as (crew, mq, place):
        (pid,) = crew.at_work(mq)
        crew.check()
        (keeper,) = [
            int(line.split()[0])
            for line in subprocess.run(
                ["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            if "millstream.cli.demo.keeper" in line and place.namespace in line
        ]
        os.kill(keeper, signal.SIGKILL)

        def fails() -> str:
            try:
                crew.check()
            except Failed as error:
                return str(error)
            return ""

        assert f"started worker process {pid}" in until(fails)
        until(lambda: not processes(place.namespace))


# The command


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary directory with a short path, as a socket needs it."""
    with tempfile.TemporaryDirectory(prefix="ms-", dir="/tmp") as name:
        yield Path(name)


def command(*words: str, **environment: str) -> Mortal[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "MILLSTREAM_URL"}
    return Mortal(
        [sys.executable, "-m", "millstream", "demo", *words],
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SMALL_LIBRARY = """
import os, sysconfig

get_path = sysconfig.get_path
sysconfig.get_path = lambda name: os.environ["LIBRARY"] if name == "stdlib" else get_path(name)
"""


@pytest.fixture
def small_library(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What makes a part of the library the whole of it, which takes a minute of a processor."""
    whole, part = Path(sysconfig.get_path("stdlib")), tmp_path / "library"
    for path in [*whole.glob("*.py"), *whole.glob("[e-i]*/**/*.py")]:
        copy = part / path.relative_to(whole)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (tmp_path / "sitecustomize.py").write_text(SMALL_LIBRARY)
    yield {"LIBRARY": str(part), "PYTHONPATH": str(tmp_path)}
    shutil.rmtree(part)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_whole_demo(folder: Path, small_library: dict[str, str]) -> None:
    """It counts a library right in spite of a killed worker, and leaves nothing behind."""
    paths = [*Path(small_library["LIBRARY"]).rglob("*.py")]
    lines = 0
    for path in paths:
        with path.open(encoding="latin-1") as text:
            lines += sum(1 for _ in text)

    with command("--json", TMPDIR=str(folder), **small_library) as process:
        out, err = process.communicate()

    assert (process.returncode, err) == (0, "")
    found = json.loads(out)
    assert (found["files"], found["lines"]) == (len(paths), lines)
    assert found["one_process"].items() >= {"files": len(paths), "lines": lines}.items()
    assert found["functions"] > 10 * found["unparsable"]
    assert (found["lost"], found["problems"], found["failed"]) == (0, [], 0)
    assert found["killed"] in found["workers"]
    assert len(found["workers"]) >= 3  # two, and the one that was started in place of the dead
    assert found["in_flight_at_kill"] > 0
    assert found["redelivered"] > 0
    assert found["redelivered_after_seconds"] > 0
    assert found["deliveries"] >= len(paths) + found["redelivered"]
    subscriptions = found["topic"]["subscriptions"]
    assert list(subscriptions) == ["totals", "longest", "late"]
    for one in subscriptions.values():
        assert one["messages"] == found["topic"]["published"] == one["files"] + one["duplicates"]
    for name in ("totals", "late"):
        assert subscriptions[name]["functions"] == found["functions"]
    for name in ("longest", "late"):
        assert subscriptions[name]["longest"] == found["one_process"]["longest"]
    assert subscriptions["late"]["replayed"] > 0
    endpoint = found["endpoint"]
    assert endpoint["right"] == endpoint["answers"] == endpoint["questions"] > len(paths)
    assert (endpoint["callers"], endpoint["failed"]) == (50, [])
    assert 0 < endpoint["p50_seconds"] <= endpoint["p99_seconds"] <= endpoint["seconds"]
    assert not [pid for pid in found["workers"] if alive(pid)]
    assert processes(str(folder)) == []
    assert list(folder.iterdir()) == []


def started_on(server: Server, admin: redis.Redis) -> tuple[Mortal[str], str]:
    """A demo whose workers are at work, and its namespace."""
    process = command("--url", server.url)

    def working() -> str:
        counters = list(admin.scan_iter("demo-*:{demo.results}:counters"))
        return counters[0].decode().partition(":")[0] if counters else ""

    return process, until(working, timeout=30)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_an_interrupted_demo_leaves_nothing(
    number: signal.Signals, status: int, server: Server, admin: redis.Redis
) -> None:
    """However it is ended, its processes end and its keys go: even kill -9 only takes a moment."""
    process, namespace = started_on(server, admin)
    assert processes(namespace)

    with process:
        process.send_signal(number)
        _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (status, "")
    if number == signal.SIGKILL:
        until(lambda: not processes(namespace), timeout=20)
    assert processes(namespace) == []
    assert demo_keys(admin) == []


def test_a_killed_demo_takes_its_own_server_along(folder: Path) -> None:
    """After kill -9, the demo's own server, its directory and all processes are gone."""
    with command(TMPDIR=str(folder)) as process:
        until(lambda: processes(f"--directory {folder}"), timeout=30)
        process.kill()

    until(lambda: not list(folder.iterdir()) and not processes(str(folder)), timeout=30)


def test_no_server_is_one_clear_line(server: Server) -> None:
    """When the server cannot be reached, one line says so, and nothing stays."""
    with command("--url", "redis://127.0.0.1:1", "--json") as process:
        out, err = process.communicate(timeout=30)

    assert (process.returncode, out) == (1, "")
    assert err.startswith("millstream: cannot reach redis://127.0.0.1:1")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_commands_to_try_next_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three commands do what they promise, in this order, on the default embedded server."""
    monkeypatch.delenv("MILLSTREAM_URL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    program = str(Path(sys.executable).parent / "millstream")
    monkeypatch.setattr(sys, "argv", [program, "demo"])
    outputs = []
    for line in commands_to_try(None):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), line
        outputs.append(done.stdout)

    message = json.loads(outputs[1])
    assert (message["id"], message["body"]) == (outputs[0].strip(), {"n": 1})
    assert "hello" in outputs[2]
