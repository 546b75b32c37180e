"""What good histories have of transactions, results, unique keys, bounds, limits and schedules."""

from __future__ import annotations

import random

from tests.chaos.events import Event
from tests.chaos.sources import (
    BOUND,
    INTERVAL,
    LICENSED,
    MADE,
    MADE_SIGN,
    NARROW,
    RATE,
    SOLE,
    STEPS,
    SUMS,
)
from tests.chaos.stories import Story

__all__ = ["feature_story"]

PRODUCER = "producer-of-features"
END = 1e6


def feature_story(seed: int) -> Story:
    """Make up a history with something of each.

    Args:
        seed: decides all.
    """
    made = Story(random.Random(seed))
    _steps(made)
    _sums(made)
    _sole(made)
    _narrow(made)
    _licensed(made)
    for number in range(5):
        when = number * INTERVAL
        told = {"tick": 1000 + when, "id": f"{made.number()}-0", "early": -0.01}
        for copy in range(made.dice.randint(1, 2)):  # a worker that is killed may have told of it
            made.tell("ticked", when + copy, made.worker(when), **told)
    return made


def _send(
    made: Story, source: str, numbers: range, when: float, by: str = PRODUCER, **told: object
) -> int:
    """Send messages; return the number of the call."""
    op, messages = made.number(), [[f"{source}-{number}", number] for number in numbers]
    made.tell("send", when, by, op=op, source=source, messages=messages, key=None, **told)
    return op


def _sent(made: Story, op: int, when: float, count: int = 1, by: str = PRODUCER) -> list[str]:
    ids = [f"{made.number()}-0" for _ in range(count)]
    made.tell("sent", when, by, op=op, ids=ids, duplicate=False)
    return ids


def _begin(
    made: Story, source: str, cid: str, id: str, when: float, crashes: int = 0
) -> tuple[str, int]:
    process, n = made.worker(when - 0.0001), made.number()
    told = {"n": n, "source": source, "cid": cid, "id": id, "attempt": 1, "crashes": crashes}
    made.tell("begun", when, process, **told, thread=1, whole=True)
    return process, n


def _handle(made: Story, source: str, cid: str, id: str, when: float, end: float) -> None:
    process, n = _begin(made, source, cid, id, when)
    made.tell("done", end, process, n=n)
    made.tell("settled", end + 0.001, process, n=n)


def _final(made: Story, source: str, dead: list[tuple[str, str, str]]) -> None:
    made.tell("final", END, "run", source=source, counts=[0, 0, 0, len(dead)], dead=dead)


def _steps(made: Story) -> None:
    written, dead = dict[str, int](), list[tuple[str, str, str]]()
    for number in range(4):
        cid, when, crashes = f"{STEPS.name}-{number}", float(number), 0
        [id] = _sent(made, _send(made, STEPS.name, range(number, number + 1), when), when + 0.01)
        process, n = _begin(made, STEPS.name, cid, id, when + 0.1)
        if made.dice.random() < 0.3:
            made.events.append(Event("killed", when + 0.15, "run", {"process": process}))
            when, crashes = when + 0.1, crashes + 1
            process, n = _begin(made, STEPS.name, cid, id, when + 0.1, crashes)
        if made.dice.random() < 0.2:
            made.tell("rejected", when + 0.2, process, n=n)
            dead.append((cid, id, "rejected"))
            continue
        op, out = made.number(), f"{cid}{MADE_SIGN}"
        told = {"op": op, "source": MADE.name, "messages": [[out, number]], "key": None}
        made.tell("done", when + 0.2, process, n=n)
        made.tell("send", when + 0.21, process, **told, durable=False)
        written[cid], out_id = 1, f"{made.number()}-0"
        if made.dice.random() < 0.7:  # else its reply is lost
            made.tell("sent", when + 0.22, process, op=op, ids=[out_id])
            made.tell("settled", when + 0.23, process, n=n)
        _handle(made, MADE.name, out, out_id, when + 0.25, when + 0.3)
    made.tell("ledger", END, "run", written=written)
    _final(made, STEPS.name, dead)


def _sums(made: Story) -> None:
    dead = list[tuple[str, str, str]]()
    for number in range(4):
        cid, when = f"{SUMS.name}-{number}", float(number)
        op = _send(made, SUMS.name, range(number, number + 1), when, result=True)
        [id] = _sent(made, op, when + 0.01)
        process, n = _begin(made, SUMS.name, cid, id, when + 0.1)
        failed = made.dice.random() < 0.3
        made.tell("rejected" if failed else "done", when + 0.2, process, n=n)
        told = {"cid": cid, "begin": END - 1, "result": None, "failed": None}
        if failed:
            dead.append((cid, id, "rejected"))
            told["failed"] = {"error": "RemoteError"}
            made.tell("erred", when + 0.3, PRODUCER, op=op, error="RemoteError")
        else:
            told["result"] = {"cid": cid, "process": process, "n": n}
            if made.dice.random() < 0.2:
                made.tell("erred", when + 0.3, PRODUCER, op=op, error="TimedOut")
            else:
                made.tell("result", when + 0.3, PRODUCER, op=op, result=told["result"])
        made.tell("kept", END, "run", **told)
    _final(made, SUMS.name, dead)


def _sole(made: Story) -> None:
    for number in range(0, 6, 2):
        cid, when = f"{SOLE.name}-{number}", float(number)
        op = _send(made, SOLE.name, range(number, number + 1), when, unique="u1")
        [id] = _sent(made, op, when + 0.01)
        again = _send(made, SOLE.name, range(number + 1, number + 2), when + 0.1, unique="u1")
        made.tell("sent", when + 0.2, PRODUCER, op=again, ids=[id], duplicate=True)
        _handle(made, SOLE.name, cid, id, when + 0.3, when + made.dice.uniform(0.4, 1.9))


def _narrow(made: Story) -> None:
    first = _send(made, NARROW.name, range(BOUND), 0.0)
    ids = _sent(made, first, 0.1, BOUND)
    for when in (0.2, 0.4):
        refused = _send(made, NARROW.name, range(100, 102), when)
        made.tell("erred", when + 0.1, PRODUCER, op=refused, error="QueueFull", length=BOUND)
    sample = {"source": NARROW.name, "begin": 0.2, "end": 0.21, "count": BOUND}
    made.tell("sample", 0.21, "run", **sample, unfinished=BOUND, in_flight=0)
    for number, id in enumerate(ids):
        _handle(made, NARROW.name, f"{NARROW.name}-{number}", id, 1.0 + number, 1.5 + number)
    [last] = _sent(made, _send(made, NARROW.name, range(BOUND, BOUND + 1), 20.0), 20.1)
    _handle(made, NARROW.name, f"{NARROW.name}-{BOUND}", last, 21.0, 22.0)


def _licensed(made: Story) -> None:
    count = 12
    ids = _sent(made, _send(made, LICENSED.name, range(count), 0.0), 0.1, count)
    for number, id in enumerate(ids):
        when = 1.0 + number / RATE
        # Two at a time: each ends when the one after the next begins.
        end = when + 2 / RATE - 0.01
        _handle(made, LICENSED.name, f"{LICENSED.name}-{number}", id, when, end)
