"""A cluster as values: its URL, who has which slot, and an operation on its way through it."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster

from millstream.driver.cluster import (
    ClusterTarget,
    SlotMap,
    locate,
    read_slots,
)
from millstream.driver.errand import Errand
from millstream.driver.target import ENVIRONMENT_VARIABLE, Target
from millstream.errors import UsageError
from millstream.protocol.op import Command, Op
from millstream.protocol.slots import SLOTS, slot_of
from tests.support.cluster import Cluster

A, B, C = ("a", 1), ("b", 2), ("c", 3)


@pytest.mark.parametrize(
    ("url", "seeds", "transport", "options"),
    [
        ("redis+cluster://h1:7000", [("h1", 7000)], "tcp", {}),
        ("valkey+cluster://h1:7000,h2", [("h1", 7000), ("h2", 6379)], "tcp", {}),
        ("redis+cluster://[::1]:7000,h2/", [("::1", 7000), ("h2", 6379)], "tcp", {}),
        (
            f"rediss+cluster://me:p%40ss@h1,h2?ssl_ca_certs={__file__}",
            [("h1", 6379), ("h2", 6379)],
            "tls",
            {"username": "me", "password": "p@ss", "ssl_ca_certs": __file__},
        ),
        ("valkeys+cluster://:pw@h1", [("h1", 6379)], "tls", {"password": "pw"}),
    ],
)
def test_urls(
    url: str, seeds: list[tuple[str, int]], transport: str, options: dict[str, Any]
) -> None:
    """All nodes are reached in the same way, as the same user."""
    target = locate(url)

    assert isinstance(target, ClusterTarget)
    assert list(target.seeds) == seeds
    assert target.transport == transport
    assert dict(target.options) == options
    node = target.node(("::1", 7))
    assert node.url == f"{'rediss' if transport == 'tls' else 'redis'}://[::1]:7"
    assert dict(node.options) == {**options, "host": "::1", "port": 7}


def test_the_environment_may_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it may name a server."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "redis+cluster://h1")
    assert isinstance(locate(None), ClusterTarget)
    assert isinstance(locate("redis://h1"), Target)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+cluster://", "names no node"),
        ("redis+cluster://h1,,h2", "names no node"),
        ("redis+cluster://h1:x", "cannot read the URL"),
        ("redis+cluster://h1,h2/3", "only number 0"),
    ],
)
def test_urls_that_make_no_sense(url: str, problem: str) -> None:
    """The error shows the URL and says what is wrong with it."""
    with pytest.raises(UsageError, match=problem) as caught:
        locate(url)
    assert url in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://me:secret@h1:x",
        "redis+cluster://me:sec@ret@h1,h2:x",
        "redis+cluster://me:secret/x@h1",
        "redis+cluster://me:secret@h1/3",
        "redis+cluster://h1?password=secret&db=3",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    """Not even of a URL that cannot be read."""
    with pytest.raises(UsageError) as caught:
        locate(url)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
    assert "ret" not in told.replace("return", "")


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_ready_made_clients(kind: str) -> None:
    """Their seeds and credentials are taken, and not shown."""
    with Cluster(masters=1) as cluster:
        port = cluster.nodes[0].port
        options: dict[str, Any] = {"username": "suite", "password": "suite"}
        if kind == "asyncio":
            nodes = [AsyncClusterNode("127.0.0.1", port)]
            target = locate(AsyncRedisCluster(startup_nodes=nodes, **options))
        else:
            with redis.RedisCluster(host="127.0.0.1", port=port, **options) as client:
                target = locate(client)
    assert isinstance(target, ClusterTarget)
    assert list(target.seeds) == [("127.0.0.1", port)]
    assert {name: target.options[name] for name in options} == options
    assert target.transport == "tcp"
    assert repr(target) == f"ClusterTarget('redis+cluster://127.0.0.1:{port}')"


def test_a_ready_made_client_with_tls() -> None:
    """It is known by what it says of certificates, whatever the class of its connections."""
    nodes = [AsyncClusterNode("h1", 7000)]
    target = locate(AsyncRedisCluster(startup_nodes=nodes, ssl=True, ssl_ca_certs=__file__))
    assert isinstance(target, ClusterTarget)
    assert target.transport == "tls"
    assert target.options["ssl_ca_certs"] == __file__


class TestSlotMap:
    def test_what_a_node_tells(self) -> None:
        """Replicas stand behind their master; a node may not know its own host."""
        reply = [[0, 5, [b"b", 2, b"id"], [b"c", 3, b"id"]], [7, SLOTS - 1, [b"", 1, b"id"]]]
        slots = read_slots(reply, A, "redis://a:1")
        assert [slots.owners[slot] for slot in (0, 5, 6, 7, SLOTS - 1)] == [B, B, None, A, A]
        assert slots.masters == [B, A]
        assert slots.moved(0, C).owners[:2] == [C, B]

    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            (exceptions.ResponseError("This instance has cluster support disabled"), UsageError),
            (exceptions.NoPermissionError("no"), exceptions.NoPermissionError),
            ([], exceptions.ClusterDownError),
        ],
    )
    def test_what_is_no_answer(self, reply: Any, error: type[Exception]) -> None:
        """A server by itself is said so; of a node, another one may tell more."""
        with pytest.raises(error):
            read_slots(reply, A, "redis://a:1")


def op(*keys: str, **options: Any) -> Op[list[Any]]:
    commands = tuple(Command(("GET", key)) for key in keys)
    return Op(commands, decode=lambda replies: replies, **options)


def moved(key: str, to: tuple[str, int]) -> exceptions.MovedError:
    return exceptions.MovedError(f"{slot_of(key)} {to[0]}:{to[1]}")


def ask(key: str, to: tuple[str, int]) -> exceptions.AskError:
    return exceptions.AskError(f"{slot_of(key)} {to[0]}:{to[1]}")


class TestErrand:
    slots = SlotMap([A] * SLOTS)

    def test_what_was_refused_is_sent_again_and_nothing_else(self) -> None:
        """What a node has run stays run, though it must not be repeated."""
        errand = Errand(op("{k}1", "{k}2", "{k}3", repeatable=False))
        [parcel] = errand.parcels(self.slots)
        assert (parcel.node, parcel.asking) == (A, False)
        errand.answered(parcel, [b"1", moved("k", B), moved("k", B)])
        assert not errand.must_end()
        assert errand.moved == [(slot_of("k"), B)] * 2
        assert errand.outdated
        assert errand.may_go_on()

        [parcel] = errand.parcels(self.slots.moved(slot_of("k"), B))
        assert (parcel.node, parcel.indices) == (B, [1, 2])
        errand.answered(parcel, [b"2", b"3"])
        errand.must_end()
        assert errand.done
        assert errand.replies == [b"1", b"2", b"3"]

    def test_a_node_that_is_being_given_the_slot_is_asked_once(self) -> None:
        """The next time the slot's owner is the first to be asked again."""
        errand = Errand(op("k"))
        [parcel] = errand.parcels(self.slots)
        errand.answered(parcel, [ask("k", B)])
        errand.must_end()
        [parcel] = errand.parcels(self.slots)
        assert (parcel.node, parcel.asking) == (B, True)
        errand.answered(parcel, [exceptions.TryAgainError("later")])
        errand.must_end()
        assert not errand.may_go_on()
        [parcel] = errand.parcels(self.slots)
        assert (parcel.node, parcel.asking) == (A, False)
        assert isinstance(errand.problem(), exceptions.ClusterDownError)

    def test_a_refused_transaction_is_sent_again_whole(self) -> None:
        """It has one reply, and nothing of it was run."""
        errand = Errand(op("{k}1", "{k}2", atomic=True))
        [parcel] = errand.parcels(self.slots)
        errand.answered(parcel, [moved("k", B)])
        errand.must_end()
        [parcel] = errand.parcels(self.slots)
        assert list(parcel.indices) == [0, 1]

    def test_what_is_scattered_is_put_together_again(self) -> None:
        """Each node gets what is its own; the replies stand as they were asked for."""
        slots = SlotMap([A] * SLOTS).moved(slot_of("b"), B)
        errand = Errand(op("a", "b", "c", scattered=True))
        first, second = errand.parcels(slots)
        assert (first.node, first.indices, second.node, second.indices) == (A, [0, 2], B, [1])
        errand.answered(second, [b"b"])
        errand.answered(first, [b"a", b"c"])
        errand.must_end()
        assert errand.replies == [b"a", b"b", b"c"]

    def test_what_was_lost_is_sent_again_if_it_may(self) -> None:
        """A slot without a master is waited for by everybody: nothing has been sent."""
        lost = ConnectionError("cut")
        for repeatable in (True, False):
            errand = Errand(op("k", repeatable=repeatable))
            [parcel] = errand.parcels(self.slots)
            errand.failed(parcel, lost)
            assert errand.must_end() is not repeatable
            assert errand.problem() is lost
        errand = Errand(op("k", repeatable=False))
        [parcel] = errand.parcels(SlotMap())
        assert parcel.node is None
        errand.failed(parcel, None)
        assert not errand.must_end()

    def test_nodes_that_send_it_to_and_fro(self) -> None:
        """After some redirections in a row there is a pause before the next."""
        errand = Errand(op("k"))
        went_on = []
        for _ in range(5):
            [parcel] = errand.parcels(self.slots)
            errand.answered(parcel, [moved("k", B)])
            errand.must_end()
            went_on.append(errand.may_go_on())
        assert went_on == [True, True, True, False, True]

    @given(st.data())
    def test_whatever_nodes_do(self, data: st.DataObject) -> None:
        """Each command is run once, at a node that takes it, and its reply stands in its place."""
        keys = [f"k{number}" for number in range(data.draw(st.integers(1, 5)))]
        scattered = data.draw(st.booleans())
        whole = op(*(keys if scattered else ["{k}" + key for key in keys]), scattered=scattered)
        errand, slots, ran = Errand(whole), self.slots, Counter[bytes]()
        while not errand.done:
            for parcel in errand.parcels(slots):
                assert parcel.node is not None
                replies: list[Any] = []
                for command in parcel.op.commands:
                    key = str(command.arguments[1])
                    outcome = data.draw(st.sampled_from(["run", "run", "moved", "ask", "later"]))
                    if outcome == "run":
                        ran[key.encode()] += 1
                        replies.append(key.encode())
                    elif outcome == "later":
                        replies.append(exceptions.TryAgainError("later"))
                    else:
                        replies.append((moved if outcome == "moved" else ask)(key, B))
                errand.answered(parcel, replies)
            assert not errand.must_end()
            for slot, node in errand.moved:
                slots = slots.moved(slot, node)
        expected = [str(command.arguments[1]).encode() for command in whole.commands]
        assert errand.replies == expected
        assert ran == Counter(expected)
