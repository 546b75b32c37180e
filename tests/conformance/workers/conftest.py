"""The queues of these workers are lists."""

from __future__ import annotations

from typing import Any

import pytest

import millstream as ms
from tests.worker.conftest import any_mq, mq, other, own_server, worker
from tests.worker.running import SOON

__all__ = ["any_mq", "mq", "other", "own_server", "worker"]


@pytest.fixture
def any_url(url: str) -> str:
    """As for clients: one server will do."""
    return url


@pytest.fixture
def queue() -> ms.Queue[Any]:
    """Three attempts, soon after one another."""
    return ms.Queue("orders", store="list", retry=ms.Retry(max_attempts=3, backoff=SOON))
