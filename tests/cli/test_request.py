"""`millstream request`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from millstream import AsyncClient, Client, Endpoint, Queue, Request, Worker
from tests.cli.conftest import Cli, Spawn
from tests.support.wait import until

QUOTE: Endpoint[Any, Any] = Endpoint("prices.quote")

Answer = Callable[..., Any]
Serve = Callable[[Answer], None]


@pytest.fixture
def serve(url: str, namespace: str, admin: redis.Redis) -> Iterator[Serve]:
    """Has a function answer requests, in a worker in a thread of its own."""
    with contextlib.ExitStack() as stack:

        def begin(answer: Answer) -> None:
            worker = Worker(shutdown_timeout=0.1, tracebacks=True)
            worker.on(QUOTE)(answer)
            loops: list[asyncio.AbstractEventLoop] = []

            async def run() -> None:
                loops.append(asyncio.get_running_loop())
                async with AsyncClient(url, namespace=namespace) as mq:
                    await worker.run(mq)

            thread = threading.Thread(target=asyncio.run, args=(run(),))
            thread.start()
            stack.callback(thread.join)
            stack.callback(lambda: loops[0].call_soon_threadsafe(worker.stop))
            until(lambda: admin.exists(f"{namespace}:{{{QUOTE.name}}}:members"))

        yield begin


async def double(n: int) -> int:
    return 2 * n


def test_a_reply_is_printed(cli: Cli, serve: Serve) -> None:
    """The reply stands on stdout as JSON, in one line."""
    serve(double)

    done = cli("request", "prices.quote", " 21 ")

    assert (done.status, done.out, done.err) == (0, "42\n", "")


def test_a_reply_for_scripts(cli: Cli, serve: Serve) -> None:
    """With --json it is part of an object that says how long it took."""
    serve(double)

    done = cli("request", "prices.quote", "21", "--json")

    (found,) = done.objects
    assert found.pop("seconds") > 0
    assert (done.status, found) == (0, {"endpoint": "prices.quote", "reply": 42})


def test_headers_and_the_deadline_arrive(cli: Cli, serve: Serve) -> None:
    """The handler sees the headers, and how long the caller waits."""

    async def look(_: Any, request: Request[Any]) -> list[Any]:
        # The server's clock is known to the millisecond.
        return [dict(request.headers), 30 < request.time_left < 40.002]

    serve(look)

    done = cli("request", "prices.quote", "null", "--header", "a=b=c", "--timeout", "40")

    assert done.objects == [[{"a": "b=c"}, True]]


def test_a_request_from_a_file(cli: Cli, serve: Serve, tmp_path: Path) -> None:
    """--from sends what is in a file, an array and line breaks included, as one request."""

    async def same(body: Any) -> Any:
        return body

    serve(same)
    file = tmp_path / "request.json"
    file.write_text('[1,\n {"price": 1.10}]\n')

    assert cli("request", "prices.quote", "--from", str(file)).objects == [[1, {"price": 1.1}]]


def test_a_request_from_standard_input(spawn: Spawn, serve: Serve) -> None:
    """--from - reads standard input to its end."""
    serve(double)

    assert spawn("request", "prices.quote", "--from", "-").communicate("4\n") == ("8\n", "")


def test_a_reply_that_is_no_json(
    cli: Cli, serve: Serve, client: Client, admin: redis.Redis
) -> None:
    """A reply of another codec is shown in base64, as bodies are."""
    serve(double)  # somebody is there; what answers is below, and speaks the wire format by hand
    client.pause(QUOTE.queue)
    prefix = f"{client.namespace}:{{"

    def answer() -> None:
        entries: Any = until(lambda: admin.xrange(f"{prefix}prices.quote}}:ready"))
        ((number, fields),) = entries
        name, slot = fields[b"r"].decode().split(" ")
        mail: Any = {"reply": b"\xc1", "c": slot}
        admin.xadd(f"{prefix}client/{name}}}:mailbox", mail, nomkstream=True)
        admin.xdel(f"{prefix}prices.quote}}:ready", number)

    thread = threading.Thread(target=answer)
    thread.start()
    done = cli("request", "prices.quote", "1")
    thread.join()

    assert done.objects == [{"base64": "wQ=="}]


def test_progress_goes_to_stderr(cli: Cli, serve: Serve) -> None:
    """With --progress each note is a line on stderr; without it there is none."""

    async def work(_: Any, request: Request[Any]) -> str:
        await request.progress({"done": 1})
        await request.progress("nearly\nthere")
        return "done"

    serve(work)

    shown = cli("request", "prices.quote", "1", "--progress")
    assert shown.out == '"done"\n'
    assert shown.err.splitlines() == [
        'millstream: progress: {"done":1}',
        'millstream: progress: "nearly\\nthere"',
    ]
    assert cli("request", "prices.quote", "1").err == ""


def test_nobody_serves_it(cli: Cli, client: Client) -> None:
    """Without a worker it fails at once, with 1 and a line, and sends nothing."""
    done = cli("request", "prices.quote", "1", "--timeout", "600", "--json")

    assert done.status == 1
    (found,) = done.objects
    assert (found["endpoint"], found["error"]) == ("prices.quote", "NoResponders")
    assert found["message"].startswith("endpoint 'prices.quote': no worker serves it")
    assert done.err == f"millstream: {found['message']}\n"
    assert client.stats(Queue("prices.quote")).sent == 0


def test_what_the_handler_raised(cli: Cli, serve: Serve) -> None:
    """An exception of the handler is a line on stderr; for scripts its parts stand by themselves."""

    async def fail(_: Any) -> None:
        message = "out of stock"
        raise ValueError(message)

    serve(fail)

    done = cli("request", "prices.quote", "1")
    assert (done.status, done.out) == (1, "")
    assert done.err.endswith("raised ValueError: out of stock\n")

    done = cli("request", "prices.quote", "1", "--json")
    assert done.status == 1
    (found,) = done.objects
    assert found["error"] == "RemoteError"
    assert (found["type_name"], found["detail"]) == ("ValueError", "out of stock")
    assert "in fail" in found["traceback"]
    assert found["id"] in found["message"]


def test_no_reply_in_time(cli: Cli, serve: Serve) -> None:
    """After --timeout it ends with 1, and says what is known."""

    async def hang(_: Any) -> None:
        await asyncio.sleep(600)  # the work itself

    serve(hang)

    done = cli("request", "prices.quote", "1", "--timeout", "3", "--json")

    assert done.status == 1
    (found,) = done.objects
    assert found["error"] == "TimedOut"
    assert found["state"] in {"running", "queued", "unknown"}
    assert "no reply to request" in done.err


def test_no_server(cli: Cli) -> None:
    """Scripts get an object, too, when the server cannot be reached."""
    done = cli("request", "prices.quote", "1", "--json", "--url", "redis://127.0.0.1:1")

    assert done.status == 1
    assert [one["error"] for one in done.objects] == ["NotConnected"]
    assert "cannot reach redis://127.0.0.1:1" in done.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["prices.quote"], "give either BODY arguments or --from FILE"),
        (["prices.quote", "1", "--from", "-"], "give either BODY arguments or --from FILE"),
        (["prices.quote", "{"], "BODY 1 is not JSON"),
        (["prices.quote", "1", "--timeout", "0"], "timeout"),
        (["prices.quote", "1", "--header", "x"], "--header takes NAME=VALUE"),
        (["prices quote", "1"], "the endpoint's name"),
        (["prices.quote", "--from", "no such file"], "cannot read no such file"),
    ],
)
def test_mistakes(cli: Cli, words: list[str], problem: str) -> None:
    """A command line that makes no sense ends with 2 and a line that says why; nothing is printed."""
    done = cli("request", *words, "--json")

    assert (done.status, done.out) == (2, "")
    assert problem in done.err


def test_a_file_that_is_no_request(cli: Cli, serve: Serve, tmp_path: Path) -> None:
    """What is no JSON, or longer than a request may be, is refused with 2."""
    serve(double)
    file = tmp_path / "request.json"
    long = f'"{"x" * QUOTE.max_body}"'
    for text, problem in (("oops", "is not JSON"), ("", "is not JSON"), (long, "max_body")):
        file.write_text(text)

        done = cli("request", "prices.quote", "--from", str(file))

        assert (done.status, done.out) == (2, "")
        assert problem in done.err


def test_ctrl_c_gives_the_request_up(
    spawn: Spawn, serve: Serve, client: Client, admin: redis.Redis
) -> None:
    """Ctrl-C ends it with 130, and a request that waits is deleted."""
    serve(double)
    client.pause(QUOTE.queue)
    process = spawn("request", "prices.quote", "1", "--timeout", "60")
    ready = f"{client.namespace}:{{prices.quote}}:ready"
    until(lambda: admin.xlen(ready))

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert (process.returncode, out, err) == (130, "", "")
    assert admin.xlen(ready) == 0


def test_an_endpoint_is_looked_after_by_its_name(cli: Cli, serve: Serve) -> None:
    """Commands for queues take its name: stats has its counts, with replies that came too late."""
    serve(double)
    cli("request", "prices.quote", "1")

    (found,) = cli("stats", "prices.quote", "--json").objects
    assert (found["kind"], found["sent"], found["late"]) == ("queue", 1, 0)
    assert cli("stats").out.splitlines()[0].split()[-1] == "late"
    assert json.loads(cli("pause", "prices.quote", "--json").out)["paused"] is True
    assert cli("resume", "prices.quote").status == 0
