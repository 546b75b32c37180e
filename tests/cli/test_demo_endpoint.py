"""The demo's endpoint: who asks gets the truth about each file and folder, or hears what went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream import Client
from millstream.cli.demo.asking import CALLERS, ask_all, by_path, questions_about
from millstream.cli.demo.count import Figures
from millstream.cli.demo.index import PARTS, Index
from millstream.cli.demo.place import Place, place_for
from millstream.cli.demo.readers import Readers
from millstream.cli.demo.tasks import INDEX, INDEXED, Indexed, NotIndexed
from millstream.cli.output import Failed
from tests.support.servers import Server
from tests.support.wait import until

FILES = {
    "/lib/a.py": Figures(files=1, functions=1, lines=10),
    "/lib/json/b.py": Figures(files=1, functions=2, lines=20),
    "/lib/json/c.py": Figures(files=1, unparsable=1, lines=30),
    "/lib/json.py": Figures(files=1, lines=40),
}
PATHS = [Path(name) for name in FILES]
TRUTH = {
    **FILES,
    "/lib/json": Figures(files=2, functions=2, unparsable=1, lines=50),
    "/lib": Figures(files=4, functions=3, unparsable=1, lines=100),
    "/": Figures(files=4, functions=3, unparsable=1, lines=100),
}


def indexed(name: str) -> Indexed:
    return Indexed(file=name, figures=FILES[name], longest=[])


def test_the_truth_has_each_file_and_each_folder() -> None:
    """What is in a folder is what is in its files, however deep they are."""
    assert by_path(FILES) == TRUTH


def test_the_index_knows_files_and_folders() -> None:
    """It comes to the same in another way, and says of anything else that it is not there."""
    index = Index.of(PARTS[0])
    for number, name in enumerate(FILES):
        index.add(f"{number}-0", indexed(name))

    assert {path: index.about(path) for path in TRUTH} == TRUTH
    for path in ("/li", "/lib/js", "/lib/a", "a.py"):
        with pytest.raises(NotIndexed, match=f"^{path}$"):
            index.about(path)


def test_all_is_asked_for() -> None:
    """Each file, each folder, and for each caller something that is not there; nothing twice."""
    questions = questions_about(PATHS)

    assert len(set(questions)) == len(questions) == len(TRUTH) + CALLERS
    assert set(questions) > set(TRUTH)


@contextlib.contextmanager
def read_by_all(server: Server) -> Iterator[tuple[Place, Client, Readers]]:
    """Readers that have all files."""
    with (
        place_for(server.url) as place,
        Client(place.url, namespace=place.namespace) as mq,
        Readers(place, mq) as readers,
    ):
        mq.publish_many(INDEXED, [indexed(name) for name in FILES])
        readers.join_late()
        for _ in readers.catch_up():
            pass
        yield place, mq, readers


def test_every_caller_gets_the_truth(server: Server) -> None:
    """Fifty at a time ask two processes, and each gets the answer to its own question."""
    seen: list[int] = []
    with read_by_all(server) as (place, _, _readers):
        asked = ask_all(place, PATHS, seen.append)

    known = {path: one for path, one in asked.answers.items() if one is not None}
    assert known == TRUTH
    assert len(asked.answers) == asked.questions == len(TRUTH) + CALLERS
    assert asked.failed == []
    assert seen[-1] == asked.questions
    assert 0 < asked.p50 <= asked.p99 <= asked.seconds


def test_without_answers_the_demo_goes_on(server: Server) -> None:
    """When nobody answers, each question says why, and the rest is asked all the same."""
    with place_for(server.url) as place:
        asked = ask_all(place, PATHS, lambda _: None)

    assert asked.answers == {}
    assert len(asked.failed) == asked.questions
    assert all(text.startswith("NoResponders: ") for text in asked.failed)


def test_the_end_of_a_reader_ends_the_questions(server: Server) -> None:
    """What the look raises ends the act at once, and nothing goes on behind it."""
    with read_by_all(server) as (place, mq, _readers):

        def look(_: int) -> None:
            problem = "a reader has ended"
            raise Failed(problem, status=1)

        with pytest.raises(Failed, match="a reader has ended"):
            ask_all(place, PATHS * 200, look)

        def left() -> int:
            stats = mq.stats(INDEX.queue)
            return stats.ready + stats.in_flight

        until(lambda: not left())
