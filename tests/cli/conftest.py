"""Run the command in this process (fast) or as a process of its own (pipes and signals)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from millstream import Client, Queue, Topic
from millstream.cli.app import execute
from tests.support.mortal import Mortal


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        """Its output, read as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Outcome]


class Spawn(Protocol):
    """Starts the command as a process; further arguments go to Popen."""

    def __call__(self, *words: str, **options: Any) -> subprocess.Popen[str]: ...


@pytest.fixture
def cli(
    url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """Run a command line in this process, on the test's server and namespace."""
    return cli_for(url, namespace, monkeypatch, capfd)


@pytest.fixture
def any_cli(
    any_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """The same, on each supported server in turn."""
    return cli_for(any_url, namespace, monkeypatch, capfd)


def cli_for(
    url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    monkeypatch.setenv("MILLSTREAM_URL", url)

    def run(*words: str) -> Outcome:
        capfd.readouterr()
        status = execute([*words[:1], "--namespace", namespace, *words[1:]])
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run


@pytest.fixture
def doctor(
    namespace: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """Examine what a URL leads to, quickly: the URL, then further words."""

    def run(url: str, *words: str) -> Outcome:
        return cli_for(url, namespace, monkeypatch, capfd)("doctor", "--seconds", "0", *words)

    return run


@pytest.fixture
def spawn(url: str, namespace: str) -> Iterator[Spawn]:
    """Start a command line as a process of its own, on the test's server and namespace."""
    started: list[Mortal[str]] = []

    def start(*words: str, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "MILLSTREAM_URL": url}
        # As users have it: what is printed is buffered, also where the tests run without buffers.
        environment.pop("PYTHONUNBUFFERED", None)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = Mortal[str](
            [sys.executable, "-m", "millstream", *words[:1], "--namespace", namespace, *words[1:]],
            env=environment,
            text=True,
            **{**pipes, **options},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:  # closes its pipes, too
            pass


@pytest.fixture
def client(url: str, namespace: str) -> Iterator[Client]:
    """A client of the test's server and namespace."""
    with Client(url, namespace=namespace) as client:
        yield client


@pytest.fixture
def queue() -> Queue[Any]:
    """A queue of JSON values."""
    return Queue("orders")


def keep(client: Client, topic: Topic[Any]) -> None:
    """Have a topic keep what is published, for a subscription that nobody reads."""
    client.declare(topic.subscription("keeper"))
