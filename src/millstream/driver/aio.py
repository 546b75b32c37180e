"""Runs operations on asyncio: tries again after a loss, and says what failed in our errors."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis import exceptions

from millstream.driver.aio_ahead import AsyncAhead
from millstream.driver.aio_alarm import AsyncAlarm
from millstream.driver.aio_aside import AsyncAside
from millstream.driver.aio_background import AsyncBackground
from millstream.driver.aio_cluster import AsyncCluster
from millstream.driver.aio_confirming import AsyncConfirming
from millstream.driver.aio_home import elsewhere
from millstream.driver.aio_letterbox import AsyncLetterbox
from millstream.driver.aio_listener import AsyncListener
from millstream.driver.aio_pubsub import AsyncPubSub
from millstream.driver.aio_sender import AsyncSender, Run
from millstream.driver.aio_server import AsyncServer
from millstream.driver.aio_waiting import AsyncWaitingSender
from millstream.driver.blocking import BlockingDriver
from millstream.driver.cluster import ClusterTarget, locate
from millstream.driver.faults import Tries, first_error, forked, refusal, translate
from millstream.driver.server_check import check_replies, server_info
from millstream.driver.target import Target
from millstream.errors import BrokerError, NotConnected, TimedOut, UsageError, one_more
from millstream.policy import Bound, ReadFrom
from millstream.protocol.ephemeral import Channel
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Nodes, Op, Pause, Plan
from millstream.protocol.reading import BLOCK_MS
from millstream.protocol.send import Batch
from millstream.protocol.slots import slot_of
from millstream.security import Security

__all__ = ["AsyncDriver"]

T = TypeVar("T")


class AsyncDriver:
    """One server, seen from one event loop.

    Args:
        source: a URL, a redis-py client, or None (see ``resolve``).
        connect_timeout: seconds in which the first connection must succeed.
        timeout: seconds that an operation may take in all, reconnects included.
        security: goes before what the source says of users and certificates.
        read_from: where reads go whose caller is content with what a replica knows.
    """

    def __init__(
        self,
        source: object,
        *,
        connect_timeout: float,
        timeout: float,
        security: Security | None = None,
        read_from: ReadFrom = "primary",
    ) -> None:
        self._source = source
        self._security = security
        self._read_from = read_from
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._target: Target | ClusterTarget | None = None
        self._server: AsyncServer | AsyncCluster | None = None
        self._replica: AsyncServer | None = None
        self._confirming: dict[str, AsyncConfirming] = {}
        self._pubsubs: dict[int | None, AsyncPubSub] = {}
        self._alarm = AsyncAlarm()
        # The attempt that goes on, and how many wait for it.
        self._opening: asyncio.Task[None] | None = None
        self._openers = 0
        self._closed = False
        self._pid = os.getpid()
        # That in which it was used first.
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """The server's address, its password hidden; empty before the first connection."""
        return self._target.url if self._target is not None else ""

    @property
    def losses(self) -> int:
        """How often the connection was lost: what was asked of the server may hold no more."""
        return self._server.losses if self._server is not None else 0

    async def open(self, seconds: float | None = None) -> None:
        """Connect and check the server, once. Who asks meanwhile shares the attempt and its outcome.

        Args:
            seconds: to wait for that; None: as long as it takes. The attempt goes on then.

        Raises:
            NotConnected: nobody answers; at once, without further tries.
            TimedOut: nobody has answered in time.
            UnsupportedServer: it is too old.
            UsageError: the driver is closed, or at home elsewhere, or its URL makes no sense.
        """
        self._check_open()
        self.check_home()
        if self._server is not None:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="millstream-open")
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        self._openers += 1
        try:
            done, _ = await asyncio.wait([opening], timeout=seconds)
        except asyncio.CancelledError:
            if self._openers == 1:
                # Nobody would close what it opens.
                opening.cancel()
                self._opening = None
            raise
        finally:
            self._openers -= 1
        if not done:
            message = f"not connected within {seconds:.1f} s"
            raise TimedOut(message)
        if opening.cancelled():
            message = "the client was closed meanwhile"
            raise NotConnected(message)
        if (error := opening.exception()) is not None:
            raise one_more(error)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if opening is self._opening:
            self._opening = None
        if not opening.cancelled():
            opening.exception()  # those who have waited may be gone

    async def _open(self) -> None:
        # Starting an embedded server takes a while, and must not stop the event loop.
        target = await asyncio.to_thread(locate, self._source, self._security)
        make = AsyncCluster if isinstance(target, ClusterTarget) else AsyncServer
        server = make(target, connect_timeout=self._connect_timeout, timeout=self._timeout)  # type: ignore[arg-type] # each gets the kind of target that it is made for
        try:
            await self._check(server)
        except BaseException:
            await server.close()
            await asyncio.to_thread(target.close)
            raise
        self._target, self._server = target, server
        if self._read_from == "replica" and (replicas := target.replicas()) is not None:
            self._replica = AsyncServer(
                replicas, connect_timeout=self._connect_timeout, timeout=self._timeout
            )

    @property
    def is_elsewhere(self) -> bool:
        """Whether it was used in another event loop, or process."""
        is_other = self._loop is not None and self._loop is not asyncio.get_running_loop()
        return is_other or os.getpid() != self._pid

    def check_home(self) -> None:
        """Make sure that it is used in one event loop.

        Raises:
            UsageError: it was used in another one before.
        """
        if self.is_elsewhere:
            raise elsewhere() if os.getpid() == self._pid else forked()
        self._loop = asyncio.get_running_loop()

    def _check_open(self) -> None:
        if self._closed:
            message = "this client is closed"
            raise UsageError(message)

    async def _check(self, server: AsyncServer | AsyncCluster) -> None:
        op, url = server_info(), server.target.url
        try:
            async with asyncio.timeout(self._connect_timeout):
                replies = await server.open(op)
        except _LOSSES as error:
            raise translate(error, url) from error
        check_replies(op, replies, url)

    async def run(self, op: Op[T], *, stale: bool = False) -> T:
        """Run one operation.

        It is sent again after a lost connection or a passing refusal, for as long as the timeout
        allows, if it is repeatable.

        Args:
            op: it.
            stale: whether its caller is content with what a replica knows.

        Raises:
            NotConnected, TimedOut: the server cannot be reached, or did not answer.
            ServerRefused: the server answered with an error.
        """
        loop = asyncio.get_running_loop()
        clock = loop.time
        begun = clock()
        patience = self._timeout if op.patience is None else min(op.patience, self._timeout)
        if self._server is None or self._closed:
            await self.open(None if op.patience is None else patience)
            begun = clock() if op.patience is None else begun
        if loop is not self._loop or os.getpid() != self._pid:
            # Two processes on one connection, with the same batch numbers, would lose messages.
            self.check_home()
        server = (self._replica if stale and op.readonly else None) or self._server
        assert server is not None  # noqa: S101 - open() raises or sets it
        tries: Tries | None = None
        while True:
            try:
                replies = await server.perform(op, begun + patience)
                error = first_error(op, replies)
                if error is None:
                    return op.decode(replies)
                problem, cause = refusal(error, self.url, op), error
            except _LOSSES as loss:
                problem, cause = translate(loss, self.url), loss
            tries = tries or Tries(begun + patience)
            again = op.repeatable and isinstance(problem, NotConnected | TimedOut)
            await server.failed(cause)
            pause = tries.next_pause(clock()) if again else None
            if pause is None or self._closed:
                raise problem from cause
            await asyncio.sleep(pause)

    async def drive(self, plan: Plan[T], *, stale: bool = False) -> T:
        """Run a plan's operations one after the other and return its result; see ``run``."""
        answer: Any = None
        problem: BrokerError | None = None
        while True:
            try:
                # A plan may know what to do about a failure of the server.
                step = plan.send(answer) if problem is None else plan.throw(problem)
            except StopIteration as done:
                result: T = done.value
                return result
            answer = problem = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                continue
            try:
                if isinstance(step, Nodes):
                    answer = await self.nodes()
                else:
                    answer = await self.run(step, stale=stale)
            except BrokerError as error:
                problem = error

    async def nodes(self) -> list[int | None]:
        """Return a slot of each node of a cluster; see ``Nodes``."""
        await self.open()
        assert self._server is not None  # noqa: S101 - open() sets it
        return self._server.slots()

    def begin(self, op: Op[T], *, stale: bool = False) -> AsyncAhead[T]:
        """Begin an operation that can go on while its caller does something else; see ``run``."""
        return AsyncAhead(partial(self.run, stale=stale), op)

    def lock(self) -> asyncio.Lock:
        """Return a lock for tasks."""
        return asyncio.Lock()

    async def sleep(self, seconds: float) -> None:
        """Wait, as this driver's users do."""
        await asyncio.sleep(seconds)

    async def tell(self, callback: Callable[[Any], object], news: Any) -> None:
        """Call a user's function; an ``async def`` is awaited."""
        outcome = callback(news)
        if inspect.isawaitable(outcome):
            await outcome

    def sender(
        self,
        batch: Batch[T],
        *,
        in_order: bool = False,
        run: Run | None = None,
        confirming: AsyncConfirming | None = None,
    ) -> AsyncSender[T]:
        """Return what gathers the sends of many tasks into batches; see ``AsyncSender``."""
        run = run or (self.run if confirming is None else confirming.run)
        return AsyncSender(run, batch, in_order=in_order, confirming=confirming)

    def waiting_sender(self, keys: QueueKeys, bound: Bound) -> AsyncWaitingSender:
        """Return what has sends to a full queue wait."""
        return AsyncWaitingSender(self.run, self.listener, keys, bound)

    def letterbox(self) -> AsyncLetterbox[Any]:
        """Return a place where things wait for one task."""
        return AsyncLetterbox(self._alarm)

    def aside(self) -> AsyncAside:
        """Return what sends that for which nobody waits."""
        return AsyncAside()

    def background(self, main: Callable[[], Awaitable[None]], name: str) -> AsyncBackground:
        """Begin work that goes on beside its owner."""
        return AsyncBackground(main, name)

    async def listener(self) -> AsyncListener:
        """Return a connection of its own for reads that sleep at the server."""
        await self.open()
        assert self._server is not None  # noqa: S101 - open() sets it
        return AsyncListener(
            self._server, connect_timeout=self._connect_timeout, longest=BLOCK_MS / 1000 + 5
        )

    async def any_of(self, listeners: Sequence[AsyncListener], seconds: float) -> None:
        """Wait until one of some outstanding reads has ended, and no longer than so many seconds."""
        readings = [one.reading for one in listeners if one.reading is not None]
        if len(readings) == len(listeners):
            await asyncio.wait(readings, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def pubsub(self, channel: Channel) -> AsyncPubSub:
        """Return the connection for all that is listened to; of a cluster, in the channel's slot."""
        await self.open()
        server = self._server
        assert server is not None  # noqa: S101 - open() sets it
        slot = slot_of(channel.name) if isinstance(server, AsyncCluster) else None
        if slot not in self._pubsubs:
            self._pubsubs[slot] = AsyncPubSub(
                server, slot, connect_timeout=self._connect_timeout, timeout=self._timeout
            )
        return self._pubsubs[slot]

    async def confirming(self, durability: str) -> AsyncConfirming:
        """Return what has sends confirmed; it has connections of its own.

        A server that can never confirm it is found out by the first send.
        """
        found = self._confirming.get(durability)
        if found is None:
            await self.open()
            assert self._server is not None  # noqa: S101 - open() sets it
            made = AsyncConfirming(
                *(self._server, durability),
                connect_timeout=self._connect_timeout,
                timeout=self._timeout,
            )
            found = self._confirming.setdefault(durability, made)
        return found

    def blocking(self, *, timeout: float) -> BlockingDriver:
        """Return a blocking driver of the same server, for a thread, as patient as told."""
        source = self._target if self._target is not None else self._source
        return BlockingDriver(
            source,
            connect_timeout=min(self._connect_timeout, timeout),
            timeout=min(self._timeout, timeout),
            security=self._security,
        )

    async def close(self) -> None:
        """Disconnect. Safe to repeat.

        Raises:
            UsageError: it is at home elsewhere.
        """
        if self._closed and self.is_elsewhere:
            return
        self.check_home()
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        for pubsub in self._pubsubs.values():
            await pubsub.close()
        for confirming in [*self._confirming.values()]:
            await confirming.close()
        for server in (self._server, self._replica):
            if server is not None:
                await server.close()
        if self._target is not None:
            await asyncio.to_thread(self._target.close)


_LOSSES = (exceptions.RedisError, OSError)
"""redis-py's own errors, and the socket's (TimeoutError is an OSError)."""
