"""Tests that say what a queue promises, each with queues that deliver at most once.

They are the same functions. Those that are left out are about what such a queue has not: deliveries
in flight, leases, and messages that come again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from tests.api import test_control, test_delay, test_operate, test_receive, test_ttl

PROMISES: Mapping[ModuleType, tuple[str, ...]] = {
    test_control: (
        "test_a_paused_queue",
        "test_a_receiver_hands_back_what_it_fetched_ahead",
        "test_a_sleeping_receiver_goes_on_at_once",
        "test_pause_and_resume_are_safe_to_repeat",
    ),
    test_delay: (
        "test_a_delayed_message_waits",
        "test_a_sleeping_reader_is_woken",
        "test_an_absolute_time",
        "test_in_the_order_of_their_times",
        "test_it_is_delivered_when_it_is_due",
        "test_many_at_once",
    ),
    test_operate: (
        "test_queues_are_listed",
        "test_stats_of_a_queue_that_nobody_used",
    ),
    test_receive: (
        "test_a_busy_receiver_leaves_the_rest_to_others",
        "test_a_closed_client_says_so",
        "test_a_waiting_receiver_gets_a_message_at_once",
        "test_closing_right_after_a_break_hands_the_buffer_back",
        "test_closing_the_client_ends_a_waiting_receiver",
        "test_messages_wait_for_their_first_consumer",
        "test_two_receivers_share_the_work",
        "test_wait_ends_after_so_many_seconds",
        "test_wait_zero_ends_when_nothing_is_there",
        "test_wait_zero_takes_what_came_meanwhile",
    ),
    test_ttl: ("test_expired_while_delayed", "test_it_goes_to_the_dead_letters"),
}

for module, names in PROMISES.items():
    word = module.__name__.rpartition("test_")[2]
    for name in names:
        globals()[f"test_{word}_{name.removeprefix('test_')}"] = getattr(module, name)
