"""One queue against a small model of it: any order of operations gives what the model says."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from millstream.driver.blocking import BlockingDriver
from tests.model.machine import QueueMachine
from tests.support.servers import Server


@pytest.mark.timeout(300)
def test_a_queue_does_what_its_model_does(server: Server, namespace: str) -> None:
    """No order of operations loses a message, doubles one, or miscounts."""
    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)

    class Machine(QueueMachine):
        def __init__(self) -> None:
            super().__init__(driver, server.admin(), namespace)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=100, stateful_step_count=50, deadline=None)
    )
    driver.close()
