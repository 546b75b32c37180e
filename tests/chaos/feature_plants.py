"""Plants for transactions, results, unique keys, schedules and limits. See plants.py."""

from __future__ import annotations

from tests.chaos.events import Event
from tests.chaos.plants import Plant, again, change, named, of_delivery
from tests.chaos.sources import BOUND, LICENSED, MADE, MADE_SIGN, NARROW, SOLE, STEPS, SUMS
from tests.chaos.stories import Story

__all__ = ["FEATURE_PLANTS"]


def moved_on(told: Story) -> list[str]:
    """The steps that the ledger has."""
    [ledger] = named(told, "ledger")
    return list(ledger.data["written"])


def write(told: Story, **changed: int) -> None:
    [ledger] = named(told, "ledger")
    written = {**ledger.data["written"], **changed}
    change(told, ledger, written={cid: times for cid, times in written.items() if times})


def moved_on_twice(told: Story) -> bool:
    for cid in moved_on(told):
        write(told, **{cid: 2})
        return True
    return False


def never_moved_on(told: Story) -> bool:
    """The acknowledgement took effect, and neither the output nor the write did."""
    for cid in moved_on(told):
        write(told, **{cid: 0})
        for begun in named(told, "begun", source=MADE.name, cid=f"{cid}{MADE_SIGN}"):
            for event in of_delivery(told, begun):
                told.events.remove(event)
        return True
    return False


def written_and_not_sent(told: Story) -> bool:
    for cid in moved_on(told):
        for begun in named(told, "begun", source=MADE.name, cid=f"{cid}{MADE_SIGN}"):
            for event in of_delivery(told, begun):
                told.events.remove(event)
        return True
    return False


def sent_and_not_written(told: Story) -> bool:
    for cid in moved_on(told):
        write(told, **{cid: 0})
        return True
    return False


def rejected_and_moved_on(told: Story) -> bool:
    for begun in named(told, "begun", source=STEPS.name):
        if of_delivery(told, begun, "rejected"):
            write(told, **{begun.data["cid"]: 1})
            return True
    return False


def two_outputs(told: Story) -> bool:
    """The message of a transaction that was committed again is another one."""
    for begun in named(told, "begun", source=MADE.name):
        process = again(told, begun, begun.time + 0.2, id="another", crashes=1)
        told.tell("done", begun.time + 0.3, process, n=told.events[-1].data["n"])
        return True
    return False


def results_of(told: Story) -> list[Event]:
    return [*named(told, "result"), *(one for one in named(told, "kept") if one.data["result"])]


def result_of_another(told: Story) -> bool:
    for event in results_of(told):
        change(told, event, result={**event.data["result"], "cid": "another"})
        return True
    return False


def result_of_nobody(told: Story) -> bool:
    for event in results_of(told):
        change(told, event, result={**event.data["result"], "n": 10**9})
        return True
    return False


def result_of_who_was_killed(told: Story) -> bool:
    """A result must be that of a delivery that has ended, not of one that was begun."""
    for event in results_of(told):
        result = event.data["result"]
        [done] = [
            one for one in named(told, "done", n=result["n"]) if one.process == result["process"]
        ]
        told.events.remove(done)
        return True
    return False


def result_that_changed(told: Story) -> bool:
    for event in named(told, "kept"):
        if event.data["result"] and named(told, "result", result=event.data["result"]):
            [begun] = named(told, "begun", source=SUMS.name, cid=event.data["cid"])
            process = again(told, begun, begun.time + 1, crashes=1)
            n = told.events[-1].data["n"]
            told.tell("done", begun.time + 1.1, process, n=n)
            change(told, event, result={**event.data["result"], "process": process, "n": n})
            return True
    return False


def result_that_is_gone(told: Story) -> bool:
    for event in named(told, "kept", failed=None):
        change(told, event, result=None, failed={"error": "NoResult"})
        return True
    return False


def failed_for_nothing(told: Story) -> bool:
    for event in named(told, "kept", failed=None):
        change(told, event, result=None, failed={"error": "RemoteError"})
        return True
    return False


def two_of_a_key(told: Story) -> bool:
    """What was a duplicate is stored, while the first message is there."""
    event = named(told, "sent", duplicate=True)[0]
    [send] = named(told, "send", op=event.data["op"])
    [begun] = named(told, "begun", source=SOLE.name, id=event.data["ids"][0])
    change(told, event, ids=["another"], duplicate=False)
    process = again(told, begun, begun.time + 5, cid=send.data["messages"][0][0], id="another")
    told.tell("done", begun.time + 5.1, process, n=told.events[-1].data["n"])
    return True


def duplicate_of_what_is_over(told: Story) -> bool:
    """A key was left behind."""
    event = named(told, "sent", duplicate=True)[0]
    [send] = named(told, "send", op=event.data["op"])
    change(told, send, send.time + 100)
    change(told, event, event.time + 100)
    return True


def duplicate_of_another_key(told: Story) -> bool:
    event = named(told, "sent", duplicate=True)[0]
    [send] = named(told, "send", op=event.data["op"])
    change(told, send, unique="u2")
    return True


def duplicate_of_nobody(told: Story) -> bool:
    change(told, named(told, "sent", duplicate=True)[0], ids=["nobody's"])
    return True


def duplicate_delivered(told: Story) -> bool:
    event = named(told, "sent", duplicate=True)[0]
    [send] = named(told, "send", op=event.data["op"])
    [begun] = named(told, "begun", source=SOLE.name, id=event.data["ids"][0])
    change(told, begun, cid=send.data["messages"][0][0])
    return True


def tick_twice(told: Story) -> bool:
    tick = named(told, "ticked")[0]
    told.tell("ticked", tick.time + 1, tick.process, **{**tick.data, "id": "another"})
    return True


def tick_missed(told: Story) -> bool:
    for tick in named(told, "ticked", tick=1002.0):
        told.events.remove(tick)
    return True


def tick_early(told: Story) -> bool:
    change(told, named(told, "ticked")[0], early=0.01)
    return True


def above_its_bound(told: Story) -> bool:
    [sample] = [one for one in named(told, "sample", source=NARROW.name) if one.time < 1]
    change(told, sample, unfinished=BOUND + 1, count=BOUND + 1)
    return True


def let_in(told: Story) -> bool:
    """A send to a full queue was confirmed before anything ended."""
    last = [f"{NARROW.name}-{BOUND}", BOUND]
    [send] = named(told, "send", messages=[last])
    [sent] = named(told, "sent", op=send.data["op"])
    change(told, send, 0.5)
    change(told, sent, 0.6)
    return True


def refused_with_room(told: Story) -> bool:
    refused = named(told, "erred", error="QueueFull")[0]
    [send] = named(told, "send", op=refused.data["op"])
    change(told, send, 30.0)
    change(told, refused, 30.1)
    return True


def refused_and_delivered(told: Story) -> bool:
    change(told, named(told, "begun", source=NARROW.name)[0], cid=f"{NARROW.name}-100")
    return True


def three_at_a_time(told: Story) -> bool:
    first, _, third, *_ = named(told, "begun", source=LICENSED.name)
    change(told, third, first.time + 0.13)
    return True


def three_in_flight(told: Story) -> bool:
    told.tell("sample", 0.5, "run", source=LICENSED.name, begin=0.5, end=0.5, count=12, in_flight=3)
    return True


def too_fast(told: Story) -> bool:
    """All begin at once, one after the other."""
    for number, begun in enumerate(named(told, "begun", source=LICENSED.name)):
        for event in of_delivery(told, begun):
            when = 1.0 + number * 0.001 + (0.0005 if event.name != "begun" else 0.0)
            change(told, event, when)
    return True


TRANSACTIONS = (moved_on_twice, never_moved_on, written_and_not_sent, sent_and_not_written)
RESULTS = (result_of_another, result_of_nobody, result_of_who_was_killed, result_that_changed)
DUPLICATES = (duplicate_of_what_is_over, duplicate_of_another_key, duplicate_of_nobody)
FEATURE_PLANTS: list[tuple[str, Plant]] = [
    *(("transactions", one) for one in (*TRANSACTIONS, rejected_and_moved_on)),
    ("stored_twice", two_outputs),
    *(("results", one) for one in (*RESULTS, result_that_is_gone, failed_for_nothing)),
    *(("unique", one) for one in (two_of_a_key, *DUPLICATES)),
    ("ghosts", duplicate_delivered),
    *(("schedules", one) for one in (tick_twice, tick_missed, tick_early)),
    *(("bounds", one) for one in (above_its_bound, let_in, refused_with_room)),
    ("ghosts", refused_and_delivered),
    *(("max_running", one) for one in (three_at_a_time, three_in_flight)),
    ("rate", too_fast),
]
