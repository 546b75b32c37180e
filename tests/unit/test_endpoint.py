"""Endpoints as values: what can be declared, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from millstream.endpoint import Endpoint
from millstream.errors import UsageError
from millstream.policy import Retry


class Ask(msgspec.Struct):
    id: int


class Price(msgspec.Struct):
    cents: int


class OutOfStock(Exception):
    pass


class TestDeclaration:
    def test_the_defaults(self) -> None:
        """An endpoint needs a name; a request is handled once, within five seconds."""
        quote: Endpoint[Any, Any] = Endpoint("quote")

        assert (quote.name, quote.title) == ("quote", "endpoint 'quote'")
        assert (quote.request_type, quote.reply_type) == (Any, Any)
        assert (quote.timeout_ms, quote.errors) == (5000, ())
        assert (quote.idempotent, quote.must_finish) == (False, False)
        assert (quote.queue.name, quote.queue.lease_ms) == ("quote", 10_000)
        assert quote.queue.retry == Retry(max_attempts=1, max_crashes=0)

    def test_everything_can_be_said(self) -> None:
        """What is declared is what there is."""
        quote = Endpoint(
            "quote",
            Ask,
            Price,
            timeout=timedelta(seconds=2),
            errors=[OutOfStock],
            idempotent=True,
            must_finish=True,
            lease=3,
            codec="msgpack",
            max_body=10,
        )

        assert (quote.request_type, quote.reply_type) == (Ask, Price)
        assert (quote.timeout_ms, quote.errors) == (2000, (OutOfStock,))
        assert (quote.idempotent, quote.must_finish) == (True, True)
        assert (quote.queue.lease_ms, quote.queue.max_body) == (3000, 10)
        assert quote.queue.retry == Retry(max_attempts=1, max_crashes=3)
        assert quote.encode_request(Ask(1)) == b"\x81\xa2id\x01"
        assert quote.encode_reply(Price(1)) == b"\x81\xa5cents\x01"

    def test_equal_declarations_are_equal(self) -> None:
        """Callers and workers import the same one, or write it twice."""
        assert Endpoint("quote", Ask, Price) == Endpoint("quote", Ask, Price)
        assert Endpoint("quote", Ask, Price) != Endpoint("quote", Ask, Price, timeout=1)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"timeout": 0}, "endpoint 'quote': timeout must be"),
            ({"timeout": -1}, "endpoint 'quote': timeout must be"),
            ({"timeout": "soon"}, "endpoint 'quote': timeout must be"),
            ({"errors": OutOfStock}, "endpoint 'quote': errors must be a list of exception classes"),
            ({"errors": "all"}, "endpoint 'quote': errors must be a list of exception classes"),
            ({"errors": [int]}, "endpoint 'quote': errors must be exception classes, not <class 'int'>"),
            ({"errors": [OutOfStock()]}, "endpoint 'quote': errors must be exception classes"),
            ({"errors": [KeyboardInterrupt]}, "endpoint 'quote': errors must be exception classes"),
            ({"idempotent": 1}, "endpoint 'quote': idempotent must be True or False, not 1"),
            ({"must_finish": None}, "endpoint 'quote': must_finish must be True or False, not None"),
            ({"lease": 0}, "lease must be"),
            ({"codec": "pickle"}, "endpoint 'quote': a request: codec must be"),
            ({"max_body": 0}, "endpoint 'quote': max_body must be"),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense(self, options: dict[str, Any], text: str) -> None:
        """It is refused where it is declared; the error names the endpoint and the parameter."""
        with pytest.raises(UsageError) as caught:
            Endpoint("quote", **options)
        assert text in str(caught.value)

    @pytest.mark.parametrize("name", ["", "a{b}", "x" * 201, 7, None])
    def test_names(self, name: Any) -> None:
        """They are those of queues."""
        with pytest.raises(UsageError, match="the endpoint's name"):
            Endpoint(name)

    def test_two_errors_of_one_name(self) -> None:
        """The caller could not tell which of them it is."""
        other = type("OutOfStock", (Exception,), {"__qualname__": "OutOfStock"})

        with pytest.raises(UsageError, match="two exceptions named OutOfStock"):
            Endpoint("quote", errors=[OutOfStock, other])

    @pytest.mark.parametrize("side", ["request", "reply"])
    def test_a_type_that_no_codec_knows(self, side: str) -> None:
        """The error says which of the two types it is."""
        types: list[Any] = [int, int]
        types[side == "reply"] = object()

        with pytest.raises(UsageError, match=f"endpoint 'quote': a {side}"):
            Endpoint("quote", *types)


class TestBodies:
    def test_a_wrong_type(self) -> None:
        """Neither side sends what the other could not read."""
        quote = Endpoint("quote", Ask, Price)

        with pytest.raises(UsageError, match="a request"):
            quote.encode_request(Price(1))  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="a reply"):
            quote.encode_reply(Ask(1))

    def test_too_large(self) -> None:
        """The bound is for both; the error says how large it may be."""
        quote: Endpoint[str, str] = Endpoint("quote", str, str, max_body=10)
        assert quote.encode_request("x" * 8) == b'"xxxxxxxx"'

        with pytest.raises(UsageError, match=r"the request has 11 bytes, 10 are allowed"):
            quote.encode_request("x" * 9)
        with pytest.raises(UsageError, match=r"the reply has 11 bytes, 10 are allowed"):
            quote.encode_reply("x" * 9)
