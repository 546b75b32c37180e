"""``millstream doctor``: is this server fit for messages, and does anything pile up?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from millstream.cli.options import Json, Namespace, Url
from millstream.cli.output import clean, plural, show_json, show_text
from millstream.driver.blocking import BlockingDriver
from millstream.errors import BrokerError, UsageError
from millstream.protocol.access import ROLES, Role, commands_of, roles_of
from millstream.protocol.doctor.examine import in_order, of_queues, of_server, unchecked
from millstream.protocol.doctor.facts import Facts, Refusal, gather, server_time
from millstream.protocol.doctor.finding import Finding
from millstream.protocol.doctor.queues import survey, watched
from millstream.protocol.doctor.rights import lacking, rights
from millstream.sync.client import Client

__all__ = ["doctor"]

ROUND_TRIPS = 10
PATIENCE = 3.0
"""Seconds for a question; a server that cannot answer some is asked the others."""


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

    It changes nothing. Each finding says what is so, why it matters, and what mends it.
    """
    if not math.isfinite(seconds):
        message = f"--seconds must be a number of seconds, not {seconds}"
        raise UsageError(message)
    wanted = roles_of(roles or ())
    with Client(url, namespace=namespace, timeout=PATIENCE) as client:
        found = in_order(_examine(client, seconds, wanted))
        where = client.url
    if json_output:
        for one in found:
            show_json(one)
    else:
        _show(found, where)
    bad = [one for one in found if one.severity == "loses" or (strict and one.severity == "risk")]
    return 1 if bad else 0


def _examine(client: Client, seconds: float, roles: Sequence[Role]) -> Iterator[Finding]:
    # With several nodes, each would be asked here, and be the subject of its findings.
    facts = _facts(client.driver)
    yield from of_server(facts)
    yield from _rights(client, facts, roles)
    begun = time.monotonic()
    before = survey(client.namespace, client.driver.drive)
    yield from unchecked(before.refused, facts.user)
    if not before.backlogs:
        return
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    passed = time.monotonic() - begun
    after = survey(client.namespace, client.driver.drive)
    yield from of_queues(watched(before, after, passed))


def _facts(driver: BlockingDriver) -> Facts:
    """Ask one server, and measure the way to it."""
    facts = driver.run(gather())
    trips: list[float] = []
    now = ahead = 0.0
    for _ in range(ROUND_TRIPS):
        sent, asked = time.time(), time.perf_counter()
        try:
            now = driver.run(server_time())
        except BrokerError:  # it may be loading, say: what it told is worth more
            return facts
        trips.append(time.perf_counter() - asked)
        if trips[-1] == min(trips):  # the quickest answer is the most exact one
            ahead = now - (sent + trips[-1] / 2)
    return facts.measured(now=now, round_trips=trips, ahead=ahead)


def _rights(client: Client, facts: Facts, roles: Sequence[Role]) -> Iterator[Finding]:
    sharded = facts.info.get("redis_mode") == "cluster" and not _is_old(facts)
    missing: list[tuple[Role, Sequence[str]]] = []
    for role in roles or ROLES:
        answer = client.driver.drive(lacking(client.namespace, commands_of(role, sharded=sharded)))
        if isinstance(answer, Refusal):
            yield from unchecked([answer], facts.user)
            return
        missing.append((role, answer))
    yield from rights(facts.user, missing, asked=bool(roles))


def _is_old(facts: Facts) -> bool:
    return facts.info.get("redis_version", "").startswith("6.")


def _show(found: Sequence[Finding], where: str) -> None:
    for one in found:
        show_text(clean(f"{one.severity.upper():<5}  {one.subject}: {one.what}"))
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
