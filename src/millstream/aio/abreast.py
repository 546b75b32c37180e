"""Operations side by side, so that a node that hangs holds up those for no other one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from millstream.driver.aio import AsyncDriver
from millstream.errors import BrokerError
from millstream.protocol.op import Op

__all__ = ["layers", "run_abreast"]

T = TypeVar("T")


async def run_abreast(driver: AsyncDriver, ops: Sequence[Op[T]]) -> list[T | BrokerError]:
    """Run operations; what has failed has its error in its place.

    Blocking calls go one after the other.
    """
    begun = [driver.begin(op) for op in ops]
    found: list[Any] = []
    try:
        for one in begun:
            try:
                found.append(await one.result())
            except BrokerError as error:
                found.append(error)
    finally:
        for one in begun[len(found) :]:
            await one.drop()
    return found


def layers(groups: Sequence[Sequence[T]], size: int) -> Iterator[list[Sequence[T]]]:
    """Cut groups into chunks; yield the first chunks of all, then the second ones, and so on."""
    for start in range(0, max(map(len, groups), default=0), size):
        yield [group[start : start + size] for group in groups if len(group) > start]
