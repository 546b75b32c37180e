"""Listening to topics that keep nothing, for `millstream subscribe --ephemeral`."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from millstream.cli.messages import heard_line, heard_page
from millstream.cli.names import ephemeral_topic
from millstream.cli.output import clean, say, show_line
from millstream.cli.taking import Signals
from millstream.message import Heard
from millstream.sync.client import Client

__all__ = ["listen"]


def listen(client: Client, name: str, *, count: int | None, patience: float, as_json: bool) -> int:
    """Print what is published on a topic, or on all that a pattern stands for, and what was missed.

    Args:
        client: of the server.
        name: of the topic, or a pattern.
        count: how many messages at most; None: any number.
        patience: how many seconds to wait for each.
        as_json: whether it is for a script.

    Returns:
        The exit status.
    """
    topic = ephemeral_topic(client, name)
    write = heard_line if as_json else heard_page
    shown = 0
    feed = client.subscribe(topic, wait=None if math.isinf(patience) else patience)
    with Signals(then=feed.close) as signals, feed:
        if not as_json:
            say(f"listening to {clean(name)}; Ctrl-C ends it")
        for heard in feed:
            show_line(write(heard, datetime.now(UTC)))
            shown += isinstance(heard, Heard)
            if shown == count or signals.came:
                break
    if not (shown or signals.came):
        say(f"nothing was published on {topic.title}")
    return signals.status
