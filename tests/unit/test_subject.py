"""Subjects and filters."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import UsageError
from millstream.subject import check_filter, check_subject, matches

TOKENS = st.sampled_from(["eu", "us", "paid", "a-b", "ü"])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
FILTERS = st.tuples(
    st.lists(st.one_of(TOKENS, st.just("*")), max_size=4), st.sampled_from(["", ">"])
).map(lambda parts: ".".join([*parts[0], *parts[1]]))


@pytest.mark.parametrize(
    ("wanted", "subject", "expected"),
    [
        ("eu.paid", "eu.paid", True),
        ("eu.paid", "eu.paid.late", False),
        ("eu.*", "eu.paid", True),
        ("eu.*", "eu", False),
        ("eu.*", "eu.paid.late", False),
        ("*.paid", "eu.paid", True),
        ("*.paid", "eu.sent", False),
        ("eu.>", "eu.paid.late", True),
        ("eu.>", "eu", False),
        (">", "eu", True),
        ("*.>", "eu.paid", True),
        ("EU.*", "eu.paid", False),
        (">", None, False),
    ],
)
def test_what_matches(wanted: str, subject: str | None, expected: bool) -> None:
    """A star is one token, an arrow at the end is all the rest, of which there is some."""
    assert matches(wanted, subject) is expected


@given(FILTERS.filter(bool), SUBJECTS)
def test_as_a_pattern(wanted: str, subject: str) -> None:
    """A filter means the same as the regular expression that it stands for."""
    pattern = re.escape(wanted).replace(r"\*", r"[^.]+").replace(">", r".+")
    assert check_filter(wanted) == wanted
    assert matches(wanted, subject) is (re.fullmatch(pattern, subject) is not None)


@pytest.mark.parametrize("subject", ["eu", "eu.paid", "a-b_c/d:e", "x" * 200, "ümläut.日本"])
def test_subjects(subject: str) -> None:
    """Any text that people can type, in tokens; it is a filter for itself, too."""
    assert check_subject(subject) == subject
    assert check_filter(subject) == subject
    assert matches(subject, subject)


@pytest.mark.parametrize(
    "subject", ["", ".", "eu.", ".eu", "eu..paid", "eu.*", "eu.>", "a b", "a\n", "x" * 201, None, 7]
)
def test_no_subjects(subject: Any) -> None:
    """The error names the parameter."""
    with pytest.raises(UsageError, match=r"^subject must be"):
        check_subject(subject)


@pytest.mark.parametrize(
    "wanted", ["", ".", "eu.", "eu..*", ">.eu", "eu.>.paid", "e*", "eu.paid>", "* *", None, 7]
)
def test_no_filters(wanted: Any) -> None:
    """A sign that stands for tokens is a token by itself, and the arrow is the last one."""
    with pytest.raises(UsageError, match=r"^filter must be"):
        check_filter(wanted)
