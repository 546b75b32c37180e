"""The wire format: a stream entry's fields to a message's parts, and back.

An entry has the field ``b`` (body), ``h`` (headers, a JSON object of strings) when there are any,
``s`` (state, a JSON object) once Millstream has moved it, and a few more for what its sender asked
for. docs/wire-format.md is the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from millstream.checks import check_headers
from millstream.codec import NotDecodable
from millstream.errors import Undecodable, UsageError
from millstream.protocol.partitions import public_id
from millstream.text import text_of
from millstream.topic import Source, Topic

__all__ = ["Envelope", "State", "encode_headers", "entries_of", "read_body"]

T = TypeVar("T")

_NO_HEADERS: Mapping[str, str] = {}


class State(msgspec.Struct, kw_only=True, frozen=True):
    """What the field ``s`` holds. The last four stand in dead letters and retried messages."""

    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,20}-[0-9]{1,20}\Z")]
    attempts: Annotated[int, msgspec.Meta(ge=0)] = 0
    crashes: Annotated[int, msgspec.Meta(ge=0)] = 0
    reason: str = ""
    error: str | None = None
    traceback: str | None = None
    at: float = 0


_decode_state = msgspec.json.Decoder(State).decode
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode
_encode_json = msgspec.json.Encoder().encode

_STARTED = b"started:"

_MOST_DIGITS = 18

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder may raise for foreign bytes."""


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Write headers.

    Raises:
        UsageError: they are no mapping, or a name or a value is not a string.
    """
    check_headers(headers)
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            message = f"headers must map strings to strings, not {name!r}: {value!r}"
            raise UsageError(message)
    try:
        return _encode_json(dict(headers))
    except UnicodeEncodeError as error:
        message = f"headers must be valid unicode: {error}"
        raise UsageError(message) from error


class Envelope(msgspec.Struct, eq=False, gc=False):
    """One stream entry, read as far as somebody asks.

    There is one for each message, so it is a Struct: made in less than half the time. It holds
    nothing that could lead back to it, so the garbage collector has no business with it.

    Args:
        token: prefix of the lane and id of the entry; it names the delivery when it is settled.
            Slashes behind it tell apart those whose ids are equal (see ``popping``).
        fields: names and values in turn, as the server sends them.
    """

    token: bytes
    fields: Sequence[bytes]
    _parsed: tuple[State, Mapping[str, str], str | None] | None = None
    _raw: dict[bytes, bytes] | None = None
    _expiry: int | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def body(self) -> bytes | None:
        """The body's bytes; None when the entry has none."""
        fields = self.fields
        if fields[0] == b"b":
            return fields[1]
        return self.raw.get(b"b")

    @property
    def raw(self) -> dict[bytes, bytes]:
        """The entry's fields."""
        raw = self._raw
        if raw is None:
            raw = self._raw = dict(zip(self.fields[::2], self.fields[1::2], strict=False))
        return raw

    @property
    def state(self) -> State:
        """Id and counts; those of a new message when the entry was never moved."""
        return self._parse()[0]

    @property
    def headers(self) -> Mapping[str, str]:
        """What the sender gave; empty when it is not readable (see ``malformed``)."""
        return self._parse()[1]

    @property
    def key(self) -> str | None:
        """Of which messages it is one; None when the sender gave no key."""
        key = self.raw.get(b"k")
        return None if key is None else key.decode("utf-8", "replace")

    @property
    def subject(self) -> str | None:
        """What it is about; None when the publisher did not say, and for a queue's messages."""
        subject = self.raw.get(b"t")
        return None if subject is None else subject.decode("utf-8", "replace")

    @property
    def priority(self) -> int:
        """How urgent it is: 0 (normal) to 9 (highest)."""
        if b"p" not in self.fields:
            return 0
        level = self.raw.get(b"p", b"")
        return int(level) if len(level) == 1 and level.isdigit() else 0

    @property
    def plain(self) -> bool:
        """Whether nothing follows its end: no unique key to free, nobody behind it or who waits for it."""
        fields = self.fields
        if len(fields) == 2:  # noqa: PLR2004 - name and value
            return True
        raw = self.raw
        return not (b"o" in raw or b"u" in raw or (b"r" in raw and self.wants_result))

    @property
    def wants_result(self) -> bool:
        """Whether its sender wants what its handler returns (``protocol.results``)."""
        return self.raw.get(b"r", b"").startswith(b"result=")

    @property
    def unique_until_started(self) -> str | None:
        """The unique key that it gives up when its first handler begins, if any."""
        unique = self.raw.get(b"u", b"")
        if not unique.startswith(_STARTED) or self._begun:
            return None
        return unique.removeprefix(_STARTED).decode("utf-8", "replace")

    def expired(self, now_ms: float) -> bool:
        """Tell whether its time to live is over before any handler has begun with it.

        Args:
            now_ms: the server's time.
        """
        expiry = self.expiry
        return expiry is not None and expiry <= now_ms and not self._begun

    @property
    def expiry(self) -> int | None:
        """When its time to live is over, in ms since 1970; None: never."""
        expiry = self._expiry
        if expiry is msgspec.UNSET:
            digits = self.raw.get(b"x", b"").partition(b" ")[0]
            known = digits.isdigit() and len(digits) <= _MOST_DIGITS
            expiry = self._expiry = int(digits) if known else None
        return expiry

    @property
    def _begun(self) -> bool:
        return self.state.attempts + self.state.crashes > 0

    @property
    def malformed(self) -> str | None:
        """Why this entry cannot be a message; None when it can."""
        raw = self.raw
        if b"b" in raw and b"s" not in raw and b"h" not in raw:
            return None
        return self._parse()[2]

    def _parse(self) -> tuple[State, Mapping[str, str], str | None]:
        if self._parsed is None:
            self._parsed = _parse(self.token, self.raw)
        return self._parsed


def _parse(
    token: bytes, fields: Mapping[bytes, bytes]
) -> tuple[State, Mapping[str, str], str | None]:
    entry_id = token.lstrip(b"fs").rstrip(b"/").decode()
    state, headers, problem = State(id=entry_id), _NO_HEADERS, None
    if b"s" in fields:
        try:
            state = _read_state(fields[b"s"])
        except _UNREADABLE as error:
            problem = f"the field s is not readable: {error}"
    if b"h" in fields:
        try:
            headers = _decode_headers(fields[b"h"])
        except _UNREADABLE as error:
            problem = f"the field h is not a JSON object of strings: {error}"
    if b"b" not in fields:
        names = ", ".join(repr(name.decode("utf-8", "replace")) for name in list(fields)[:5])
        problem = f"the entry has no field b (its fields: {names})"
    return state, headers, problem


def _read_state(data: bytes) -> State:
    try:
        return _decode_state(data)
    except _UNREADABLE:
        # Lua passes bytes on that are no unicode; for those in a reason no state is given up.
        return _decode_state(data.decode("utf-8", "replace"))


def read_body(
    envelope: Envelope,
    decode: Callable[[bytes], T],
    source: Source[Any] | Topic[Any],
    partition: int = 0,
) -> T:
    """Decode the body of an entry.

    Raises:
        Undecodable: the entry is no message (reason ``malformed``), or its body does not fit
            the declared type (reason ``undecodable``).
    """
    fields = envelope.fields
    plain = len(fields) == 2 and fields[0] == b"b"  # noqa: PLR2004 - name and value
    problem = None if plain else envelope.malformed
    if problem is not None:
        id = public_id(envelope.state.id, partition)
        message = f"{source.title}: message {id} is malformed: {problem}"
        raise Undecodable(message, queue=source.name, id=id, reason="malformed")
    try:
        return decode(fields[1] if plain else envelope.body or b"")
    except NotDecodable as error:
        id = public_id(envelope.state.id, partition)
        message = f"{source.title}: message {id} is undecodable: {text_of(error)}"
        raise Undecodable(message, queue=source.name, id=id, reason="undecodable") from error


def entries_of(reply: Any, prefix: bytes = b"") -> list[Envelope]:
    """Turn entries as XRANGE returns them into envelopes; deleted ones (no fields) are skipped."""
    return [Envelope(prefix + entry_id, fields) for entry_id, fields in reply or () if fields]
