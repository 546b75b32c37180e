"""Ends of deliveries on their way to the server: how much goes out at a time."""

from __future__ import annotations

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

    gone = outbox.arrived(owned)

    assert gone == [end.token for end in ends[1::2]]
    assert len(outbox) == len(owned)
