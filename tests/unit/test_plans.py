"""Plans, driven by hand: each step is answered as a server would, or fails as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest

from millstream.errors import NotConnected, ServerRefused, TimedOut
from millstream.policy import Limits, Retain, Retry
from millstream.protocol import admin, consume, ending
from millstream.protocol.discovery import list_queues
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import QueueKeys, queue_keys, subscription_keys
from millstream.protocol.op import Nodes, Op, Pause, Plan, Step
from millstream.protocol.recover import HandedOver, hand_over, hand_over_all
from millstream.protocol.settlement import Settlement, ack, failure, reject, release

T = TypeVar("T")
KEYS = queue_keys("ms", "orders")
LOST = NotConnected("cut")
LATE = TimedOut("late")


def play(plan: Plan[T], *answers: Any) -> tuple[T, list[str]]:
    """Answer each step; the result, and the names of the commands and scripts that went out.

    An answer is a reply for each command, or an error that the driver raises. Pauses are noted
    and need no answer.
    """
    left = list(answers)
    steps: list[str] = []
    answer: Any = None
    try:
        while True:
            step = plan.throw(answer) if isinstance(answer, Exception) else plan.send(answer)
            answer = None
            if isinstance(step, Pause):
                steps.append(f"pause {step.seconds:g}")
                continue
            if isinstance(step, Nodes):
                answer = [None]
                continue
            steps.append(" ".join(map(name, step.commands)))
            reply = left.pop(0)
            answer = reply if isinstance(reply, Exception) else step.decode(reply)
    except StopIteration as done:
        assert left == []
        result: T = done.value
        return result, steps


def name(command: Any) -> str:
    return command.script.name if command.script else str(command.arguments[0])


def arguments(op: Step) -> list[Any]:
    """What the first command of a step says, behind its keys if it is a script."""
    assert isinstance(op, Op)
    command = op.commands[0]
    skip = 3 + command.script.keys if command.script else 0
    return list(command.arguments[skip:])


# settle


def answer(lost: tuple[bytes, ...] = (), kept: tuple[tuple[bytes, bytes], ...] = ()) -> list[Any]:
    """What settle.lua answers."""
    return [[list(lost), [list(pair) for pair in kept], -1, 0, 0, 7, []]]


OURS = [[[b"5-1", b"me", 10, 1]]]
THEIRS = [[[b"5-1", b"you", 10, 1]]]
GONE: list[Any] = [[]]


@pytest.fixture
def settle() -> Plan[bool | None]:
    return ending.settle(KEYS, "me", release(b"5-1"))


def test_settle_is_one_step(settle: Plan[bool | None]) -> None:
    """The ordinary case costs one round trip."""
    assert play(settle, answer()) == (True, ["settle"])


def test_settle_tells_a_lost_lease(settle: Plan[bool | None]) -> None:
    """What the server refuses is not ours."""
    assert play(settle, answer(lost=(b"5-1",))) == (False, ["settle"])


def test_a_plain_ack_has_a_script_of_its_own() -> None:
    """It has nothing to bring along; a lost reply is looked into as for every end."""
    plan = partial(ending.settle, KEYS, "me", ack(b"5-1"))
    assert play(plan(), [1]) == (True, ["ack"])
    assert play(plan(), [0]) == (False, ["ack"])
    assert play(plan(), LOST, OURS, [1]) == (True, ["ack", "XPENDING", "ack"])


@pytest.mark.parametrize(
    ("keys", "end", "options"),
    [
        (KEYS, ack(b"f5-1"), {}),
        (KEYS, ack(b"s5-1"), {}),
        (KEYS, ack(b"5-1", plain=False), {}),
        (KEYS, ack(b"5-1"), {"limits": Limits(rate=None, max_running=1)}),
        (KEYS, ack(b"5-1"), {"keep": Retain(max_length=1)}),
        (queue_keys("ms", "q", store="list"), ack(b"5-1"), {}),
        (subscription_keys("ms", "t", "s"), ack(b"5-1"), {}),
    ],
)
def test_other_acks_do_what_a_fetch_does(
    keys: QueueKeys, end: Settlement, options: dict[str, Any]
) -> None:
    """Something follows from them, or their message may have had another owner."""
    op = next(ending.settle(keys, "me", end, **options))
    assert isinstance(op, Op)
    assert name(op.commands[0]) != "ack"


@pytest.mark.parametrize("loss", [LOST, LATE])
def test_a_lost_reply_is_looked_into(settle: Plan[bool | None], loss: Exception) -> None:
    """What is not pending any more was settled, by the call whose reply was lost or by others."""
    assert play(settle, loss, GONE) == (None, ["settle", "XPENDING"])


@pytest.mark.parametrize("loss", [LOST, LATE])
def test_a_lost_request_is_repeated(settle: Plan[bool | None], loss: Exception) -> None:
    """What is still ours was not settled, so it is settled now."""
    assert play(settle, loss, OURS, answer()) == (True, ["settle", "XPENDING", "settle"])


def test_the_repetition_may_be_refused(settle: Plan[bool | None]) -> None:
    """The first call has arrived after the look, or the lease ran out since: nobody can tell."""
    assert play(settle, LOST, OURS, answer(lost=(b"5-1",)))[0] is None


def test_what_another_consumer_has_is_left_to_it(settle: Plan[bool | None]) -> None:
    """There is nothing left to do for us; whether it was ours before, the caller may know."""
    assert play(settle, LOST, THEIRS) == (None, ["settle", "XPENDING"])


def test_a_server_that_stays_away_is_an_error(settle: Plan[bool | None]) -> None:
    """Nobody knows then whether it was settled."""
    with pytest.raises(NotConnected):
        play(settle, LOST, LOST)


def test_a_second_loss_is_an_error(settle: Plan[bool | None]) -> None:
    """The plan tries again once."""
    with pytest.raises(TimedOut):
        play(settle, LOST, OURS, LATE)


def test_a_refusal_is_an_error(settle: Plan[bool | None]) -> None:
    """It is no loss: the server has said no."""
    with pytest.raises(ServerRefused):
        play(settle, ServerRefused("NOPERM", code="NOPERM"))


@pytest.mark.parametrize("before", [(), (LOST, OURS)])
def test_what_could_not_be_stored_is_an_error(before: tuple[Any, ...]) -> None:
    """It names the queue and has the server's code."""
    plan = ending.settle(KEYS, "me", reject(b"f5-1", "no"))

    with pytest.raises(ServerRefused, match=r"queue 'orders': .*: OOM command not") as caught:
        play(plan, *before, answer(kept=((b"f5-1", b"OOM command not allowed"),)))

    assert caught.value.code == "OOM"


@pytest.mark.parametrize(
    ("token", "key", "id"),
    [
        (b"5-1", KEYS.ready, b"5-1"),
        (b"f5-1", KEYS.front, b"5-1"),
        (b"s5-1", KEYS.suspect, b"5-1"),
    ],
)
def test_the_look_is_at_the_right_lane(token: bytes, key: str, id: bytes) -> None:
    """The token says where the delivery is pending."""
    plan = ending.settle(KEYS, "me", ack(token))
    next(plan)

    look = plan.throw(LOST)

    assert arguments(look) == ["XPENDING", key, "workers", id, id, 1]


def test_a_settlement_that_may_be_due_first_wakes_a_reader() -> None:
    """Nobody else would see to it in time."""
    envelope = Envelope(b"5-1", [b"b", b""])
    plan = ending.settle(KEYS, "me", failure(envelope, Retry(), reason="no", luck=0.5))

    step = next(plan)

    assert arguments(step)[:7] == ["workers", "me", "", 200, 1, "", 0]
    assert arguments(step)[7:] == ["retry", b"5-1", 1000, 1, b'{"reason":"no"}']
    assert isinstance(step, Op)
    assert not step.repeatable


# fetch and wait: what goes out and what comes back


def test_a_fetch_is_one_write() -> None:
    """The script first, then a plain read for each lane."""
    op = consume.fetch(
        KEYS,
        "me",
        [Settlement("woken", b"7-1")],
        [("s", 1), ("", 9)],
        acks=[b"1-1", b"2-1"],
        urgent="9=3",
        now_ms=42,
    )

    assert [name(command) for command in op.commands] == ["settle", "XREADGROUP", "XREADGROUP"]
    assert arguments(op) == [
        *("workers", "me", 42, 200, 0, "9=3", 2, b"1-1", b"2-1"),
        *("woken", b"7-1", 0, 0, b"{}"),
    ]
    read = ("XREADGROUP", "GROUP", "workers", "me", "COUNT")
    assert op.commands[1].arguments == (*read, 1, "STREAMS", KEYS.suspect, ">")
    assert op.commands[2].arguments == (*read, 9, "STREAMS", KEYS.ready, ">")


def test_a_fetch_puts_the_answers_together() -> None:
    """Tokens have the prefix of their lane; a lane without messages answers with nothing."""
    op = consume.fetch(KEYS, "me", reads=[("s", 1), ("f", 2), ("", 9)])
    entry = [b"5-1", [b"b", b"x"]]

    found = op.decode(
        [
            [[b"1-1"], [[b"2-1", b"OOM no"]], 1500, 3, 4, 42, [9, 1]],
            [[b"k", [entry]]],
            None,
            [[b"k", [entry]]],
        ]
    )

    assert [one.token for one in found.envelopes] == [b"s5-1", b"5-1"]
    assert (found.lost, found.kept) == ([b"1-1"], {b"2-1": "OOM no"})
    assert (found.next_due_ms, found.front, found.suspect) == (1.5, 3, 4)
    assert (found.now_ms, found.priorities) == (42, [9, 1])


def test_a_wait_tells_messages_from_wake_entries() -> None:
    """The key says what an entry is."""
    op = consume.wait(KEYS, "me", 5000, suspects=True)
    reply = [
        [KEYS.wake.encode(), [[b"7-1", [b"due", b"1"]]]],
        [KEYS.front.encode(), [[b"5-1", [b"b", b"x"]]]],
    ]

    found = op.decode([reply])

    assert found.woken == [b"7-1"]
    assert [one.token for one in found.envelopes] == [b"f5-1"]
    assert op.decode([None]) == consume.Fetched(envelopes=[], woken=[])
    streams = op.commands[0].arguments[9:]
    assert streams == (KEYS.wake, KEYS.ready, KEYS.front, KEYS.suspect, ">", ">", ">", ">")
    assert KEYS.suspect not in consume.wait(KEYS, "me", 5, suspects=False).commands[0].arguments


def test_a_wait_reads_what_an_earlier_one_was_promised() -> None:
    """A read that sleeps already may have been begun with the lane of suspects."""
    op = consume.wait(KEYS, "me", 5000, suspects=False)

    found = op.decode([[[KEYS.suspect.encode(), [[b"5-1", [b"b", b"x"]]]]]])

    assert [one.token for one in found.envelopes] == [b"s5-1"]


def test_extend_asks_once_a_lane() -> None:
    """The answer names what is held; the rest is lost, in the order of the question."""
    op = consume.extend(KEYS, "me", [b"f1-1", b"2-1", b"f3-1", b"4-1"], idle_ms=7)

    front, ready = op.commands
    assert front.arguments == (
        *("XCLAIM", KEYS.front, "workers", "me", 0, b"1-1", b"3-1"),
        *("IDLE", 7, "JUSTID"),
    )
    assert ready.arguments[1] == KEYS.ready
    assert op.decode([[b"3-1"], [b"2-1"]]) == [b"f1-1", b"4-1"]
    assert op.decode([[], []]) == [b"f1-1", b"2-1", b"f3-1", b"4-1"]


# own_pending


def test_own_pending_reads_page_after_page() -> None:
    """Each lane until nothing comes any more; deleted entries are left out."""
    page = [[KEYS.ready.encode(), [[b"1-1", [b"b", b"x"]], [b"2-1", None], [b"3-1", [b"b", b"y"]]]]]
    empty = [[KEYS.ready.encode(), []]]
    suspect = [[KEYS.suspect.encode(), [[b"4-1", [b"b", b"z"]]]]]

    found, steps = play(
        consume.own_pending(KEYS, "me"), [page], [empty], [None], [suspect], [empty]
    )

    assert [(one.token, one.body) for one in found] == [
        (b"1-1", b"x"),
        (b"3-1", b"y"),
        (b"s4-1", b"z"),
    ]
    assert steps == ["XREADGROUP"] * 5


def test_own_pending_goes_on_behind_the_last_entry() -> None:
    """Also when that one was deleted."""
    plan = consume.own_pending(KEYS, "me")
    first = next(plan)
    assert arguments(first)[-2:] == [KEYS.ready, b"0"]

    second = plan.send([[b"k", [[b"1-1", [b"b", b"x"]], [b"2-1", None]]]])

    assert arguments(second)[-2:] == [KEYS.ready, b"2-1"]
    assert arguments(plan.send(None))[-2:] == [KEYS.front, b"0"]


# hand_over


def test_hand_over_goes_on_until_the_consumer_is_gone() -> None:
    """The counts of all calls are added."""
    plan = hand_over(KEYS, "him", crashed=True, max_crashes=3)

    done, steps = play(plan, [[500, 0, 0]], [[400, 100, 0]], [[7, 1, 1]])

    assert done == HandedOver(907, 101, removed=True)
    assert steps == ["hand_over"] * 3


def test_hand_over_waits_for_memory() -> None:
    """When nothing could be moved it does not ask again at once."""
    plan = hand_over(KEYS, "him", crashed=False, max_crashes=3)

    done, steps = play(plan, [[0, 0, 0]], [[0, 0, 0]], [[3, 0, 1]])

    assert done == HandedOver(3, 0, removed=True)
    assert steps == ["hand_over", "pause 0.5", "hand_over", "pause 0.5", "hand_over"]


@pytest.mark.parametrize("crashed", [True, False])
def test_hand_over_says_whether_it_is_a_crash(crashed: bool) -> None:
    """The script counts by that."""
    step = next(hand_over(KEYS, "him", crashed=crashed, max_crashes=7))

    assert arguments(step) == ["workers", "him", "", 500, int(crashed), 7, ""]
    assert isinstance(step, Op)
    assert step.repeatable


@pytest.mark.parametrize(("partitions", "replies"), [(1, [[]]), (2, [[], [b"him/1"]])])
def test_hand_over_says_why_nobody_gets_them_again(partitions: int, replies: list[Any]) -> None:
    """It does so for a queue as for each partition of one."""
    plan = hand_over_all(
        KEYS, "him", partitions=partitions, crashed=False, max_crashes=7, reason="stopped"
    )
    step = next(plan)
    for reply in replies:
        step = plan.send(reply)

    assert arguments(step)[-2:] == [7, "stopped"]


# redrive


def test_redrive_of_nothing_is_one_look() -> None:
    """Without dead letters no script runs."""
    plan = admin.redrive(KEYS, ids=None, reason=None, rate=None)

    assert play(plan, [[]]) == (0, ["XREVRANGE"])


def test_redrive_goes_page_by_page_to_where_the_end_was() -> None:
    """The end is fixed at the beginning, so that what dies again is not redriven again."""
    plan = admin.redrive(KEYS, ids=["1-1", "2-1"], reason="a.b*", rate=None)
    next(plan)

    first = plan.send([[b"9-9", []]])
    second = plan.send([b"(5-5", 3])

    assert arguments(first) == ["-", b"9-9", 500, 500, "a.b*", "", "1-1", "2-1"]
    assert arguments(second) == [b"(5-5", b"9-9", 500, 500, "a.b*", "", "1-1", "2-1"]
    with pytest.raises(StopIteration) as done:
        plan.send([b"", 4])
    assert done.value.value == 7


@pytest.mark.parametrize(
    ("rate", "most", "pause"),
    [(1, 1, 1.0), (9.9, 1, 1 / 9.9), (0.5, 1, 2.0), (100, 10, 0.1), (10**6, 500, 0.0005)],
)
def test_redrive_keeps_to_the_rate(rate: float, most: int, pause: float) -> None:
    """A tenth of a second's worth a step, then a pause for as long as that takes."""
    plan = admin.redrive(KEYS, ids=None, reason=None, rate=rate)
    next(plan)
    step = plan.send([[b"9-9", []]])
    assert arguments(step)[3] == most

    wait = plan.send([b"(5-5", most])

    assert isinstance(wait, Pause)
    assert wait.seconds == pytest.approx(pause)


def test_redrive_does_not_pause_for_nothing() -> None:
    """Neither after a page without a match, nor at the end."""
    plan = admin.redrive(KEYS, ids=None, reason="x", rate=10)

    done, steps = play(plan, [[[b"9-9", []]]], [[b"(5-5", 0]], [[b"(6-6", 1]], [[b"", 1]])

    assert done == 2
    assert steps == ["XREVRANGE", "redrive", "redrive", "pause 0.1", "redrive"]


# purge


def test_purge_goes_on_while_calls_are_full() -> None:
    """Fewer than asked for means that nothing is left."""
    assert play(admin.purge(KEYS), [500], [500], [3]) == (1003, ["purge"] * 3)
    assert play(admin.purge(KEYS), [0]) == (0, ["purge"])
    assert play(admin.purge(KEYS), [500], [0]) == (500, ["purge"] * 2)


def test_purge_dead_is_one_command() -> None:
    """The server counts."""
    assert play(admin.purge_dead(KEYS), [7]) == (7, ["XTRIM"])


# list_queues


def test_queues_are_found_by_their_keys() -> None:
    """Several pages; keys of others, and of queues that have only temporary ones, do not count."""
    keys = [
        b"ms:{b}:ready",
        b"ms:{b}:dead",
        b"ms:{a}:wake",
        b"ms:{x}:producer:1",
        b"ms:{\xff}:ready",
    ]

    found, steps = play(
        list_queues("ms"), [[b"7", keys]], [[b"0", [b"ms:{a/1}:ready", b"ms:{c}:due"]]]
    )

    assert found == ["a", "b", "c"]
    assert steps == ["SCAN", "SCAN"]


# stats


def test_stats_merge_what_the_lanes_say() -> None:
    """A consumer's deliveries are added, its shortest idle time counts."""
    op = admin.stats(KEYS)
    rows = [[b"b", 1, 500], [b"a", 2, 3000], [b"b", 3, 200]]

    found = op.decode([[1, 2, 3, 4, b"1000-5", 4500, [b"sent", b"9", b"new", b"1"], rows, 1]])
    assert found.paused

    assert (found.ready, found.in_flight, found.delayed, found.dead) == (1, 2, 3, 4)
    assert found.oldest_ready == 3.5
    assert (found.sent, found.acked) == (9, 0)
    assert [(one.name, one.in_flight, one.idle) for one in found.consumers] == [
        ("a", 2, 3.0),
        ("b", 4, 0.2),
    ]


def test_every_plan_ends_when_it_is_closed() -> None:
    """A driver that gives up leaves nothing behind."""
    plans: list[Callable[[], Plan[Any]]] = [
        lambda: ending.settle(KEYS, "me", ack(b"5-1")),
        lambda: consume.own_pending(KEYS, "me"),
        lambda: hand_over(KEYS, "him", crashed=True, max_crashes=3),
        lambda: admin.purge(KEYS),
        lambda: list_queues("ms"),
    ]
    for make in plans:
        plan = make()
        next(plan)
        plan.close()
        with pytest.raises(StopIteration):
            next(plan)
