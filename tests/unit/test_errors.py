"""The tree of errors, and what survives pickling."""

from __future__ import annotations

import builtins
import copy
import pickle
import re
from typing import Any

import pytest

import millstream
from millstream import errors
from millstream.errors import (
    BrokerError,
    DeliveryError,
    LeaseLost,
    MillstreamError,
    NoResponders,
    NoResult,
    NotConfirmed,
    NotConnected,
    QueueFull,
    Reject,
    RemoteError,
    ResponderLost,
    RetryLater,
    ServerRefused,
    SlowListener,
    TimedOut,
    Undecodable,
    UnsupportedServer,
    UsageError,
)

EXAMPLES: list[tuple[MillstreamError, dict[str, Any]]] = [
    (MillstreamError("text"), {}),
    (UsageError("text"), {}),
    (BrokerError("text"), {}),
    (
        NotConfirmed("text", receipts=("r",), wanted="fsync"),
        {"receipts": ("r",), "wanted": "fsync", "parts": (), "batch": None},
    ),
    (NotConnected("text", url="redis://h"), {"url": "redis://h"}),
    (TimedOut("text", url="redis://h"), {"url": "redis://h"}),
    (ServerRefused("text", code="OOM"), {"code": "OOM"}),
    (
        QueueFull("text", queue="orders", length=9, bound=9),
        {"queue": "orders", "length": 9, "bound": 9},
    ),
    (UnsupportedServer("text", version="5.0.7"), {"version": "5.0.7"}),
    (DeliveryError("text", queue="orders", id="1-1"), {"queue": "orders", "id": "1-1"}),
    (LeaseLost("text", queue="orders", id="1-1"), {"queue": "orders", "id": "1-1"}),
    (
        Undecodable("text", queue="orders", id="1-1", reason="malformed"),
        {"queue": "orders", "id": "1-1", "reason": "malformed"},
    ),
    (
        NoResult("text", queue="orders", id="1-1", reason="cancelled"),
        {"queue": "orders", "id": "1-1", "reason": "cancelled"},
    ),
    (NoResponders("text", queue="quote", id=""), {"queue": "quote", "id": ""}),
    (
        ResponderLost("text", queue="quote", id="1-1", reason="crashed"),
        {"queue": "quote", "id": "1-1", "reason": "crashed"},
    ),
    (
        RemoteError("text", queue="quote", id="1-1", type_name="KeyError", detail="'x'"),
        {"id": "1-1", "type_name": "KeyError", "detail": "'x'", "traceback": None},
    ),
    (
        TimedOut("text", endpoint="quote", id="1-1", state="running", seconds=1.5),
        {"url": None, "endpoint": "quote", "id": "1-1", "state": "running", "seconds": 1.5},
    ),
    (SlowListener("text", topic="ticks", buffer=9), {"topic": "ticks", "buffer": 9}),
    (RetryLater("text", delay=5), {"reason": "text", "delay": 5}),
    (Reject("text"), {"reason": "text"}),
]


def subclasses(root: type) -> set[type]:
    found = {root}
    child: type
    for child in root.__subclasses__():
        found |= subclasses(child)
    return found


def test_every_error_is_listed_and_public() -> None:
    """All errors stand in one module and one tree, and the package offers each."""
    names = {
        error.__name__
        for error in subclasses(MillstreamError)
        if error.__module__ == errors.__name__
    }

    assert names == set(errors.__all__)
    assert names <= set(millstream.__all__)
    assert names == {type(error).__name__ for error, _ in EXAMPLES}


def test_the_tree_is_what_its_page_says() -> None:
    """The drawing in the module's docstring is the tree."""
    drawn: dict[str, str] = {}
    above: list[str] = ["MillstreamError"]
    for bars, name in re.findall(
        r"^ {4}([\u2502 ]*[\u251c\u2514]\u2500\u2500 )(\w+)", errors.__doc__ or "", re.MULTILINE
    ):
        depth = len(bars) // 4
        above = [*above[:depth], name]
        drawn[name] = above[depth - 1]

    real = {
        error.__name__: error.__bases__[0].__name__
        for error in subclasses(MillstreamError) - {MillstreamError}
        if error.__module__ == errors.__name__
    }
    assert drawn == real


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(UsageError, "ValueError"), (NotConnected, "ConnectionError"), (TimedOut, "TimeoutError")],
)
def test_some_are_builtin_errors_too(error: type[MillstreamError], builtin: str) -> None:
    """Code that knows nothing of Millstream catches them by their kind."""
    assert issubclass(error, getattr(builtins, builtin))


@pytest.mark.parametrize(("error", "data"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_the_data_are_attributes(error: MillstreamError, data: dict[str, Any]) -> None:
    """Nobody has to read them out of the text."""
    assert str(error) == "text"
    assert {name: getattr(error, name) for name in data} == data


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("error", "data"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_every_error_survives_pickling(
    error: MillstreamError, data: dict[str, Any], protocol: int
) -> None:
    """An error of a worker process reaches its parent whole."""
    again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own

    assert type(again) is type(error)
    assert (str(again), again.args) == ("text", error.args)
    assert {name: getattr(again, name) for name in data} == data


def test_notes_and_copies() -> None:
    """What was added to an error stays with it."""
    error = LeaseLost("text", queue="orders", id="1-1")
    error.add_note("seen at noon")

    again = copy.copy(error)

    assert again.__notes__ == ["seen at noon"]
    assert again.id == "1-1"


def test_a_subclass_of_a_user_is_pickled_too() -> None:
    """Handlers may raise errors of their own that say more."""
    error = Gone("no such customer", customer=7)

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (again.reason, again.customer) == ("no such customer", 7)


class Gone(Reject):
    def __init__(self, reason: str, *, customer: int) -> None:
        super().__init__(reason)
        self.customer = customer
