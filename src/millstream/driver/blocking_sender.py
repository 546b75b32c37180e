"""Group commit for threads: the thread that finds nobody sending takes the others' messages along.

The twin of ``aio_sender``. While the leader's batch is on the wire, other threads add to the next
one and wait; the first of them to wake leads it.
"""

from __future__ import annotations

import itertools
import os
import threading
import uuid
from collections.abc import Callable, Sequence

from millstream.errors import NotConnected, UsageError
from millstream.message import Receipt
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Op
from millstream.protocol.send import chunks, receipts, send

__all__ = ["BlockingSender"]

Run = Callable[[Op[bytes]], bytes]


class _Batch:
    """Messages that leave together, and what came of it."""

    __slots__ = ("bodies", "error", "headers", "stored", "taken")

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[bytes] = []
        self.taken = False
        self.stored: list[Receipt] = []
        self.error: Exception | None = None


class BlockingSender:
    """Sends messages to one queue, from any number of threads.

    Args:
        run: the driver's way to run an operation, with its repetitions.
        keys: of the queue.
    """

    def __init__(self, run: Run, keys: QueueKeys) -> None:
        self._run = run
        self._keys = keys
        self._pid = os.getpid()
        self._producer = uuid.uuid4().hex[:16]
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._gathering = _Batch()

    def send(self, body: bytes, headers: bytes = b"") -> Receipt:
        """Send one message, together with what other threads send at the moment.

        Raises:
            BrokerError: it is not known to be stored. The same for all of the batch.
        """
        if os.getpid() != self._pid:
            # Locks that another thread held at the fork stay locked for ever.
            message = "this client was made before a fork: make one in each process"
            raise UsageError(message)
        with self._guard:
            batch = self._gathering
            index = len(batch.bodies)
            batch.bodies.append(body)
            batch.headers.append(headers)
        with self._sending:
            if not batch.taken:
                with self._guard:
                    self._gathering = _Batch()
                batch.taken = True
                self._transmit(batch)
        if index < len(batch.stored):
            return batch.stored[index]
        assert batch.error is not None  # noqa: S101 - all are stored unless there was one
        raise batch.error

    def send_many(
        self, bodies: Sequence[bytes], headers: Sequence[bytes] | None = None
    ) -> list[Receipt]:
        """Send messages in chunks, in their order.

        Raises:
            BrokerError: a chunk is not known to be stored; those before it are.
        """
        stored: list[Receipt] = []
        for some, with_headers in chunks(bodies, headers):
            with self._sending:
                stored += self._send(some, with_headers)
        return stored

    def _transmit(self, batch: _Batch) -> None:
        try:
            headers = batch.headers if any(batch.headers) else None
            # Many threads' large bodies are too much for one script call.
            for some, with_headers in chunks(batch.bodies, headers):
                batch.stored += self._send(some, with_headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, every thread must know
            batch.error = error
        except BaseException:
            # Ctrl-C is for this thread alone.
            batch.error = NotConnected("the thread that sent this batch was interrupted")
            raise

    def _send(self, bodies: Sequence[bytes], headers: Sequence[bytes] | None) -> list[Receipt]:
        """Send one batch; the caller holds the lock, so that there is one at a time."""
        op = send(self._keys, self._producer, next(self._numbers), bodies, headers)
        milliseconds, _, sequence = self._run(op).decode().partition("-")
        return receipts(f"{milliseconds}-", int(sequence), len(bodies))

    def close(self) -> None:
        """Wait for what is on its way."""
        with self._sending:
            pass
