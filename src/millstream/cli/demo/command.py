"""``millstream demo``."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from pathlib import Path

from millstream.cli.demo.count import source_files
from millstream.cli.demo.outcome import Outcome, problems
from millstream.cli.demo.report import (
    answers_table,
    for_scripts,
    longest_table,
    topic_table,
    workers_table,
)
from millstream.cli.demo.show import Show
from millstream.cli.demo.signals import Signals
from millstream.cli.demo.stage import run_demo
from millstream.cli.options import Json, Url
from millstream.cli.output import Failed, show_json, show_table, show_text
from millstream.driver.target import ENVIRONMENT_VARIABLE, hide_password

__all__ = ["commands_to_try", "demo", "present"]

TRY_NEXT = ("send hello '{\"n\": 1}'", "receive hello", "stats")


def demo(json_output: Json = False, url: Url = None) -> None:
    """See it work: two processes count the standard library, one is killed, nothing is lost.

    What they find goes to a topic, too: two subscriptions follow, a third joins late. In the end
    fifty callers at a time ask an endpoint about it.
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
        show_json(for_scripts(outcome, wrong))
    else:
        for table in (workers_table, topic_table, longest_table, answers_table):
            show_text("")
            show_table(*table(outcome))
        show_text("")
    if wrong:
        raise Failed(f"the demo failed: {'; '.join(wrong)}", status=1)
    if not json_output:
        show_text("Nothing was lost, nothing was counted twice, every answer was right. Now try:\n")
        for command in commands:
            show_text(f"  {command}")


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
