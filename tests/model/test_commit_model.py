"""Commits against a small model of a primary and its replica: what is confirmed, the replica has."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from millstream.errors import NotConfirmed, NotConnected
from millstream.message import Receipt
from millstream.protocol.confirm import Commits, Pending
from millstream.protocol.op import Command, Op
from millstream.protocol.unconfirmed import results_of, to_confirm

TIMEOUT = 10.0


class Pair:
    """A primary's history of writes, how far its replica has followed, and one connection to it."""

    def __init__(self) -> None:
        self.history: list[int | None] = []
        self.followed = 0
        self.last_write = 0

    def run(self, commands: tuple[Command, ...]) -> list[Any]:
        return [self._one(command.arguments) for command in commands]

    def _one(self, arguments: Any) -> Any:
        if arguments[0] == "WAIT":
            return 1 if self.followed >= self.last_write else 0
        number = arguments[1]
        known = number in self.history
        # A script that is repeated stores nothing, but writes.
        self.history.append(None if known else number)
        self.last_write = len(self.history)
        return number

    def has_safely(self, number: int) -> bool:
        return number in self.history[: self.followed]


def _receipts(replies: list[Any]) -> list[Receipt]:
    return [Receipt(str(reply)) for reply in replies]


class CommitMachine(RuleBasedStateMachine):
    """Batches join, commits go through, get lost on either way, and primaries die."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.pair = Pair()
        self.commits = Commits("replicas:1", TIMEOUT, self)
        self.on_their_way: dict[int, Pending] = {}
        self.unconfirmed: dict[int, NotConfirmed] = {}
        self.count = 0

    def join(self, number: int, op: Op[Any]) -> None:
        self.on_their_way[number] = self.commits.join(op, self.now)

    @rule(count=st.integers(1, 3))
    def send(self, count: int) -> None:
        """New batches come."""
        for _ in range(count):
            self.count += 1
            self.join(self.count, Op((Command(("BATCH", self.count)),), _receipts))

    @rule(
        network=st.sampled_from(["good", "good", "request lost", "reply lost"]),
        follows=st.booleans(),
        took=st.floats(0.001, 3),
    )
    def commit(self, network: str, follows: bool, took: float) -> None:
        """One commit, with the network and the replica as they are."""
        commands = self.commits.step(self.now)
        if commands is not None:
            if network == "request lost":
                replies = None
            else:
                *scripts, wait = commands
                replies = self.pair.run(tuple(scripts))
                if follows:
                    self.pair.followed = len(self.pair.history)
                replies += self.pair.run((wait,))
            self.now += took
            if network == "good":
                assert replies is not None
                self.commits.took(replies, self.now)
            else:
                self.pair.last_write = 0
                self.commits.failed(NotConnected("lost"), self.now)
        self.look()

    @rule(share=st.floats(0, 1))
    def follow(self, share: float) -> None:
        """The replica gets some of what it does not have."""
        self.pair.followed += int((len(self.pair.history) - self.pair.followed) * share)

    @rule()
    def fail_over(self) -> None:
        """The replica takes over with what it has; another one follows it, and has it as well."""
        self.pair.history = self.pair.history[: self.pair.followed]
        self.pair.last_write = 0

    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        """Somebody makes sure of what was not confirmed."""
        known = sorted(set(self.unconfirmed) - set(self.on_their_way))
        if known:
            number = data.draw(st.sampled_from(known))
            [op] = to_confirm(self.unconfirmed[number], self, self.now)
            self.join(number, op)

    def look(self) -> None:
        """What is said of a batch is true at that moment."""
        for number, pending in list(self.on_their_way.items()):
            if pending.outcome is None:
                continue
            del self.on_their_way[number]
            if isinstance(pending.outcome, NotConnected):
                continue
            assert not isinstance(pending.outcome, BaseException)
            [outcome] = pending.outcome
            if isinstance(outcome, NotConfirmed):
                self.unconfirmed[number] = outcome
                assert outcome.receipts[0].id == str(number)
                continue
            assert outcome == Receipt(str(number), durability="replicas:1")
            assert self.pair.has_safely(number)
            if error := self.unconfirmed.pop(number, None):
                assert results_of(error, [pending.op], [pending.outcome]) == [outcome]

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        """However often it is repeated, a batch is stored once."""
        stored = [number for number in self.pair.history if number is not None]
        assert len(stored) == len(set(stored))

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """What is on its way ends with its time, as soon as there is a commit."""
        late = [one for one in self.on_their_way.values() if one.until + 3 < self.now]
        assert all(one.problem is None and one.stored is None for one in late)


def test_random_histories() -> None:
    """Through any history of sends, losses and failovers, no confirmation is a lie."""
    run_state_machine_as_test(
        CommitMachine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )


def test_what_comes_together_is_one_commit() -> None:
    """Batches that have gathered go out in their order, with one WAIT behind them."""
    commits = Commits("fsync", TIMEOUT, None)
    ops = [Op((Command(("BATCH", number)),), _receipts) for number in range(3)]
    told: list[int] = []
    for number, op in enumerate(ops):
        commits.join(op, 0.0, partial(told.append, number))
    commands = commits.step(0.0)

    assert commands is not None
    assert [command.arguments[0] for command in commands] == ["BATCH", "BATCH", "BATCH", "WAITAOF"]
    assert commands[-1].arguments[:3] == ("WAITAOF", 1, 0)
    assert not commits.took([0, 1, 2, [1, 0]], 1.0)
    assert told == [0, 1, 2]
    assert commits.step(1.0) is None
