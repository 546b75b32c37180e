"""Retention: retain.lua, trim.lua, expire_subscription.lua, and what trimming does to deliveries."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millstream.policy import Retain
from millstream.protocol.retention import retain
from millstream.topic import EARLIEST, Topic
from tests.lua.state import State, out_of_memory
from tests.lua.test_topic import Sub
from tests.support.servers import Server


def retained(sub: Sub) -> Any:
    """What the topic keeps, as it is stored; None: nobody has said it."""
    text = sub.do("HGET", sub.topic.config, "retain")
    return None if text is None else json.loads(text)


# What is declared


@pytest.mark.parametrize(
    ("policy", "stored"),
    [
        (Retain(), {}),
        (Retain(max_age=1.5), {"max_age": 1500}),
        (
            Retain(max_length=2, max_bytes=3, until_consumed=False),
            {"max_length": 2, "max_bytes": 3, "until_consumed": False},
        ),
    ],
)
def test_the_last_one_declared_counts(state: State, policy: Retain, stored: Any) -> None:
    """Whether it comes with a subscription or from who publishes; who says nothing changes nothing."""
    sub = Sub(state, "one", start=EARLIEST).subscribe()
    assert retained(sub) is None
    sub.run(retain(sub.topic, Retain(max_length=1)))
    assert retained(sub) == {"max_length": 1}

    sub.run(retain(sub.topic, policy))
    assert retained(sub) == stored
    sub.subscribe()
    assert retained(sub) == stored

    topic: Topic[Any] = Topic("t", retain=Retain(max_age=7))
    sub.declared = topic.subscription("one", start=EARLIEST)
    sub.subscribe()
    assert retained(sub) == {"max_age": 7000}


def test_a_full_server_learns_to_keep_less(own_server: Server, own_state: State) -> None:
    """A bound is the cure for it, so it is stored."""
    sub = Sub(own_state, "one").subscribe()

    with out_of_memory(own_server):
        sub.run(retain(sub.topic, Retain(max_length=1)))

    assert retained(sub) == {"max_length": 1}
