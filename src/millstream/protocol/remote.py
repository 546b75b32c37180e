"""Exceptions across the wire: as JSON to the caller, and back to an exception there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.errors import DeliveryError, RemoteError
from millstream.text import text_of

__all__ = ["Fault", "read_error", "write_error"]

LONGEST_TEXT = 2000
TRACEBACK_LINES = 20


class Fault(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An exception as it stands in a mailbox.

    Attributes:
        type: the name of its class.
        detail: what it said.
        args: its arguments, of one that the endpoint names.
        attributes: what else it has, of such a one.
        traceback: the last lines, if the worker lets them out.
    """

    type: str
    detail: str = ""
    args: tuple[Any, ...] | None = None
    attributes: dict[str, Any] | None = None
    traceback: str | None = None


_decode = msgspec.json.Decoder(Fault).decode
_encode = msgspec.json.Encoder().encode


def write_error(
    error: BaseException, known: Sequence[type[Exception]], traceback: str | None
) -> bytes:
    """Turn an exception into bytes.

    Args:
        error: what the handler raised.
        known: what the endpoint names in ``errors``; of those, arguments and attributes are kept,
            if JSON can carry them.
        traceback: text to send along, or None.
    """
    cls = type(error)
    fault = Fault(
        type=_clean(cls.__qualname__),
        detail=_clean(text_of(error)[:LONGEST_TEXT]),
        traceback=_cut(traceback),
    )
    if cls in known:
        attributes = {name: one for name, one in error.__dict__.items() if name != "__notes__"}
        try:
            return _encode(
                msgspec.structs.replace(fault, args=error.args, attributes=attributes or None)
            )
        except (TypeError, ValueError, OverflowError, RecursionError):
            # The caller gets to know what it was all the same.
            return _encode(fault)
    return _encode(fault)


def _cut(traceback: str | None) -> str | None:
    if traceback is None:
        return None
    return _clean("\n".join(traceback.rstrip().splitlines()[-TRACEBACK_LINES:]))


def _clean(text: str) -> str:
    """Replace what is no character, such as half of a surrogate pair: JSON cannot carry it."""
    return text.encode("utf-8", "replace").decode()


def read_error(
    content: bytes, known: Sequence[type[Exception]], *, endpoint: str, id: str
) -> Exception:
    """Turn bytes into an exception.

    Args:
        content: from a mailbox.
        known: what the endpoint names in ``errors``.
        endpoint: its name, for the error.
        id: of the request.
    """
    try:
        fault = _decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = (
            f"endpoint {endpoint!r}: request {id} failed, and its error is not readable: {error}"
        )
        return DeliveryError(message, queue=endpoint, id=id)
    for cls in known:
        if cls.__qualname__ == fault.type and fault.args is not None:
            try:
                # As pickle does, so that its constructor may ask for what it likes.
                raised = cls.__new__(cls, *fault.args)
                raised.args = fault.args
                raised.__dict__.update(fault.attributes or {})
            except Exception:  # noqa: BLE001 - it may be another version of this class there
                break
            return raised
    message = (
        f"endpoint {endpoint!r}: the handler of request {id} raised {fault.type}: {fault.detail}"
    )
    return RemoteError(
        message,
        queue=endpoint,
        id=id,
        type_name=fault.type,
        detail=fault.detail,
        traceback=fault.traceback,
    )
