"""Exceptions across the wire: what a handler raises, and what its caller gets."""

from __future__ import annotations

from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import DeliveryError, RemoteError
from millstream.protocol.remote import LONGEST_TEXT, TRACEBACK_LINES, read_error, write_error


class OutOfStock(Exception):
    """Its constructor asks for more than its arguments tell."""

    def __init__(self, message: str, *, item: str) -> None:
        super().__init__(message)
        self.item = item


class Other(Exception):
    pass


class Picky(Exception):
    """It cannot be made without arguments."""

    def __new__(cls, one: Any) -> Self:
        return super().__new__(cls, one)


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


KNOWN = (OutOfStock, Other)

# What JSON gives back as it was.
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


def crossed(error: BaseException, traceback: str | None = None) -> Exception:
    return read_error(write_error(error, KNOWN, traceback), KNOWN, endpoint="quote", id="1-1")


class TestKnown:
    def test_as_it_was(self) -> None:
        """Arguments and attributes arrive, though its constructor is not called."""
        error = crossed(OutOfStock("no more", item="bolt"))

        assert type(error) is OutOfStock
        assert (str(error), error.args, error.item) == ("no more", ("no more",), "bolt")

    @given(st.lists(PLAIN, max_size=4), st.dictionaries(st.from_regex(r"\A[a-z]{1,8}\Z"), PLAIN))
    def test_whatever_json_can_carry(self, args: list[Any], attributes: dict[str, Any]) -> None:
        """All arguments and attributes come back."""
        error = Other(*args)
        error.__dict__.update(attributes)

        again = crossed(error)
        assert type(again) is Other
        assert again.args == tuple(args)
        assert again.__dict__ == attributes

    @pytest.mark.parametrize("argument", [object(), {1, object()}, "\ud800"])
    def test_what_json_cannot_carry(self, argument: Any) -> None:
        """The caller learns what it was all the same."""
        error = crossed(Other(argument))

        assert isinstance(error, RemoteError)
        assert error.type_name == "Other"

    def test_a_cycle(self) -> None:
        """Arguments without an end do not end the worker."""
        endless: list[Any] = []
        endless.append(endless)

        assert isinstance(crossed(Other(endless)), RemoteError)

    def test_notes_stay_behind(self) -> None:
        """They are for the worker's log."""
        error = Other("x")
        error.add_note("at noon")

        assert not hasattr(crossed(error), "__notes__")

    def test_a_subclass_is_another_one(self) -> None:
        """Only what is named arrives as itself."""
        error = crossed(type("Special", (Other,), {})("x"))

        assert isinstance(error, RemoteError)
        assert error.type_name == "Special"

    @pytest.mark.parametrize("args", ["[]", "[1,2]"])
    def test_one_that_cannot_be_made(self, args: str) -> None:
        """Another version of its class may ask for other arguments."""
        content = f'{{"type":"Picky","detail":"why","args":{args}}}'.encode()
        error = read_error(content, (Picky,), endpoint="quote", id="1-1")

        assert isinstance(error, RemoteError)
        assert (error.type_name, error.detail) == ("Picky", "why")


class TestUnknown:
    def test_what_is_told(self) -> None:
        """The name and the text arrive, in the message and as attributes."""
        error = crossed(KeyError("x"))

        assert isinstance(error, RemoteError)
        assert str(error) == "endpoint 'quote': the handler of request 1-1 raised KeyError: 'x'"
        assert (error.type_name, error.detail, error.traceback) == ("KeyError", "'x'", None)
        assert (error.queue, error.id) == ("quote", "1-1")

    def test_the_end_of_a_long_traceback(self) -> None:
        """The last lines say most."""
        error = crossed(KeyError("x"), "\n".join(map(str, range(100))) + "\n")

        assert isinstance(error, RemoteError)
        assert error.traceback is not None
        assert error.traceback.splitlines() == [str(n) for n in range(100 - TRACEBACK_LINES, 100)]

    def test_a_long_text(self) -> None:
        """It is cut: an exception may quote all of its input."""
        error = crossed(ValueError("x" * 10_000))

        assert isinstance(error, RemoteError)
        assert error.detail == "x" * LONGEST_TEXT

    @pytest.mark.parametrize("traceback", [None, "half \udc00"])
    def test_text_that_is_no_unicode(self, traceback: str | None) -> None:
        """What JSON cannot carry is replaced."""
        error = crossed(ValueError("half \ud800"), traceback)

        assert isinstance(error, RemoteError)
        assert error.detail == "half ?"

    def test_one_without_a_text(self) -> None:
        """An exception that raises when it is asked does no harm."""
        error = crossed(Rude())

        assert isinstance(error, RemoteError)
        assert error.detail == "(its text cannot be had: RuntimeError)"


class TestUnreadable:
    @pytest.mark.parametrize(
        "content", [b"", b"null", b"{}", b'{"type":1}', b'{"type":"X","args":1}', b"\xff", b"[" * 10_000]
    )  # fmt: skip
    def test_it_is_an_error_all_the_same(self, content: bytes) -> None:
        """The request has failed, so its caller is told."""
        error = read_error(content, KNOWN, endpoint="quote", id="1-1")

        assert type(error) is DeliveryError
        assert "request 1-1 failed, and its error is not readable" in str(error)

    @given(st.binary())
    def test_anything(self, content: bytes) -> None:
        """No bytes raise something else."""
        assert isinstance(read_error(content, KNOWN, endpoint="quote", id="1-1"), Exception)
