"""The queues of these tests deliver at most once, from a stream and from a list."""

from __future__ import annotations

from typing import Any, Literal

import pytest

import millstream as ms
from tests.api.clients import Kind
from tests.api.conftest import any_mq, connect, mq

__all__ = ["any_mq", "connect", "mq"]


@pytest.fixture
def kind() -> Kind:
    """The blocking client is generated from this one."""
    return "async"


@pytest.fixture
def any_url(url: str) -> str:
    """Servers differ in the scripts, which have tests of their own on each."""
    return url


@pytest.fixture(params=["stream", "list"])
def queue(request: pytest.FixtureRequest) -> ms.Queue[Any]:
    """A queue of any JSON values."""
    store: Literal["stream", "list"] = request.param
    return ms.Queue("orders", store=store, delivery="at_most_once")
