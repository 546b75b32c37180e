# GENERATED from src/millstream/aio/endpoints.py by tools/unasync.py - do not edit
"""Asking endpoints. Functions with ``mq`` are the client's methods."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol, TypeVar

from millstream.checks import check_callback, check_endpoint, check_window
from millstream.endpoint import Endpoint
from millstream.policy import Duration, milliseconds
from millstream.protocol.envelope import encode_headers
from millstream.sync.requests import Requests, decoded
from millstream.sync.streams import Stream

__all__ = ["request", "request_stream"]

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
    timeout_ms = _milliseconds(endpoint, timeout)
    requests = mq.requests
    pending = requests.send(
        endpoint, data, encoded, timeout_ms=timeout_ms, progress=on_progress is not None
    )
    reply: R = requests.reply(pending, on_progress)
    return reply


def request_stream(
    mq: Asking,
    endpoint: Endpoint[Q, R],
    body: Q,
    *,
    timeout: Duration | None = None,
    headers: Mapping[str, str] | None = None,
    window: int = 32,
) -> Generator[R, None, None]:
    """Ask an endpoint whose handler yields, and iterate over the parts of its reply as they come.

    To leave early (``break``, an exception, a cancellation) closes the generator, unless it must finish.
    A stream may go on for any time. Of a handler that returns, its one reply is the one part.

    Args:
        endpoint: to ask.
        body: of the endpoint's request type.
        timeout: seconds to wait for a part, or for a worker to begin. Default: the endpoint's.
        headers: metadata, strings to strings.
        window: 1 to 10,000: the generator waits when it is so many parts ahead of this loop.

    Yields:
        The parts, each once and in order.

    Raises:
        NoResponders: no live worker serves the endpoint. Nobody has begun with the request.
        RemoteError: the generator raised, after the parts that came; or what it raised, if registered.
        TimedOut: the next part did not come in time. The generator is closed.
        ResponderLost: the worker died or was stopped, and part of the reply is missing. Of an
            idempotent endpoint only when parts had come already; else another worker begins.
        Undecodable: a part does not fit the endpoint's type.
        UsageError: the body or an option makes no sense. Nothing was sent.
        BrokerError: the server could not be used; the request may or may not be handled.

    Guarantee: the beginning of one run of the handler, without a gap or a repetition; all of it if no
    exception comes.
    """
    check_endpoint(endpoint)
    check_window(window)
    data = endpoint.encode_request(body)
    encoded = encode_headers(headers) if headers else b""
    timeout_ms = _milliseconds(endpoint, timeout)
    pending = mq.requests.send(endpoint, data, encoded, timeout_ms=timeout_ms, window=window)
    stream = Stream(mq.requests, pending, timeout_ms / 1000)
    try:
        while (content := stream.next()) is not None:
            part: R = decoded(pending, content)
            yield part
    finally:
        stream.leave()


def _milliseconds(endpoint: Endpoint[Any, Any], timeout: Duration | None) -> int:
    if timeout is None:
        return endpoint.timeout_ms
    return milliseconds(timeout, "timeout", minimum=0.001)
