"""The list of commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from millstream import __version__
from millstream.cli import INTERRUPTED
from millstream.cli.output import Failed, say
from millstream.errors import MillstreamError, NotConnected, UsageError

__all__ = ["execute", "make_app"]

# Newer versions of typer have their own copy of click, so the class has no name that is the same
# everywhere.
_ClickException: Any = typer.BadParameter.__mro__[2]


_COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("demo.command", "demo"),
    "send": ("send", """send orders '{"id": 1}' '{"id": 2}'"""),
    "receive": ("receive", "receive orders --count 10"),
    "publish": ("publish", """publish orders.placed '{"id": 1}'"""),
    "subscribe": ("subscribe", "subscribe orders.placed mail"),
    "replay": ("replay", "replay orders.placed --limit 10"),
    "request": ("request", """request prices.quote '{"sku": "A1"}'"""),
    "stats": ("stats", "stats orders"),
    "peek": ("letters", "peek orders --limit 3"),
    "in-flight": ("in_flight", "in-flight orders"),
    "dead": ("letters", "dead orders --traceback"),
    "redrive": ("repair", "redrive orders --reason 'attempts'"),
    "pause": ("control", "pause orders"),
    "resume": ("control", "resume orders"),
    "cancel": ("control", "cancel orders 1718000000123-0"),
    "purge": ("repair", "purge orders --dead --yes"),
    "seek": ("subscriptions", "seek orders.placed mail --to earliest"),
    "unsubscribe": ("subscriptions", "unsubscribe orders.placed mail --yes"),
    "schedules": ("schedules", "schedules orders --pause nightly"),
    "reschedule": ("reschedule", "reschedule orders 1718000000123-0 --delay 60"),
    "run": ("run", "run tasks:worker --processes 4"),
    "server": ("server", "server --dir ./data --aof always"),
    "doctor": ("doctor", "doctor --json"),
    "acl": ("acl", "acl worker --queue orders --user shop"),
}
"""Where each is: a module of this package that has a function of the same name (with ``_`` for ``-``);
and an example."""


def make_app(names: Sequence[str] = (*_COMMANDS,)) -> typer.Typer:
    """Put the commands together, each with an example.

    Args:
        names: those that are wanted. To import and declare all of them takes longer than most take to run.
    """
    app = typer.Typer(
        name="millstream",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_millstream)
    for name in names:
        module, example = _COMMANDS[name]
        function = getattr(import_module(f"millstream.cli.{module}"), name.replace("-", "_"))
        app.command(epilog=f"Example: millstream {example}")(function)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"millstream {__version__}")
        raise typer.Exit


def _millstream(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Queues, topics and endpoints on Redis or Valkey: send, publish, ask, and run workers."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def execute(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: without the name of the program.

    Returns:
        The exit status: 0; 1: the server, or what a command reports; 2: fix the command line;
        130: Ctrl-C. What went wrong stands in one line on stderr.
    """
    if sys.stdout is None:  # a shell's >&-
        say("standard output is closed: use >/dev/null if you do not want it")
        return 2
    # Of the other ones, only the list of all commands knows.
    wanted = arguments[:1] if arguments[:1] and arguments[0] in _COMMANDS else [*_COMMANDS]
    command = typer.main.get_command(make_app(wanted))
    try:
        with command.make_context("millstream", list(arguments)) as context:
            result = command.invoke(context)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Exit as end:
        return end.exit_code
    except (Failed, MillstreamError, OSError, _ClickException) as error:
        status = _explain(error)
        try:
            sys.stdout.flush()
        except OSError:
            # What could not be written is still there.
            _drop_output()
        return status
    return result if isinstance(result, int) else 0


def _explain(error: Any) -> int:
    """Say in one line what is wrong; return the exit status."""
    if isinstance(error, _ClickException):
        say(_usage(error))
        return int(error.exit_code)
    hint = ". Set another server with --url or $MILLSTREAM_URL"
    say(f"{str(error).rstrip('.')}{hint if isinstance(error, NotConnected) else ''}")
    if isinstance(error, Failed):
        return error.status
    return 2 if isinstance(error, UsageError) else 1


def _usage(error: Any) -> str:
    """Turn click's error into a sentence that says what to do."""
    text = error.format_message()
    context = getattr(error, "ctx", None)
    if context is None:
        return str(text)
    end = "" if text.endswith((".", "?")) else "."
    return f"{text[:1].lower()}{text[1:]}{end} See: {context.command_path} --help"


def _drop_output() -> None:
    """Send the rest of the output nowhere: nobody takes it, and the interpreter would flush."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
