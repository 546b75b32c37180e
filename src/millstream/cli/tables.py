"""What `millstream stats` shows to people: a table of queues, of topics, and of subscriptions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from millstream.cli.output import clean, duration, fits, number, show_table, show_text
from millstream.message import QueueStats, SubscriptionStats, TopicStats

__all__ = ["Row", "memory", "show_stats"]

Row = QueueStats | TopicStats | tuple[str, SubscriptionStats]
"""A subscription comes with the name of its topic."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a table.

    Args:
        now: those that tell what is; the first one is the name.
        totals: those that count since the beginning: where the terminal is too narrow for both,
            they get a table of their own.
    """

    now: tuple[str, ...]
    totals: tuple[str, ...] = ()

    def show(self, rows: Sequence[list[str | Text]]) -> None:
        """Print rows in one table, or in two."""
        columns, count = self.now + self.totals, len(self.now)
        if not self.totals or fits(columns, rows):
            show_table(columns, rows)
            return
        show_table(columns[:count], [row[:count] for row in rows])
        show_text("")
        show_table(columns[:1] + columns[count:], [row[:1] + row[count:] for row in rows])


QUEUES = _Layout(
    ("queue…", ">ready", ">delayed", ">in flight", ">dead", ">oldest ready", ">consumers"),
    (">sent", ">acked", ">retried", ">died", ">crashed", ">late"),
)
TOPICS = _Layout(("topic…", ">kept", ">memory", ">published", ">subscriptions"))
SUBSCRIPTIONS = _Layout(
    ("subscription…", ">lag", ">delayed", ">in flight", ">dead", ">oldest", ">consumers"),
    (">acked", ">retried", ">died", ">crashed", ">filtered", ">trimmed", "filter"),
)


def show_stats(found: Iterable[Row]) -> None:
    """Print what was counted, each kind in a table of its own.

    Args:
        found: at least one.
    """
    queues, topics, subscriptions = [], [], []
    for one in found:
        if isinstance(one, QueueStats):
            queues.append(_queue(one))
        elif isinstance(one, TopicStats):
            topics.append(_topic(one))
            subscriptions += [_subscription(one.name, each) for each in one.subscriptions]
        else:
            subscriptions.append(_subscription(*one))
    tables = [(QUEUES, queues), (TOPICS, topics), (SUBSCRIPTIONS, subscriptions)]
    for index, (layout, rows) in enumerate((layout, rows) for layout, rows in tables if rows):
        if index:
            show_text("")
        layout.show(rows)


def _queue(one: QueueStats) -> list[str | Text]:
    return [
        _name(one.name, paused=one.paused),
        number(one.ready),
        number(one.delayed),
        number(one.in_flight),
        number(one.dead, "red"),
        _age(one.oldest_ready),
        number(len(one.consumers)),
        number(one.sent),
        number(one.acked),
        number(one.retried),
        number(one.died, "red"),
        number(one.crashed, "red"),
        number(one.late, "red"),
    ]


def _topic(one: TopicStats) -> list[str | Text]:
    return [
        clean(one.name),
        number(one.length),
        memory(one.bytes),
        number(one.published),
        number(len(one.subscriptions)),
    ]


def _subscription(topic: str, one: SubscriptionStats) -> list[str | Text]:
    return [
        _name(f"{topic}/{one.name}", paused=one.paused),
        number(one.lag),
        number(one.delayed),
        number(one.in_flight),
        number(one.dead, "red"),
        _age(one.oldest_unhandled),
        number(len(one.consumers)),
        number(one.acked),
        number(one.retried),
        number(one.died, "red"),
        number(one.crashed, "red"),
        number(one.filtered),
        number(one.trimmed, "red"),
        clean(one.filter or ""),
    ]


def _name(name: str, *, paused: bool) -> str:
    return clean(f"{name} (paused)" if paused else name)


def _age(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def memory(count: int) -> str:
    """Write a number of bytes in the unit that suits it."""
    size, step = float(count), 1024
    for unit in ("B", "KiB", "MiB"):
        if size < step:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= step
    return f"{size:,.1f} GiB"
