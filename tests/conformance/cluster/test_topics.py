"""Topics, and the declarations of their tests, on a cluster."""

from __future__ import annotations

from tests.api.test_topics import *  # noqa: F403 - with their fixtures
