"""The queues of these tests are lists; with one client and one server the promises are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from tests.api.clients import Kind
from tests.api.conftest import any_mq, connect, mq

__all__ = ["any_mq", "connect", "mq"]

STREAMS_ONLY = {
    # They look at streams, or cut the commands that read them.
    "test_a_foreign_xadd_is_a_send",
    "test_extend_lasts_as_long_as_was_asked_for",
    "test_extend_may_shorten_a_lease",
    "test_the_stored_entry_is_the_body_and_no_more",
    # They would say little more for their seconds.
    "test_a_large_buffer_is_handed_back_in_few_calls",
    "test_buffered_messages_keep_their_leases",
    "test_extend_keeps_a_delivery_beyond_its_lease",
    "test_redrive_many",
    # What a list refuses (tests/api/test_lists.py).
    "test_one_with_a_priority",
}


@pytest.fixture
def kind() -> Kind:
    """The blocking client is generated from this one."""
    return "async"


@pytest.fixture
def any_url(url: str) -> str:
    """Servers differ in nothing that matters here but for the commands of test_lists.py."""
    return url


@pytest.fixture
def queue() -> ms.Queue[Any]:
    """A list of any JSON values, with retries that need not be waited for."""
    retry = ms.Retry(max_attempts=3, backoff=ms.Backoff(first=0.01))
    return ms.Queue("orders", store="list", retry=retry)


@pytest.fixture
def brief() -> ms.Queue[Any]:
    """A list whose leases run out soon."""
    return ms.Queue("brief", store="list", lease=1.5)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is no promise of every store."""
    here = Path(__file__).parent
    gone = [
        item
        for item in items
        if here in item.path.parents
        and isinstance(item, pytest.Function)
        and item.function.__name__ in STREAMS_ONLY
    ]
    config.hook.pytest_deselected(items=gone)
    left = {*map(id, gone)}
    items[:] = [item for item in items if id(item) not in left]
