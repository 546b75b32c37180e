"""Bodies: typed values to bytes and back.

msgspec does the work for Structs, dataclasses, TypedDicts, attrs classes and plain values;
pydantic models bring their own methods; ``bytes`` pass through. Never pickle: who can write to
the server must not be able to run code in a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, get_origin, is_typeddict

import msgspec
import msgspec.inspect

from millstream.errors import UsageError
from millstream.text import text_of

__all__ = ["Codec", "CodecName", "NotDecodable", "codec_for"]

T = TypeVar("T")
CodecName = Literal["json", "msgpack"]

_Directions = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]

NotDecodable = Exception
"""What ``Codec.decode`` may raise for foreign bytes: anything, since a body type may check itself
in code of its own (``__post_init__``, a validator). A message must not end a worker by it."""


class Codec(msgspec.Struct, Generic[T], frozen=True):
    """The two directions for one body type.

    Args:
        encode: a value to bytes; raises UsageError for a value of the wrong type.
        decode: bytes to a value; raises one of ``NotDecodable``.
        origin: the type, the title and the name that it was chosen by. It is pickled by them.
    """

    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    origin: tuple[Any, str, CodecName]

    def __reduce__(self) -> tuple[Any, ...]:
        """Choose it again where it is unpickled."""
        return codec_for, self.origin


def codec_for(body_type: Any, title: str, codec: CodecName) -> Codec[Any]:
    """Choose how bodies of a type are written and read.

    Args:
        body_type: any type that msgspec knows, a pydantic model, or bytes.
        title: of the queue or topic, for errors.
        codec: ``json`` (the default: any language can read it) or ``msgpack`` (smaller).

    Raises:
        UsageError: the type cannot be decoded, or the codec has no such name.
    """
    if codec not in ("json", "msgpack"):
        message = f"{title}: codec must be 'json' or 'msgpack', not {codec!r}"
        raise UsageError(message)
    encode, decode = _directions(body_type, title, codec)
    return Codec(encode, decode, (body_type, title, codec))


def _directions(body_type: Any, title: str, codec: CodecName) -> _Directions:
    if body_type is bytes:
        return _checked(_as_is, bytes, title), _as_is
    if _is_model(body_type):
        return _pydantic(body_type, title, codec)
    encoder = msgspec.json.Encoder() if codec == "json" else msgspec.msgpack.Encoder()
    try:
        decoder: Any = (
            msgspec.json.Decoder(body_type)
            if codec == "json"
            else msgspec.msgpack.Decoder(body_type)
        )
        _refuse_unknown(msgspec.inspect.type_info(body_type), set())
    except (TypeError, RuntimeError) as error:
        message = f"{title}: cannot decode bodies of type {body_type!r}: {error}"
        raise UsageError(message) from error
    if body_type in (Any, object):
        return _guarded(encoder.encode, title), decoder.decode
    if isinstance(body_type, type) and get_origin(body_type) is None and not _loose(body_type):
        return _checked(encoder.encode, body_type, title), decoder.decode
    return _proven(encoder.encode, decoder.decode, body_type, title), decoder.decode


def _is_model(body_type: object) -> bool:
    """Tell a pydantic model, without importing pydantic."""
    return isinstance(body_type, type) and hasattr(body_type, "model_validate_json")


_PLAIN = (dict, list, str, int, float, bool, type(None))
"""What a value of a class that msgspec does not know is decoded to (for ``object``, say)."""


def _refuse_unknown(node: Any, seen: set[int]) -> None:
    """Look for classes inside a type that no decoded value can ever be an instance of.

    Raises:
        TypeError: there is one. msgspec itself would say so only when a message comes.
    """
    unknown = isinstance(node, msgspec.inspect.CustomType)
    if unknown and not any(issubclass(plain, node.cls) for plain in _PLAIN):
        message = f"{node.cls.__qualname__} is no type of a body"
        if _is_model(node.cls):
            message = (
                f"{node.cls.__qualname__} is a pydantic model, which can be a whole body but no part of "
                "one. Declare a model around it (for a list: a pydantic.RootModel)"
            )
        raise TypeError(message)
    if isinstance(node, tuple):
        for part in node:
            _refuse_unknown(part, seen)
    # Types may contain themselves.
    elif isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field) and id(node) not in seen:
        seen.add(id(node))
        for name in node.__struct_fields__:
            _refuse_unknown(getattr(node, name), seen)


def _as_is(body: bytes) -> bytes:
    return body


def _loose(body_type: type) -> bool:
    """Tell whether isinstance says nothing, or not enough, about values of this type."""
    return is_typeddict(body_type) or body_type in (int, float, dict, list, tuple, set)


def _wrong(title: str, body: object, expected: object, reason: object = None) -> UsageError:
    shown = expected.__name__ if isinstance(expected, type) else repr(expected)
    detail = "" if reason is None else f" ({text_of(reason)})"
    message = f"{title} takes {shown}, not {type(body).__name__}{detail}"
    return UsageError(message)


_NULL = b"null"
"""What JSON has for a float that is no finite number, too; inside a body that is left as it is."""


def _not_finite(title: str, body: float) -> UsageError:
    message = (
        f'{title}: JSON has no {body!r}: send a finite number or None, or declare codec="msgpack"'
    )
    return UsageError(message)


def _guarded(encode: Callable[[Any], bytes], title: str) -> Callable[[Any], bytes]:
    """Turn an encoder's complaint into a UsageError that names the queue."""

    def guarded(body: Any) -> bytes:
        try:
            data = encode(body)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _wrong(title, body, "a JSON-like value", error) from error
        if data == _NULL and isinstance(body, float):
            raise _not_finite(title, body)
        return data

    return guarded


def _checked(encode: Callable[[Any], bytes], body_type: type, title: str) -> Callable[[Any], bytes]:
    """Check the class of a value; its fields are the business of its type checker."""

    def checked(body: Any) -> bytes:
        if not isinstance(body, body_type):
            raise _wrong(title, body, body_type)
        try:
            return encode(body)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _wrong(title, body, body_type, error) from error

    return checked


def _proven(
    encode: Callable[[Any], bytes], decode: Callable[[bytes], Any], body_type: Any, title: str
) -> Callable[[Any], bytes]:
    """Check by decoding, for types that isinstance cannot check."""

    def proven(body: Any) -> bytes:
        try:
            data = encode(body)
            lost = data == _NULL and isinstance(body, float)
            if not lost:
                decode(data)
        except NotDecodable as error:
            raise _wrong(title, body, body_type, error) from error
        if lost:
            raise _not_finite(title, body)
        return data

    return proven


def _pydantic(model: Any, title: str, codec: CodecName) -> _Directions:
    if codec == "json":

        def encode(body: Any) -> bytes:
            # By alias, since that is what validation takes.
            return bytes(body.model_dump_json(by_alias=True), "utf-8")

        return _checked(encode, model, title), model.model_validate_json
    packer, unpacker = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()

    def pack(body: Any) -> bytes:
        return packer.encode(body.model_dump(mode="json", by_alias=True))

    def unpack(data: bytes) -> Any:
        return model.model_validate(unpacker.decode(data))

    return _checked(pack, model, title), unpack
