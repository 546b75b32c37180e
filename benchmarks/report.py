"""The result: a table for people, JSON for scripts."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.measure import Goal, Row
from benchmarks.server import Bare

__all__ = ["as_json", "machine", "print_table"]

Facts = Mapping[str, str | int | float]

WIDTH = 150
"""Of the table where there is no terminal that knows better."""


def machine(bare: Bare) -> Facts:
    """Say what the figures were measured on."""
    info = bare.info("server")
    name = "valkey" if "valkey_version" in info else "redis"
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "server": f"{name} {info[f'{name}_version']}",
        **{
            package: importlib.metadata.version(package)
            for package in ("millstream", "redis", "hiredis", "msgspec")
        },
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def as_json(facts: Facts, options: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Write everything down."""
    document = {"machine": facts, "options": options, "rows": [_as_dict(row) for row in rows]}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _as_dict(row: Row) -> dict[str, Any]:
    goal = row.goal
    return {
        "topic": row.topic,
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "value": row.value,
        "against": row.against,
        "baseline": row.baseline,
        "ratio": row.ratio,
        "ratios": list(row.ratios),
        "goal": goal and {"of": goal.of, "least": goal.least, "most": goal.most},
        "met": goal and goal.met(row),
    }


def print_table(console: Console, facts: Facts, repeat: int, rows: Sequence[Row]) -> None:
    """Show the rows by topic, each goal with whether it was met."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for heading in ("measured", "", "baseline", "ratio", "of each run", "goal"):
        left = heading in ("", "of each run", "goal")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    table.add_column("the baseline is")
    topic = ""
    for row in rows:
        if row.topic != topic:
            topic = row.topic
            table.add_row(f"[bold]{topic}[/bold]")
        table.add_row(*_cells(row))
    console.print(table)
    console.print()
    console.print(escape(_machine_line(facts)), highlight=False)
    if float(facts["load"]) > float(facts["cores"]) / 2:
        console.print("[yellow]Something else keeps this machine busy: measure again.[/yellow]")
    console.print(f"Medians of runs: {repeat}, each beside its baseline.", highlight=False)


def _cells(row: Row) -> list[str]:
    ratio = row.ratio
    spread = ""
    if len(row.ratios) > 1:
        spread = f"{_number(min(row.ratios))} - {_number(max(row.ratios))}"
    return [
        f"  {escape(row.title)}",
        _number(row.value),
        row.unit,
        "" if row.baseline is None else _number(row.baseline),
        "" if ratio is None else _number(ratio),
        spread,
        _goal(row.goal, row),
        escape(row.against),
    ]


def _goal(goal: Goal | None, row: Row) -> str:
    if goal is None:
        return ""
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", goal.least), ("≤", goal.most)) if bound]
    mark = "[green]✓[/green]" if goal.met(row) else "[red]✗[/red]"
    return f"{mark} {', '.join(bounds)}"


def _number(value: float) -> str:
    """Write a figure with about three digits: more would be noise."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 20 else f"{value:.2f}" if value >= 0.02 else f"{value:.4f}"


def _machine_line(facts: Facts) -> str:
    return (
        f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}; {facts['system']}; "
        f"{facts['server']}; Python {facts['python']}, redis-py {facts['redis']}, "
        f"hiredis {facts['hiredis']}, msgspec {facts['msgspec']}, millstream {facts['millstream']}"
    )
