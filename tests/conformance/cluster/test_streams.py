"""Streams of replies, and the workers of their tests, on a cluster: two mailboxes, on different nodes."""

from __future__ import annotations

from tests.api.test_request_streams import *  # noqa: F403 - with their fixtures
