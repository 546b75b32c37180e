"""How things are measured: samples, comparisons with a ceiling, and rows of the result."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from benchmarks.messages import KEY
from benchmarks.server import Bare

__all__ = ["Bench", "Case", "Comparison", "Goal", "Row", "Sample", "Sizes", "Stopwatch", "Topic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. Rates differ by a factor of a hundred, so each has its own number.

    Attributes:
        bulk: messages of a run that takes microseconds each: the ceilings, send_many, handlers.
        middle: messages of a run that takes some ten microseconds each.
        single: messages of a run with a round trip each.
        latencies: messages that are sent one by one, some milliseconds apart.
        stored: messages whose memory is measured.
        delayed: messages that are scheduled at a time.
        due_for: seconds of which the lateness is taken.
        settling: seconds from a worker's start until it counts as idle.
        idling: seconds for which an idle worker is watched.
        depths: messages that are queued before, the first being the base.
    """

    bulk: int = 100_000
    middle: int = 20_000
    single: int = 4_000
    latencies: int = 1_000
    stored: int = 100_000
    delayed: int = 100_000
    due_for: float = 10.0
    settling: float = 3.0
    # One lease, so that there is one sweep in it wherever it begins.
    idling: float = 30.0
    depths: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run.

    Attributes:
        messages: how many.
        seconds: how long it took.
        server: seconds of CPU that the server used.
    """

    messages: int
    seconds: float
    server: float

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def server_us(self) -> float:
        """Microseconds of the server's CPU a message."""
        return self.server / self.messages * 1e6


@dataclass(frozen=True, slots=True)
class Goal:
    """What docs/benchmarks.md promises of a figure: bounds of the ratio, or of the value."""

    of: Literal["ratio", "value"]
    least: float | None = None
    most: float | None = None

    def met(self, row: Row) -> bool:
        """Tell whether a row is within the bounds."""
        figure = row.ratio if self.of == "ratio" else row.value
        return (
            figure is not None
            and (self.least is None or figure >= self.least)
            and (self.most is None or figure <= self.most)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result. Figures are medians of the repetitions.

    Attributes:
        topic: where it belongs.
        name: the same in every version, for scripts.
        title: for people.
        unit: of ``value`` and ``baseline``.
        value: what was measured.
        against: what it is compared with.
        baseline: the same figure of that.
        ratio: median of the ratios of each repetition, which is not the ratio of the medians.
        ratios: of each repetition.
        goal: if there is one.
    """

    topic: str
    name: str
    title: str
    unit: str
    value: float
    against: str = ""
    baseline: float | None = None
    ratios: Sequence[float] = ()
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """The median ratio, if it is compared with anything."""
        return statistics.median(self.ratios) if self.ratios else None


class Bench:
    """What every measurement needs.

    Args:
        address: the server's unix socket.
        sizes: how much to measure.
        repeat: how often.
        say: tells people what is going on.
    """

    def __init__(self, address: str, sizes: Sizes, repeat: int, say: Callable[[str], None]) -> None:
        self.address = address
        self.url = f"unix://{address}"
        self.sizes = sizes
        self.repeat = repeat
        self.say = say
        self.bare = Bare(address)

    def fresh(self) -> None:
        """Empty the server, and take out the garbage of what ran before."""
        self.bare.ask("FLUSHALL", "SYNC")
        gc.collect()

    def expect(self, messages: int) -> None:
        """Make sure that a run did what it was timed for.

        Raises:
            RuntimeError: the queue does not hold so many messages.
        """
        found = self.bare.ask("XLEN", KEY)
        if found != messages:
            error = f"{found} messages are in the queue, there should be {messages}"
            raise RuntimeError(error)


class Stopwatch:
    """Times a block, and the server's CPU in it.

    Args:
        bare: a connection that nobody uses meanwhile.
    """

    def __init__(self, bare: Bare) -> None:
        self._bare = bare
        self._began = 0.0
        self._cpu = 0.0
        self.seconds = 0.0
        self.server = 0.0

    def __enter__(self) -> Self:
        self._cpu = self._server_cpu()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        self.server = self._server_cpu() - self._cpu

    def _server_cpu(self) -> float:
        cpu = self._bare.info("cpu")
        return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])

    def sample(self, messages: int) -> Sample:
        """Return what was timed."""
        return Sample(messages, self.seconds, self.server)


Case = Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs of one case, each with the ceiling at that time."""

    samples: list[Sample]
    ceilings: list[Sample]

    @classmethod
    def of_all(
        cls, bench: Bench, ceiling: Case, cases: Mapping[str, Case]
    ) -> dict[str, Comparison]:
        """Run each case as often as the bench says, between two runs of the ceiling.

        A machine that gets slower or faster meanwhile changes both sides of a ratio.
        """
        found = {name: cls([], []) for name in cases}
        _measured(bench, ceiling)  # the first run warms up, and counts for nothing
        for number in range(1, bench.repeat + 1):
            before = _measured(bench, ceiling)
            for name, case in cases.items():
                bench.say(f"{name} ({number} of {bench.repeat})")
                found[name].samples.append(_measured(bench, case))
                after = _measured(bench, ceiling)
                found[name].ceilings.append(_mean(before, after))
                before = after
        return found

    def rate(
        self, topic: str, name: str, title: str, against: str, goal: Goal | None = None
    ) -> Row:
        """Compare messages a second."""
        pairs = zip(self.samples, self.ceilings, strict=True)
        return Row(
            topic=topic,
            name=name,
            title=title,
            unit="messages/s",
            value=statistics.median(one.rate for one in self.samples),
            against=against,
            baseline=statistics.median(one.rate for one in self.ceilings),
            ratios=[ours.rate / theirs.rate for ours, theirs in pairs],
            goal=goal,
        )

    def server_cpu(self, topic: str, name: str, title: str, against: str) -> Row:
        """Compare what a message costs the server."""
        pairs = zip(self.samples, self.ceilings, strict=True)
        return Row(
            topic=topic,
            name=name,
            title=title,
            unit="µs/message",
            value=statistics.median(one.server_us for one in self.samples),
            against=against,
            baseline=statistics.median(one.server_us for one in self.ceilings),
            ratios=[ours.server_us / theirs.server_us for ours, theirs in pairs],
        )


def _measured(bench: Bench, case: Case) -> Sample:
    bench.fresh()
    return case()


def _mean(one: Sample, other: Sample) -> Sample:
    return Sample(
        one.messages + other.messages, one.seconds + other.seconds, one.server + other.server
    )


@dataclass(frozen=True, slots=True)
class Topic:
    """One subject of measurement.

    Attributes:
        about: for ``--list``.
        names: of the rows it may be asked for.
        run: measures those of the names that are wanted.
    """

    about: str
    names: tuple[str, ...]
    run: Callable[[Bench, frozenset[str]], list[Row]]
