"""Bodies: every kind of type there and back, and clear errors for what does not fit."""

from __future__ import annotations

import math
import pickle
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, NewType, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.codec import CodecName, NotDecodable, codec_for
from millstream.errors import UsageError

T = TypeVar("T")
CODECS: tuple[CodecName, ...] = ("json", "msgpack")


class Line(msgspec.Struct):
    sku: str
    count: int = 1


class Order(msgspec.Struct):
    id: int
    lines: list[Line] = []


class Box(msgspec.Struct, Generic[T]):
    content: T


class Created(msgspec.Struct, tag="created"):
    id: int


class Deleted(msgspec.Struct, tag="deleted"):
    id: int


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise LookupError("odd")  # not one of the errors that msgspec wraps


class Customer(TypedDict):
    name: str
    age: int


@attrs.define
class Car:
    wheels: int
    name: str = "beetle"


class User(pydantic.BaseModel):
    id: int
    born: datetime | None = None


@dataclass
class WithModel:
    user: User


class Renamed(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


class Names(pydantic.RootModel[list[str]]):
    pass


class Strict(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        if number < 0:
            raise LookupError("negative")  # pydantic lets it through
        return number


class Opaque:
    """Nothing that a codec knows."""

    def __repr__(self) -> str:
        return "Opaque()"


@dataclass
class Holder:
    """It has one of those in it, and itself."""

    opaque: Opaque | None = None
    other: Holder | None = None


class Tree(msgspec.Struct):
    children: list[Tree] = []


class Colour(Enum):
    RED = "red"


Id = NewType("Id", int)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)

BODIES: list[tuple[Any, Any]] = [
    (Order, Order(7, [Line("a"), Line("b", 2)])),
    (Point, Point(1, 2.5)),
    (Customer, {"name": "Ada", "age": 36}),
    (Car, Car(4, "2cv")),
    (User, User(id=1, born=NOON)),
    (Renamed, Renamed(orderId=7)),
    (Names, Names(["a", "b"])),
    (bytes, b"\x00\xff"),
    (str, "h\u00e9"),
    (int, 2**60),
    (float, 1.5),
    (float, 3),
    (bool, True),
    (None, None),
    (Any, {"a": [1, None, "x"]}),
    (object, {"a": [1, None, "x"]}),
    (dict[str, int], {"a": 1}),
    (list[Line], [Line("a")]),
    (tuple[int, str], (1, "a")),
    (int | None, None),
    (int | str, "x"),
    (Created | Deleted, Deleted(3)),
    (Box[int], Box(3)),
    (Box[list[str]], Box(["x"])),
    (Annotated[int, msgspec.Meta(gt=0)], 5),
    (Id, 5),
    (datetime, NOON),
    (Decimal, Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=5)),
    (Colour, Colour.RED),
    (set[int], {1, 2}),
    (Tree, Tree([Tree(), Tree([Tree()])])),
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("body_type", "body"), BODIES, ids=lambda value: repr(value)[:40])
def test_there_and_back(body_type: Any, body: Any, codec: CodecName) -> None:
    """A body of the declared type arrives as it was sent."""
    chosen = codec_for(body_type, "queue 'orders'", codec)

    data = chosen.encode(body)

    assert isinstance(data, bytes)
    assert chosen.decode(data) == body


def test_json_is_what_other_languages_write() -> None:
    """The default is plain JSON, by the names that validation takes."""
    assert codec_for(Order, "queue 'q'", "json").encode(Order(1)) == b'{"id":1,"lines":[]}'
    assert codec_for(User, "queue 'q'", "json").encode(User(id=1)) == b'{"id":1,"born":null}'
    assert codec_for(Renamed, "queue 'q'", "json").encode(Renamed(orderId=1)) == b'{"orderId":1}'
    assert codec_for(Order, "queue 'q'", "json").decode(b' { "id" : 1 } ') == Order(1)


def test_bytes_are_stored_as_they_are() -> None:
    """No codec touches them."""
    for codec in CODECS:
        chosen = codec_for(bytes, "queue 'q'", codec)
        body = b"\x80\x04"
        assert chosen.encode(body) is body
        assert chosen.decode(body) is body


WRONG: list[tuple[Any, Any]] = [
    (Order, {"id": 1}),
    (Order, Line("a")),
    (Order, None),
    (Point, {"x": 1}),
    (Customer, {"name": "Ada"}),
    (Customer, {"name": "Ada", "age": "36"}),
    (Car, Point(1)),
    (User, {"id": 1}),
    (Renamed, User(id=1)),
    (bytes, "text"),
    (bytes, bytearray(b"x")),
    (str, b"x"),
    (int, "1"),
    (int, True),
    (int, 1.5),
    (float, "1"),
    (bool, 1),
    (list[int], ["1"]),
    (list[int], 5),
    (dict[str, int], {"a": "b"}),
    (int | None, "x"),
    (Created | Deleted, Order(1)),
    (Box[int], Box("x")),
    (Annotated[int, msgspec.Meta(gt=0)], -5),
    (Any, Opaque()),
    (Any, {1j: 2}),
    (Any, "\ud800"),
    (str, "\ud800"),
    (Order, Order(Opaque())),  # type: ignore[arg-type] # that is the point
    (datetime, "2024-05-01"),
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("body_type", "body"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_body_is_refused(body_type: Any, body: Any, codec: CodecName) -> None:
    """The sender gets a UsageError that names the queue and the type that came."""
    chosen = codec_for(body_type, "queue 'orders'", codec)

    with pytest.raises(UsageError, match=f"^queue 'orders' takes .*, not {type(body).__name__}"):
        chosen.encode(body)


def test_endless_bodies_are_refused() -> None:
    """A value that contains itself is an error at the sender, not a crash."""
    loop: list[Any] = []
    loop.append(loop)

    for codec in CODECS:
        with pytest.raises(UsageError, match="queue 'orders'"):
            codec_for(Any, "queue 'orders'", codec).encode(loop)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "body_type", [Order, Point, Customer, Car, User, Strict, Even, str, list[int]]
)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"\x91" * 100_000,
        b'{"number": -3}',
        b"\x81\xa6number\xfd",
        b'{"id": "\xff"}',
    ],
    ids=lambda value: repr(value)[:20],
)
def test_foreign_bytes_do_not_decode(body_type: Any, data: bytes, codec: CodecName) -> None:
    """Whatever is wrong, it is one of the errors that the reader expects."""
    decode = codec_for(body_type, "queue 'q'", codec).decode

    with pytest.raises(NotDecodable):
        decode(data)


@given(data=st.binary(max_size=60))
def test_random_bytes_are_survived(data: bytes) -> None:
    """Decoding raises what the reader expects, or gives a body that can be sent on."""
    for body_type in (Order, Customer, User, Any):
        for codec in CODECS:
            chosen = codec_for(body_type, "queue 'q'", codec)
            try:
                body = chosen.decode(data)
            except NotDecodable:
                continue
            if body_type is not Any:
                chosen.encode(body)


def test_pickles_are_never_loaded() -> None:
    """Who can write to the server cannot run code in a worker."""
    ran: list[str] = []

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return ran.append, ("ran",)

    data = pickle.dumps(Trap())
    for body_type in (Order, Point, Customer, Car, User, dict, str, Any):
        for codec in CODECS:
            with pytest.raises(NotDecodable):
                codec_for(body_type, "queue 'q'", codec).decode(data)

    assert ran == []
    assert codec_for(bytes, "queue 'q'", "json").decode(data) == data


@pytest.mark.parametrize(
    "body_type", [complex, Opaque(), Opaque, dict[str, list[Opaque]], Holder, int | Point | Car]
)
def test_a_type_that_cannot_be_decoded_is_refused(body_type: Any) -> None:
    """At the declaration, and the error names the queue."""
    with pytest.raises(UsageError, match=r"^queue 'orders': cannot decode bodies of type"):
        codec_for(body_type, "queue 'orders'", "json")


@pytest.mark.parametrize("codec", ["pickle", "JSON", "", None])
def test_an_unknown_codec_is_refused(codec: Any) -> None:
    """There are two, and the error says which."""
    with pytest.raises(UsageError, match="queue 'orders': codec must be 'json' or 'msgpack'"):
        codec_for(int, "queue 'orders'", codec)


@pytest.mark.parametrize("body", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("body_type", [Any, object, float, float | None, int | float | None])
def test_what_is_no_finite_number(body_type: Any, body: float) -> None:
    """JSON would have null for it, so it is refused; MessagePack has it."""
    with pytest.raises(UsageError, match=r"queue 'q': JSON has no -?(nan|inf): .*msgpack"):
        codec_for(body_type, "queue 'q'", "json").encode(body)

    packed = codec_for(body_type, "queue 'q'", "msgpack")
    assert repr(packed.decode(packed.encode(body))) == repr(body)
    assert codec_for(body_type, "queue 'q'", "json").encode(1.5) == b"1.5"


@pytest.mark.parametrize(
    "body_type", [list[User], User | None, dict[str, User], Box[User], WithModel], ids=repr
)
def test_pydantic_models_inside_other_types(body_type: Any) -> None:
    """They can be whole bodies only, and the error says so."""
    with pytest.raises(UsageError, match="User is a pydantic model, which can be a whole body but"):
        codec_for(body_type, "queue 'q'", "json")
