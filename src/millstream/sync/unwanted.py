# GENERATED from src/millstream/aio/unwanted.py by tools/unasync.py - do not edit
"""Streams that nobody takes: their producers are told so."""

from __future__ import annotations

from millstream.driver.blocking import BlockingDriver
from millstream.errors import BrokerError
from millstream.protocol.mailbox import ATTENDING, delivering, mail_to

__all__ = ["Unwanted"]


class Unwanted:
    """Producers to tell.

    Args:
        driver: of the client.
        namespace: first part of their keys.
    """

    def __init__(self, driver: BlockingDriver, namespace: str) -> None:
        self._driver = driver
        self._delivery = delivering(namespace, patience=ATTENDING)
        self._all: set[str] = set()

    def add(self, sender: str) -> None:
        """Tell one, by what stands in its items. It does not wait."""
        self._all.add(sender)

    # What ``Rounds`` looks after

    @property
    def is_waiting(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._all)

    def look_after(self) -> None:
        """Tell them, once: whoever sends more is told again."""
        mails = []
        while self._all:
            mail = mail_to(self._all.pop(), "cancel")
            if mail is not None:
                mails.append(mail)
        if mails:
            self._driver.run(self._delivery("", 0, mails, None))

    def fail(self, error: BrokerError) -> None:
        """They are no concern of who reads."""
