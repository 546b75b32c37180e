"""What is changed in a good history, so that it breaks one promise: the checker has to find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.chaos.events import Event
from tests.chaos.stories import Story

__all__ = ["PLANTS", "Plant", "again", "change", "named", "of_delivery"]

Plant = Callable[[Story], bool]
"""Changes a history; False: this one has nothing to change."""


def named(told: Story, name: str, **data: Any) -> list[Event]:
    return [
        event
        for event in told.events
        if event.name == name and all(event.data.get(key) == data[key] for key in data)
    ]


def change(told: Story, event: Event, when: float | None = None, **data: Any) -> None:
    place = told.events.index(event)
    time = event.time if when is None else when
    told.events[place] = replace(event, time=time, data={**event.data, **data})


def of_delivery(told: Story, begun: Event, *names: str) -> list[Event]:
    """What its consumer tells of a delivery."""
    return [
        event
        for event in told.events
        if event.process == begun.process
        and event.data.get("n") == begun.data["n"]
        and (not names or event.name in names)
    ]


def again(told: Story, begun: Event, when: float, **more: Any) -> str:
    """Begin a second time with a message, in a new process."""
    process = told.worker(when - 0.0001)
    told.tell("begun", when, process, **{**begun.data, "n": told.number(), **more})
    return process


def confirmed(told: Story) -> set[str]:
    ops = {(event.process, event.data["op"]) for event in named(told, "sent")}
    return {
        event.data["messages"][0][0]
        for event in named(told, "send")
        if (event.process, event.data["op"]) in ops
    }


def queued(told: Story) -> list[Event]:
    """The deliveries of messages, not those of requests."""
    return [event for event in named(told, "begun") if event.data["source"] != "echo"]


def lost(told: Story) -> bool:
    dead = {cid for some in told.dead.values() for cid, _, _ in some}
    for begun in queued(told):
        if begun.data["cid"] in confirmed(told) - dead:
            cid, source = begun.data["cid"], begun.data["source"]
            for other in [one for one in queued(told) if one.data["cid"] == cid]:
                if other.data["source"] == source:
                    for event in of_delivery(told, other):
                        told.events.remove(event)
            return True
    return False


def ghosts(told: Story) -> bool:
    change(told, queued(told)[-1], cid="nobody's")
    return True


def changed_on_its_way(told: Story) -> bool:
    change(told, queued(told)[0], whole=False)
    return True


def stored_twice(told: Story) -> bool:
    for begun in queued(told):
        if begun.data["cid"] in confirmed(told):
            change(told, begun, id="another")
            return True
    return False


def settled_twice(told: Story) -> bool:
    for begun in queued(told):
        ends = of_delivery(told, begun, "done", "settled")
        if [event.name for event in ends] == ["done", "settled"]:
            when = ends[1].time + 1
            process = again(told, begun, when, crashes=begun.data["crashes"] + 1)
            n = told.events[-1].data["n"]
            told.tell("done", when + 0.1, process, n=n)
            told.tell("settled", when + 0.2, process, n=n)
            return True
    return False


def begun_after_its_end(told: Story) -> bool:
    for begun in queued(told):
        ends = of_delivery(told, begun, "done", "settled")
        if [event.name for event in ends] == ["done", "settled"]:
            again(told, begun, ends[1].time + 0.001, crashes=begun.data["crashes"] + 1)
            return True
    return False


def repeated(told: Story) -> bool:
    begun = queued(told)[0]
    again(told, begun, begun.time + 1000)
    return True


def beside(told: Story) -> bool:
    for begun in queued(told):
        if of_delivery(told, begun, "done") and not of_delivery(told, begun, "refused"):
            again(told, begun, begun.time + 0.001, crashes=begun.data["crashes"] + 1)
            return True
    return False


def order(told: Story) -> bool:
    for key in ("a", "b"):
        mine = [one for one in queued(told) if one.data["cid"].startswith(f"ordered-{key}-")]
        mine = sorted(
            (one for one in mine if one.data["cid"] in confirmed(told)), key=lambda one: one.time
        )
        if len({one.data["cid"] for one in mine}) > 1:
            last, first = mine[-1], mine[0]
            if first.data["cid"] != last.data["cid"]:
                again(told, first, last.time + 0.0001, crashes=99)
                return True
    return False


def overtaken(told: Story) -> bool:
    for begun in queued(told):
        source, _, number = begun.data["cid"].rpartition("-")
        other = f"{source}-{int(number) - 1}"
        if begun.data["source"] == "ordered" and {begun.data["cid"], other} <= confirmed(told):
            first = min(one.time for one in queued(told) if one.data["cid"] == other)
            sent = named(told, "send", messages=[[begun.data["cid"], int(number)]])[0]
            change(told, sent, first - 1)
            change(told, begun, first - 0.001)
            return True
    return False


def early(told: Story) -> bool:
    for begun in queued(told):
        if begun.data["source"] == "later":
            [sent] = [
                one
                for one in named(told, "send")
                if one.data["messages"][0][0] == begun.data["cid"]
            ]
            change(told, begun, sent.time + sent.data["delay"] - 0.01)
            return True
    return False


def early_retry(told: Story) -> bool:
    for begun in queued(told):
        ends = of_delivery(told, begun, "failed", "later")
        if ends and not ends[0].data["final"]:
            attempt = begun.data["attempt"] + 1
            when = ends[0].time + ends[0].data["pause"] - 0.01
            again(told, begun, when, attempt=attempt, crashes=99)
            return True
    return False


def paused(told: Story) -> bool:
    begun = queued(told)[-1]
    told.tell("paused", 0, "run", source=begun.data["source"], begin=-1.0, end=begun.time + 0.001)
    return True


def too_many(told: Story) -> bool:
    sample = named(told, "sample")[0]
    change(told, sample, count=sample.data["count"] + 100)
    return True


def too_few(told: Story) -> bool:
    for place, dead in told.dead.items():
        if dead[0][0] in confirmed(told):
            told.tell("sample", 1e5, "run", source=place, begin=1e5, end=1e5, count=0)
            return True
    return False


def left(told: Story) -> bool:
    change(told, named(told, "final")[0], counts=[0, 0, 1, 0])
    return True


def died_for_nothing(told: Story) -> bool:
    final = named(told, "final")[0]
    cid = queued(told)[0].data["cid"]
    dead = [*final.data["dead"], (cid, "1-0", "crashed")]
    change(told, final, dead=dead, counts=[0, 0, 0, len(dead)])
    return True


def buried(told: Story) -> bool:
    for final in named(told, "final"):
        for letter in final.data["dead"]:
            for begun in queued(told):
                ends = of_delivery(told, begun, "settled")
                if begun.data["cid"] == letter[0] and begun.data["source"] == final.data["source"]:
                    if ends and of_delivery(told, begun, "rejected"):
                        rest = [one for one in final.data["dead"] if one != letter]
                        change(told, final, dead=rest, counts=[0, 0, 0, len(rest)])
                        return True
    return False


def wrong_reply(told: Story) -> bool:
    for event in named(told, "replied"):
        change(told, event, reply="echo-other")
        return True
    return False


def reply_of_nobody(told: Story) -> bool:
    for event in named(told, "erred", error="TimedOut"):
        asked = named(told, "send", op=event.data["op"])[0]
        told.events.remove(event)
        told.tell(
            "replied", event.time, "caller", op=event.data["op"], reply=asked.data["messages"][0][0]
        )
        return True
    return False


def asked_twice(told: Story) -> bool:
    for begun in named(told, "begun", source="echo"):
        again(told, begun, begun.time + 1, crashes=1)
        return True
    return False


def no_end(told: Story) -> bool:
    ends = [*named(told, "replied"), *named(told, "erred")]
    told.events.remove(ends[0])
    return True


def much_too_late(told: Story) -> bool:
    event = [*named(told, "replied"), *named(told, "erred")][0]
    change(told, event, event.time + 60)
    return True


def untrue(told: Story) -> bool:
    for event in named(told, "erred", error="RemoteError"):
        change(told, event, error="NoResponders")
        return True
    return False


PLANTS: list[tuple[str, Plant]] = [
    ("lost", lost),
    ("ghosts", ghosts),
    ("ghosts", changed_on_its_way),
    ("stored_twice", stored_twice),
    ("settled_twice", settled_twice),
    ("begun_after_its_end", begun_after_its_end),
    ("repeated", repeated),
    ("beside", beside),
    ("order", order),
    ("order", overtaken),
    ("early", early),
    ("early", early_retry),
    ("paused", paused),
    ("counts", too_many),
    ("counts", too_few),
    ("counts", left),
    ("dead_letters", died_for_nothing),
    ("dead_letters", buried),
    *(("requests", one) for one in (wrong_reply, reply_of_nobody, asked_twice)),
    *(("requests", one) for one in (no_end, much_too_late, untrue)),
]
