"""What consumers do with a message, as its body says, and how they tell of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import millstream as ms
from tests.chaos.events import Recorder
from tests.chaos.sources import LEDGER, MADE, PAUSE, RETRY, checksum, least_pause, made_of

__all__ = ["WANTED", "Acting", "Outcome", "recorder"]

WANTED = "this handler fails"
"""What the exceptions say that the logs of workers may show."""

Outcome = Literal["done", "acks", "failed", "later", "rejected"]


def recorder(role: str) -> Recorder:
    """Return the record of this process, which has told that it is there."""
    made = Recorder(Path(os.environ["RECORDS"]), role)
    made.tell("started", role=role, pid=os.getpid(), route=os.environ["ROUTE"])
    made.watch()
    return made


class Acting:
    """Tells of deliveries, and decides what is to become of them.

    Args:
        record: of this process.

    Attributes:
        process: the name of this process in the record.
    """

    def __init__(self, record: Recorder) -> None:
        self.process = record.process
        self._tell = record.tell
        self._number = record.number

    def begin(self, delivery: Any, source: str) -> int:
        """Tell that a message is in hand; return the number of this delivery in this process."""
        number, body = self._number(), delivery.body
        self._tell(
            "begun",
            n=number,
            source=source,
            cid=body["cid"],
            id=delivery.id,
            attempt=delivery.attempt,
            crashes=delivery.crashes,
            thread=threading.get_ident(),
            whole=checksum(body) == body["sum"] and delivery.key == body["key"],
        )
        return number

    def begin_request(self, request: ms.Request[Any], source: str) -> int:
        """Tell that a request is in hand."""
        number, body = self._number(), request.body
        self._tell(
            "begun",
            n=number,
            source=source,
            cid=body["cid"],
            id=request.id,
            attempt=1,
            crashes=request.crashes,
            thread=threading.get_ident(),
            whole=checksum(body) == body["sum"],
        )
        return number

    def decide(self, number: int, body: dict[str, Any], attempt: int) -> Outcome:
        """Tell what becomes of a delivery, and return it: the next thing is to do it."""
        act = body["act"]
        if act == "hopeless" or (act == "fail" and attempt == 1):
            final = attempt >= RETRY.max_attempts
            self._tell("failed", n=number, pause=least_pause(attempt), final=final)
            return "failed"
        if act == "later" and attempt == 1:
            self._tell("later", n=number, pause=PAUSE)
            return "later"
        if act == "reject":
            self._tell("rejected", n=number)
            return "rejected"
        self._tell("done", n=number)
        return "acks" if act == "ack" else "done"

    def raise_for(self, outcome: Outcome) -> None:
        """End a handler as was decided, unless it ends well."""
        if outcome == "failed":
            raise ValueError(WANTED)
        if outcome == "later":
            raise ms.RetryLater(delay=PAUSE)
        if outcome == "rejected":
            reason = "rejected"
            raise ms.Reject(reason)

    async def settle(self, number: int, delivery: ms.Delivery[Any], outcome: Outcome) -> None:
        """Settle a delivery by a call, and tell whether that was confirmed."""
        with self._ending(number, outcome):
            if outcome == "rejected":
                await delivery.reject("rejected")
            elif outcome == "later":
                await delivery.retry(delay=PAUSE)
            elif outcome == "failed":
                await delivery.retry(reason=WANTED)
            else:
                await delivery.ack()

    def settle_now(self, number: int, delivery: ms.SyncDelivery[Any], outcome: Outcome) -> None:
        """Do the same with a blocking client."""
        with self._ending(number, outcome):
            if outcome == "rejected":
                delivery.reject("rejected")
            elif outcome == "later":
                delivery.retry(delay=PAUSE)
            elif outcome == "failed":
                delivery.retry(reason=WANTED)
            else:
                delivery.ack()

    async def commit(self, number: int, delivery: ms.Delivery[Any]) -> bool:
        """Move a step on in a transaction, and tell of it; return whether that was confirmed."""
        made, op = self._begin_commit(delivery.body)
        with self._ending(number, "done"):
            async with delivery.transaction() as tx:
                tx.send(MADE, made)
                tx.hincrby(LEDGER, delivery.body["cid"])
            self._tell("sent", op=op, ids=[tx.receipts[0].id])
            return True
        return False

    def commit_now(self, number: int, delivery: ms.SyncDelivery[Any]) -> None:
        """Do the same with a blocking client."""
        made, op = self._begin_commit(delivery.body)
        with self._ending(number, "done"):
            with delivery.transaction() as tx:
                tx.send(MADE, made)
                tx.hincrby(LEDGER, delivery.body["cid"])
            self._tell("sent", op=op, ids=[tx.receipts[0].id])

    def _begin_commit(self, step: dict[str, Any]) -> tuple[dict[str, Any], int]:
        made, op = made_of(step), self._number()
        told = [[made["cid"], made["number"]]]
        self._tell("send", op=op, source=MADE.name, messages=told, key=None, durable=False)
        return made, op

    @contextmanager
    def _ending(self, number: int, outcome: Outcome) -> Iterator[None]:
        """Tell how a call ends that ends a delivery."""
        try:
            yield
        except ms.LeaseLost:
            self._tell("refused", n=number)
        except ms.BrokerError as error:
            self._tell("unsettled", n=number, error=repr(error))
        else:
            self._tell("settled", n=number, outcome=outcome)

    def ticked(self, delivery: ms.Delivery[Any]) -> None:
        """Tell of a tick, and by how many seconds it is early."""
        tick = datetime.fromisoformat(delivery.headers["tick"]).timestamp()
        self._tell("ticked", tick=tick, id=delivery.id, early=tick - time.time())

    def cancelled(self, number: int) -> None:
        """Tell that a handler was cancelled."""
        self._tell("cancelled", n=number)

    def answered(self, number: int) -> None:
        """Tell that a request has its reply."""
        self._tell("done", n=number)

    def refused_request(self, number: int) -> None:
        """Tell that the handler of a request raises."""
        self._tell("failed", n=number, pause=0.0, final=True)
