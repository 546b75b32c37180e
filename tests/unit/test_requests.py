"""Requests on their way: addresses, what is sent, and what becomes of those that wait."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.aio.inquiries import AFTER_LEASE, fate_of
from millstream.aio.pending import Pending, closed, lost, unserved
from millstream.driver.blocking_letterbox import BlockingLetterbox
from millstream.endpoint import Endpoint
from millstream.errors import NoResponders
from millstream.protocol.envelope import Envelope
from millstream.protocol.keys import queue_keys
from millstream.protocol.requests import (
    NOT_KNOWN,
    NOT_THERE,
    WAITING,
    WAITING_AGAIN,
    Address,
    Outgoing,
    Withdrawal,
    address_of,
    requesting,
    withdraw,
)
from millstream.protocol.send import REMEMBERED_MS

KEYS = queue_keys("ms", "quote")
ONCE: Endpoint[Any, Any] = Endpoint("quote", lease=2)
AGAIN: Endpoint[Any, Any] = Endpoint("quote", lease=2, idempotent=True)

CLIENTS = st.text(
    st.characters(codec="ascii", exclude_characters=" ", min_codepoint=33), min_size=1
)


def read(r: bytes) -> Address | None:
    return address_of(Envelope(b"1-1", [b"b", b"1", b"r", r]))


def pending() -> Pending:
    waiting = Pending(ONCE, KEYS, 1, BlockingLetterbox(), 100, 0, 0.0)  # type: ignore[arg-type]
    waiting.id = "1-1"
    return waiting


class TestAddresses:
    @given(
        CLIENTS,
        st.integers(0, 10**15 - 1),
        st.booleans(),
        st.integers(0, 10**15 - 1),
    )
    def test_round_trip(self, client: str, slot: int, progress: bool, window: int) -> None:
        """The worker reads what the caller has written."""
        address = Address(client, slot, progress, window)

        assert read(str(address).encode()) == address

    def test_without_one(self) -> None:
        """A message from somebody who wants no reply has no address."""
        assert address_of(Envelope(b"1-1", [b"b", b"1"])) is None

    @pytest.mark.parametrize(
        "text",
        ["", " ", "client", "client ", "client x", "client -1", "client 1x", " 1", "client  1",
         "client \u0661", "client " + "9" * 16, "client " + "9" * 5000],
    )  # fmt: skip
    def test_unreadable_ones(self, text: str) -> None:
        """What is none counts as none."""
        assert read(text.encode()) is None

    @pytest.mark.parametrize("more", ["", "stream", "stream=", "stream=-1", "stream=x", "later=9",
                                      "stream=" + "9" * 5000])  # fmt: skip
    def test_words_that_it_does_not_know(self, more: str) -> None:
        """A later version may add some; a reply can be sent all the same."""
        assert read(f"client 7 {more} progress".encode()) == Address("client", 7, progress=True)

    @given(st.binary())
    def test_hostile_ones(self, text: bytes) -> None:
        """Anybody may write to a queue: no worker falls over it."""
        address = read(text)

        assert address is None or (address.client and address.slot >= 0)


class TestSending:
    def test_a_batch(self) -> None:
        """Each has four arguments; the batch is of use for as long as the most patient of them waits."""
        some = [Outgoing(b"1", b"", 100, "a 1"), Outgoing(b"2", b"{}", 5000, "a 2")]
        op = requesting(KEYS)("p", 7, some, None)

        [command] = op.commands
        assert list(command.arguments[3:]) == [
            *(KEYS.ready, KEYS.counters, KEYS.producer("p"), KEYS.members),
            *(7, REMEMBERED_MS, ""),
            *(b"1", b"", 100, "a 1"),
            *(b"2", b"{}", 5000, "a 2"),
        ]
        assert op.patience == 5
        assert [len(one) for one in some] == [1, 3]

    def test_receipts(self) -> None:
        """The first id tells all of them."""
        op = requesting(KEYS)("p", 7, [Outgoing(b"", b"", 1, "a 1")] * 2, None)

        assert [receipt.id for receipt in op.decode([b"5-3"])] == ["5-3", "5-4"]  # type: ignore[union-attr]

    def test_nobody_serves(self) -> None:
        """Each caller gets an error of its own, which says what to do."""
        op = requesting(KEYS)("p", 7, [Outgoing(b"", b"", 1, "a 1")] * 2, None)

        first, second = op.decode([b""])
        assert isinstance(first, NoResponders)
        assert first is not second
        assert "endpoint 'quote': no worker serves it" in str(first)
        assert (first.queue, first.id) == ("quote", "")

    def test_withdrawals(self) -> None:
        """Those of many callers go together, each in its own way."""
        op = withdraw(KEYS, [Withdrawal("1-1", "stop"), Withdrawal("1-2", "expire")])

        assert list(op.commands[0].arguments[-4:]) == ["1-1", "stop", "1-2", "expire"]
        assert op.decode([[5, -1]]) == [5, WAITING]


class TestFates:
    @pytest.mark.parametrize("endpoint", [ONCE, AGAIN])
    @pytest.mark.parametrize(
        ("state", "served", "fate"),
        [
            (0, True, "lives"),
            (0, False, "lives"),
            (2000, False, "lives"),
            (WAITING, True, "lives"),
            (WAITING, False, "unserved"),
            (WAITING_AGAIN, True, "lives"),
            (WAITING_AGAIN, False, "orphaned"),
            (NOT_THERE, True, "missing"),
            (NOT_THERE, False, "missing"),
            (NOT_KNOWN, True, "lives"),
            (NOT_KNOWN, False, "lives"),
        ],
    )
    def test_what_was_found(
        self,
        endpoint: Endpoint[Any, Any],
        state: int,
        served: bool,
        fate: str,
    ) -> None:
        """Only what nobody will begin with, or nobody has any more, is given up."""
        assert fate_of(endpoint, state, served=served) == fate

    @pytest.mark.parametrize("served", [True, False])
    def test_a_lease_that_has_run_out(self, served: bool) -> None:
        """The worker is dead, and nobody may begin again; unless the endpoint is idempotent."""
        over = 2000 + AFTER_LEASE

        assert fate_of(ONCE, over - 1, served=served) == "lives"
        assert fate_of(ONCE, over, served=served) == "dead"
        assert fate_of(AGAIN, over, served=served) == "lives"


class TestWhatCallersAreTold:
    @pytest.mark.parametrize(
        ("reason", "text"),
        [
            ("crashed", "the worker that had it died"),
            ("stopped", "the worker that had it was stopped"),
            ("cancelled", "somebody has cancelled it"),
            ("unknown", "purged, or its reply was lost"),
            ("malformed", "it went to the dead letters (malformed)"),
        ],
    )
    def test_lost(self, reason: str, text: str) -> None:
        """The reason is an attribute, and a sentence."""
        error = lost(pending(), reason)

        assert text in str(error)
        assert (error.queue, error.id, error.reason) == ("quote", "1-1", reason)

    def test_unserved_and_closed(self) -> None:
        """Both name the endpoint and the request."""
        for error in (unserved(pending()), closed(pending())):
            assert "endpoint 'quote'" in str(error)
            assert "request 1-1" in str(error)
