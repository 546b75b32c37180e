"""A transaction: what a handler sends and writes, and the end of its delivery, in one step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from millstream.checks import check_options, check_results, check_sendable, check_topic
from millstream.declare import Queue
from millstream.errors import UsageError
from millstream.message import Receipt
from millstream.policy import Duration
from millstream.protocol.draft import (
    Draft,
    amount_of,
    encode_value,
    encode_values,
    lifetime_of,
    pairs_of,
)
from millstream.protocol.envelope import encode_headers
from millstream.protocol.options import SendOptions, placement
from millstream.protocol.publish import publication
from millstream.protocol.results import encode_result
from millstream.protocol.transaction import Committed
from millstream.topic import Source, Topic

__all__ = ["Transaction"]

T = TypeVar("T")


class Transaction:
    """Messages and writes that happen together with the acknowledgement of a delivery, or not at all.

    Use it as a context manager; ``Delivery.transaction`` makes it. Its methods only take note, and
    nothing is sent to the server before the block ends. When it ends well, all of it is done in one step;
    when it raises, nothing is.

    Keys of plain writes are named as they are, without the namespace of the client. A value is ``str``
    (stored as UTF-8), ``bytes``, ``int`` or ``float``.

    Attributes:
        receipts: once it is done: of what was sent and published, in that order. Empty before.
    """

    __slots__ = ("_commit", "_draft", "_open", "_source", "receipts")

    def __init__(
        self, source: Source[Any], commit: Callable[[Draft], Awaitable[Committed]]
    ) -> None:
        self._source = source
        self._commit = commit
        self._draft = Draft(source.title)
        # None: its block has not begun.
        self._open: bool | None = None
        self.receipts: list[Receipt] = []

    async def __aenter__(self) -> Self:
        """Begin."""
        if self._open is not None:
            message = (
                f"{self._draft.title}: this transaction has begun already: make one for each block"
            )
            raise UsageError(message)
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do all of it, unless the block has raised.

        Raises:
            LeaseLost: another consumer owns the delivery by now, or it is settled. Nothing was done.
            QueueFull: an output has no room. Nothing was done.
            UsageError: others declare an output in another way, a key is Millstream's own, or, on a
                cluster, the keys are in different slots. Nothing was done.
            ServerRefused: the server has no memory, or a key holds something that the write does not fit.
                Nothing was done.
            NotConnected, TimedOut: the server was lost: it is done or not. If so, whatever the delivery
                is settled by afterwards is refused.
        """
        draft = self._checked()
        self._open = False
        if kind is None:
            self.receipts = (await self._commit(draft)).receipts

    # Outputs

    def send(
        self,
        queue: Queue[T],
        body: T,
        *,
        result: bool = False,
        headers: Mapping[str, str] | None = None,
        **options: Unpack[SendOptions],
    ) -> None:
        """Send a message to a queue.

        A queue with a bound that is full refuses the whole transaction, whatever its ``on_full=`` says
        of waiting.

        Args:
            queue, body, headers, options: as for ``AsyncClient.send``.
            result: whether its result is to be kept, for ``AsyncClient.handle`` with its receipt's id.

        Raises:
            UsageError: the body or an option makes no sense, or the transaction is too large.
        """
        draft = self._checked()
        check_sendable(queue)
        check_options("send", options, SendOptions.__optional_keys__)
        encoded = encode_headers(headers) if headers else b""
        draft.put(queue, placement(queue, queue.encode(body), encoded, result=result, **options))

    def publish(
        self,
        topic: Topic[T],
        body: T,
        *,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish a message to a durable topic. The parameters are those of ``AsyncClient.publish``.

        Raises:
            UsageError: the topic is ephemeral, the body or an option makes no sense, or the transaction
                is too large.
        """
        draft = self._checked()
        check_topic(topic)
        if not topic.durable:
            message = (
                f"{topic.title} keeps nothing, so publishing to it cannot be a part of a transaction: "
                "publish behind the block"
            )
            raise UsageError(message)
        encoded = encode_headers(headers) if headers else b""
        draft.put(topic, publication(topic, topic.encode(body), encoded, key=key, subject=subject))

    def result(self, value: Any) -> None:
        """Give the result of the delivery's message, for a sender that wants it (``send(result=True)``).

        A handler that acknowledges by a transaction gives its result here, and not by what it returns.

        Raises:
            UsageError: the queue has no results, or the value does not fit their type.
        """
        draft = self._checked()
        check_results(self._source)
        stored, problem = encode_result(self._source, value)  # type: ignore[arg-type] # it is a queue
        if problem is not None:
            raise problem
        draft.result = stored

    # Plain writes

    def set(self, key: str, value: str | bytes | float, *, ttl: Duration | None = None) -> None:
        """Store a value, whatever the key held before; with ``ttl`` for so many seconds."""
        data = encode_value(value)
        lifetime = () if ttl is None else ("PX", lifetime_of(ttl, "ttl"))
        self._checked().write("SET", key, data, *lifetime)

    def delete(self, *keys: str) -> None:
        """Delete keys. One that does not exist is no error."""
        for key in keys:
            self._checked().write("DEL", key)

    def expire(self, key: str, seconds: Duration) -> None:
        """Have a key deleted in so many seconds."""
        self._checked().write("PEXPIRE", key, lifetime_of(seconds, "seconds"))

    def incrby(self, key: str, amount: int = 1) -> None:
        """Add to a counter, which begins at 0."""
        self._checked().write("INCRBY", key, amount_of(amount))

    def hset(self, key: str, mapping: Mapping[str, str | bytes | float]) -> None:
        """Set fields of a hash."""
        self._checked().write("HSET", key, *pairs_of(mapping, "hset"))

    def hdel(self, key: str, *fields: str | bytes) -> None:
        """Delete fields of a hash."""
        self._checked().write("HDEL", key, *encode_values(fields, "hdel"))

    def hincrby(self, key: str, field: str | bytes, amount: int = 1) -> None:
        """Add to a counter in a hash, which begins at 0."""
        self._checked().write("HINCRBY", key, encode_value(field, "field"), amount_of(amount))

    def sadd(self, key: str, *members: str | bytes | float) -> None:
        """Add members to a set."""
        self._checked().write("SADD", key, *encode_values(members, "sadd"))

    def srem(self, key: str, *members: str | bytes | float) -> None:
        """Remove members from a set."""
        self._checked().write("SREM", key, *encode_values(members, "srem"))

    def zadd(self, key: str, scores: Mapping[str, float]) -> None:
        """Add members to a sorted set, or give them other scores."""
        self._checked().write("ZADD", key, *pairs_of(scores, "zadd", scores=True))

    def zrem(self, key: str, *members: str | bytes | float) -> None:
        """Remove members from a sorted set."""
        self._checked().write("ZREM", key, *encode_values(members, "zrem"))

    def lpush(self, key: str, *values: str | bytes | float) -> None:
        """Put values before a list, one after the other."""
        self._checked().write("LPUSH", key, *encode_values(values, "lpush"))

    def rpush(self, key: str, *values: str | bytes | float) -> None:
        """Put values behind a list."""
        self._checked().write("RPUSH", key, *encode_values(values, "rpush"))

    def _checked(self) -> Draft:
        """Return what was gathered, while its block runs."""
        if not self._open:
            message = f"{self._draft.title}: this transaction is over, or has not begun: use it in its block"
            raise UsageError(message)
        return self._draft
