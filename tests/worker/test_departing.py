"""What handlers leave behind: its delivery ends when it has arrived, or is sent again, or taken back."""

from __future__ import annotations

import asyncio

import pytest

from millstream.errors import NotConnected
from millstream.protocol.envelope import Envelope
from millstream.worker.departing import Again, Departing, Departure

ONE = Envelope(b"1-1", [b"b", b"1"])


class Watch:
    """A queue's departures, and what came of them."""

    def __init__(self) -> None:
        self.arrived: list[Envelope] = []
        self.sent_again: list[Envelope] = []
        self.departing = Departing(self.arrived.append, self._insist)
        self.departure = Departure(self._again)
        self.departing.add(ONE, self.departure)

    async def _again(self) -> None:
        self.sent_again.append(ONE)

    async def _insist(self, _: Envelope, __: asyncio.Task[object], again: Again) -> None:
        await again()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_it_arrives() -> None:
    """Its delivery ends, and nothing is left."""
    watch = Watch()
    watch.departure.end(True)
    await turns()
    assert watch.arrived == [ONE]
    assert (len(watch.departing), watch.departing.take_back()) == (0, [])


@pytest.mark.parametrize("problem", [None, NotConnected("gone")])
async def test_it_does_not(problem: Exception | None) -> None:
    """It is sent again, once, whether it could not be sent or nobody was there."""
    watch = Watch()
    watch.departure.end(problem or False)
    await turns()
    assert (watch.arrived, watch.sent_again) == ([], [ONE])
    assert len(watch.departing) == 0


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("arrives", [True, False])
async def test_taken_back(turn: int, arrives: bool) -> None:
    """In whatever turn of the event loop: it is over, or the one who takes it back has it."""
    watch = Watch()
    watch.departure.end(arrives)
    for _ in range(turn):
        await asyncio.sleep(0)
    taken = watch.departing.take_back()
    await turns()
    assert len(taken) + len(watch.arrived) + len(watch.sent_again) == 1
    assert len(watch.departing) == 0


@pytest.mark.parametrize("arrives", [True, False])
async def test_whose_deliveries_are_known(arrives: bool) -> None:
    """Until it has arrived, or what sends it again has begun."""
    watch = Watch()
    assert ONE.token in watch.departing
    assert b"1-2" not in watch.departing
    watch.departure.end(arrives)
    assert (ONE.token in watch.departing) == (not arrives)
    await turns()
    assert ONE.token not in watch.departing


@pytest.mark.parametrize("outcome", [True, False, NotConnected("gone")])
@pytest.mark.parametrize("before", [True, False])
async def test_who_waits_for_it_learns_whether_it_has_arrived(
    *, outcome: bool | NotConnected, before: bool
) -> None:
    """Whether it has ended before, or does meanwhile."""
    departure = Departure(Watch()._again)
    if before:
        departure.end(outcome)
    else:
        asyncio.get_running_loop().call_soon(departure.end, outcome)
    async with asyncio.timeout(10):
        assert await departure.has_arrived() == (outcome is True)


async def test_who_is_cancelled_while_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    """What becomes of it then is nobody's business."""
    departure = Departure(Watch()._again)
    waiting = asyncio.create_task(departure.has_arrived())
    await turns()
    waiting.cancel()
    await turns()
    departure.end(True)
    assert waiting.cancelled()
    assert not caplog.records
