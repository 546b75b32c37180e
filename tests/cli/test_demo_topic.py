"""The demo's topic: each subscription counts right by itself, and what goes wrong is noticed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from millstream import Client, Topic
from millstream.cli.demo.count import Figures, Function
from millstream.cli.demo.index import PARTS, Index
from millstream.cli.demo.outcome import Alone, Asked, Counts, Outcome, Published, problems
from millstream.cli.demo.place import place_for
from millstream.cli.demo.readers import Readers
from millstream.cli.demo.tasks import INDEXED, Indexed
from millstream.cli.output import Failed
from tests.support.embedded import alive
from tests.support.servers import Server
from tests.support.wait import until

TOTALS = Figures(files=3, functions=6, lines=30)


def indexed(number: int) -> Indexed:
    function = Function(name=f"f{number}", file=f"{number}.py", line=1, lines=number)
    figures = Figures(files=1, functions=number, lines=10)
    return Indexed(file=f"{number}.py", figures=figures, longest=[function])


FILES = [indexed(number) for number in (1, 2, 3)]


def judged(published: Published) -> list[str]:
    """What is wrong with what the subscriptions know, when everything else is right."""
    counts = Counts(
        figures=TOTALS,
        workers=[1, 2],
        seconds=1.0,
        deliveries=3,
        failed=0,
        killed=None,
        in_flight=0,
        redelivered=0,
        redelivered_after=None,
        duplicates=0,
        dead=0,
    )
    longest = [one.longest[0] for one in reversed(FILES)]
    alone = Alone(figures=TOTALS, longest=longest, by_path={}, seconds=1.0)
    asked = Asked(callers=0, questions=0, answers={}, failed=[], seconds=0.0, p50=0.0, p99=0.0)
    return problems(
        Outcome(server="", python="", workers=counts, published=published, asked=asked, alone=alone)
    )


def test_what_comes_twice_is_counted_once() -> None:
    """A message that comes again is no news; a second message for a file is a duplicate."""
    index = Index(figures=Figures(), longest=[])
    for message, one in (
        ("1-0", FILES[0]),
        ("1-0", FILES[0]),
        ("2-0", FILES[1]),
        ("3-0", FILES[0]),
    ):
        index.add(message, one)

    assert (index.messages, index.files, index.duplicates) == (3, 2, 1)
    assert index.figures == Figures(files=2, functions=3, lines=20)
    assert index.longest == [FILES[1].longest[0], FILES[0].longest[0]]


@contextlib.contextmanager
def declared(server: Server) -> Iterator[tuple[Client, Readers]]:
    """Subscriptions whose readers have not been started."""
    with place_for(server.url) as place, Client(place.url, namespace=place.namespace) as mq:
        for part in PARTS:
            if not part.late:
                mq.declare(INDEXED.subscription(part.name))
        yield mq, Readers(place, mq)


def read_all(readers: Readers) -> Published:
    readers.join_late()
    *_, last = readers.catch_up()
    return readers.finish(last)


def test_all_three_come_to_the_same(server: Server) -> None:
    """Two follow, the third replays what it has missed and gets the rest; a duplicate is none."""
    with declared(server) as (mq, readers), readers:
        mq.publish_many(INDEXED, FILES[:2])
        assert readers.join_late() == 2
        until(lambda: "late" in mq.subscriptions(INDEXED), timeout=30)
        mq.publish_many(INDEXED, [FILES[2], FILES[0]])
        *_, last = readers.catch_up()
        published = readers.finish(last)

    assert judged(published) == []
    assert [one.replayed for one in published.readings] == [0, 0, 2]
    assert [one.messages for one in published.readings] == [4, 4, 4]
    assert [one.duplicates for one in published.readings] == [1, 1, 1]


def test_a_message_that_somebody_else_took_is_missed(server: Server) -> None:
    """A message that was acknowledged and not counted is a loss, of that subscription alone."""
    with declared(server) as (mq, readers):
        mq.publish_many(INDEXED, FILES)
        with contextlib.closing(mq.subscribe(INDEXED, "totals", prefetch=1)) as deliveries:
            next(deliveries).ack()
        with readers:
            published = read_all(readers)

    assert judged(published) == [
        "subscription totals: 1 messages did not come",
        "subscription totals: 2 files instead of 3",
        "subscription totals: 5 functions instead of 6",
        "subscription totals: 20 lines instead of 30",
    ]


def test_what_nobody_indexed_is_noticed(server: Server) -> None:
    """A message too many is as wrong as one too few; each subscription has it."""
    with declared(server) as (mq, readers), readers:
        mq.publish_many(INDEXED, [*FILES, indexed(4)])
        published = read_all(readers)

    wrong = judged(published)
    for name in ("totals", "longest", "late"):
        assert f"subscription {name}: 4 files instead of 3" in wrong
    assert (
        "subscription longest: the longest functions are f4 (4), f3 (3), f2 (2), f1 (1) "
        "instead of f3 (3), f2 (2), f1 (1)"
    ) in wrong


def test_a_dead_letter_is_noticed(server: Server) -> None:
    """What a subscription could not read is counted, and is missed."""
    with declared(server) as (mq, readers), readers:
        mq.publish_many(INDEXED, FILES)
        mq.publish(Topic(INDEXED.name), "no index")
        published = read_all(readers)

    wrong = judged(published)
    assert "3 messages of the topic are in the dead letters" in wrong
    assert "subscription totals: 1 messages did not come" in wrong


def test_the_end_of_a_reader_is_noticed(server: Server) -> None:
    """When a reader dies, the demo fails and says which; the other ends with the demo."""
    with declared(server) as (_, readers):
        with readers:
            pids = readers.pids
            os.kill(pids["totals"], signal.SIGKILL)

            def fails() -> str:
                try:
                    readers.check()
                except Failed as error:
                    return str(error)
                return ""

            assert "the reader of subscription totals has ended" in until(fails)
        assert not alive(pids["longest"])


def test_a_reader_has_last_words(server: Server) -> None:
    """The error quotes what the reader had to say."""
    with place_for(server.url) as place, Client(place.url, namespace=place.namespace) as mq:
        elsewhere = replace(place, url="redis://127.0.0.1:1")
        with (
            Readers(elsewhere, mq) as readers,
            pytest.raises(Failed, match=r"last words of their log: .*cannot reach redis://127"),
        ):
            until(readers.check, timeout=30)
