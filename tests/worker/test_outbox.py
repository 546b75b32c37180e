"""Ends of deliveries on their way to the server: how much goes out at a time."""

from __future__ import annotations

import pytest

from millstream.protocol.consume import Fetched
from millstream.protocol.settlement import reject, release
from millstream.worker.outbox import MOST_OTHERS, Outbox


def test_what_goes_out_at_a_time() -> None:
    """All acks leave together; other ends, which cost the server more, some hundred at a time."""
    outbox = Outbox()
    acks = [b"%d-1" % n for n in range(3000)]
    others = [reject(b"%d-2" % n, "bad") for n in range(2 * MOST_OTHERS + 1)]
    for token in acks:
        outbox.ack(token)
    for end in others:
        outbox.add(end)

    assert outbox.leaving == 3000 + MOST_OTHERS
    first = outbox.take()
    assert (first.acks, first.others) == (acks, others[:MOST_OTHERS])
    assert outbox.urgent
    assert outbox.leaving == MOST_OTHERS
    assert outbox.take().others == others[MOST_OTHERS : 2 * MOST_OTHERS]
    assert outbox.take().others == others[2 * MOST_OTHERS :]
    assert not outbox
    assert not outbox.urgent


def test_acks_of_a_queue_that_keeps() -> None:
    """They cost the server as much as other ends, so they leave some hundred at a time, too."""
    outbox = Outbox(keeps=True)
    acks = [b"%d-1" % n for n in range(MOST_OTHERS + 2)]
    for token in acks:
        outbox.ack(token)
    outbox.add(reject(b"7-2", "bad"))

    assert outbox.leaving == MOST_OTHERS
    first = outbox.take()
    assert (first.acks, first.tokens()) == ([], acks[:MOST_OTHERS])
    assert {end.verb for end in first.others} == {"finish"}
    assert outbox.leaving == 3
    assert outbox.take().tokens() == [*acks[MOST_OTHERS:], b"7-2"]


def test_what_comes_back_goes_first() -> None:
    """What could not be sent stands before what was left, in the old order."""
    outbox = Outbox()
    ends = [release(b"%d-1" % n) for n in range(MOST_OTHERS + 2)]
    for end in ends:
        outbox.add(end)

    outbox.put_back(outbox.take())

    assert outbox.take().others + outbox.take().others == ends


def test_after_a_lost_reply_nothing_is_forgotten() -> None:
    """Whatever its number, each end is kept for a delivery that is still ours."""
    outbox = Outbox()
    ends = [release(b"%d-1" % n) for n in range(3 * MOST_OTHERS)]
    for end in ends:
        outbox.add(end)
    owned = {end.token for end in ends[::2]}

    gone = outbox.arrived(owned, sure=True)

    assert gone == [end.token for end in ends[1::2]]
    assert len(outbox) == len(owned)


@pytest.mark.parametrize(("sure", "wanted"), [(True, True), (False, None)])
async def test_a_lost_reply_leaves_a_doubt(sure: bool, wanted: bool | None) -> None:
    """What is not ours when its end goes out again may have been ended by the first time.

    While no lease of ours can have ended it was; after that nobody can tell.
    """
    outbox = Outbox()
    outbox.add(reject(b"1-1", "bad"))
    ended = outbox.expect(b"1-1")
    outbox.put_back(outbox.take())  # no reply
    assert outbox.arrived({b"1-1"}, sure=sure) == []  # it was still ours
    outbox.confirmed(
        outbox.take(), Fetched(envelopes=[], lost=[b"1-1"]), sure=sure
    )  # the first has arrived

    assert await ended is wanted
    assert not outbox.doubtful


async def test_without_a_loss_there_is_no_doubt() -> None:
    """What is refused at the first time was not ours, however long leases hold."""
    outbox = Outbox()
    outbox.add(reject(b"1-1", "bad"))
    ended = outbox.expect(b"1-1")
    outbox.confirmed(outbox.take(), Fetched(envelopes=[], lost=[b"1-1"]), sure=True)

    assert await ended is False


@pytest.mark.parametrize(("sure", "wanted"), [(True, True), (False, None)])
async def test_what_has_gone_after_a_lost_reply(sure: bool, wanted: bool | None) -> None:
    """It was settled by us while no lease of ours can have ended; after that nobody can tell."""
    outbox = Outbox()
    outbox.add(reject(b"1-1", "bad"))
    ended = outbox.expect(b"1-1")
    outbox.put_back(outbox.take())
    outbox.arrived(set(), sure=sure)

    assert await ended is wanted
    assert not outbox.doubtful
