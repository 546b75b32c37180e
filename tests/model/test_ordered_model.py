"""Queues with ordered or limited keys against a small model of them."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from millstream.driver.blocking import BlockingDriver
from tests.model.keyed_machine import LimitedMachine, OrderedMachine
from tests.support.servers import Server


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [OrderedMachine, LimitedMachine])
def test_keys_do_what_their_model_does(
    server: Server, namespace: str, kind: type[OrderedMachine]
) -> None:
    """No order of operations loses a message, doubles one, or lets one pass another of its key."""
    driver = BlockingDriver(server.limited_url, connect_timeout=5, timeout=5)

    class Machine(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(driver, server.admin(), namespace)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None)
    )
    driver.close()
