"""The benchmarks run, with sizes so small that their figures mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import TOPICS, main
from benchmarks.latency import percentile
from benchmarks.measure import Bench, Goal, Row, Sizes
from benchmarks.messages import BODIES
from benchmarks.server import running_server

ROOT = Path(__file__).parents[2]
TINY = Sizes(
    bulk=1_000,
    middle=200,
    single=50,
    latencies=10,
    stored=1_000,
    delayed=200,
    due_for=0.2,
    settling=0.1,
    idling=0.2,
    depths=(100, 1_000),
)
NAMES = {name for topic in TOPICS.values() for name in topic.names}


def row(value: float = 1.0, *ratios: float) -> Row:
    return Row(topic="t", name="n", title="N", unit="u", value=value, ratios=ratios)


@pytest.mark.timeout(240)
def test_a_whole_run_has_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run measures what --list promises, says on what machine, and writes both down."""
    path = tmp_path / "new" / "result.json"

    assert main(["--json", str(path), "--repeat", "1"], TINY) == 0

    result = json.loads(path.read_text("utf-8"))
    rows = {one["name"]: one for one in result["rows"]}
    # Flatness has a row for each depth.
    flat = {name.removesuffix(f"_{depth}") for depth in TINY.depths for name in rows}
    assert flat >= NAMES
    assert {name for name, one in rows.items() if one["topic"] != "flatness"} <= NAMES
    assert all(one["value"] > 0 for name, one in rows.items() if name != "idle_commands")
    assert all(one["ratio"] > 0 for one in rows.values() if one["against"])
    assert result["options"] == {"quick": False, "repeat": 1, "only": []}
    printed = capsys.readouterr().out
    assert all(one["title"] in printed for one in rows.values())
    assert result["machine"]["server"] in printed


def test_parts_are_chosen_by_name_and_json_goes_to_a_pipe() -> None:
    """`--only NAME --json -` measures that, and leaves standard output to the JSON."""
    command = [sys.executable, "-m", "benchmarks"]
    options = ["--quick", "--only", "memory", "send_server_cpu", "--json", "-"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=True
    )

    rows = {one["name"]: one for one in json.loads(done.stdout)["rows"]}
    assert set(rows) == {"memory", "send_server_cpu"}
    assert rows["memory"]["goal"] == {"of": "ratio", "least": None, "most": 1.15}
    assert rows["memory"]["met"] is True
    assert "bytes/message" in done.stderr


def test_the_list_names_every_topic_and_row(capsys: pytest.CaptureFixture[str]) -> None:
    """--list shows what --only takes, and measures nothing."""
    assert main(["--list"]) == 0

    words = capsys.readouterr().out.replace(":", " ").split()
    assert NAMES | set(TOPICS) <= set(words)


@pytest.mark.parametrize("arguments", [["--only", "speed"], ["--repeat", "0"], ["--fast"]])
def test_wrong_arguments_end_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A name, number or option that makes no sense is refused before anything runs."""
    with pytest.raises(SystemExit) as end:
        main(arguments)

    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_run_that_left_messages_is_an_error() -> None:
    """What did not do its work is not timed."""
    with running_server() as address:
        bench = Bench(address, TINY, 1, print)

        with pytest.raises(RuntimeError, match="0 messages are in the queue, there should be 1"):
            bench.expect(1)
        bench.bare.close()


def test_the_server_ends_with_the_benchmarks() -> None:
    """Nothing is left behind: neither the server nor its directory."""
    with running_server() as address:
        assert Path(address).exists()

    assert not Path(address).parent.exists()


def test_bodies_have_100_bytes() -> None:
    """The figures are those of messages of one known size."""
    assert {len(body) for body in BODIES} == {100}


@pytest.mark.parametrize(
    ("goal", "subject", "met"),
    [
        (Goal("ratio", least=0.8), row(5.0, 0.7, 0.9, 0.8), True),
        (Goal("ratio", least=0.8), row(5.0, 0.7, 0.9, 0.79), False),
        (Goal("ratio", least=0.9, most=1.1), row(5.0, 1.2), False),
        (Goal("ratio", most=1.1), row(5.0), False),
        (Goal("value", most=1.0), row(1.0), True),
        (Goal("value", most=1.0), row(1.1, 0.5), False),
    ],
)
def test_goals_bound_the_median(goal: Goal, subject: Row, met: bool) -> None:
    """A goal is met when the median ratio, or the value, is within its bounds."""
    assert goal.met(subject) is met


def test_percentiles_are_measured_values() -> None:
    """The p99 of 200 values is the 198th: two are slower."""
    values = [float(number) for number in range(200, 0, -1)]

    assert percentile(values, 99) == 198.0
    assert percentile(values, 50) == 100.0
    assert percentile([7.0], 99) == 7.0
