"""Sends that are confirmed: what goes out together, and when each of them is done. Time is a parameter.

The server holds back the next commands of a connection whose WAIT or WAITAOF waits, so these sends have
a connection of their own, on which one commit is on its way at a time: the scripts of all batches that
have gathered, and one WAIT behind them, in the same write.

WAIT is about the last write of its own connection, and where there was none it says yes at once. So
each commit repeats the scripts of all that is not confirmed yet, and a script that is repeated stores
nothing but writes a little. What a commit confirms has then been written before it, on that
connection and at that server, also after a lost reply or behind a failover.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from millstream.durability import FSYNC, MEMORY, replicas_of
from millstream.errors import BrokerError, NotConnected, TimedOut, UsageError, one_more
from millstream.message import Receipt
from millstream.protocol.op import Command, Op
from millstream.protocol.slots import keys_of
from millstream.protocol.unconfirmed import unconfirmed

__all__ = ["IDLE", "Commits", "Pending", "at_home", "still_at_home"]

PART = 0.8
"""Share of the timeout after which a send is not confirmed in time: the answer has to come back."""

ROUND = 2.0
"""Seconds that one commit may wait at the server; what has gathered meanwhile is stored then at the
latest, whether the replicas answer or not. With ``appendfsync everysec`` one takes a second."""

IDLE = 30.0
"""Seconds after which a connection on which nothing is to be confirmed is given up when others are used.
On a cluster there is one for each slot that is sent to."""

GATHER = 0.05
"""Most seconds to wait for those who were in the last commit."""

Outcomes = Sequence[Any]
"""Of a batch's messages: receipts or lists of receipts (units), and errors."""


def _nobody() -> None:
    pass


class Pending(msgspec.Struct, eq=False):
    """A batch that is not confirmed yet.

    Attributes:
        op: sends it.
        until: when it is not confirmed in time.
        told: called when its outcome is known.
        stored: what its script said; None: nobody knows whether it has run.
        problem: why the last commit failed; None: it did not.
        outcome: what came of each message, or why nothing is known; None: it is on its way.
    """

    op: Op[Any]
    until: float
    told: Callable[[], None] = _nobody
    stored: Outcomes | None = None
    problem: BrokerError | None = None
    outcome: Outcomes | BaseException | None = None

    def end(self, outcome: Outcomes | BaseException) -> None:
        """Say what came of it; the first word counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.told()

    def result(self) -> Outcomes:
        """Return what came of each message.

        Raises:
            BrokerError: it is not known to be stored.
        """
        assert self.outcome is not None  # noqa: S101 - asked for when it has ended
        if isinstance(self.outcome, BaseException):
            # All batches of a commit may have failed for one reason.
            raise one_more(self.outcome)
        return self.outcome


class Commits:
    """The batches of one connection, all with the same durability.

    One ``step`` at a time: send its commands in one write, and pass the replies to ``took``, or the
    failure to ``failed``. Batches are sent, and repeated, in the order in which they came.

    Args:
        durability: ``fsync`` or ``replicas:N``.
        timeout: seconds that a send may take in all.
        way: by which errors recognise the client that has sent them.
    """

    def __init__(self, durability: str, timeout: float, way: object) -> None:
        self.durability = durability
        self._way = way
        self._timeout = timeout
        self._replicas = replicas_of(durability)
        self._pending: list[Pending] = []
        self._trying: list[Pending] = []
        self._closed: BrokerError | None = None
        self._begun = self._gather_until = 0.0
        self._expected = 0

    def gathering(self, now: float) -> bool:
        """Tell whether to wait a moment for those who were in the last commit.

        They send again in a moment; left behind, they would wait for the end of the next one. It is short
        beside what a commit takes.
        """
        return now < self._gather_until and len(self._pending) < self._expected

    def join(self, op: Op[Any], now: float, told: Callable[[], None] = _nobody) -> Pending:
        """Have a batch go with the next commit.

        Raises:
            UsageError: the client is closed.
        """
        if self._closed is not None:
            message = "this client is closed"
            raise UsageError(message)
        one = Pending(op, now + self._timeout * PART, told)
        self._pending.append(one)
        return one

    def idle_for(self, now: float) -> float:
        """Return for how many seconds nothing has been sent; 0: somebody waits."""
        return 0.0 if self._pending else now - self._begun

    def leave(self, one: Pending) -> None:
        """Forget a batch; what has become of it nobody wants to know."""
        self._pending = [other for other in self._pending if other is not one]

    def step(self, now: float) -> tuple[Command, ...] | None:
        """Return what to send next; None: nothing, until somebody joins."""
        if self._closed is not None:
            self._end_all(self._closed)
        self._end_overdue(now)
        if not self._pending:
            return None
        self._trying = list(self._pending)
        self._begun = now
        left = min(one.until for one in self._trying) - now
        # 0 would be for ever.
        wait_ms = max(1, int(min(left, ROUND) * 1000))
        commands = [command for one in self._trying for command in one.op.commands]
        return (*commands, _wait(self.durability, wait_ms))

    def took(self, replies: Sequence[Any], now: float) -> bool:
        """Take note of a commit's replies; errors of the server are ours among them.

        Returns:
            Whether to pause before the next one: the server cannot serve at the moment.
        """
        self._expected = len(self._pending)
        self._gather_until = now + min(GATHER, (now - self._begun) / 10)
        end = 0
        ran: list[Pending] = []
        for one in self._trying:
            begin, end = end, end + len(one.op.commands)
            one.problem = _problem(one.op, replies[begin:end])
            if one.problem is None:
                one.stored = one.op.decode(list(replies[begin:end]))
                ran.append(one)
            elif not _passes(one.problem):
                one.end(one.problem)
        answer = replies[-1]
        pause = len(ran) < len(self._trying)
        if isinstance(answer, BrokerError):
            pause = True
            for one in ran:
                one.problem = answer
                if not _passes(answer):
                    one.end(self._unconfirmed(one, now))
        else:
            confirmed = self._confirmed(answer)
            for one in ran:
                if confirmed == self.durability:
                    one.end([_raised(outcome, confirmed) for outcome in one.stored or ()])
                else:
                    one.stored = [_raised(outcome, confirmed) for outcome in one.stored or ()]
        self._forget_ended()
        self._end_overdue(now)
        return pause

    def failed(self, problem: BrokerError, now: float) -> None:
        """Take note of a lost connection, whereupon nobody knows whether the scripts have run, or of a refusal."""
        if _passes(problem):
            for one in self._trying:
                one.problem = problem
        else:
            self._end_all(problem)
        self._end_overdue(now)

    def close(self) -> None:
        """Try no more."""
        self._closed = NotConnected("the client was closed before the server had confirmed it")

    def end_all(self, error: BaseException) -> None:
        """Give up."""
        for one in self._pending:
            one.end(error)
        self._forget_ended()

    def _end_all(self, problem: BrokerError) -> None:
        for one in self._pending:
            # What was lost on its way may be stored: a refusal of now, which says that nothing was sent, is not
            # about that.
            if one.stored is not None or one.problem is None:
                one.problem = problem
            one.until = 0.0

    def _end_overdue(self, now: float) -> None:
        """End what is over. What has just come is tried once, however late it is."""
        for one in self._pending:
            if now < one.until or (one.stored is None and one.problem is None):
                continue
            if one.stored is not None:
                one.end(self._unconfirmed(one, now))
            elif one.problem is not None:
                one.end(one.problem)
        self._forget_ended()

    def _forget_ended(self) -> None:
        self._pending = [one for one in self._pending if one.outcome is None]

    def _confirmed(self, answer: Any) -> str:
        """Say in our words what the server has confirmed."""
        if self.durability == FSYNC:
            return FSYNC if answer[0] >= 1 else MEMORY
        replicas = min(answer, self._replicas)
        return f"replicas:{replicas}" if replicas else MEMORY

    def _unconfirmed(self, one: Pending, now: float) -> Outcomes:
        return unconfirmed(self._way, one.op, one.stored or (), self.durability, one.problem, now)


def still_at_home(commands: Sequence[Command]) -> Command:
    """Return what a node of a cluster refuses if a commit's keys have left it, behind the WAIT of that.

    What its replicas confirm then says nothing of those of the new node.
    """
    keys = dict.fromkeys(key for command in commands for key in keys_of(command))
    return Command(("EXISTS", *keys))


def at_home(replies: Sequence[Any]) -> Sequence[Any]:
    """Return the replies to a commit without that to ``still_at_home``; if that is a refusal, it is the answer to WAIT."""
    *ran, answer, here = replies
    refused = isinstance(here, BrokerError) and _passes(here)
    return [*ran, here if refused else answer]


def _wait(durability: str, wait_ms: int) -> Command:
    if durability == FSYNC:
        return Command(("WAITAOF", 1, 0, wait_ms))
    return Command(("WAIT", replicas_of(durability), wait_ms))


def _passes(problem: BrokerError) -> bool:
    return isinstance(problem, NotConnected | TimedOut)


def _problem(op: Op[Any], replies: Sequence[Any]) -> BrokerError | None:
    for command, reply in zip(op.commands, replies, strict=True):
        if isinstance(reply, BrokerError) and not command.optional:
            return reply
    return None


def _raised(outcome: Any, durability: str) -> Any:
    """Note in receipts what was confirmed."""
    if isinstance(outcome, Receipt):
        return Receipt(outcome.id, outcome.duplicate, durability)
    if isinstance(outcome, list):
        return [_raised(one, durability) for one in outcome]
    return outcome
