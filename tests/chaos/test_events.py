"""The record of a run: what a process has told is there, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.chaos.events import Recorder, Records
from tests.chaos.logs import complaints
from tests.support.mortal import Mortal
from tests.support.wait import until

TELLING = """
import sys
from pathlib import Path
from tests.chaos.events import Recorder

record = Recorder(Path(sys.argv[1]), "teller")
number = 0
while True:
    number += 1
    record.tell("told", number=number)
    print(number, flush=True)
"""


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """All that a process had told when it was killed can be read, each event once."""
    command = [sys.executable, "-c", TELLING, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with Mortal[bytes](command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        while (last := int(process.stdout.readline())) < 100:
            continue
        process.send_signal(signal.SIGKILL)
        # Nothing, when it was stopped in just that moment.
        last = max([last, *map(int, process.stdout.read().split())])
        process.wait()
    numbers = [event.data["number"] for event in Records(tmp_path).news()]

    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= last


def test_news_are_read_once(tmp_path: Path) -> None:
    """Who reads again gets what has come since then, of new processes, too."""
    first, records = Recorder(tmp_path, "a"), Records(tmp_path)
    first.tell("one")
    assert [event.name for event in records.news()] == ["one"]
    second = Recorder(tmp_path, "b")
    first.tell("two")
    second.tell("three", number=3)

    news = list(records.news())
    assert {event.name for event in news} == {"two", "three"}
    assert {event.process for event in news} == {first.process, second.process}
    assert list(records.news()) == []


def test_a_stop_is_told(tmp_path: Path) -> None:
    """A process that did not run for a while says so itself."""
    telling = TELLING.replace("number = 0", "record.watch()\nnumber = 0")
    telling = telling.replace("    number += 1", "    sys.stdin.read(1)\n    number += 1")
    command = [sys.executable, "-c", telling, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with Mortal[bytes](
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        stopped = os.times().elapsed
        until(lambda: os.times().elapsed > stopped + 1)
        process.send_signal(signal.SIGCONT)
        records = Records(tmp_path)
        until(lambda: any(event.name == "stalled" for event in records.news()))


def test_what_logs_complain_of() -> None:
    """An exception that nobody wanted is found in a log; warnings, and those of handlers, are none."""
    good = "12:00 WARNING could not connect: ConnectionError\nValueError: this handler fails\n"
    bad = "KeyError: 'x'\nTask exception was never retrieved\n"

    assert list(complaints(good)) == []
    assert list(complaints(bad)) == bad.splitlines()
