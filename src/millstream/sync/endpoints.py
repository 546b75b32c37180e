# GENERATED from src/millstream/aio/endpoints.py by tools/unasync.py - do not edit
"""Asking endpoints. Functions with ``mq`` are the client's methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from millstream.checks import check_callback, check_endpoint
from millstream.endpoint import Endpoint
from millstream.policy import Duration, milliseconds
from millstream.protocol.envelope import encode_headers
from millstream.sync.requests import Requests

__all__ = ["request"]

Q = TypeVar("Q")
R = TypeVar("R")


class Asking(Protocol):
    """What these functions need of a client."""

    @property
    def requests(self) -> Requests:
        """What sends requests."""
        ...


def request(
    mq: Asking,
    endpoint: Endpoint[Q, R],
    body: Q,
    *,
    timeout: Duration | None = None,
    headers: Mapping[str, str] | None = None,
    on_progress: Callable[[Any], object] | None = None,
) -> R:
    """Ask an endpoint and wait for its reply. Concurrent requests share round trips and one reader.

    Args:
        endpoint: to ask.
        body: of the endpoint's request type.
        timeout: seconds that it may take in all; a worker does not begin with it after that.
            Default: the endpoint's.
        headers: metadata, strings to strings.
        on_progress: called with each note that the handler sends (``request.progress``), in their
            order and before there is a reply. With ``Client`` it may be an ``def``. Without
            it they are not sent at all. What it raises ends the request, as a cancellation would.

    Returns:
        The reply.

    Raises:
        NoResponders: no live worker serves the endpoint. Nobody has begun with the request.
        RemoteError: the handler raised; or what it raised, if the endpoint names it in ``errors``.
        TimedOut: there was no reply in time. It says whether the request was queued or running. A
            handler that runs is cancelled, unless the endpoint says that it must finish.
        ResponderLost: the worker died, or was stopped. Not for an idempotent endpoint.
        Undecodable: the reply does not fit the endpoint's type.
        UsageError: the body or an option makes no sense. Nothing was sent.
        BrokerError: the server could not be used; the request may or may not be handled.

    Guarantee: at most once, or at least once for an endpoint with ``idempotent=True``; answered once.
    """
    check_endpoint(endpoint)
    check_callback(on_progress, "on_progress")
    data = endpoint.encode_request(body)
    encoded = encode_headers(headers) if headers else b""
    timeout_ms = (
        endpoint.timeout_ms if timeout is None else milliseconds(timeout, "timeout", minimum=0.001)
    )
    requests = mq.requests
    pending = requests.send(
        endpoint, data, encoded, timeout_ms=timeout_ms, progress=on_progress is not None
    )
    reply: R = requests.reply(pending, on_progress)
    return reply
