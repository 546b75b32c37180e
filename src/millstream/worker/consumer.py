"""One handler at work: its reader, its slots, its threads and its sweeper."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import msgspec

from millstream.aio.client import AsyncClient
from millstream.declare import Queue
from millstream.protocol.control import Word
from millstream.protocol.envelope import Envelope
from millstream.worker.answering import Answering
from millstream.worker.calls import build_call
from millstream.worker.control import Hearer
from millstream.worker.gathered import Gathered
from millstream.worker.handler import Handler, Middleware
from millstream.worker.handling import Call, Handling
from millstream.worker.holdings import Holdings
from millstream.worker.permits import Permits, Turn
from millstream.worker.prefetch import Prefetch
from millstream.worker.presence import presence
from millstream.worker.reader import Reader
from millstream.worker.resulting import Resulting
from millstream.worker.slots import Slots
from millstream.worker.sweeper import run_sweeper
from millstream.worker.threads import ThreadSlots, threads_of

__all__ = ["Consumer", "Share"]


class Share(msgspec.Struct, frozen=True):
    """What makes a consumer one of several that a worker has for a queue.

    Attributes:
        partition: that it reads.
        consumer: its name, which nobody else has.
        threads: of all of them, for a plain function; None for a coroutine.
        turn: its way to the permits of all of them.
    """

    partition: int
    consumer: str
    threads: ThreadSlots | None
    turn: Turn


class Consumer:
    """Consumes one queue, or one partition. ``start`` makes it, ``stop`` and ``finish`` end it.

    Args:
        mq: the client.
        handler: as declared.
        reader: reads the queue.
        threads: its own, for a plain function; None for a coroutine.
        turn: to stop with it; None: nobody shares handlers with it.
        calls: of an endpoint; None: it is a queue, or a subscription.
    """

    def __init__(
        self,
        mq: AsyncClient,
        handler: Handler,
        reader: Reader,
        threads: ThreadSlots | None,
        turn: Turn | None,
        calls: Gathered | None = None,
    ) -> None:
        self._mq = mq
        self.handler = handler
        self._reader = reader
        self._threads = threads
        self._turn = turn
        self._calls = calls

    @classmethod
    async def start(
        cls,
        mq: AsyncClient,
        handler: Handler,
        middleware: Sequence[Middleware],
        share: Share | None = None,
    ) -> Consumer:
        """Put the actors together; nothing is read yet.

        Args:
            mq: the client.
            handler: as declared.
            middleware: around each call.
            share: what it has of a queue in partitions; None: it has the queue for itself.
        """
        queue = handler.queue
        reader = Reader(
            mq.driver,
            mq.lease_keeper(),
            await mq.driver.listener(),
            queue=queue,
            keys=mq.keys_of(queue).at(share.partition if share else 0),
            consumer=share.consumer if share else mq.consumer_name(),
            prefetch=Prefetch(handler.room, _prefetch_of(handler)),
            answers=handler.endpoint is not None,
        )
        threads = share.threads if share else threads_of(handler)
        answering = calls = None
        if handler.endpoint is not None:
            answering = Answering(
                handler, mq.requests, reader.keys, reader.holdings, reader.consumer
            )
        resulting = None
        holdings = reader.holdings
        if isinstance(queue, Queue) and queue.results and isinstance(holdings, Holdings):
            resulting = Resulting(queue, holdings.unsettled, mq.requests.mailbox.sender.send)
            holdings.results = resulting
        call = build_call(handler, middleware, threads, holdings, answering, resulting)
        turn = share.turn if share else None
        if answering is not None:
            # Requests and calls together are no more than what may be handled at a time.
            permits = Permits(handler.concurrency)
            turn, calls = Turn(permits), _gathered(mq, handler, call, Turn(permits), reader)
        if turn is not None:
            call = turn.around(call, handler, holdings)
        interrupt = None if threads is None else threads.interrupt
        handling = Handling(handler, call, reader.holdings, interrupt)
        reader.holdings.slots = Slots(handler, handling)
        return cls(mq, handler, reader, None if share else threads, turn, calls)

    @property
    def name(self) -> str:
        """What the server calls this consumer."""
        return self._reader.consumer

    @property
    def partition(self) -> int:
        """Which partition it reads."""
        return self._reader.keys.partition

    @property
    def hearers(self) -> Mapping[str, Hearer]:
        """Key of the stream that tells of pauses and cancellations, and who is told."""
        return {self._reader.keys.control: self}

    def pause(self) -> None:
        """Begin with no message any more."""
        self._reader.pause()
        if self._turn is not None:
            self._turn.drop()

    def resume(self) -> None:
        """Look for messages again."""
        self._reader.resume()

    def sought(self) -> None:
        """Make sure of what is in hand: the subscription goes on elsewhere."""
        self._reader.sought()

    def cancelled(self, word: Word) -> None:
        """Stop the handler of a message that the server has ended."""
        self._reader.cancelled(word)

    def moved(self) -> None:
        """A queue that is not divided has nothing that could move."""

    def called(self, call: Envelope) -> None:
        """Answer what all workers of the endpoint are asked."""
        if self._calls is not None:
            self._reader.told(call.state.id)
            self._calls.called(call)

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do when it last looked."""
        return self._reader.idle

    async def run(self) -> None:
        """Work until stopped."""
        if self.handler.queue.delivery == "at_most_once":
            # It has nothing that others could take over, and what others have is theirs.
            await self._reader.run()
            return
        driver, keys = self._mq.driver, self._reader.keys
        async with (
            nullcontext()
            if self.handler.endpoint is None
            else presence(driver, self._mq.lease_keeper(), keys, self.name)
        ):
            sweeping = asyncio.create_task(
                run_sweeper(driver, keys, self.name, self.handler), name="millstream-sweeper"
            )
            try:
                await self._reader.run()
            finally:
                sweeping.cancel()
                await asyncio.wait([sweeping])

    def stop(self) -> None:
        """Stop reading; ``run`` comes to its end."""
        self._reader.stop()
        if self._turn is not None:
            self._turn.stop()
        if self._calls is not None:
            self._calls.stop()

    def hurry(self) -> None:
        """Give handlers that run no more time: ``finish`` has waited long enough."""
        self._reader.hurry()

    async def let_go(self) -> None:
        """Disconnect, and extend no lease any more. What is still in hand runs out."""
        if self._calls is not None:
            self._calls.close()
        await self._reader.let_go()

    async def finish(self, timeout: float | None) -> None:  # noqa: ASYNC109 - passed on to the handlers
        """Give running handlers some time, settle, and leave.

        Args:
            timeout: seconds until coroutines are cancelled and their messages handed back; None:
                as many as they need, or until ``hurry``.
        """
        calls = () if self._calls is None else (self._calls.finish(timeout),)
        await asyncio.gather(self._reader.finish(timeout), *calls)
        if self._threads is not None:
            self._threads.close()


def _gathered(
    mq: AsyncClient, handler: Handler, call: Call, turn: Turn, reader: Reader
) -> Gathered:
    """Return what answers the calls to all workers of an endpoint."""
    return Gathered(
        handler,
        call,
        turn,
        member=reader.consumer,
        mail=mq.requests.mailbox.sender.send,
        server_ms=reader.holdings.server_ms,
    )


def _prefetch_of(handler: Handler) -> int | None:
    """Return how much to hold; None: adapt."""
    if handler.prefetch is None and handler.queue.max_running is not None:
        # What waits here counts as running; another worker could handle it at once.
        return handler.room
    return handler.prefetch
