"""The list of commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from millstream import __version__
from millstream.cli import INTERRUPTED
from millstream.cli.acl import acl
from millstream.cli.control import cancel, pause, resume
from millstream.cli.demo.command import demo
from millstream.cli.doctor import doctor
from millstream.cli.letters import dead, peek
from millstream.cli.output import Failed, say
from millstream.cli.publish import publish
from millstream.cli.receive import receive
from millstream.cli.repair import purge, redrive
from millstream.cli.replay import replay
from millstream.cli.request import request
from millstream.cli.reschedule import reschedule
from millstream.cli.run import run
from millstream.cli.schedules import schedules
from millstream.cli.send import send
from millstream.cli.server import server
from millstream.cli.stats import stats
from millstream.cli.subscribe import subscribe
from millstream.cli.subscriptions import seek, unsubscribe
from millstream.errors import MillstreamError, NotConnected, UsageError

__all__ = ["execute", "make_app"]

# Newer versions of typer have their own copy of click, so the class has no name that is the same
# everywhere.
_ClickException: Any = typer.BadParameter.__mro__[2]


def make_app() -> typer.Typer:
    """Put the commands together, each with an example."""
    app = typer.Typer(
        name="millstream",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_millstream)
    app.command(epilog="Example: millstream demo")(demo)
    app.command(epilog="""Example: millstream send orders '{"id": 1}' '{"id": 2}'""")(send)
    app.command(epilog="Example: millstream receive orders --count 10")(receive)
    app.command(epilog="""Example: millstream publish orders.placed '{"id": 1}'""")(publish)
    app.command(epilog="Example: millstream subscribe orders.placed mail")(subscribe)
    app.command(epilog="Example: millstream replay orders.placed --limit 10")(replay)
    app.command(epilog="""Example: millstream request prices.quote '{"sku": "A1"}'""")(request)
    app.command(epilog="Example: millstream stats orders")(stats)
    app.command(epilog="Example: millstream peek orders --limit 3")(peek)
    app.command(epilog="Example: millstream dead orders --traceback")(dead)
    app.command(epilog="Example: millstream redrive orders --reason 'attempts'")(redrive)
    app.command(epilog="Example: millstream pause orders")(pause)
    app.command(epilog="Example: millstream resume orders")(resume)
    app.command(epilog="Example: millstream cancel orders 1718000000123-0")(cancel)
    app.command(epilog="Example: millstream purge orders --dead --yes")(purge)
    app.command(epilog="Example: millstream seek orders.placed mail --to earliest")(seek)
    app.command(epilog="Example: millstream unsubscribe orders.placed mail --yes")(unsubscribe)
    app.command(epilog="Example: millstream schedules orders --pause nightly")(schedules)
    app.command(epilog="Example: millstream reschedule orders 1718000000123-0 --delay 60")(
        reschedule
    )
    app.command(epilog="Example: millstream run tasks:worker --processes 4")(run)
    app.command(epilog="Example: millstream server --dir ./data --aof always")(server)
    app.command(epilog="Example: millstream doctor --json")(doctor)
    app.command(epilog="Example: millstream acl worker --queue orders --user shop")(acl)
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
    command = typer.main.get_command(make_app())
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
