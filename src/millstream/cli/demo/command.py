"""``millstream demo``."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from millstream.cli.demo.count import Figures, source_files
from millstream.cli.demo.outcome import Outcome, problems
from millstream.cli.demo.show import Show
from millstream.cli.demo.signals import Signals
from millstream.cli.demo.stage import WORKERS, run_demo
from millstream.cli.options import Json, Url
from millstream.cli.output import Failed, show_json, show_table, show_text
from millstream.driver.target import ENVIRONMENT_VARIABLE, hide_password

__all__ = ["commands_to_try", "demo", "present"]

TRY_NEXT = ("send hello '{\"n\": 1}'", "receive hello", "stats")


def demo(json_output: Json = False, url: Url = None) -> None:
    """See it work: two processes count the standard library, one is killed, nothing is lost.

    Without a URL it starts a server of its own in a temporary directory. With one it uses a
    namespace of its own and deletes it at the end.
    """
    show = Show(silent=json_output)
    files = source_files()
    if not files:
        raise Failed("this Python has no source files of its standard library", status=1)
    version = platform.python_version()
    show.line("demo", f"count what is in the standard library of Python {version}")
    with Signals() as signals:
        outcome = run_demo(files, show, url=url, signals=signals)
    present(outcome, json_output=json_output, commands=commands_to_try(url))


def present(outcome: Outcome, *, json_output: bool, commands: list[str]) -> None:
    """Print what came out.

    Args:
        outcome: of the demo.
        json_output: for scripts, not for people.
        commands: to try next.

    Raises:
        Failed: it is not what it should be.
    """
    wrong = problems(outcome)
    if json_output:
        show_json(_for_scripts(outcome, wrong))
    else:
        show_text("")
        show_table(("", f">{WORKERS} workers", ">1 process alone"), _rows(outcome))
        show_text("")
    if wrong:
        raise Failed(f"the demo failed: {'; '.join(wrong)}", status=1)
    if not json_output:
        show_text("Nothing was lost and nothing was counted twice. Now try:\n")
        for command in commands:
            show_text(f"  {command}")


def _rows(outcome: Outcome) -> list[list[str]]:
    ours, alone = outcome.workers, outcome.alone
    after = ours.redelivered_after
    rows = [
        [field.name, *(f"{getattr(one.figures, field.name):,}" for one in (ours, alone))]
        for field in fields(Figures)
    ]
    rows.append(["seconds", f"{ours.seconds:.1f}", f"{alone.seconds:.1f}"])
    only_ours = {
        "messages/s": f"{outcome.rate:,}",
        "deliveries": f"{ours.deliveries:,}",
        "failed attempts": f"{ours.failed:,}",
        "in flight at the kill": "-" if ours.killed is None else f"{ours.in_flight:,}",
        "redelivered after it": f"{ours.redelivered:,}",
        "first ran again after": "-" if after is None else f"{after:.2f} s",
        "duplicates dropped": f"{ours.duplicates:,}",
        "lost": f"{outcome.lost:,}",
    }
    return rows + [[name, value, ""] for name, value in only_ours.items()]


def _for_scripts(outcome: Outcome, wrong: list[str]) -> dict[str, Any]:
    ours, alone = outcome.workers, outcome.alone
    after = ours.redelivered_after
    return {
        "server": outcome.server,
        "python": outcome.python,
        **asdict(ours.figures),
        "seconds": round(ours.seconds, 3),
        "messages_per_second": outcome.rate,
        "workers": ours.workers,
        "deliveries": ours.deliveries,
        "failed": ours.failed,
        "killed": ours.killed,
        "in_flight_at_kill": ours.in_flight,
        "redelivered": ours.redelivered,
        "redelivered_after_seconds": None if after is None else round(after, 3),
        "duplicates": ours.duplicates,
        "lost": outcome.lost,
        "one_process": {**asdict(alone.figures), "seconds": round(alone.seconds, 3)},
        "problems": wrong,
    }


def commands_to_try(url: str | None) -> list[str]:
    """Return commands that work as they stand, in the shell that called this one."""
    option = ""
    if url is not None and url != os.environ.get(ENVIRONMENT_VARIABLE):
        # A password that was typed once need not be printed.
        option = f" --url {shlex.quote(hide_password(url))}"
    return [f"{_program()} {rest}{option}" for rest in TRY_NEXT]


def _program() -> str:
    """Return what to type to get this program."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m millstream"
    found = shutil.which(called.name)
    return called.name if found and Path(found).samefile(called) else shlex.quote(str(called))
