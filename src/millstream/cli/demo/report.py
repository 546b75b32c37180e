"""What the demo has found out, as tables for people and as JSON for scripts."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import asdict, fields
from typing import Any

from millstream.cli.demo.count import Figures
from millstream.cli.demo.outcome import Outcome, Reading
from millstream.cli.demo.stage import WORKERS

__all__ = ["answers_table", "for_scripts", "longest_table", "topic_table", "workers_table"]

Table = tuple[tuple[str, ...], list[list[str]]]
"""Headings and rows, as ``show_table`` takes them."""


def workers_table(outcome: Outcome) -> Table:
    """Show what the workers counted, beside what one process counted."""
    ours, alone = outcome.workers, outcome.alone
    after = ours.redelivered_after
    rows = [
        [field.name, *(f"{getattr(one.figures, field.name):,}" for one in (ours, alone))]
        for field in fields(Figures)
    ]
    rows.append(["seconds", f"{ours.seconds:.1f}", f"{alone.seconds:.1f}"])
    only_ours = {
        "messages/s": f"{outcome.rate:,}",
        "deliveries": f"{ours.deliveries:,}",
        "failed attempts": f"{ours.failed:,}",
        "in flight at the kill": "-" if ours.killed is None else f"{ours.in_flight:,}",
        "redelivered after it": f"{ours.redelivered:,}",
        "first ran again after": "-" if after is None else f"{after:.2f} s",
        "duplicates dropped": f"{ours.duplicates:,}",
        "lost": f"{outcome.lost:,}",
    }
    rows += [[name, value, ""] for name, value in only_ours.items()]
    return ("", f">{WORKERS} workers", ">1 process alone"), rows


def topic_table(outcome: Outcome) -> Table:
    """Show what each subscription of the topic knows, beside what one process counted."""
    published, alone = outcome.published, outcome.alone
    readings = published.readings
    rows = [
        ["messages", *(f"{one.messages:,}" for one in readings), ""],
        ["of them by replay", *(f"{one.replayed:,}" for one in readings), ""],
        ["duplicates dropped", *(f"{one.duplicates:,}" for one in readings), ""],
        ["lost", *(f"{max(0, published.messages - one.messages):,}" for one in readings), ""],
        ["files", *(f"{one.files:,}" for one in readings), f"{alone.figures.files:,}"],
    ]
    for name in (field.name for field in fields(Figures) if field.name != "files"):
        ours = (
            "" if one.figures is None else f"{getattr(one.figures, name):,}" for one in readings
        )
        rows.append([name, *ours, f"{getattr(alone.figures, name):,}"])
    names = (f">{one.subscription}" for one in readings)
    return ("subscription", *names, ">1 process alone"), rows


def longest_table(outcome: Outcome) -> Table:
    """Show the longest functions, as the first subscription that keeps them knows them."""
    kept = [one.longest for one in outcome.published.readings if one.longest is not None]
    rows = [
        [one.name, f"{one.lines:,}", f"{_short(one.file)}:{one.line}"]
        for one in next(iter(kept), [])
    ]
    return ("longest functions", ">lines", "where"), rows


def answers_table(outcome: Outcome) -> Table:
    """Show what the endpoint was asked, and how it answered."""
    asked = outcome.asked
    rows = [
        ["questions", f"{asked.questions:,}"],
        ["answers", f"{len(asked.answers):,}"],
        ["right", f"{outcome.right:,}"],
        ["answers/s", f"{asked.rate:,}"],
        ["round trip, p50", f"{asked.p50 * 1000:.1f} ms"],
        ["round trip, p99", f"{asked.p99 * 1000:.1f} ms"],
    ]
    return ("endpoint", f">{asked.callers} callers"), rows


def _short(file: str) -> str:
    """Leave out the folder of the standard library."""
    return file.removeprefix(sysconfig.get_path("stdlib")).lstrip(os.sep)


def for_scripts(outcome: Outcome, wrong: list[str]) -> dict[str, Any]:
    """Return all figures, for ``--json``."""
    ours, alone = outcome.workers, outcome.alone
    after = ours.redelivered_after
    return {
        "server": outcome.server,
        "python": outcome.python,
        **asdict(ours.figures),
        "seconds": round(ours.seconds, 3),
        "messages_per_second": outcome.rate,
        "workers": ours.workers,
        "deliveries": ours.deliveries,
        "failed": ours.failed,
        "killed": ours.killed,
        "in_flight_at_kill": ours.in_flight,
        "redelivered": ours.redelivered,
        "redelivered_after_seconds": None if after is None else round(after, 3),
        "duplicates": ours.duplicates,
        "lost": outcome.lost,
        "topic": {
            "published": outcome.published.messages,
            "dead": outcome.published.dead,
            "subscriptions": {one.subscription: _of_one(one) for one in outcome.published.readings},
        },
        "endpoint": {
            "callers": outcome.asked.callers,
            "questions": outcome.asked.questions,
            "answers": len(outcome.asked.answers),
            "right": outcome.right,
            "failed": outcome.asked.failed,
            "seconds": round(outcome.asked.seconds, 3),
            "answers_per_second": outcome.asked.rate,
            "p50_seconds": round(outcome.asked.p50, 4),
            "p99_seconds": round(outcome.asked.p99, 4),
        },
        "one_process": {
            **asdict(alone.figures),
            "longest": [asdict(one) for one in alone.longest],
            "seconds": round(alone.seconds, 3),
        },
        "problems": wrong,
    }


def _of_one(reading: Reading) -> dict[str, Any]:
    """Return what one subscription knows; what it is not for is left out."""
    known: dict[str, Any] = {
        "messages": reading.messages,
        "replayed": reading.replayed,
        "duplicates": reading.duplicates,
        "files": reading.files,
    }
    if reading.figures is not None:
        known |= asdict(reading.figures)
    if reading.longest is not None:
        known["longest"] = [asdict(one) for one in reading.longest]
    return known
