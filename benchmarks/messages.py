"""What is sent: typed bodies of 100 bytes as JSON, and the queue they go to."""

from __future__ import annotations

from typing import Final

import msgspec

import millstream as ms

__all__ = [
    "ASK_KEY",
    "BODIES",
    "ECHO",
    "KEY",
    "LOG_KEY",
    "ORDERS",
    "PARTS",
    "PARTS_KEY",
    "QUEUE",
    "REPLY_KEY",
    "STAMPS",
    "STAMPS_KEY",
    "TOPIC",
    "Order",
    "Stamp",
]


class Order(msgspec.Struct):
    """An ordinary message."""

    id: int
    customer: str
    sku: str
    quantity: int
    price: float
    express: bool


class Stamp(msgspec.Struct):
    """A message that says when it was sent.

    Attributes:
        sent: nanoseconds on the system's monotonic clock, which all processes share.
        padding: makes it as long as an order.
    """

    sent: int
    padding: str


# Some thousand messages, used again and again: more of them would measure the garbage collector
# on the benchmark's own objects.
DISTINCT = 10_000

ORDERS: Final = [
    Order(
        id=1_000_000 + number,
        customer=f"c-{number:06}",
        sku="PLANK-OAK-2000",
        quantity=number % 9 + 1,
        price=49.5,
        express=True,
    )
    for number in range(DISTINCT)
]
BODIES: Final = [msgspec.json.encode(order) for order in ORDERS]

QUEUE: Final = ms.Queue("bench", Order)
STAMPS: Final = ms.Queue("stamps", Stamp)
TOPIC: Final = ms.Topic("bench", Order)
ECHO: Final = ms.Endpoint("echo", Order, Order, timeout=60)
PARTS: Final = ms.Endpoint("parts", int, Order, timeout=60)

KEY: Final = "ms:{bench}:ready"
STAMPS_KEY: Final = "ms:{stamps}:ready"
LOG_KEY: Final = "ms:{bench}:log"
"""The streams of the queues and the topic, which any client may XADD to: docs/wire-format.md."""

ASK_KEY: Final = "ask"
REPLY_KEY: Final = "reply"
"""The lists of bare requests and their replies."""

PARTS_KEY: Final = "parts"
"""The stream of bare parts."""
