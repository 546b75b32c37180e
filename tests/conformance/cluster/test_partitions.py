"""Partitions, and the queues of their tests, on a cluster: they are on different nodes."""

from __future__ import annotations

from tests.api.test_partitions import *  # noqa: F403 - with their fixtures
