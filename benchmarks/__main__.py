"""``python -m benchmarks``: measure, and show what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import (
    consuming,
    delays,
    durability,
    end_to_end,
    features,
    flatness,
    idle,
    latency,
    memory,
    requests,
    sending,
    streams,
    topics,
)
from benchmarks.measure import Bench, Row, Sizes, Topic
from benchmarks.report import WIDTH, as_json, machine, print_table
from benchmarks.server import running_server

__all__ = ["main"]

TOPICS: Mapping[str, Topic] = {
    "sending": sending.TOPIC,
    "durability": durability.TOPIC,
    "consuming": consuming.TOPIC,
    "end-to-end": end_to_end.TOPIC,
    "features": features.TOPIC,
    "topics": topics.TOPIC,
    "requests": requests.TOPIC,
    "streams": streams.TOPIC,
    "latency": latency.TOPIC,
    "memory": memory.TOPIC,
    "delays": delays.TOPIC,
    "idle": idle.TOPIC,
    "flatness": flatness.TOPIC,
}

RESULT = Path("build", "benchmarks.json")
"""``build/`` is ignored by git, and removed by ``make clean``."""

REPEAT = 5

QUICK = Sizes(
    bulk=20_000,
    middle=4_000,
    single=1_000,
    latencies=200,
    stored=20_000,
    delayed=10_000,
    due_for=1.0,
    settling=1.0,
    idling=3.0,
    depths=(1_000, 10_000, 100_000),
)


def main(arguments: Sequence[str] | None = None, sizes: Sizes | None = None) -> int:
    """Run what the arguments ask for; return the exit status.

    Args:
        arguments: of the command line.
        sizes: instead of the usual ones, for tests.
    """
    options = _parse(arguments)
    if options.list:
        for name, topic in TOPICS.items():
            print(f"{name}: {topic.about}\n    {' '.join(topic.names)}")
        return 0
    chosen = sizes or (QUICK if options.quick else Sizes())
    repeat = options.repeat or (1 if options.quick else REPEAT)
    # Standard output is for one thing: the JSON if it was asked for there, else the table.
    console = Console(stderr=options.json == "-")
    if not console.is_terminal:
        console.width = WIDTH
    with running_server() as address, Console(stderr=True).status("") as status:
        bench = Bench(address, chosen, repeat, status.update)
        facts = machine(bench.bare)
        rows = _measure(bench, options.only)
        bench.bare.close()
    print_table(console, facts, repeat, rows)
    text = as_json(facts, {"quick": options.quick, "repeat": repeat, "only": options.only}, rows)
    if options.json == "-":
        sys.stdout.write(text)
    else:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        console.print(f"All figures: {path}", highlight=False)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        choices=[*TOPICS, *(name for topic in TOPICS.values() for name in topic.names)],
        help="measure these topics or rows; see --list",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one run: a look")
    parser.add_argument(
        "--repeat",
        type=_positive,
        metavar="N",
        help=f"runs of each, of which the median counts (default: {REPEAT}; with --quick: 1)",
    )
    parser.add_argument(
        "--json",
        default=str(RESULT),
        metavar="FILE",
        help="where to write all figures; - for standard output (default: %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="list topics and rows")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _measure(bench: Bench, only: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for name, topic in TOPICS.items():
        whole = not only or name in only
        wanted = frozenset(topic.names if whole else set(topic.names) & set(only))
        if wanted:
            rows += topic.run(bench, wanted)
    return rows


if __name__ == "__main__":
    sys.exit(main())
