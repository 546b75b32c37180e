"""take.lua: settle, promote, and read no more than the limits of the queue allow."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from millstream.policy import Limits, Rate
from millstream.protocol import consume
from millstream.protocol.consume import Fetched
from millstream.protocol.control import cancel_running, pause
from millstream.protocol.keys import GROUP
from millstream.protocol.limits import Outlook
from millstream.protocol.place import Placement, place
from millstream.protocol.recover import hand_over_some, sweep
from millstream.protocol.settlement import Settlement, ack, release
from millstream.protocol.watch import Watch, listen
from tests.lua.state import NOW, State, out_of_memory, refused
from tests.support.servers import Server

BOTH = (("f", 10), ("", 10))
ALL = (("s", 1), *BOTH)


def rate(count: int, *, per: float = 60, burst: int | None = None) -> Limits:
    """By default a long period: keys expire by the clock, which tests do not pass in."""
    return Limits(Rate(count, per=per, burst=burst), None)


def running(most: int) -> Limits:
    return Limits(None, most)


def take(
    state: State,
    consumer: str,
    limits: Limits,
    *reads: tuple[str, int],
    ends: tuple[Settlement, ...] = (),
    acks: tuple[bytes, ...] = (),
    urgent: str = "",
    now_ms: int = NOW,
) -> Fetched:
    return state.run(
        consume.fetch(
            *(state.keys, consumer, ends, reads),
            acks=acks,
            urgent=urgent,
            limits=limits,
            now_ms=now_ms,
        )
    )


def bodies(found: Fetched) -> list[bytes]:
    return [envelope.fields[1] for envelope in found.envelopes]


def tokens_of(found: Fetched) -> list[bytes]:
    return [envelope.token for envelope in found.envelopes]


@pytest.fixture
def queue(state: State) -> State:
    """Twenty messages and three consumers."""
    state.register("a", "b", "c")
    state.send(*(str(n).encode() for n in range(20)))
    return state


class TestReading:
    def test_what_is_handed_back_comes_first(self, queue: State) -> None:
        """The front before ready, together no more than was asked for."""
        queue.put("front", "x")
        queue.put("front", "y")

        found = take(queue, "a", running(100), ("f", 3), ("", 3))

        assert bodies(found) == [b"x", b"y", b"0"]
        assert [token[:1] for token in tokens_of(found)] == [b"f", b"f", b"1"]
        assert found.outlook == Outlook("more")

    def test_a_suspect_comes_alone_and_on_top(self, queue: State) -> None:
        """One, whatever else there is room for."""
        for n in range(2):
            queue.put("suspect", f"s{n}", state={"id": "1-1", "attempts": 0, "crashes": 2})

        found = take(queue, "a", running(100), ("s", 1), ("f", 2), ("", 2))

        assert bodies(found) == [b"s0", b"0", b"1"]
        assert found.outlook == Outlook("more")

    def test_a_suspect_counts(self, queue: State) -> None:
        """It is a delivery as any other."""
        queue.put("suspect", "s")

        assert bodies(take(queue, "a", running(1), *ALL)) == [b"s"]
        assert bodies(take(queue, "b", running(1), *ALL)) == []

    def test_it_settles_before_it_reads(self, queue: State) -> None:
        """What ends makes room in the same call."""
        first = take(queue, "a", running(1), *BOTH)
        second = take(queue, "a", running(1), *BOTH, acks=(tokens_of(first)[0],))

        assert bodies(first) == [b"0"]
        assert bodies(second) == [b"1"]
        assert second.outlook == Outlook("slots")
        assert queue.counters()["acked"] == 1

    def test_a_late_settlement_is_refused(self, queue: State) -> None:
        """As in a queue without limits."""
        token = queue.own("b", "front")

        found = take(queue, "a", running(5), ends=(ack(token),))

        assert found.lost == [token]
        assert found.outlook is None

    def test_it_promotes_what_is_due(self, queue: State) -> None:
        """Before it reads, so that a queue with limits is not late."""
        queue.delay("5-5", NOW - 1, "due")

        found = take(queue, "a", running(100), ("f", 100), ("", 100))

        assert bodies(found)[-1] == b"due"
        assert found.next_due_ms is None

    def test_an_empty_queue_says_where_to_watch(self, state: State) -> None:
        """The last ids of wake, ready, front and suspect: what is behind them is news."""
        state.register("a")
        state.send(b"1")
        take(state, "a", running(5), *ALL)
        [entry] = state.entries("ready")
        wake = state.do("XADD", state.keys.wake, "*", "due", "1").decode()

        found = take(state, "a", running(5), *ALL)

        assert found.outlook == Outlook(
            "empty", 0, (wake.encode(), entry.id.encode(), b"0-0", b"0-0")
        )

    def test_what_is_lost_in_a_flush_is_said_in_the_same_way(self, state: State) -> None:
        """The error of a group that is gone is that of a plain read."""
        with refused("NOGROUP"):
            take(state, "a", running(5), *ALL)


class TestPriorities:
    """A limit holds for all priorities together; who is more urgent comes first."""

    batches = 0

    def put(self, state: State, *levels: int) -> None:
        placed = [Placement(body=f"p{level}".encode(), priority=level) for level in levels]
        self.batches += 1
        state.run(place(state.keys, "q", self.batches, placed, now_ms=NOW))

    def test_strict(self, queue: State) -> None:
        """What is handed back, then the highest, then the others; one look brings all that may be."""
        queue.put("front", "back")
        self.put(queue, 3, 9, 3)

        found = [take(queue, "a", running(n), *ALL, urgent="all") for n in (2, 6)]

        assert bodies(found[0]) == [b"back", b"p9"]
        assert bodies(found[1]) == [b"p3", b"p3", b"0", b"1"]
        assert [one.outlook for one in found] == [Outlook("slots")] * 2
        assert [one.priorities for one in found] == [[3], []]

    def test_none_is_moved_that_may_not_be_read(self, queue: State) -> None:
        """A more urgent one that comes later is still first."""
        self.put(queue, 3, 3)
        take(queue, "a", running(1), *ALL, urgent="all")
        assert queue.entries("front") == [queue.only("front")]  # the one in flight
        self.put(queue, 9)

        assert bodies(take(queue, "a", running(2), *ALL, urgent="all")) == [b"p9"]

    def test_weighted(self, queue: State) -> None:
        """Also with room for one message a call, each priority gets its share."""
        self.put(queue, *[4] * 30)
        came = []
        for n in range(1, 25):
            plan = f"4 0 +{n / 24 % 1}"
            came += bodies(take(queue, "a", running(n), *ALL, urgent=plan))

        assert len(came) == 24
        assert came.count(b"p4") == 20  # five sixths

    def test_a_paused_queue(self, queue: State) -> None:
        """Nothing is moved, and nothing is said to wait."""
        self.put(queue, 9)
        queue.run(pause(queue.keys))

        found = take(queue, "a", running(5), *ALL, urgent="all")

        assert found.envelopes == []
        assert found.outlook is not None
        assert found.outlook.kind == "empty"
        assert found.priorities == []


@pytest.mark.parametrize("limits", [None, running(9)], ids=["no limits", "limits"])
@pytest.mark.parametrize("weighted", [False, True], ids=["strict", "weighted"])
def test_urgent_messages_without_memory(
    own_state: State, own_server: Server, limits: Limits | None, weighted: bool
) -> None:
    """A full server hands them out, whatever else the call does: their end will free some."""
    own_state.register("a")
    own_state.run(place(own_state.keys, "p", 1, [Placement(body=b"1", priority=9)], now_ms=NOW))
    urgent = ("9 0 +0.5" if limits else "9=1") if weighted else ("all" if limits else "1")
    reads = (("f", 1), ("", 1)) if limits else (("f", 1),)

    op = consume.fetch(own_state.keys, "a", (), reads, urgent=urgent, limits=limits, now_ms=NOW)
    # Not the call that loads the script.
    assert own_state.run(consume.fetch(own_state.keys, "a", limits=limits)).priorities == [9]

    with out_of_memory(own_server):
        found = own_state.run(op)

    assert bodies(found) == [b"1"]
    assert found.priorities == []


class TestRunning:
    def test_deliveries_of_all_consumers_count(self, queue: State) -> None:
        """In every lane."""
        queue.own("b", "front")
        queue.own("c", "suspect")

        found = take(queue, "a", running(5), *BOTH)

        assert bodies(found) == [b"0", b"1", b"2"]
        assert found.outlook == Outlook("slots")
        assert take(queue, "b", running(5), *BOTH).envelopes == []

    def test_a_smaller_limit_is_no_error(self, queue: State) -> None:
        """More may be in flight than a new declaration allows; nothing is read until they end."""
        take(queue, "a", running(9), *BOTH)

        assert take(queue, "b", running(3), *BOTH).outlook == Outlook("slots")

    def test_who_leaves_room_wakes_another(self, queue: State) -> None:
        """A consumer that ends a delivery and reads none tells one that sleeps."""
        [token] = tokens_of(take(queue, "a", running(1), *BOTH))
        assert queue.wakes() == []

        take(queue, "a", running(1), acks=(token,))

        assert queue.wakes() == [{"free": "1"}]

    def test_who_has_enough_wakes_another(self, queue: State) -> None:
        """One that is woken and needs less than is free wakes the next."""
        take(queue, "a", running(5), ("f", 2), ("", 2))

        assert queue.wakes() == [{"free": "3"}]

    def test_who_empties_the_queue_wakes_another(self, state: State) -> None:
        """It may sleep until there is a slot; from now on it has to watch for messages."""
        state.register("a", "b")
        state.send(b"1")
        [token] = tokens_of(take(state, "a", running(1), *BOTH))

        take(state, "a", running(1), *BOTH, acks=(token,))

        assert state.wakes() == [{"free": "1"}]

    def test_who_is_woken_wakes_the_next(self, state: State) -> None:
        """For the same reason, until nobody sleeps who could see it."""
        state.register("a", "b")
        wake = state.do("XADD", state.keys.wake, "*", "free", "7")
        state.do("XREADGROUP", "GROUP", GROUP, "a", "STREAMS", state.keys.wake, ">")

        found = take(state, "a", running(7), *BOTH, ends=(Settlement("woken", wake),))

        assert state.wakes() == [{"free": "7"}]
        assert found.outlook is not None
        # It does not wake itself.
        assert found.outlook.since[0].decode() == state.only("wake").id

    def test_one_wake_up_is_enough(self, queue: State) -> None:
        """While nobody has seen the last one, there is nobody to wake."""
        for _ in range(3):
            take(queue, "a", running(9), ("f", 1), ("", 1))

        assert len(queue.wakes()) == 1

    def test_a_wake_up_is_used_up(self, queue: State) -> None:
        """Who has read it settles it with its next call."""
        take(queue, "a", running(9), ("f", 1), ("", 1))
        [found] = queue.run(listen([(queue.keys, Watch(limited=True))], "b", 1000))

        take(queue, "b", running(9), *BOTH, ends=(Settlement("woken", found.woken[0]),))

        assert queue.wakes() == []
        assert queue.owners("wake") == {}

    @pytest.mark.parametrize("reason", ["nothing waits", "no slot is free", "it takes all"])
    def test_nobody_is_woken_for_nothing(self, state: State, reason: str) -> None:
        """There must be a message and a slot that the caller leaves."""
        state.register("a")
        state.send(b"1", b"2")
        if reason == "nothing waits":
            take(state, "a", running(9), ("f", 2), ("", 2))
        elif reason == "no slot is free":
            take(state, "a", running(1), ("f", 1), ("", 1))
        else:
            take(state, "a", running(9), ("f", 10), ("", 10))

        assert state.wakes() == []

    def test_a_suspect_that_it_may_not_take_is_for_another(self, queue: State) -> None:
        """A consumer with a suspect in hand leaves the next one to those that sleep."""
        take(queue, "a", running(100), ("f", 100), ("", 100))
        queue.put("suspect", "s")

        found = take(queue, "a", running(100), *BOTH)

        assert found.outlook is not None
        assert found.outlook.kind == "empty"
        assert queue.wakes() == [{"free": "80"}]

    def test_what_a_sweep_takes_over_makes_room(self, queue: State) -> None:
        """It wakes a reader, which may wait for a slot."""
        take(queue, "a", running(1), *BOTH)
        [entry] = queue.owners()
        queue.set_idle("ready", entry, 60_000)

        queue.run(sweep(queue.keys, "b", lease_ms=30_000, max_crashes=3))

        assert queue.wakes() == [{"free": "room"}]

    def test_what_is_cancelled_makes_room(self, queue: State) -> None:
        """It is over before its handler has stopped."""
        [envelope] = take(queue, "a", running(1), *BOTH).envelopes

        assert queue.drive(cancel_running(queue.keys, envelope.token.decode(), now_ms=NOW))

        assert queue.wakes() == [{"free": "room"}]
        assert bodies(take(queue, "b", running(1), *BOTH)) == [b"1"]

    def test_what_is_handed_over_makes_room(self, queue: State) -> None:
        """The same for a consumer that is known to be gone."""
        take(queue, "a", running(1), *BOTH)

        queue.run(hand_over_some(queue.keys, "a", crashed=True, max_crashes=3))

        assert queue.wakes() == [{"free": "room"}]
        assert bodies(take(queue, "b", running(1), *BOTH)) == [b"0"]


class TestRate:
    def test_a_burst_and_then_one_by_one(self, queue: State) -> None:
        """What was saved up comes at once; the next token is a third of the period away."""
        found = take(queue, "a", rate(3), *BOTH)
        assert bodies(found) == [b"0", b"1", b"2"]
        assert found.outlook == Outlook("tokens", 20_000)

        assert take(queue, "a", rate(3), *BOTH, now_ms=NOW + 19_999).envelopes == []
        assert bodies(take(queue, "a", rate(3), *BOTH, now_ms=NOW + 20_000)) == [b"3"]

    def test_each_delivery_costs_a_token(self, queue: State) -> None:
        """Also of a message that comes back; what is handed back is not paid back."""
        [token, _] = tokens_of(take(queue, "a", rate(3), ("f", 2), ("", 2)))

        take(queue, "a", rate(3), ends=(release(token),))

        assert bodies(take(queue, "b", rate(3), *BOTH)) == [b"0"]

    def test_only_what_was_read_is_charged(self, state: State) -> None:
        """Asking for ten and getting two costs two."""
        state.register("a")
        state.send(b"1", b"2")
        take(state, "a", rate(5), *BOTH)
        state.send(b"3", b"4", b"5", b"6", producer="q")

        assert bodies(take(state, "a", rate(5), *BOTH)) == [b"3", b"4", b"5"]

    @pytest.mark.parametrize(("burst", "came"), [(1, 1), (2, 2), (None, 6), (9, 9)])
    def test_no_more_is_saved_up_than_the_burst(
        self, queue: State, burst: int | None, came: int
    ) -> None:
        """However long the queue was quiet."""
        limits = rate(6, burst=burst)
        take(queue, "a", limits, ("f", 1), ("", 1))

        found = take(queue, "a", limits, *BOTH, now_ms=NOW + 3_600_000)

        assert len(found.envelopes) == came

    def test_readers_are_told_different_times(self, queue: State) -> None:
        """So they do not all come for the same token, and none waits for one that died."""
        take(queue, "a", rate(600, burst=1), *BOTH)

        told = [take(queue, "b", rate(600, burst=1), *BOTH).outlook for _ in range(12)]

        waits = [outlook.wait_ms for outlook in told if outlook]
        assert waits == [*range(200, 1200, 100), 1100, 1100]

    def test_who_is_a_little_early_waits_a_little(self, queue: State) -> None:
        """A token that is taken late makes the next one late, and not its reader the last."""
        limits = rate(600, burst=1)
        for n in range(3):
            take(queue, "a", limits, *BOTH, now_ms=NOW + n)

        early = take(queue, "b", limits, *BOTH, now_ms=NOW + 74)
        found = take(queue, "b", limits, *BOTH, now_ms=NOW + 75)

        assert found.outlook == Outlook("tokens", 25)
        assert early.outlook == Outlook("tokens", 326)

    def test_a_fast_rate_is_worth_waiting_for(self, queue: State) -> None:
        """Ten milliseconds' worth a call, so that the server is not asked for every token."""
        limits = rate(1000, per=1, burst=20)
        take(queue, "a", limits, ("f", 20), ("", 20))
        # It is full after 20 ms, and would be gone.
        queue.do("PERSIST", queue.keys.rate)
        queue.send(*[b"x"] * 20, producer="q")

        found = take(queue, "a", limits, ("f", 20), ("", 20))
        few = take(queue, "b", limits, ("f", 3), ("", 3))

        assert found.outlook == Outlook("tokens", 10)
        assert few.outlook == Outlook("tokens", 13)

    def test_the_bucket_goes_when_it_is_full(self, queue: State) -> None:
        """Nothing stays of a queue that is quiet."""
        take(queue, "a", rate(6), ("f", 3), ("", 3))
        assert 20_000 < queue.do("PTTL", queue.keys.rate) <= 30_000

        take(queue, "a", rate(6), *BOTH)
        assert 50_000 < queue.do("PTTL", queue.keys.rate) <= 60_000

    def test_who_reads_nothing_leaves_nothing(self, state: State) -> None:
        """An empty queue has no bucket."""
        state.register("a")

        found = take(state, "a", rate(6), *BOTH)

        assert found.outlook is not None
        assert found.outlook.kind == "empty"
        assert state.do("EXISTS", state.keys.rate) == 0

    def test_a_clock_that_goes_back_gives_nothing_away(self, queue: State) -> None:
        """A minute that comes twice is counted once, and nobody waits for the old time."""
        take(queue, "a", rate(6), *BOTH)

        found = take(queue, "a", rate(6), *BOTH, now_ms=NOW - 3_600_000)

        assert found.envelopes == []
        assert found.outlook == Outlook("tokens", 11_000)  # one behind who was told before
        later = take(queue, "a", rate(6), *BOTH, now_ms=NOW - 3_600_000 + 10_000)
        assert len(later.envelopes) == 1

    def test_a_clock_that_goes_back_stops_nothing(self, queue: State) -> None:
        """Who is told to come back in a moment gets a token then, by the new time."""
        take(queue, "a", rate(6), *BOTH)
        take(queue, "a", rate(6), ("f", 1), ("", 1), now_ms=NOW + 19_900)
        earlier = NOW - 3_600_000

        found = take(queue, "a", rate(6), *BOTH, now_ms=earlier)

        assert found.outlook == Outlook("tokens", 100)
        assert len(take(queue, "a", rate(6), *BOTH, now_ms=earlier + 100).envelopes) == 1

    @pytest.mark.parametrize("before", [rate(1, per=86_400), rate(10_000, per=3600, burst=1)])
    def test_a_new_declaration_holds_at_once(self, queue: State, before: Limits) -> None:
        """What the old one has left in the bucket bars nobody for longer than the new one's."""
        take(queue, "a", before, *BOTH)

        found = take(queue, "a", rate(6, per=6, burst=1), *BOTH, now_ms=NOW + 1000)

        assert len(found.envelopes) == 1

    def test_never_more_than_the_rate(self, state: State) -> None:
        """In no span of time, whoever asks for how much and when."""
        state.register("a", "b")
        state.send(*[b"x"] * 3000)
        luck = random.Random(7)
        limits = rate(7, per=0.03 * 1000, burst=5)
        now, came = NOW, []
        for _ in range(400):
            now += luck.choice([0, 0, 1, 3, 40, 900, 4286, 20_000])
            free = luck.randint(1, 9)
            found = take(state, luck.choice("ab"), limits, ("f", free), ("", free), now_ms=now)
            came.append((now, len(found.envelopes)))
        assert sum(number for _, number in came) > 200
        for (i, (start, _)), (j, (end, _)) in combinations(enumerate(came), 2):
            if j - i < 40:
                number = sum(some for _, some in came[i : j + 1])
                assert number <= 5 + 7 * (end - start) / 30_000

    def test_no_token_is_lost_to_rounding(self, state: State) -> None:
        """Three a second are 300 in a hundred seconds, though a token takes 333.33 ms."""
        state.register("a")
        state.send(*[b"x"] * 400)
        total = 0
        for step in range(1000):
            limits = rate(3, per=1, burst=3)
            found = take(state, "a", limits, *BOTH, now_ms=NOW + 100 * step)
            total += len(found.envelopes)

        assert total == 3 + 299

    def test_without_memory_it_counts_all_the_same(
        self, own_state: State, own_server: Server
    ) -> None:
        """A full server goes on handing out messages, which will free it, at the same rate."""
        own_state.register("a")
        own_state.send(*[b"x"] * 10)
        with out_of_memory(own_server):
            found = [take(own_state, "a", rate(3), *BOTH, now_ms=NOW + n) for n in (0, 1, 20_000)]

        assert [len(one.envelopes) for one in found] == [3, 0, 1]


class TestBoth:
    LIMITS = Limits(Rate(4, per=60), 3)

    def test_the_smaller_one_decides(self, queue: State) -> None:
        """First the slots are used up, then the rate."""
        found = take(queue, "a", self.LIMITS, *BOTH)
        assert (len(found.envelopes), found.outlook) == (3, Outlook("slots"))

        acks = tuple(tokens_of(found))
        found = take(queue, "a", self.LIMITS, *BOTH, acks=acks)
        assert (len(found.envelopes), found.outlook) == (1, Outlook("tokens", 15_000))

    def test_somebody_waits_for_the_tokens(self, queue: State) -> None:
        """Who has enough wakes another one, though there is no token: it waits for the next."""
        take(queue, "a", self.LIMITS, ("f", 3), ("", 3))
        tokens = tuple(f"{entry}".encode() for entry in queue.owners())
        assert queue.wakes() == []

        found = take(queue, "a", self.LIMITS, ("f", 1), ("", 1), acks=tokens)

        assert (len(found.envelopes), found.outlook) == (1, Outlook("more"))
        assert queue.wakes() == [{"free": "2"}]


class TestSleeping:
    def woken(self, state: State, watch: Watch, block_ms: int = 10) -> list[bytes]:
        """What wakes it: nothing else may come with it."""
        [found] = state.run(listen([(state.keys, watch)], "a", block_ms))
        assert found.envelopes == []
        return [*found.woken]

    def test_news_end_a_sleep_and_are_not_consumed(self, state: State) -> None:
        """A message that a sleep brings could be above the limit."""
        state.register("a")
        found = take(state, "a", running(5), *ALL)
        assert found.outlook is not None
        watch = Watch(limited=True, since=found.outlook.since)
        state.send(b"1")

        assert self.woken(state, watch, 60_000) == []
        assert state.owners() == {}
        assert bodies(take(state, "a", running(5), *ALL)) == [b"1"]

    @pytest.mark.parametrize("stream", ["wake", "front", "suspect"])
    def test_every_lane_is_watched(self, state: State, stream: str) -> None:
        """And wake-ups, for what is due."""
        state.register("a")
        state.put("front", "old")
        found = take(state, "a", running(5), *ALL)
        found = take(state, "a", running(5), *ALL)
        assert found.outlook is not None
        state.put(stream)

        watch = Watch(limited=True, since=found.outlook.since)
        assert self.woken(state, watch, 60_000) == []

    def test_who_waits_for_tokens_takes_no_wake_up(self, state: State) -> None:
        """It is for one that waits for a slot; and messages need not wake it."""
        state.register("a", "b")
        wake = state.do("XADD", state.keys.wake, "*", "free", "1")
        state.send(b"1")

        assert self.woken(state, Watch(limited=True, since=(b"$",))) == []
        assert self.woken(state, Watch(limited=True)) == [wake]

    def test_who_waits_for_a_slot_is_woken_alone(self, state: State) -> None:
        """By a wake-up, not by messages; each wake-up is for one."""
        state.register("a", "b")
        state.send(b"1")
        watch = Watch(limited=True)
        assert self.woken(state, watch) == []

        wake = state.do("XADD", state.keys.wake, "*", "free", "1")
        assert self.woken(state, watch) == [wake]
        assert self.woken(state, watch) == []
