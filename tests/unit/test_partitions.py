"""Keys to partitions, partitions to workers, and ids that name a partition: pure functions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.declare import MOST_PARTITIONS, Queue
from millstream.errors import UsageError
from millstream.message import time_of
from millstream.protocol.partitions import (
    bare_id,
    by_partition,
    check_number,
    partition_of,
    public_id,
    share_of,
)

MEMBERS = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=12)
COUNTS = st.integers(1, 64)


class TestDeclaration:
    def test_partitions_of_an_ordered_queue(self) -> None:
        """They are part of the value; the default is one."""
        queue: Queue[Any] = Queue("orders", ordered=True, partitions=4)

        assert (queue.ordered, queue.partitions) == (True, 4)
        assert queue != Queue("orders", ordered=True)
        assert (Queue("orders").ordered, Queue("orders").partitions) == (False, 1)

    @pytest.mark.parametrize("partitions", [0, -1, MOST_PARTITIONS + 1, 1.5, "4", None, True])
    def test_a_number_that_makes_no_sense(self, partitions: Any) -> None:
        """It is refused, by its name."""
        with pytest.raises(UsageError, match="partitions must be a number from 1 to 1024"):
            Queue("orders", ordered=True, partitions=partitions)

    def test_an_unordered_queue_has_none(self) -> None:
        """Partitions are for order; without it they are refused, and the error says why."""
        with pytest.raises(UsageError, match="partitions=4 needs ordered=True"):
            Queue("orders", partitions=4)

    def test_ordered_is_a_boolean(self) -> None:
        """Anything else is a slip."""
        with pytest.raises(UsageError, match="ordered must be True or False"):
            Queue("orders", ordered="key")  # type: ignore[call-overload] # that is the point


@pytest.mark.parametrize(
    ("key", "partition"), [("c-1", 6), ("c-2", 4), ("b\u00fccher", 2), ("", 0)]
)
def test_keys_in_eight_partitions(key: str, partition: int) -> None:
    """This is the wire format: producers in other languages compute the same."""
    assert partition_of(key, 8) == partition


@given(st.text(), COUNTS)
def test_every_key_has_a_partition(key: str, count: int) -> None:
    """It is one of those that there are, and always the same."""
    try:
        partition = partition_of(key, count)
    except UnicodeEncodeError:
        return  # a lone surrogate, which no declaration of a key accepts
    assert 0 <= partition < count
    assert partition_of(key, count) == partition


class TestShares:
    @given(MEMBERS, COUNTS)
    def test_each_partition_has_one_owner(self, members: set[str], count: int) -> None:
        """No partition is left out, none is read twice, when all know the same members."""
        shares = [share_of(member, members, count) for member in members]

        assert sorted(number for share in shares for number in share) == [*range(count)]

    @given(MEMBERS, COUNTS)
    def test_shares_are_even(self, members: set[str], count: int) -> None:
        """They differ by one at most."""
        sizes = [len(share_of(member, members, count)) for member in members]

        assert max(sizes) - min(sizes) <= 1

    @given(MEMBERS, COUNTS)
    def test_the_order_of_the_members_does_not_matter(self, members: set[str], count: int) -> None:
        """Two workers that know the same members agree."""
        member = min(members)

        assert share_of(member, sorted(members), count) == share_of(
            member, sorted(members, reverse=True), count
        )

    def test_who_is_no_member_acts_as_one(self) -> None:
        """A worker that the server could not note (out of memory) reads all the same."""
        assert share_of("b", ["a"], 4) == {1, 3}
        assert share_of("a", [], 4) == {0, 1, 2, 3}


class TestIds:
    @pytest.mark.parametrize(
        ("partition", "public"), [(0, "1700000000000-0"), (3, "1700000000000-0/3")]
    )
    def test_there_and_back(self, partition: int, public: str) -> None:
        """The partition stands behind the id, except in partition 0; the time stays readable."""
        assert public_id("1700000000000-0", partition) == public
        assert bare_id(public) == ("1700000000000-0", partition)
        assert time_of(public).timestamp() == 1_700_000_000

    @pytest.mark.parametrize("id", ["", "1-0/", "1-0/x", "1-0/-1", "1-0/\u0663", "nonsense"])
    def test_what_is_no_id_stays_as_it_is(self, id: str) -> None:
        """It names nothing in partition 0, and breaks nothing."""
        assert bare_id(id) == (id, 0)

    def test_by_partition(self) -> None:
        """Ids of one partition stay together and in order."""
        assert by_partition(["3-0", "1-0/2", "2-0", "5-0/2"]) == {
            0: ["3-0", "2-0"],
            2: ["1-0", "5-0"],
        }


def test_the_number_must_be_the_same() -> None:
    """The error names both numbers and what to do."""
    check_number("queue 'orders'", 4, 4)
    with pytest.raises(UsageError) as caught:
        check_number("queue 'orders'", 8, 4)
    text = str(caught.value)
    assert "'orders' has 4 partitions" in text
    assert "partitions=8" in text
    assert "repartition" in text
