"""What is broken when: a random schedule that its seed alone decides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["GAP", "Fault", "Kind", "schedule"]

FIRST = 2.0
"""Seconds before the first fault: something has to be under way."""

GAP = 2.0
"""Seconds between the beginnings of two faults, on average, unless a run says otherwise."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to break something.

    Attributes:
        name: of the fault.
        targets: what it can be done to.
        shortest, longest: seconds that it lasts.
        weight: how often it comes, beside others.
    """

    name: str
    targets: tuple[str, ...]
    shortest: float
    longest: float
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is broken.

    Attributes:
        at: seconds from the begin of the run.
        kind: the name of its kind.
        target: what is broken.
        seconds: until it is mended.
    """

    at: float
    kind: str
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.kind:16} {self.target:14} {self.seconds:.2f} s"


def schedule(seed: int, seconds: float, kinds: Sequence[Kind], *, gap: float = GAP) -> list[Fault]:
    """Return what is broken in a run, in the order of time.

    Each kind comes once, and then by its weight. A shorter run begins as a longer one does.

    Args:
        seed: decides all.
        seconds: how long faults begin.
        kinds: what there is.
        gap: seconds between the beginnings of two faults, on average.
    """
    dice = random.Random(seed)
    first = dice.sample(kinds, len(kinds))
    weights = [kind.weight for kind in kinds]
    faults, at = list[Fault](), FIRST
    while at < seconds:
        kind = first.pop() if first else dice.choices(kinds, weights)[0]
        faults.append(_fault(dice, round(at, 3), kind))
        at += dice.expovariate(1 / gap)
    return faults


def _fault(dice: random.Random, at: float, kind: Kind) -> Fault:
    # Short ones are more frequent: many things go wrong in the first moment, or in the last.
    length = kind.shortest + (kind.longest - kind.shortest) * dice.random() ** 2
    return Fault(at, kind.name, dice.choice(kind.targets), round(length, 3))
