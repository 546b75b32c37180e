"""Runs operations with blocking calls, from any number of threads. The twin of ``aio``."""

from __future__ import annotations

import inspect
import os
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis import exceptions

from millstream.driver.blocking_ahead import BlockingAhead
from millstream.driver.blocking_aside import BlockingAside
from millstream.driver.blocking_background import BlockingBackground
from millstream.driver.blocking_cluster import BlockingCluster
from millstream.driver.blocking_confirming import BlockingConfirming
from millstream.driver.blocking_letterbox import BlockingLetterbox
from millstream.driver.blocking_listener import BlockingListener
from millstream.driver.blocking_pubsub import BlockingPubSub
from millstream.driver.blocking_sender import BlockingSender, Run
from millstream.driver.blocking_server import BlockingServer
from millstream.driver.blocking_waiting import BlockingWaitingSender
from millstream.driver.cluster import ClusterTarget, locate
from millstream.driver.faults import NoTurn, Tries, first_error, forked, refusal, translate
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

__all__ = ["BlockingDriver"]

T = TypeVar("T")


class BlockingDriver:
    """One server, seen from threads.

    Args:
        source: a URL, a redis-py client, a Target, or None (see ``resolve``).
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
        self._server: BlockingServer | BlockingCluster | None = None
        self._replica: BlockingServer | None = None
        self._confirming: dict[str, BlockingConfirming] = {}
        self._pubsubs: dict[int | None, BlockingPubSub] = {}
        self._opening = threading.Lock()
        # Attempts that have failed, and how the last one did.
        self._failures = 0
        self._failure: Exception | None = None
        self._closed = False
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """The server's address, its password hidden; empty before the first connection."""
        return self._target.url if self._target is not None else ""

    @property
    def losses(self) -> int:
        """How often the connection was lost: what was asked of the server may hold no more."""
        return self._server.losses if self._server is not None else 0

    def open(self, seconds: float | None = None) -> None:
        """Connect and check the server, once. Who asks meanwhile shares the attempt and its outcome.

        Args:
            seconds: to wait for another thread's attempt; None: as long as it takes.

        Raises:
            NotConnected: nobody answers; at once, without further tries.
            TimedOut: nobody has answered in time.
            UnsupportedServer: it is too old.
            UsageError: the driver is closed, or of the parent process, or its URL makes no sense.
        """
        self.check_home()
        failures = self._failures
        if not self._opening.acquire(timeout=-1 if seconds is None else seconds):
            message = f"not connected within {seconds:.1f} s"
            raise TimedOut(message)
        try:
            self._check_open()
            if self._server is not None:
                return
            if self._failure is not None and self._failures > failures:
                raise one_more(self._failure)
            try:
                self._open()
            except Exception as error:
                self._failures += 1
                self._failure = error
                raise
        finally:
            self._opening.release()

    def _open(self) -> None:
        target = self._source
        owned = not isinstance(target, Target | ClusterTarget)
        target = target if isinstance(target, Target) else locate(target, self._security)
        make = BlockingCluster if isinstance(target, ClusterTarget) else BlockingServer
        server = make(target, connect_timeout=self._connect_timeout, timeout=self._timeout)  # type: ignore[arg-type] # each gets the kind of target that it is made for
        try:
            self._check(server)
        except BaseException:
            server.close()
            if owned:
                target.close()
            raise
        self._target, self._server, self._owned = target, server, owned
        if self._read_from == "replica" and (replicas := target.replicas()) is not None:
            self._replica = BlockingServer(
                replicas, connect_timeout=self._connect_timeout, timeout=self._timeout
            )

    @property
    def is_elsewhere(self) -> bool:
        """Whether it was made in another process: locks may be held for ever by threads that are not here."""
        return os.getpid() != self._pid

    def check_home(self) -> None:
        """Make sure that it is used in the process in which it was made.

        Raises:
            UsageError: it is used in another one.
        """
        if self.is_elsewhere:
            raise forked()

    def _check_open(self) -> None:
        if self._closed:
            message = "this client is closed"
            raise UsageError(message)

    def _check(self, server: BlockingServer | BlockingCluster) -> None:
        op, url = server_info(), server.target.url
        try:
            replies = server.open(op)
        except _LOSSES as error:
            raise translate(error, url) from error
        check_replies(op, replies, url)

    def run(self, op: Op[T], *, stale: bool = False) -> T:
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
        begun = time.monotonic()
        patience = self._timeout if op.patience is None else min(op.patience, self._timeout)
        if self._server is None or self._closed:
            self.open(None if op.patience is None else patience)
            begun = time.monotonic() if op.patience is None else begun
        server = (self._replica if stale and op.readonly else None) or self._server
        assert server is not None  # noqa: S101 - open() raises or sets it
        if os.getpid() != self._pid:
            # Two processes on one connection, with the same batch numbers, would lose messages.
            raise forked()
        tries: Tries | None = None
        problem: BrokerError | None = None
        while True:
            try:
                replies = server.perform(op, begun + patience)
                error = first_error(op, replies)
                if error is None:
                    return op.decode(replies)
                problem, cause = refusal(error, self.url, op), error
            except NoTurn as none:
                # Of an earlier try it is not known what has become.
                raise problem or translate(none, self.url) from none
            except _LOSSES as loss:
                problem, cause = translate(loss, self.url), loss
            tries = tries or Tries(begun + patience)
            again = op.repeatable and isinstance(problem, NotConnected | TimedOut)
            server.failed(cause)
            pause = tries.next_pause(time.monotonic()) if again else None
            if pause is None or self._closed:
                raise problem from cause
            time.sleep(pause)

    def drive(self, plan: Plan[T], *, stale: bool = False) -> T:
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
                time.sleep(step.seconds)
                continue
            try:
                answer = self.nodes() if isinstance(step, Nodes) else self.run(step, stale=stale)
            except BrokerError as error:
                problem = error

    def nodes(self) -> list[int | None]:
        """Return a slot of each node of a cluster; see ``Nodes``."""
        self.open()
        assert self._server is not None  # noqa: S101 - open() sets it
        return self._server.slots()

    def begin(self, op: Op[T], *, stale: bool = False) -> BlockingAhead[T]:
        """Return an operation that is run when its result is wanted; see ``run``."""
        return BlockingAhead(partial(self.run, stale=stale), op)

    def lock(self) -> threading.RLock:
        """Return a lock for threads. A signal handler may close what its own thread uses."""
        return threading.RLock()

    def sleep(self, seconds: float) -> None:
        """Wait, as this driver's users do."""
        time.sleep(seconds)

    def tell(self, callback: Callable[[Any], object], news: Any) -> None:
        """Call a user's function.

        Raises:
            UsageError: it is an ``async def``, which nobody here could await.
        """
        outcome = callback(news)
        if inspect.iscoroutine(outcome):
            outcome.close()
            message = "a callback of the blocking client must be a plain function, no async def"
            raise UsageError(message)

    def sender(
        self,
        batch: Batch[T],
        *,
        in_order: bool = False,  # noqa: ARG002 - they always are
        run: Run | None = None,
        confirming: BlockingConfirming | None = None,
    ) -> BlockingSender[T]:
        """Return what gathers the sends of many threads into batches, in their order."""
        run = run or (self.run if confirming is None else confirming.run)
        return BlockingSender(run, batch, timeout=self._timeout, confirming=confirming)

    def waiting_sender(self, keys: QueueKeys, bound: Bound) -> BlockingWaitingSender:
        """Return what has sends to a full queue wait."""
        return BlockingWaitingSender(self.run, self.listener, keys, bound)

    def letterbox(self) -> BlockingLetterbox[Any]:
        """Return a place where things wait for one thread."""
        return BlockingLetterbox()

    def aside(self) -> BlockingAside:
        """Return what sends that for which nobody waits."""
        return BlockingAside()

    def background(self, main: Callable[[], None], name: str) -> BlockingBackground:
        """Begin work that goes on beside its owner."""
        return BlockingBackground(main, name)

    def listener(self) -> BlockingListener:
        """Return a connection of its own for reads that sleep at the server."""
        self.open()
        assert self._server is not None  # noqa: S101 - open() sets it
        return BlockingListener(
            self._server, connect_timeout=self._connect_timeout, longest=BLOCK_MS / 1000 + 5
        )

    def any_of(self, listeners: Sequence[BlockingListener], seconds: float) -> None:
        """Wait until one of some outstanding reads has ended, and no longer than so many seconds."""
        with selectors.DefaultSelector() as selector:
            for listener in listeners:
                if not listener.listening or listener.done:
                    return
                selector.register(listener.socket, selectors.EVENT_READ)
            selector.select(seconds)

    def pubsub(self, channel: Channel) -> BlockingPubSub:
        """Return the connection for all that is listened to; of a cluster, in the channel's slot."""
        self.open()
        server = self._server
        assert server is not None  # noqa: S101 - open() sets it
        slot = slot_of(channel.name) if isinstance(server, BlockingCluster) else None
        with self._opening:
            if slot not in self._pubsubs:
                self._pubsubs[slot] = BlockingPubSub(
                    server, slot, connect_timeout=self._connect_timeout, timeout=self._timeout
                )
            return self._pubsubs[slot]

    def confirming(self, durability: str) -> BlockingConfirming:
        """Return what has sends confirmed; it has connections of its own.

        A server that can never confirm it is found out by the first send.
        """
        found = self._confirming.get(durability)
        if found is None:
            self.open()
            assert self._server is not None  # noqa: S101 - open() sets it
            made = BlockingConfirming(
                *(self._server, durability),
                connect_timeout=self._connect_timeout,
                timeout=self._timeout,
            )
            found = self._confirming.setdefault(durability, made)
        return found

    def blocking(self, *, timeout: float) -> BlockingDriver:
        """Return a further driver of the same server, for another thread, as patient as told."""
        source = self._target if self._target is not None else self._source
        return BlockingDriver(
            source,
            connect_timeout=min(self._connect_timeout, timeout),
            timeout=min(self._timeout, timeout),
            security=self._security,
        )

    def close(self) -> None:
        """Disconnect. Safe to repeat. In a forked child, close what it has of the connections."""
        self._closed = True
        if self.is_elsewhere:
            for server in (self._server, self._replica):
                if server is not None:
                    server.close()
            return
        for pubsub in [*self._pubsubs.values()]:
            pubsub.close()
        for confirming in [*self._confirming.values()]:
            confirming.close()
        for server in (self._server, self._replica):
            if server is not None:
                server.close()
        if self._target is not None and self._owned:
            self._target.close()


_LOSSES = (exceptions.RedisError, OSError)
"""redis-py's own errors, and the socket's (TimeoutError is an OSError)."""
