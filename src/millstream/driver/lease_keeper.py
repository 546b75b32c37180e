"""Keeps leases alive from a thread of its own, with a connection of its own.

A handler that blocks the event loop, or holds it for long, must not cost a lease: this thread
goes on as long as the process lives. One thread serves all consumers of a client. For the same reason
it shows that a worker serves its endpoints.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from millstream.driver.blocking import BlockingDriver
from millstream.errors import BrokerError
from millstream.protocol.consume import extend
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Op

__all__ = ["Beat", "Held", "LeaseKeeper"]

logger = logging.getLogger("millstream.lease")

EXTENSIONS_PER_LEASE = 3
"""An extension may fail twice before a lease is in danger."""

CALL_TIMEOUT = 3.0
"""Seconds after which an extension is given up and tried again: other leases wait behind it."""

TOKENS_A_CALL = 500


class Question(msgspec.Struct, eq=False):
    """Asks the server to extend leases, and which of them are lost.

    Attributes:
        since: time on the monotonic clock before which no lease begins that it extends, nor one
            of what arrives meanwhile.
    """

    since: float


class Held(msgspec.Struct, eq=False):
    """The deliveries of one consumer, as the keeper sees them.

    Attributes:
        keys: of the queue.
        consumer: who holds them.
        lease_ms: of the queue.
        until: token -> time on the monotonic clock up to which its lease is kept
            (``math.inf``: until it is taken out). Its owner adds and removes tokens at any time;
            the keeper removes those whose time is over.
        on_lost: called in the keeper's thread with tokens that are lost.
        leaving: whether the keeper is to drop it once nothing is left to extend.
        sure_until: time on the same clock before which no lease of these ends, as far as is known.
            A process that was stopped, or cannot reach the server, finds that it is over.
            Only owners that tell what has ``arrived`` may ask for it.
    """

    keys: QueueKeys
    consumer: str
    lease_ms: int
    until: dict[bytes, float]
    on_lost: Callable[[list[bytes]], None]
    next_at: float = 0.0
    leaving: bool = False
    sure_until: float = math.inf
    _questions: list[Question] = msgspec.field(default_factory=list)
    _lock: threading.Lock = msgspec.field(default_factory=threading.Lock)

    @property
    def sure(self) -> bool:
        """Whether no lease of these can have ended."""
        return time.monotonic() < self.sure_until

    def arrived(self, tokens: Iterable[bytes], since: float) -> None:
        """Keep the leases of these.

        Args:
            tokens: of new deliveries.
            since: time before which none of their leases has begun.
        """
        with self._lock:
            self.until.update(dict.fromkeys(tokens, math.inf))
            self.sure_until = min(self.sure_until, since + self.lease_ms / 1000)
            for question in self._questions:
                # It may not name them any more, so its answer says nothing about them.
                question.since = min(question.since, since)

    def ask(self) -> Question:
        """Note that somebody begins to extend what is in ``until``."""
        with self._lock:
            self._questions.append(question := Question(time.monotonic()))
        return question

    def answered(self, question: Question, *, sure: bool) -> None:
        """Note the answer; ``sure``: none of them is lost that the owner does not know of."""
        with self._lock:
            self._questions.remove(question)
            if sure:
                self.sure_until = question.since + self.lease_ms / 1000

    def keep_for(self, token: bytes, lease_ms: int) -> None:
        """Note that a lease that begins now is to last so long, be it longer or shorter."""
        # One period more: the last extension may come that much before this time.
        rest = (lease_ms - self.lease_ms) / 1000 + _period(self)
        if lease_ms > self.lease_ms:
            self.until[token] = time.monotonic() + rest
        else:
            self.until.pop(token, None)


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


class Beat(msgspec.Struct, eq=False):
    """A sign of life that is given again and again, whatever the event loop is busy with.

    Attributes:
        op: gives it.
        last: takes it back.
        every: seconds between two of them.
        next_at: when it is due, of ``time.monotonic``.
        over: whether it is given no more.
        rests: set while none is on its way to the server.
    """

    op: Op[Any]
    last: Op[Any]
    every: float
    next_at: float = 0.0
    over: bool = False
    rests: threading.Event = msgspec.field(default_factory=_set_event)


class LeaseKeeper:
    """The thread that extends leases, and shows that a worker lives.

    Args:
        driver: a blocking driver that nobody else uses.
    """

    def __init__(self, driver: BlockingDriver) -> None:
        self._driver = driver
        self._held: list[Held] = []
        self._beats: list[Beat] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def keep(self, held: Held) -> None:
        """Extend what is in ``held.until`` from now on."""
        with self._changed:
            held.leaving = False
            held.next_at = time.monotonic() + _period(held)
            if held not in self._held:
                self._held.append(held)
            self._look_again()

    def begin(self, beat: Beat) -> None:
        """Give a sign of life now, and from now on."""
        with self._changed:
            self._beats.append(beat)
            self._look_again()

    def end(self, beat: Beat) -> None:
        """Give it no more. Its owner takes it back, when it ``rests``; so does the thread if it is later."""
        with self._changed:
            beat.over = True
            self._beats.remove(beat)

    def _look_again(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="millstream-leases", daemon=True
            )
            self._thread.start()
        self._changed.notify()

    def drop(self, held: Held, *, when_empty: bool = False) -> None:
        """Stop extending: at once, or when nothing is left to extend."""
        with self._changed:
            held.leaving = True
            if held in self._held and not (when_empty and held.until):
                self._held.remove(held)

    def close(self) -> None:
        """End the thread. Leases run out from now on."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        # First, since it may be trying to reach a server that is away.
        self._driver.close()
        # A signal handler that raises may have come before its start.
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                now = time.monotonic()
                beats = [beat for beat in self._beats if beat.next_at <= now]
                due = [held for held in self._held if held.next_at <= now]
                if not due and not beats:
                    times = [one.next_at for one in self._held]
                    times += [one.next_at for one in self._beats]
                    self._changed.wait(min(times) - now if times else None)
                    continue
            for beat in beats:
                beat.next_at = time.monotonic() + beat.every
                self._give(beat)
            for held in due:
                held.next_at = time.monotonic() + self._try_to_extend(held)
                if held.leaving:
                    self.drop(held, when_empty=True)

    def _give(self, beat: Beat) -> None:
        """Give a sign of life, and outlive whatever goes wrong."""
        with self._changed:
            if beat.over:
                return
            beat.rests.clear()
        try:
            self._driver.run(beat.op)
            if beat.over:
                # Its owner may not have waited for it.
                self._driver.run(beat.last)
        except BrokerError as error:
            # The reader says it louder.
            logger.debug("cannot show that this worker lives: %s", error)
        except Exception:
            if not self._stopping:
                logger.exception("could not show that this worker lives")
        finally:
            beat.rests.set()

    def _try_to_extend(self, held: Held) -> float:
        """Extend, and outlive whatever goes wrong: the others' leases hang on this thread."""
        try:
            return self._extend(held)
        except Exception:
            if not self._stopping:
                logger.exception("%s: could not extend leases", held.keys.title)
            return min(1.0, _period(held))

    def _extend(self, held: Held) -> float:
        """Extend one consumer's leases; return the seconds until they are due again."""
        tokens, question, sure = [], held.ask(), False
        # copy() is atomic under the interpreter's lock; iterating while the owner writes is not.
        for token, until in held.until.copy().items():
            if until > question.since:
                tokens.append(token)
            else:
                held.until.pop(token, None)
        lost: list[bytes] = []
        try:
            for start in range(0, len(tokens), TOKENS_A_CALL):
                some = tokens[start : start + TOKENS_A_CALL]
                lost += self._driver.run(extend(held.keys, held.consumer, some))
        except BrokerError as error:
            if self._stopping:
                return 0.0
            logger.warning("%s: could not extend leases: %s", held.keys.title, error)
            return min(1.0, _period(held))
        else:
            # What its owner has settled meanwhile is not lost, it is done.
            lost = [token for token in lost if token in held.until]
            sure = not lost
        finally:
            held.answered(question, sure=sure)
        if lost:
            held.on_lost(lost)
        return _period(held)


def _period(held: Held) -> float:
    return held.lease_ms / 1000 / EXTENSIONS_PER_LEASE
