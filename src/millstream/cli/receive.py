"""``millstream receive``."""

from __future__ import annotations

import math
import select
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Annotated, Any, Self

import typer

from millstream.cli.options import Namespace, QueueName, Url, declared_queue
from millstream.cli.output import body_value, json_line, say, sent_at, show_line
from millstream.declare import Queue
from millstream.errors import BrokerError, LeaseLost, UsageError
from millstream.sync.client import Client
from millstream.sync.delivery import SyncDelivery
from millstream.sync.reader import QueueReader

__all__ = ["receive"]

MOST_AHEAD = 100
AS_LONG_AS_IT_TAKES = 30 * 86_400.0
"""For how many seconds a lease is kept up: a person who reads our output may take a break."""

GLANCE = 0.2
"""After so many seconds of waiting it looks for signals. This costs the server nothing."""


Count = Annotated[
    int | None,
    typer.Option("--count", "-n", min=1, metavar="N", help="Stop after N.", show_default=False),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        min=0,
        metavar="SECONDS",
        help="Wait so long for each next message. Default: stop when there is none now.",
        show_default=False,
    ),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Wait for messages until Ctrl-C.")]
NoAck = Annotated[bool, typer.Option("--no-ack", help="Hand the messages back at the end.")]
# Who asks for JSON everywhere shall get it here, too.
JsonAnyway = Annotated[bool, typer.Option("--json", hidden=True)]


def receive(
    queue: QueueName,
    count: Count = None,
    wait: Wait = None,
    follow: Follow = False,
    no_ack: NoAck = False,
    _json_output: JsonAnyway = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Take messages from a queue and print them as JSON lines.

    A message is acknowledged once its line is written.
    """
    if follow and wait is not None:
        message = "give either --wait or --follow"
        raise UsageError(message)
    patience = math.inf if follow else wait or 0.0
    with Client(url, namespace=namespace) as client, _Signals() as signals:
        hand = _Hand(ack=not no_ack)
        reader = _reader(
            client, declared_queue(client, queue), min(count or MOST_AHEAD, MOST_AHEAD)
        )
        try:
            reader.open()
            while not signals.came and (count is None or hand.shown < count):
                delivery = _next(reader, patience, signals)
                if delivery is None:
                    break
                hand.show(delivery)
        finally:
            # First what was shown, then what was fetched ahead: that keeps the order.
            hand.give_back()
            reader.close()
    if signals.came:
        raise typer.Exit(128 + signals.came)
    if not hand.shown:
        say(f"no message in queue {queue!r}")


def _reader(client: Client, queue: Queue[bytes], prefetch: int) -> QueueReader[bytes]:
    """Read without a generator: an exception that ends one closes its reader too early for us."""
    keys = client.keys_of(queue)
    return QueueReader(
        client.driver,
        client.lease_keeper(),
        client.driver.listener(),
        queue=queue,
        keys=[keys.at(number) for number in range(queue.partitions)],
        consumer=client.consumer_name(),
        prefetch=prefetch,
    )


def _next(
    reader: QueueReader[bytes], patience: float, signals: _Signals
) -> SyncDelivery[bytes] | None:
    """Wait for a delivery; None when there was none for too long, or a signal came."""
    deadline = time.monotonic() + patience
    while True:
        left = deadline - time.monotonic()
        delivery = reader.next(max(0.0, min(left, GLANCE)))
        if delivery is not None or signals.came or left <= 0:
            return delivery


class _Hand:
    """The deliveries that are out, until they are settled.

    Args:
        ack: whether a message is done once it is shown.
    """

    def __init__(self, *, ack: bool) -> None:
        self.shown = 0
        self._ack = ack
        self._held: list[SyncDelivery[bytes]] = []

    def show(self, delivery: SyncDelivery[bytes]) -> None:
        """Print a message, and only then acknowledge it."""
        self._held.append(delivery)
        line = json_line(_described(delivery))
        try:
            if not self._ack or _may_block(line):
                delivery.extend(AS_LONG_AS_IT_TAKES)
            show_line(line)
            self.shown += 1
            if self._ack:
                delivery.ack()
                self._held.pop()
        except LeaseLost as error:
            say(str(error))
            self._held.pop()

    def give_back(self) -> None:
        """Release what was not acknowledged."""
        held, self._held = self._held, []
        for index, delivery in enumerate(held):
            try:
                delivery.release()
            except LeaseLost as error:
                say(str(error))
            except BrokerError as error:
                left = len(held) - index
                say(f"{left} messages come back when their leases have run out: {error}")
                return


def _described(delivery: SyncDelivery[bytes]) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "body": body_value(delivery.body),
        "headers": delivery.headers,
        "attempt": delivery.attempt,
        "crashes": delivery.crashes,
        "sent_at": sent_at(delivery.id),
        "key": delivery.key,
    }


def _may_block(line: bytes) -> bool:
    """Tell whether writing may take longer than a lease, because nobody reads our output."""
    # A pipe that takes anything takes that much.
    return len(line) > select.PIPE_BUF or not select.select([], [sys.stdout], [], 0)[1]


class _Signals:
    """Ctrl-C and its like, taken note of: they must not come between a message and its ack.

    Attributes:
        came: number of the signal that came; 0: none.
    """

    def __init__(self) -> None:
        self.came = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup, and shells for jobs in the background, want some to be ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        again, self.came = self.came, number
        if again:  # who asks a second time means it, whatever is going on
            raise KeyboardInterrupt
