"""How both sides of a stream of replies count: no server, no clock, no tasks."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.protocol.mailbox import Mail, mail_to
from millstream.protocol.stream import Arrival, Receiving, Sending, count_in

NEXT, REPEATED, MISSED, RESTARTED = Arrival


def test_a_producer_is_a_window_ahead_and_no_further() -> None:
    """It has room for a window of parts, and for as many more as were taken."""
    sending = Sending(2)
    assert sending.has_room
    assert [sending.part(), sending.has_room] == [1, True]
    assert [sending.part(), sending.has_room] == [2, False]
    sending.taken(1)
    assert [sending.has_room, sending.part(), sending.has_room] == [True, 3, False]


@pytest.mark.parametrize("count", [-1, 0, 1, 10**14])
def test_what_a_consumer_says_late_or_wrongly(count: int) -> None:
    """A smaller count than before is old, and more than was sent is what was sent."""
    sending = Sending(2)
    for _ in range(2):
        sending.part()
    sending.taken(1)
    sending.taken(count)
    room = 0
    while sending.has_room:
        sending.part()
        room += 1
    assert room == (2 if count > 1 else 1)


@pytest.mark.parametrize(("window", "most"), [(0, 1), (-5, 1), (10**9, 10_000)])
def test_windows_that_make_no_sense(window: int, most: int) -> None:
    """A window that a foreign caller asks for is brought within bounds."""
    sending = Sending(window)
    while sending.has_room:
        sending.part()
    assert sending.sent == most


def test_numbers_tell_what_arrives() -> None:
    """The next number is next, an old one is a repetition, a skipped one is a loss."""
    receiving = Receiving(4)
    assert receiving.arrive(1, "a 1") is NEXT
    receiving.take()
    assert receiving.arrive(1, "a 1") is REPEATED
    assert receiving.arrive(3, "a 1") is MISSED
    assert receiving.arrive(2, "a 1") is NEXT
    assert Receiving(4).arrive(2, "a 1") is MISSED


def test_another_producer() -> None:
    """It may begin when nothing was taken; after that the stream is broken, whatever the number."""
    receiving = Receiving(4)
    assert receiving.arrive(1, "a 1") is NEXT
    assert receiving.arrive(1, "b 1") is NEXT
    receiving.take()
    assert receiving.arrive(1, "a 1") is RESTARTED
    assert receiving.arrive(2, "c 1") is RESTARTED
    assert receiving.arrive(0, "") is RESTARTED
    assert receiving.arrive(2, "b 1") is NEXT


def test_a_reply_that_is_no_stream() -> None:
    """It has neither number nor producer, and is all there is; without a producer's name alone it is not."""
    assert Receiving(4).arrive(0, "") is NEXT
    assert Receiving(4).arrive(0, "a 1") is REPEATED


@pytest.mark.parametrize(
    ("window", "told"), [(1, [1, 2, 3, 4, 5, 6]), (3, [1, 2, 3, 4, 5, 6]), (4, [2, 4, 6]), (32, [])]
)
def test_a_producer_hears_after_half_a_window(window: int, told: list[int]) -> None:
    """Not for every part, and before it has to wait."""
    receiving = Receiving(window)
    assert [receiving.told() for _ in range(6) if receiving.take()] == told


@pytest.mark.parametrize(
    ("content", "count"),
    [(b"12", 12), (b"", 0), (b"-1", 0), (b"x", 0), (b"9" * 16, 0), ("٣".encode(), 0)],
)
def test_counts_that_were_written_by_others(content: bytes, count: int) -> None:
    """What is no number counts nothing."""
    assert count_in(content) == count


@pytest.mark.parametrize("sender", ["", "a", "a ", " 1", "a x", "a -1", "a " + "9" * 16, "a ٣"])
def test_a_sender_that_cannot_be_written_to(sender: str) -> None:
    """There is no mail for a name that says no mailbox and slot."""
    assert mail_to(sender, "cancel") is None
    assert mail_to("a 12", "taken", b"3") == Mail("a", 12, "taken", b"3")


# --- the model ----------------------------------------------------------------------------------

PARTS = 20
Letter = tuple[str, int, str]


class World:
    """A producer, a stream of mail that may come twice, and a consumer; another producer may take over."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.receiving = Receiving(window)
        self.producers = 0
        self.mail: deque[Letter] = deque()
        # What was sent last, together: it comes again if its answer is lost.
        self.batch: list[Letter] = []
        # Counts on their way back, in any order.
        self.back: list[tuple[str, int]] = []
        self.taken: list[tuple[str, int]] = []
        self.over = ""
        self.start()

    def start(self) -> None:
        self.producers += 1
        self.sender = f"worker {self.producers}"
        self.sending = Sending(self.window)
        self.ended = False
        self.batch = []

    def produce(self, count: int) -> None:
        self.batch = []
        for _ in range(count):
            if self.ended or not self.sending.has_room:
                break
            if self.sending.sent == PARTS:
                self.batch.append(("end", self.sending.sent + 1, self.sender))
                self.ended = True
            else:
                self.batch.append(("part", self.sending.part(), self.sender))
        self.mail += self.batch

    def repeat(self) -> None:
        """The answer to a batch was lost; nothing behind it has left meanwhile."""
        self.mail += self.batch

    def forget(self) -> None:
        """What the consumer has said does not arrive."""
        self.back.clear()

    def ask(self) -> None:
        """It has waited for long, so whatever there was has been taken."""
        if not self.mail and not self.sending.has_room and not self.ended:
            self.mail.append(("waiting", self.sending.sent + 1, self.sender))

    def consume(self) -> None:
        if self.over or not self.mail:
            return
        kind, number, sender = self.mail.popleft()
        arrival = self.receiving.arrive(number, sender)
        if arrival is REPEATED:
            return
        if kind == "waiting" and arrival is NEXT:
            self.back.append((sender, self.receiving.told()))
        elif arrival is not NEXT:
            self.over = arrival.value
        elif kind == "end":
            self.over = "end"
        else:
            self.taken.append((sender, number))
            if self.receiving.take():
                self.back.append((sender, self.receiving.told()))

    def hear(self, index: int) -> None:
        if self.back:
            sender, count = self.back.pop(index % len(self.back))
            if sender == self.sender:
                self.sending.taken(count)

    def check(self) -> None:
        senders = {sender for sender, _ in self.taken}
        assert len(senders) <= 1
        assert [number for _, number in self.taken] == list(range(1, len(self.taken) + 1))
        taken = len(self.taken) if senders == {self.sender} else 0
        assert self.sending.sent - taken <= self.window
        # A part that comes again after it was taken takes no room.
        left = {
            number
            for kind, number, sender in self.mail
            if kind == "part" and sender == self.sender and number > taken
        }
        assert len(left) <= self.window


@settings(max_examples=150, deadline=None)
@given(
    window=st.integers(1, 9),
    steps=st.lists(
        st.sampled_from(["produce", "consume", "hear", "forget", "repeat", "start"]), max_size=150
    ),
    numbers=st.lists(st.integers(1, 7), min_size=150, max_size=150),
    losses=st.booleans(),
)
def test_a_stream_is_the_beginning_of_one_run(
    window: int, steps: list[str], numbers: list[int], losses: bool
) -> None:
    """Whatever happens, parts are taken without a gap or a repetition, and nobody waits for ever."""
    world = World(window)
    for step, number in zip(steps, numbers, strict=False):
        if step != "start" or losses:
            getattr(world, step)(*([number] if step in {"produce", "hear"} else []))
        world.check()
    # From here on nothing goes wrong: it comes to its end.
    for _ in range(20 * PARTS):
        if world.over:
            break
        world.produce(3)
        world.ask()
        for _ in range(4):
            world.consume()
        world.hear(0)
    world.check()
    assert world.over == "end" or (world.over == "restarted" and world.producers > 1)
    assert (len(world.taken) == PARTS) is (world.over == "end")


@settings(max_examples=50, deadline=None)
@given(window=st.integers(1, 9), lost=st.integers(1, PARTS))
def test_a_part_that_the_server_loses(window: int, lost: int) -> None:
    """The next one shows that it is missing; what was taken is what came before it."""
    world = World(window)
    for _ in range(20 * PARTS):
        if world.over:
            break
        world.produce(1)
        world.mail = deque(one for one in world.mail if one[:2] != ("part", lost))
        world.ask()
        world.consume()
        world.hear(0)
    assert world.over == "missed"
    assert [number for _, number in world.taken] == list(range(1, lost))
