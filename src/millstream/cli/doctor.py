"""``millstream doctor``: is this server fit for messages, and does anything pile up?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import typer

from millstream.cli.examining import examine
from millstream.cli.options import Json, Namespace, Url
from millstream.cli.output import clean, plural, show_json, show_text
from millstream.declare import check_name
from millstream.driver.cluster import locate
from millstream.errors import UsageError
from millstream.protocol.access import roles_of
from millstream.protocol.doctor.examine import in_order
from millstream.protocol.doctor.finding import Finding

__all__ = ["doctor"]


def doctor(
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0, metavar="S", help="Between the two looks at queues."),
    ] = 2.0,
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="What the user must be allowed to do: producer, worker, operator, doctor. May be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for risks, too, not only for losses.")
    ] = False,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> int:
    """Look for what can lose, stop or delay messages; exit with 1 if anything can lose them.

    Of a cluster, or behind Sentinels, it looks at every node. It changes nothing. Each finding says what is so, why it matters, and what mends it.
    """
    if not math.isfinite(seconds):
        message = f"--seconds must be a number of seconds, not {seconds}"
        raise UsageError(message)
    wanted = roles_of(roles or ())
    check_name(namespace, "namespace")
    target = locate(url)
    try:
        found = in_order(examine(target, namespace, seconds, wanted))
    finally:
        target.close()
    if json_output:
        for one in found:
            show_json(one)
    else:
        _show(found, target.url)
    bad = [one for one in found if one.severity == "loses" or (strict and one.severity == "risk")]
    return 1 if bad else 0


def _show(found: Sequence[Finding], where: str) -> None:
    for one in found:
        node = "" if one.node is None else f" {one.node}"
        show_text(clean(f"{one.severity.upper():<5}  {one.subject}{node}: {one.what}"))
        show_text(clean(f"       why: {one.why}"))
        show_text(clean(f"       fix: {one.fix}"))
        show_text("")
    counts = {
        kind: sum(one.severity == kind for one in found) for kind in ("loses", "risk", "note")
    }
    if counts["loses"]:
        verdict = f"{plural(counts['loses'], 'finding')} can lose messages"
    else:
        verdict = "nothing that can lose messages"
    rest = f"{plural(counts['risk'], 'risk')}, {plural(counts['note'], 'note')}"
    show_text(clean(f"{where}: {verdict}, {rest}"))
