"""The process that runs the demo's workers, under the supervisor that ``millstream run`` has.

It is a process of its own so that nothing stays behind when the demo itself is killed: its
standard input ends then, and it stops the workers and removes what the demo would have removed.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import threading
import time

from millstream.cli.demo.place import delete_keys
from millstream.sync.client import Client
from millstream.worker.supervisor import supervise

__all__ = ["SHUTDOWN_TIMEOUT", "STOP", "main"]

TARGET = "millstream.cli.demo.tasks:worker"

STOP = b"."
"""What the demo writes when the workers are to stop. It removes what is left by itself then."""

SHUTDOWN_TIMEOUT = 3.0
"""Seconds that a worker gets to finish what it has in hand. A file takes a fraction of one."""


def main() -> int:
    """Run the workers until standard input says so, or ends; the exit status."""
    parser = argparse.ArgumentParser(prog="millstream.cli.demo.keeper")
    parser.add_argument("namespace")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--directory", help="remove it if the demo is killed")
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    orphaned = threading.Event()
    threading.Thread(target=_watch, args=(orphaned,), daemon=True).start()
    try:
        return supervise(
            TARGET,
            url=None,
            namespace=options.namespace,
            processes=options.processes,
            concurrency=None,
            burst=False,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
    finally:
        if orphaned.is_set():
            _remove(options.namespace, options.directory)


def _watch(orphaned: threading.Event) -> None:
    """Wait for the demo to say that it is over, or for its end; then stop the supervisor."""
    # Not through sys.stdin: its lock would be held when this process ends.
    if os.read(0, 1) != STOP:
        orphaned.set()
    # Before the supervisor takes signals, one would end this process with work half-done.
    while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def _remove(namespace: str, directory: str | None) -> None:
    """Do what the demo does not do any more."""
    if directory is None:
        with Client(namespace=namespace) as mq:
            delete_keys(mq)
    else:
        # With the server that had its data there, all keys are gone.
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
