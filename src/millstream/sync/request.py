# GENERATED from src/millstream/aio/request.py by tools/unasync.py - do not edit
"""A request in the hands of a handler."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from millstream.endpoint import Endpoint
from millstream.errors import UsageError
from millstream.sync.delivery import SyncDelivery

__all__ = ["Line", "SyncRequest"]

T = TypeVar("T")


class Line(Protocol):
    """The way back to the caller."""

    @property
    def wants_notes(self) -> bool:
        """Whether the caller wants to hear of progress."""
        ...

    @property
    def seconds_left(self) -> float:
        """Until the deadline; inf: there is none."""
        ...

    def note(self, content: bytes) -> None:
        """Send a note of progress."""
        ...


class SyncRequest(Generic[T]):
    """One request, for a handler with a second parameter. Its reply is what the handler returns.

    Attributes:
        body: the decoded body.
        endpoint: that was asked.
        delivery: the hand-over of the message; the worker settles it.
        line: the way back to the caller, for the worker.
    """

    __slots__ = ("body", "delivery", "endpoint", "line")

    def __init__(
        self, body: T, delivery: SyncDelivery[Any], endpoint: Endpoint[Any, Any], line: Line
    ) -> None:
        self.body = body
        self.endpoint = endpoint
        self.delivery = delivery
        self.line = line

    def __repr__(self) -> str:
        """Name the request without its body, which may be large or secret."""
        return f"<SyncRequest {self.id} of {self.endpoint.title}>"

    @property
    def id(self) -> str:
        """Id of the request."""
        return self.delivery.id

    @property
    def headers(self) -> Mapping[str, str]:
        """The metadata that the caller gave."""
        return self.delivery.headers

    @property
    def sent_at(self) -> datetime:
        """When the server accepted the request."""
        return self.delivery.sent_at

    @property
    def crashes(self) -> int:
        """How many workers died with it before; above 0 only for an idempotent endpoint."""
        return self.delivery.crashes

    @property
    def time_left(self) -> float:
        """Seconds until the deadline of the caller; inf if nobody waits."""
        return self.line.seconds_left

    @property
    def deadline(self) -> datetime | None:
        """When the caller gives up, by the worker's clock; None if nobody waits."""
        left = self.line.seconds_left
        return None if left == float("inf") else datetime.now(UTC) + timedelta(seconds=left)

    def progress(self, note: Any) -> None:
        """Tell the caller how far it is. If it does not want to know (``on_progress=``), it costs nothing.

        Args:
            note: any JSON value.

        Raises:
            UsageError: it is no JSON value, or larger than the endpoint's ``max_body``.
            BrokerError: the server cannot be used.

        Guarantee: it reaches the caller before the reply, and after the notes that were awaited before.
        """
        if not self.line.wants_notes:
            return
        try:
            content = msgspec.json.encode(note)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"{self.endpoint.title}: a note of progress must be a JSON value: {error}"
            raise UsageError(message) from error
        if len(content) > self.endpoint.max_body:
            message = (
                f"{self.endpoint.title}: a note of progress has {len(content)} bytes, "
                f"{self.endpoint.max_body} are allowed (max_body)"
            )
            raise UsageError(message)
        self.line.note(content)
