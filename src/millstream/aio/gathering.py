"""Asking all workers of an endpoint. Functions with ``mq`` are the client's methods."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from millstream.aio.requests import AGAIN_AFTER, STALLED, Requests
from millstream.checks import check_endpoint
from millstream.codec import NotDecodable
from millstream.driver.aio import AsyncDriver
from millstream.endpoint import Endpoint
from millstream.errors import NoResponders, NotConnected, ResponderLost, TimedOut, Undecodable
from millstream.message import Answer
from millstream.policy import Duration, check_count, milliseconds
from millstream.protocol.envelope import encode_headers
from millstream.protocol.gathering import check_length, gathering
from millstream.protocol.keys import queue_keys
from millstream.protocol.mailbox import Item
from millstream.protocol.remote import read_error
from millstream.protocol.requests import Address, Outgoing
from millstream.text import text_of

__all__ = ["gather"]

Q = TypeVar("Q")
R = TypeVar("R")

_ANSWERS = ("reply", "error", "lost")


class Gathering(Protocol):
    """What these functions need of a client."""

    @property
    def namespace(self) -> str:
        """First part of all keys."""
        ...

    @property
    def driver(self) -> AsyncDriver:
        """What runs operations."""
        ...

    @property
    def requests(self) -> Requests:
        """What has the mailbox."""
        ...


def gather(
    mq: Gathering,
    endpoint: Endpoint[Q, R],
    body: Q,
    *,
    expect: int | None = None,
    timeout: Duration | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncGenerator[Answer[R], None]:
    """Ask every live worker of an endpoint, and iterate over their answers as they come.

    A worker is one process, or one run of a ``Worker``. Also the workers of a paused queue answer. A worker
    that is busy with as many requests as it handles at a time begins when one of them ends.

    Args:
        endpoint: to ask.
        body: of the endpoint's request type. With the headers, 64 KiB at most.
        expect: how many answers to wait for. Default: those of all workers that serve the endpoint
            at this moment.
        timeout: seconds that it may take in all; then handlers that still run are cancelled, unless the
            endpoint says that they must finish. Default: the endpoint's.
        headers: metadata, strings to strings.

    Raises:
        NoResponders: no live worker serves the endpoint. Nobody was asked.
        TimedOut: some have not answered in time, of which it tells the names (``missing``). The answers
            that have come were yielded before.
        UsageError: the body or an option makes no sense. Nobody was asked.
        BrokerError: the server could not be used; workers may or may not have been asked.

    Guarantee: each worker handles it at most once, and has one answer. Whoever was asked goes on when
    nobody waits for more answers.
    """
    check_endpoint(endpoint)
    if expect is not None:
        check_count(expect, "expect")
    data = endpoint.encode_request(body)
    encoded = encode_headers(headers) if headers else b""
    check_length(endpoint, data, encoded)
    timeout_ms = (
        endpoint.timeout_ms if timeout is None else milliseconds(timeout, "timeout", minimum=0.001)
    )
    return _answers(mq, endpoint, Outgoing(data, encoded, timeout_ms, ""), expect)


async def _answers(
    mq: Gathering, endpoint: Endpoint[Any, R], call: Outgoing, expect: int | None
) -> AsyncGenerator[Answer[R], None]:
    """Ask, and yield answers."""
    mailbox = mq.requests.mailbox
    deadline = time.monotonic() + call.left_ms / 1000
    if not mailbox.is_open:
        await mailbox.open(call.left_ms / 1000)
    slot, box = mailbox.slot()
    try:
        call = replace(call, address=str(Address(mailbox.client, slot, gather=True)))
        id, members = await _ask(mq, endpoint, call, deadline)
        if not members:
            raise _nobody(endpoint)
        missing, answers = dict.fromkeys(members), set[str]()
        while missing if expect is None else len(answers) < expect:
            item = await box.take(deadline - time.monotonic())
            if isinstance(item, Exception):
                raise _closed(endpoint, id)
            if item is None:
                # Who was no member when it was asked may have heard it all the same.
                answered = len(members) - len(missing) if expect is None else len(answers)
                expected = len(members) if expect is None else expect
                raise _late(endpoint, id, call.left_ms, answered, expected, list(missing))
            # A mail may come twice, and anybody can write to a mailbox.
            if item.kind in _ANSWERS and item.sender and item.sender not in answers:
                answers.add(item.sender)
                missing.pop(item.sender, None)
                yield _answer(endpoint, id, item)
    finally:
        mailbox.close_slot(slot)


async def _ask(
    mq: Gathering, endpoint: Endpoint[Any, Any], call: Outgoing, deadline: float
) -> tuple[str, list[str]]:
    """Ask; return the id of the call, and who was asked."""
    while True:
        begun = time.monotonic()
        left_ms = max(1, int(1000 * (deadline - begun)))
        asking = gathering(queue_keys(mq.namespace, endpoint.name), replace(call, left_ms=left_ms))
        id, members = await mq.driver.run(asking)
        now = time.monotonic()
        if members or now - begun < STALLED or deadline - now < AGAIN_AFTER:
            return id, members
        # The server stood still, and signs of life of its workers with it.
        await mq.driver.sleep(AGAIN_AFTER)


def _answer(endpoint: Endpoint[Any, R], id: str, item: Item) -> Answer[R]:
    """Return what one worker has said."""
    responder, name = item.sender, endpoint.name
    if item.kind == "error":
        error = read_error(item.content, endpoint.errors, endpoint=name, id=id)
        return Answer(responder=responder, error=error)
    if item.kind == "lost":
        return Answer(responder=responder, error=_lost(endpoint, id, item))
    try:
        return Answer(responder=responder, reply=endpoint.reply_codec.decode(item.content))
    except NotDecodable as problem:
        what = f"the reply of {responder} to call {id} is undecodable"
        message = f"{endpoint.title}: {what}: {text_of(problem)}"
        undecodable = Undecodable(message, queue=name, id=id, reason="undecodable")
        undecodable.__cause__ = problem
        return Answer(responder=responder, error=undecodable)


def _lost(endpoint: Endpoint[Any, Any], id: str, item: Item) -> ResponderLost:
    reason = item.content.decode("utf-8", "replace")
    what = {
        "stopped": "it was stopped",
        "busy": "it has too many calls in hand",
        "malformed": "it could not read it",
    }.get(reason, reason)
    message = f"{endpoint.title}: {item.sender} will not answer call {id}: {what}"
    return ResponderLost(message, queue=endpoint.name, id=id, reason=reason)


def _closed(endpoint: Endpoint[Any, Any], id: str) -> NotConnected:
    message = f"{endpoint.title}: the client was closed while call {id} waited for answers"
    return NotConnected(message)


def _nobody(endpoint: Endpoint[Any, Any]) -> NoResponders:
    message = (
        f"{endpoint.title}: no worker serves it at the moment (or there is no such endpoint), so nobody "
        "was asked. Start a worker that has a handler for it"
    )
    return NoResponders(message, queue=endpoint.name, id="")


def _late(
    endpoint: Endpoint[Any, Any],
    id: str,
    timeout_ms: int,
    answered: int,
    expected: int,
    missing: Sequence[str],
) -> TimedOut:
    names = ", ".join(missing[:MOST_NAMES]) + (", ..." if len(missing) > MOST_NAMES else "")
    who = f"no answer from {names}" if missing else "no more workers serve it"
    message = (
        f"{endpoint.title}: {answered} of {expected} answers within {timeout_ms / 1000:g} s: {who}"
    )
    return TimedOut(
        message,
        endpoint=endpoint.name,
        id=id,
        answered=answered,
        expected=expected,
        missing=tuple(missing),
    )


MOST_NAMES = 10
"""Workers that the text of an error names; its attribute has all."""
