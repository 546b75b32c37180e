"""Taking messages by hand: what `receive` and `subscribe` have in common.

A message is acknowledged once its line is written, and neither Ctrl-C nor a closed pipe comes in
between. What was fetched ahead is handed back at the end.
"""

from __future__ import annotations

import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from millstream.cli.output import say, show_line
from millstream.errors import BrokerError, LeaseLost
from millstream.sync.client import Client
from millstream.sync.delivery import SyncDelivery
from millstream.sync.reader import QueueReader
from millstream.topic import Source

__all__ = ["Hand", "Signals", "may_block", "take"]

MOST_AHEAD = 100
AS_LONG_AS_IT_TAKES = 30 * 86_400.0
"""For how many seconds a lease is kept up: a person who reads our output may take a break."""

GLANCE = 0.2
"""After so many seconds of waiting it looks for signals. This costs the server nothing."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def take(
    client: Client,
    source: Source[bytes],
    hand: Hand,
    signals: Signals,
    *,
    count: int | None,
    patience: float,
) -> None:
    """Show messages until there are enough, none comes any more, or a signal does.

    Args:
        client: of the server.
        source: where the messages are. A subscription that is new is made.
        hand: what shows them.
        signals: Ctrl-C and its like.
        count: how many messages at most; None: any number.
        patience: how many seconds to wait for each; 0: stop when there is none now.
    """
    reader = _reader(client, source, min(count or MOST_AHEAD, MOST_AHEAD))
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


def _reader(client: Client, source: Source[bytes], prefetch: int) -> QueueReader[bytes]:
    """Read without a generator: an exception that ends one closes its reader too early for us."""
    keys = client.keys_of(source)
    return QueueReader(
        client.driver,
        client.lease_keeper(),
        client.driver.listener(),
        queue=source,
        keys=[keys.at(number) for number in range(source.partitions)],
        consumer=client.consumer_name(),
        prefetch=prefetch,
    )


def _next(
    reader: QueueReader[bytes], patience: float, signals: Signals
) -> SyncDelivery[bytes] | None:
    """Wait for a delivery; None when there was none for too long, or a signal came."""
    deadline = time.monotonic() + patience
    while True:
        left = deadline - time.monotonic()
        delivery = reader.next(max(0.0, min(left, GLANCE)))
        if delivery is not None or signals.came or left <= 0:
            return delivery


class Hand:
    """The deliveries that are out, until they are settled.

    Args:
        line_of: how a message is printed.
        ack: whether a message is done once it is shown.
    """

    def __init__(self, line_of: Callable[[SyncDelivery[bytes]], bytes], *, ack: bool) -> None:
        self.shown = 0
        self._line_of = line_of
        self._ack = ack
        self._held: list[SyncDelivery[bytes]] = []

    def show(self, delivery: SyncDelivery[bytes]) -> None:
        """Print a message, and only then acknowledge it."""
        self._held.append(delivery)
        line = self._line_of(delivery)
        try:
            if not self._ack or may_block(line):
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


def may_block(line: bytes) -> bool:
    """Tell whether writing may take longer than a lease, because nobody reads our output."""
    # A pipe that takes anything takes that much.
    return len(line) > select.PIPE_BUF or not select.select([], [sys.stdout], [], 0)[1]


class Signals:
    """Ctrl-C and its like, taken note of: they must not come between a message and its ack.

    Attributes:
        came: number of the signal that came; 0: none.

    Args:
        then: what else a signal does, once.
    """

    def __init__(self, then: Callable[[], object] | None = None) -> None:
        self.came = 0
        self._then = then
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
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

    @property
    def status(self) -> int:
        """The exit status that a shell expects of a program that such a signal has ended."""
        return 128 + self.came if self.came else 0

    def _take(self, number: int, _frame: FrameType | None) -> None:
        again, self.came = self.came, number
        if again:  # who asks a second time means it, whatever is going on
            raise KeyboardInterrupt
        if self._then is not None:
            self._then()
