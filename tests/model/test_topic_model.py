"""A topic with three subscriptions against a small model of each."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from millstream.driver.blocking import BlockingDriver
from tests.model.topic_machine import TopicMachine
from tests.support.servers import Server


@pytest.mark.timeout(300)
def test_subscriptions_do_what_their_models_do(server: Server, namespace: str) -> None:
    """No order of operations loses a message for one of them, doubles one, or disturbs another.

    Trimming takes none away that somebody has not handled, unless that was asked for, and then
    it is counted.
    """
    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)

    class Machine(TopicMachine):
        def __init__(self) -> None:
            super().__init__(driver, server.admin(), namespace)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=30, stateful_step_count=40, deadline=None)
    )
    driver.close()
