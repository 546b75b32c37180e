"""The frame: help, version, errors in one line, exit statuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.main import get_command

import millstream
from millstream.cli import main
from millstream.cli.app import execute, make_app
from tests.cli.conftest import Cli

ROOT = Path(__file__).parents[2]

Captured = pytest.CaptureFixture[str]


def commands() -> dict[str, list[str]]:
    """Each command with its options, as typer sees them; hidden ones are left out."""
    root = get_command(make_app())
    found: dict[str, list[str]] = {}
    for name, command in root.commands.items():  # type: ignore[attr-defined]  # it is a group
        options = [param for param in command.params if not getattr(param, "hidden", False)]
        found[name] = [
            word
            for param in options
            for word in (param.opts if param.param_type_name == "option" else [param.metavar])
        ]
    return found


def test_version(capsys: Captured) -> None:
    """`--version` prints name and version."""
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out == f"millstream {millstream.__version__}\n"


def test_scripts_can_read_all() -> None:
    """Every command takes --json, but for `run`, which prints a log."""
    root = get_command(make_app())
    without = [
        name
        for name, command in root.commands.items()  # type: ignore[attr-defined]  # it is a group
        if not any("--json" in param.opts for param in command.params)
    ]
    assert without == ["run"]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(arguments: list[str], capsys: Captured) -> None:
    """Without a command, and when asked, it lists the commands."""
    assert execute(arguments) == 0

    out, err = capsys.readouterr()
    assert err == ""
    assert "Usage: millstream" in out
    assert [name for name in commands() if not re.search(rf"^ +{name} ", out, re.MULTILINE)] == []


@pytest.mark.parametrize("command", commands())
def test_help_of_a_command(command: str, capsys: Captured) -> None:
    """Each command has a short help text with an example of itself that fits on a line."""
    assert execute([command, "--help"]) == 0

    out = capsys.readouterr().out
    assert f"Example: millstream {command}" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "\x1b" not in out


def test_as_a_module() -> None:
    """`python -m millstream` is the command."""
    done = subprocess.run(
        [sys.executable, "-m", "millstream", "--version"], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"millstream ")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(missing: str) -> None:
    """Without typer or rich it says what to install, in one line, and ends with 1."""
    script = (
        f"import sys; sys.modules[{missing!r}] = None;"
        "from millstream.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "pip install 'millstream[cli]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sned orders", "no such command 'sned'. Did you mean 'send'? See: millstream --help"),
        ("xyz", "no such command 'xyz'. See: millstream --help"),
        ("--nonsense", "no such option: --nonsense"),
        ("send", "missing argument 'QUEUE'. See: millstream send --help"),
        ("stats --jsno", "no such option: --jsno"),
        ("receive orders --count 0", "--count"),
        ("receive orders --count many", "--count"),
        ("receive orders --wait 1 --follow", "give either --wait or --follow"),
        ("send orders", "give either BODY arguments or --from FILE"),
        ("send orders 1 --from x.jsonl", "give either BODY arguments or --from FILE"),
        ("send orders 1 hello", "BODY 2 is not JSON"),
        ("send orders 1 --header x", "--header takes NAME=VALUE, not 'x'"),
        ("send orders --from /nowhere.jsonl", "cannot read /nowhere.jsonl: No such file"),
        ("send a{b 1", "must be 1 to 200 characters without whitespace, braces and slashes"),
        ("send \udcff 1", "must be valid UTF-8"),
        ("stats --namespace a/b", "namespace must be 1 to 200 characters"),
        ("stats --url localhost", "'localhost' is not a URL of redis://"),
        ("dead orders --after x", "--after takes a cursor"),
        ("dead orders --limit 0", "--limit"),
        ("redrive orders", "--all, or --id ID, or --reason GLOB"),
        ("redrive orders --all --id 1-0", "--all, or --id ID, or --reason GLOB"),
        ("redrive orders --all --rate 0", "rate must be"),
        ("run tasks", "name the worker as MODULE:WORKER"),
        ("run tasks:", "name the worker as MODULE:WORKER"),
        ("run tasks:worker --log-level loud", "--log-level"),
    ],
)
def test_bad_usage(
    line: str, said: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """A wrong command line ends with 2 and one line on stderr that says what to do."""
    monkeypatch.setenv("MILLSTREAM_URL", url)

    assert execute(line.split(" ")) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("millstream: ")
    assert said in err
    assert len(err.splitlines()) == 1


def test_purge_wants_to_be_sure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal to ask on, purge does nothing without --yes."""
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        done = cli("purge", "orders")

    assert (done.status, done.out) == (2, "")
    assert "confirm it with --yes" in done.err


@pytest.mark.parametrize("line", ["stats", "send orders 1", "receive orders", "purge orders --yes"])
def test_unreachable_server(line: str, capsys: Captured) -> None:
    """When nobody answers, it names the URL without the password, and ends with 1."""
    arguments = [*line.split(), "--url", "redis://ann:secret@127.0.0.1:1"]
    assert execute(arguments) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("millstream: cannot reach redis://ann:***@127.0.0.1:1")
    assert "$MILLSTREAM_URL" in err
    assert "secret" not in err
    assert len(err.splitlines()) == 1


def test_url_comes_from_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """--url wins over $MILLSTREAM_URL."""
    monkeypatch.setenv("MILLSTREAM_URL", "redis://127.0.0.1:1")
    assert cli("stats").status == 1
    monkeypatch.setenv("MILLSTREAM_URL", "redis://127.0.0.1:2")
    assert "127.0.0.1:3" in cli("stats", "--url", "redis://127.0.0.1:3").err


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Ctrl-C ends any command with 130 and without a traceback."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("millstream.cli.stats.Client", interrupt)
    assert execute(["stats"]) == 130
    assert capsys.readouterr() == ("", "")


def test_interrupted_while_it_loads(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Ctrl-C right after the start ends it in the same way."""

    class Loading(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "millstream.cli.app", Loading("millstream.cli.app"))
    assert main() == 130
    assert capsys.readouterr() == ("", "")


def test_standard_output_that_is_closed() -> None:
    """Without a place for its output it does nothing, says so, and ends with 2."""
    command = f"{sys.executable} -m millstream --version >&-"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("millstream: standard output is closed")
    assert len(done.stderr.splitlines()) == 1


def test_a_further_command_is_one_line(capsys: Captured) -> None:
    """A command that returns a number ends with that status."""
    app = make_app()

    @app.command()
    def demo() -> int:
        return 7

    assert isinstance(app, typer.Typer)
    command = get_command(app)
    with command.make_context("millstream", ["demo"]) as context:
        assert command.invoke(context) == 7
    assert capsys.readouterr().out == ""


def section(page: str, name: str) -> str:
    """The part of the page under a heading, with what holds for all commands."""
    parts = re.split(r"^## ", page, flags=re.MULTILINE)
    common = next(part for part in parts if part.startswith("What all"))
    return common + next((part for part in parts if part.startswith(f"{name}\n")), "")


@pytest.mark.parametrize("command", commands())
def test_everything_is_documented(command: str) -> None:
    """docs/cli.md has a section for each command, with an example, and names every option."""
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    text = section(page, command)

    assert f"\n## {command}\n" in page
    assert f"$ millstream {command}" in text
    assert [word for word in commands()[command] if word not in text] == []
