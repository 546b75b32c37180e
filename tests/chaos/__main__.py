"""``python -m tests.chaos``: run the fault suite, and show what came out."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from tests.chaos.report import as_markdown, figures, timeline
from tests.chaos.run import Outcome, Plan, run
from tests.chaos.topologies import TOPOLOGIES
from tests.support.servers import SERVERS, binary, installed

__all__ = ["main"]

RATE = 60.0
SHOWN = 5
"""Violations of each rule that are shown with all that is known: thousands may have one cause."""


LONGEST = 7 * 24 * 60
FASTEST = 10_000


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long faults begin (1)")
    parser.add_argument("--seed", type=int, help="decides what is broken; default: a random one")
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default="single")
    parser.add_argument("--rate", type=float, default=RATE, help="messages a second (60)")
    parser.add_argument("--server", help="such as redis-8.2; default: valkey-8.1")
    parser.add_argument("--fsync", choices=("always", "everysec"), help="single: always")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--keep", type=Path, help="a folder for the records, kept in any case")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes <= LONGEST or not 0 < options.rate <= FASTEST:
        parser.error("--minutes and --rate must be above 0, and as large as makes sense")
    if options.fsync is not None and options.topology != "single":
        parser.error("--fsync is for --topology single: elsewhere replicas keep what is confirmed")
    if options.server is not None and binary_or_none(options.server) is None:
        parser.error(f"no {options.server} is installed; those that are: {', '.join(installed())}")
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"{options.keep} is not empty: it has the records of another run")
    return options


def binary_or_none(name: str) -> Path | None:
    """Return the program of a server; None: it is not installed, or nobody knows it."""
    return binary(name) if name in SERVERS else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0: nothing was broken, 1: something was, and the records are kept."""
    options = _options(arguments)
    # So that no process is left behind, whoever ends this one.
    signal.signal(signal.SIGTERM, _end)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    settings = {"server_name": options.server, "persistence": options.fsync}
    given = {name: value for name, value in settings.items() if value is not None}
    topology = TOPOLOGIES[options.topology](**given)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="millstream-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, records in {folder}", file=sys.stderr, flush=True)
    plan = Plan(seed, options.minutes * 60, options.rate)
    outcome = run(plan, topology, folder)
    said = {"minutes": f"{options.minutes:g}", "seed": seed, "topology": options.topology}
    said |= {"server": options.server, "fsync": options.fsync}
    said |= {"rate": None if options.rate == RATE else f"{options.rate:g}"}
    arguments = " ".join(f"--{name} {value}" for name, value in said.items() if value is not None)
    command = f'make faults ARGS="{arguments}"'
    _show(outcome, command, options)
    if not outcome.violations and options.keep is None:
        shutil.rmtree(folder)
    return 1 if outcome.violations else 0


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _show(outcome: Outcome, command: str, options: argparse.Namespace) -> None:
    if options.json:
        told = {
            "seed": outcome.plan.seed,
            "command": command,
            "servers": outcome.servers,
            "figures": asdict(figures(outcome)),
            "faults": [asdict(fault) for fault in outcome.faults],
            "violations": [asdict(violation) for violation in outcome.violations],
        }
        print(json.dumps(told, indent=2))
        return
    print(as_markdown(outcome, command))
    for rule, times in Counter(one.rule for one in outcome.violations).items():
        print(f"\n{times} times {rule}, such as:")
        for violation in [one for one in outcome.violations if one.rule == rule][:SHOWN]:
            print(f"\n{violation}")
            print(*(f"  {line}" for line in timeline(outcome.events, violation.cid)), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
