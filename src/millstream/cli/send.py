"""``millstream send``."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.cli.moments import time_of
from millstream.cli.names import declared_queue, queue_of
from millstream.cli.options import (
    At,
    Bodies,
    Bound,
    Delay,
    Durability,
    FromFile,
    Header,
    Json,
    Key,
    Namespace,
    Ordered,
    Partitions,
    Priority,
    QueueName,
    Result,
    StoreName,
    Timeout,
    Ttl,
    Unique,
    UniqueFor,
    Url,
)
from millstream.cli.outgoing import (
    Outgoing,
    checked_bodies,
    durability_of,
    given,
    headers_of,
    opened,
)
from millstream.cli.output import body_value, show_json
from millstream.errors import UsageError
from millstream.message import Receipt
from millstream.policy import milliseconds
from millstream.sync.client import Client
from millstream.sync.results import SyncHandle

__all__ = ["send"]


def send(
    queue: QueueName,
    bodies: Bodies = None,
    *,
    source: FromFile = None,
    header: Header = None,
    delay: Delay = None,
    at: At = None,
    key: Key = None,
    ordered: Ordered = False,
    partitions: Partitions = None,
    bound: Bound = None,
    store: StoreName = None,
    priority: Priority = 0,
    unique: Unique = None,
    unique_for: UniqueFor = None,
    ttl: Ttl = None,
    durability: Durability = None,
    result: Result = False,
    timeout: Timeout = None,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Send messages and print their ids, or what came of one."""
    # This says what is wrong before it connects.
    declared = given(partitions=partitions, bound=bound, store=store, results=result)
    queue_of(queue, **declared)
    due = given(delay=delay, at=None if at is None else time_of(at), ttl=ttl)
    due |= given(durability=durability_of(durability), priority=priority or None)
    options = due | given(headers=headers_of(header), key=key)
    once = given(unique=unique, unique_for=_window(unique_for))
    encoded = checked_bodies(bodies, source)
    _check_together(encoded, source, once=bool(once), bound=bound)
    _check_result(encoded, timeout, wanted=result)
    outgoing = Outgoing("queue", queue, "sent", source, as_json=json_output)
    with opened(source) as file, Client(url, namespace=namespace) as client:
        target = declared_queue(client, queue, ordered=ordered, **declared)
        if result:
            _wait(client.send(target, encoded[0], result=True, **options, **once), timeout)
            return

        def pass_on(some: Sequence[bytes]) -> Sequence[Receipt]:
            if once:
                return [client.send(target, some[0], **options, **once)]
            return client.send_many(target, some, **options)

        outgoing.go(file, encoded, target.max_body, pass_on)


def _check_together(
    bodies: list[bytes], source: str | None, *, once: bool, bound: int | None
) -> None:
    if once and len(bodies) != 1:
        message = "--unique is for one message: give one BODY"
        raise UsageError(message)
    if bound is not None and source is not None:
        message = "--bound is for BODY arguments: a file may be longer than any queue"
        raise UsageError(message)


def _check_result(bodies: list[bytes], timeout: float | None, *, wanted: bool) -> None:
    if wanted and len(bodies) != 1:
        message = "--result is of one message: give one BODY"
        raise UsageError(message)
    if timeout is not None and not wanted:
        message = "--timeout says how long to wait for a result: give --result, too"
        raise UsageError(message)
    if timeout is not None:
        milliseconds(timeout, "--timeout")


def _wait(handle: SyncHandle, timeout: float | None) -> None:
    """Print what came of a message; one that was acknowledged by hand has no value."""
    show_json(body_value(handle.result(timeout=timeout) or b"null"))


def _window(unique_for: str | None) -> str | float | None:
    try:
        return unique_for if unique_for is None else float(unique_for)
    except ValueError:
        return unique_for  # done or started; the client says what is wrong with others
