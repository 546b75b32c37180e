"""Commits, step by step: what is known of a batch when the server can never confirm it."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.errors import NotConnected, ServerRefused
from millstream.message import Receipt
from millstream.protocol.confirm import Commits
from millstream.protocol.op import Command, Op

REFUSED = ServerRefused("it has no append-only file. Nothing was sent")
LOST = NotConnected("the connection is lost")


def batch() -> Op[Any]:
    return Op((Command(("SCRIPT", 1)),), lambda replies: [Receipt(str(replies[0]))])


def test_what_was_never_sent_is_refused() -> None:
    """Where the server says beforehand that it confirms nothing, nothing is stored."""
    commits = Commits("fsync", 10.0, object())
    both = [commits.join(batch(), 0.0) for _ in range(2)]
    assert commits.step(0.0) is not None
    commits.failed(REFUSED, 0.1)

    errors = []
    for one in both:
        with pytest.raises(ServerRefused, match="Nothing was sent") as caught:
            one.result()
        errors.append(caught.value)
    assert errors[0] is not errors[1], "each is raised in another task, and gets its traceback"


def test_what_may_be_stored_is_not_said_to_be_refused() -> None:
    """The server behind a failover confirms nothing: what was lost on its way to the one before is in doubt."""
    commits = Commits("fsync", 10.0, object())
    lost = commits.join(batch(), 0.0)
    assert commits.step(0.0) is not None
    commits.failed(LOST, 0.1)
    new = commits.join(batch(), 0.2)
    assert commits.step(0.3) is not None
    commits.failed(REFUSED, 0.4)

    with pytest.raises(NotConnected):
        lost.result()
    with pytest.raises(ServerRefused):
        new.result()
