"""``millstream run``."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Literal

import typer

from millstream.cli.options import Namespace, Url
from millstream.errors import UsageError

__all__ = ["run"]

LOG_LEVEL = "MILLSTREAM_LOG_LEVEL"
"""Environment variable that tells the worker processes how much to report."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


Target = Annotated[
    str, typer.Argument(metavar="MODULE:WORKER", help="Where the Worker is.", show_default=False)
]
Processes = Annotated[
    int, typer.Option("--processes", min=1, metavar="N", help="Worker processes.")
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        min=1,
        metavar="N",
        help="Messages, or batches, that a process handles at a time. Default: as the handlers say.",
        show_default=False,
    ),
]
Burst = Annotated[bool, typer.Option("--burst", help="Stop when the queues are empty.")]
ShutdownTimeout = Annotated[
    float | None,
    typer.Option(
        "--shutdown-timeout",
        min=0,
        metavar="SECONDS",
        help="Time to finish after Ctrl-C or SIGTERM. Default: as the worker says.",
        show_default=False,
    ),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option("--log-level", envvar=LOG_LEVEL, case_sensitive=False, help="What to log."),
]


def run(
    target: Target,
    processes: Processes = 1,
    concurrency: Concurrency = None,
    burst: Burst = False,
    shutdown_timeout: ShutdownTimeout = None,
    log_level: LogLevel = "info",
    url: Url = None,
    namespace: Namespace = "ms",
) -> int:
    """Run a worker until Ctrl-C or SIGTERM. A process that dies is started again."""
    module, colon, worker = target.partition(":")
    if not (module and colon and worker):
        message = f"name the worker as MODULE:WORKER, such as tasks:worker, not {target!r}"
        raise UsageError(message)
    os.environ[LOG_LEVEL] = log_level
    logging.basicConfig(format=LOG_FORMAT, level=log_level.upper(), force=True)
    from millstream.worker.supervisor import supervise

    return supervise(
        target,
        url=url,
        namespace=namespace,
        processes=processes,
        concurrency=concurrency,
        burst=burst,
        shutdown_timeout=shutdown_timeout,
    )
