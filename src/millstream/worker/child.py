"""A worker process under a supervisor: ``python -m millstream.worker.child MODULE:WORKER …``.

It reports its consumers on one pipe, so that the supervisor can hand their deliveries over when
this process dies. The other pipe ends when the supervisor dies; then this process stops, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from millstream.aio.client import AsyncClient
from millstream.errors import BrokerError, UsageError
from millstream.topic import Source, Subscription
from millstream.worker.partitions import Work
from millstream.worker.run import Run
from millstream.worker.worker import Worker

__all__ = ["load_worker", "main"]

_NOT_THEIRS = (str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent), "<frozen ")
"""What the names of files begin with that are ours, or Python's."""

LOG_LEVEL_VARIABLE = "MILLSTREAM_LOG_LEVEL"

USAGE, BROKER, NOT_STARTED, FORCED = 2, 1, 3, 130
"""Exit statuses; the last one is of a process without a supervisor, or of the supervisor itself."""


class NotStarted(Exception):
    """The worker's module, or one of its startup hooks, has failed; the cause says how."""


def load_worker(target: str) -> Worker:
    """Import ``module:worker``, from the current folder, too.

    Raises:
        UsageError: there is no such module or worker. What the module itself raises passes.
    """
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        message = f"expected MODULE:WORKER, such as tasks:worker, not {target!r}"
        raise UsageError(message)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        message = f"there is no module {module_name!r} here"
        raise UsageError(message) from error
    worker: Any = module
    for part in name.split("."):
        if not hasattr(worker, part):
            message = f"module {module_name!r} has no {name!r}"
            raise UsageError(message)
        worker = getattr(worker, part)
    if not isinstance(worker, Worker):
        message = f"{target!r} is no Worker, but {type(worker).__name__}"
        raise UsageError(message)
    return worker


def _load(target: str) -> Worker:
    try:
        return load_worker(target)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise NotStarted from error


async def _work(worker: Worker, options: argparse.Namespace) -> None:
    has_started = False
    async with AsyncClient(namespace=options.namespace) as mq:
        run = worker.prepare(
            mq, concurrency=options.concurrency, shutdown_timeout=options.shutdown_timeout
        )
        loop = asyncio.get_running_loop()
        ending = _Ending(run, options.lifeline)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.asked)
        if options.lifeline is not None:
            # Nobody writes to it: it becomes readable when its other end is closed.
            loop.add_reader(options.lifeline, ending.orphaned, loop)

        def announce(consumers: Sequence[Work]) -> None:
            nonlocal has_started
            has_started = True
            # What was loaded so far stays. Garbage collections that went through all of it again
            # would stop every handler for some 15 ms at a time.
            gc.collect()
            gc.freeze()
            _report(options.report, run, consumers)

        try:
            await run.work(burst=options.burst, announce=announce)
        except (UsageError, BrokerError):
            raise
        except Exception as error:
            if has_started:
                raise
            raise NotStarted from error


class _Ending:
    """Who wants this process to end, and how soon.

    A service manager sends its signal to each process, and the supervisor passes on its own: two of
    them are no second request. The supervisor kills when it gets one.

    Args:
        run: to stop.
        lifeline: ends with the supervisor; None: there is none.
    """

    def __init__(self, run: Run, lifeline: int | None) -> None:
        self._run = run
        self._lifeline = lifeline
        self._was_asked = False

    def asked(self) -> None:
        """Stop in order; without a supervisor and when asked a second time, at once."""
        if self._was_asked:
            # Leases see to what is left in hand.
            os._exit(FORCED)
        self._was_asked = self._lifeline is None
        self._run.stop()

    def orphaned(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop in order: the supervisor is dead. Nobody has asked for it so far."""
        assert self._lifeline is not None  # noqa: S101 - it has just ended
        loop.remove_reader(self._lifeline)
        self._lifeline = None
        self._run.stop()


def _report(pipe: int | None, run: Run, consumers: Sequence[Work]) -> None:
    """Tell the supervisor which consumers die with this process, and how long an end may take."""
    if pipe is None:
        return
    names = [
        {
            **_place_of(consumer.handler.queue),
            "consumer": consumer.name,
            "max_crashes": consumer.handler.retry.max_crashes,
            "once": consumer.handler.once,
            "partitions": consumer.handler.queue.partitions,
        }
        for consumer in consumers
    ]
    told = {"shutdown_timeout": run.shutdown_timeout, "consumers": names}
    # A supervisor that has just died reads it no more; the lifeline says so.
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, json.dumps(told).encode() + b"\n")
    os.close(pipe)


def _place_of(source: Source[Any]) -> dict[str, str]:
    """Say what keys it has: a supervisor knows no declarations."""
    if isinstance(source, Subscription):
        return {"topic": source.topic.name, "subscription": source.own_name}
    return {"queue": source.name, "store": source.store}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="millstream.worker.child")
    parser.add_argument("target")
    parser.add_argument("--namespace", default="ms")
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--shutdown-timeout", type=float)
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--report", type=int)
    parser.add_argument("--lifeline", type=int)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until it is stopped; the exit status."""
    options = _options(arguments)
    logging.basicConfig(
        level=os.environ.get(LOG_LEVEL_VARIABLE, "INFO").upper(),
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    try:
        asyncio.run(_work(_load(options.target), options))
    except UsageError as error:
        if not options.silent:
            sys.stderr.write(f"millstream: {error}\n")
        return USAGE
    except BrokerError as error:
        sys.stderr.write(f"millstream: {error}\n")
        return BROKER
    except NotStarted as error:
        if not options.silent and error.__cause__ is not None:
            _show(options.target, error.__cause__)
        return NOT_STARTED
    return 0


def _show(target: str, error: BaseException) -> None:
    """Print what is wrong with the user's code: how we came there is no news."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_THEIRS):
        trace = trace.tb_next
    traceback.print_exception(error.with_traceback(trace))
    sys.stderr.write(f"millstream: {target} cannot start: {type(error).__name__}: {error}\n")


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    # A handler may still block in a thread; its message is left to its lease.
    os._exit(status)
