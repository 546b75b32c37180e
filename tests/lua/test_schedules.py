"""The scripts of schedules.

declare_schedule.lua, claim_schedule.lua and fire_schedule.lua; pause_schedule.lua, resume_schedule.lua
and remove_schedule.lua.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from millstream.message import Schedule
from millstream.protocol import schedules
from millstream.protocol.schedules import Claim
from millstream.schedule import Timing
from tests.lua.state import NOW, State, out_of_memory
from tests.support.servers import Server

MINUTE = 60_000
TIMING, OTHER = Timing(MINUTE), Timing("*/5 * * * *", "Europe/Berlin")
TICK, NEXT = NOW + MINUTE, NOW + 2 * MINUTE


def put(state: State, name: str = "beat", timing: Timing = TIMING, **more: Any) -> None:
    """Store a schedule, as a worker has declared it."""
    stored = {"spec": timing.spec, "tz": timing.tz, "missed": "skip", "next": TICK, **more}
    state.do("HSET", state.keys.schedules, name, json.dumps(stored))


def stored(state: State, name: str = "beat") -> dict[str, Any]:
    """What is stored of a schedule; empty: nothing."""
    text = state.do("HGET", state.keys.schedules, name)
    found: dict[str, Any] = json.loads(text or b"{}")
    return found


def claim(state: State, worker: str = "a", now: int = TICK, timing: Timing = TIMING) -> Claim:
    op = schedules.claim(state.keys, "beat", timing, worker, 5000, now_ms=now)
    return state.run(op)


def fire(
    state: State, body: bytes | None = b"1", tick: int = TICK, timing: Timing = TIMING
) -> tuple[bool, int]:
    op = schedules.fire(state.keys, "beat", timing, (tick, tick + MINUTE), body, now_ms=NOW)
    return state.run(op)


def server_time(state: State) -> int:
    seconds, micros = state.do("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


class TestDeclare:
    def test_a_new_one(self, state: State) -> None:
        """It begins with the first tick after the server's now."""
        before = server_time(state)
        assert state.drive(schedules.declare(state.keys, "beat", OTHER, "one"))

        found = stored(state)
        after = OTHER.next_after(server_time(state))
        assert found.pop("next") in (OTHER.next_after(before), after)
        assert found == {"spec": "*/5 * * * *", "tz": "Europe/Berlin", "missed": "one"}

    def test_the_same_again(self, state: State) -> None:
        """It goes on where it was: a restart leaves out no tick, nor anybody's grant or pause."""
        put(state, last=NOW, claimed_by="a", claimed_until=NOW + 5, paused=True)
        before = stored(state)

        assert not state.drive(schedules.declare(state.keys, "beat", TIMING, "skip"))

        assert stored(state) == before

    def test_another_policy(self, state: State) -> None:
        """What becomes of missed ticks may change without moving the next one."""
        put(state)
        before = stored(state)

        assert not state.drive(schedules.declare(state.keys, "beat", TIMING, "all"))

        assert stored(state) == {**before, "missed": "all"}

    @pytest.mark.parametrize("timing", [OTHER, Timing(2 * MINUTE), Timing("* * * * *")])
    def test_other_times(self, state: State, timing: Timing) -> None:
        """It begins anew; it stays paused, and what it sent last is still known."""
        put(state, last=NOW, claimed_by="a", claimed_until=NOW + 5, paused=True)

        assert state.drive(schedules.declare(state.keys, "beat", timing, "skip"))

        found = stored(state)
        assert found.pop("next") >= timing.next_after(server_time(state) - MINUTE)
        spec, tz = timing.spec, timing.tz
        assert found == {"spec": spec, "tz": tz, "missed": "skip", "last": NOW, "paused": True}

    @pytest.mark.parametrize("rubbish", ["", "{", "[]", "7", "{}", '{"next": "soon"}'])
    def test_over_rubbish(self, state: State, rubbish: str) -> None:
        """What is no schedule is replaced."""
        state.do("HSET", state.keys.schedules, "beat", rubbish)

        assert state.drive(schedules.declare(state.keys, "beat", TIMING, "skip"))

        assert stored(state)["spec"] == MINUTE

    def test_after_a_removal(self, state: State) -> None:
        """A removed schedule comes back, and its removal is forgotten."""
        put(state)
        state.run(schedules.remove(state.keys, "beat"))

        assert state.drive(schedules.declare(state.keys, "beat", TIMING, "skip"))

        assert claim(state, now=NOW).finding == "early"
        assert state.do("EXISTS", state.keys.removed("beat")) == 0

    def test_a_known_one_without_memory(self, own_server: Server, own_state: State) -> None:
        """A worker gets in on a full server when it has nothing to add."""
        put(own_state)
        with out_of_memory(own_server):
            changed = own_state.drive(schedules.declare(own_state.keys, "beat", TIMING, "skip"))

        assert not changed


class TestClaim:
    def test_early(self, state: State) -> None:
        """Before its time nobody is granted a tick, and the answer tells when to come back."""
        put(state)

        assert claim(state, now=TICK - 1) == Claim("early", TICK - 1, TICK, "skip")
        assert "claimed_by" not in stored(state)

    def test_due(self, state: State) -> None:
        """At its time the tick is granted to one worker; others learn for how long."""
        put(state, missed="all")

        assert claim(state, "a") == Claim("granted", TICK, TICK, "all")
        assert claim(state, "b", TICK + 1) == Claim("taken", TICK + 1, TICK + 5000, "all")

    def test_longer(self, state: State) -> None:
        """Whoever has the tick may have it for longer."""
        put(state)
        claim(state, "a")

        assert claim(state, "a", TICK + 3000).finding == "granted"
        assert claim(state, "b", TICK + 5000) == Claim("taken", TICK + 5000, TICK + 8000, "skip")

    def test_the_grant_is_over(self, state: State) -> None:
        """When the grant runs out, the next one gets the tick."""
        put(state)
        claim(state, "a")

        assert claim(state, "b", TICK + 5000).finding == "granted"
        assert claim(state, "a", TICK + 5001).finding == "taken"

    def test_paused(self, state: State) -> None:
        """Nobody is granted a tick of a paused schedule."""
        put(state, paused=True)

        assert (claim(state).finding, claim(state).at) == ("paused", 0)

    def test_changed(self, state: State) -> None:
        """A worker that was declared with other times gets none of its ticks."""
        put(state, timing=OTHER)

        assert claim(state).finding == "changed"
        assert claim(state, timing=OTHER).finding == "granted"

    def test_removed_or_lost(self, state: State) -> None:
        """What people have removed is told apart from what the server has lost."""
        assert claim(state).finding == "lost"
        put(state)
        state.run(schedules.remove(state.keys, "beat"))
        assert claim(state).finding == "removed"

    def test_by_the_clock_of_the_server(self, state: State) -> None:
        """Without a time for the test, the server's own counts."""
        now = server_time(state)
        put(state, next=now + MINUTE)

        found = state.run(schedules.claim(state.keys, "beat", TIMING, "a", 5000))

        assert found.finding == "early"
        assert now <= found.now < now + MINUTE


class TestFire:
    def test_sends_and_goes_on(self, state: State) -> None:
        """The message is that of a plain send, with the tick in its headers; it is counted."""
        put(state)
        claim(state)

        assert fire(state, b"[1]") == (True, NOW)

        fields = state.only("ready").fields
        tick = datetime.fromtimestamp(TICK / 1000, UTC).isoformat()
        assert json.loads(fields.pop("h")) == {"schedule": "beat", "tick": tick}
        assert fields == {"b": "[1]"}
        assert state.counters() == {"sent": 1}
        assert stored(state) == {
            "spec": MINUTE,
            "tz": "UTC",
            "missed": "skip",
            "next": NEXT,
            "last": TICK,
        }

    def test_once(self, state: State) -> None:
        """A tick is sent once, whoever tries again, and however late."""
        put(state)

        assert [fire(state)[0] for _ in range(3)] == [True, False, False]

        assert len(state.entries()) == 1
        assert stored(state)["next"] == NEXT

    def test_leaves_out(self, state: State) -> None:
        """Without a body nothing is sent, and the schedule goes on."""
        put(state, last=NOW)

        assert fire(state, None) == (True, NOW)

        assert state.entries() == []
        assert (stored(state)["next"], stored(state)["last"]) == (NEXT, NOW)
        assert state.counters() == {}

    @pytest.mark.parametrize("why", ["paused", "changed", "removed", "resumed"])
    def test_too_late(self, state: State, why: str) -> None:
        """What people have done while the body was made counts at once."""
        put(state)
        claim(state)
        if why == "paused":
            state.run(schedules.pause(state.keys, "beat"))
        elif why == "changed":
            put(state, timing=OTHER)
        elif why == "removed":
            state.run(schedules.remove(state.keys, "beat"))
        else:
            put(state, next=TICK + 1)
        before = stored(state)

        assert fire(state) == (False, NOW)

        assert state.entries() == []
        assert stored(state) == before

    def test_without_memory(self, own_server: Server, own_state: State) -> None:
        """A full server sends nothing and leaves the tick where it is."""
        put(own_state)
        with out_of_memory(own_server), pytest.raises(Exception, match="memory"):
            fire(own_state)

        assert own_state.entries() == []
        assert stored(own_state)["next"] == TICK
        assert fire(own_state)[0]


class TestPeople:
    def test_pause(self, state: State) -> None:
        """A pause keeps everything but a grant; a second one changes nothing."""
        put(state)
        claim(state)

        for _ in range(2):
            assert state.run(schedules.pause(state.keys, "beat"))

        expected = {"spec": MINUTE, "tz": "UTC", "missed": "skip", "next": TICK, "paused": True}
        assert stored(state) == expected

    @pytest.mark.parametrize("timing", [TIMING, OTHER])
    def test_resume(self, state: State, timing: Timing) -> None:
        """A paused schedule resumes with the first tick after the server's now."""
        put(state, timing=timing, paused=True, last=NOW)
        before = server_time(state)

        assert state.drive(schedules.resume(state.keys, "beat"))

        found = stored(state)
        assert found["next"] in (
            timing.next_after(before),
            timing.next_after(server_time(state)),
        )
        assert "paused" not in found
        assert found["last"] == NOW

    def test_resume_what_is_not_paused(self, state: State) -> None:
        """Its next tick stays, even if it is overdue."""
        put(state)
        before = stored(state)

        assert state.drive(schedules.resume(state.keys, "beat"))

        assert stored(state) == before

    def test_declared_anew_while_it_is_resumed(self, state: State) -> None:
        """Who resumes looks again when the times are others than those it has reckoned with."""
        put(state, paused=True)
        plan = schedules.resume(state.keys, "beat")
        look: Any = next(plan)
        resume: Any = plan.send(state.run(look))
        put(state, timing=OTHER, paused=True)

        again: Any = plan.send(state.run(resume))
        second: Any = plan.send(state.run(again))
        with pytest.raises(StopIteration) as end:
            plan.send(state.run(second))

        assert end.value.value is True
        assert stored(state)["next"] % (5 * MINUTE) == 0
        assert "paused" not in stored(state)

    def test_remove(self, state: State) -> None:
        """Nothing is left but a mark that expires."""
        put(state)

        assert state.run(schedules.remove(state.keys, "beat"))

        assert state.do("EXISTS", state.keys.schedules) == 0
        assert 0 < state.do("PTTL", state.keys.removed("beat")) <= schedules.REMEMBERED_MS

    def test_what_is_not_there(self, state: State) -> None:
        """There is nothing to pause, resume or remove, and nothing is left behind."""
        assert not state.run(schedules.pause(state.keys, "beat"))
        assert not state.drive(schedules.resume(state.keys, "beat"))
        assert not state.run(schedules.remove(state.keys, "beat"))

        assert state.do("EXISTS", state.keys.schedules, state.keys.removed("beat")) == 0

    def test_listing(self, state: State) -> None:
        """All schedules are listed by name; what is no schedule is left out."""
        put(state, "b", OTHER, last=NOW, missed="all")
        put(state, "a", Timing(1500), paused=True)
        for rubbish in ("", "{}", "[", '{"spec": [], "next": -1}', "\ud800"):
            state.do(
                "HSET", state.keys.schedules, f"x{rubbish!r}", rubbish.encode("utf-8", "replace")
            )

        assert state.run(schedules.listing(state.keys)) == [
            Schedule(
                name="a",
                spec=1.5,
                tz="UTC",
                missed="skip",
                next=None,
                last=None,
                paused=True,
            ),
            Schedule(
                name="b",
                spec="*/5 * * * *",
                tz="Europe/Berlin",
                missed="all",
                next=datetime.fromtimestamp(TICK / 1000, UTC),
                last=datetime.fromtimestamp(NOW / 1000, UTC),
                paused=False,
            ),
        ]
