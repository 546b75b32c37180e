"""What is made of the answers of Sentinels, and whom a connection still suits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
from redis.exceptions import ConnectionError as Unreachable

from millstream.driver.sentinel import Sentinel, Sight, best
from millstream.driver.target import resolve
from millstream.security import Security
from tests.support.servers import Server, free_port, installed

OLD, NEW, COPY = ("h", 1), ("h", 2), ("h", 3)


@pytest.mark.parametrize(
    ("address", "epoch", "told", "suits"),
    [
        (OLD, 1, Sight(OLD, 1, False, ()), True),
        (OLD, 1, Sight(OLD, 1, True, ()), True),
        (OLD, 1, Sight(NEW, 2, False, ()), False),
        # Nobody may ask for the epoch.
        (OLD, 0, Sight(NEW, 0, False, ()), False),
        # One that was away comes back with old news.
        (NEW, 2, Sight(OLD, 1, False, ()), True),
    ],
)
def test_who_is_still_at_the_primary(
    address: tuple[str, int], epoch: int, told: Sight, suits: bool
) -> None:
    """A connection stays until somebody who is as well informed names another primary."""
    assert told.suits(address, epoch, replica=False) is suits


@pytest.mark.parametrize(
    ("address", "told", "suits"),
    [
        (COPY, Sight(OLD, 1, False, (COPY,)), True),
        (COPY, Sight(OLD, 1, False, ()), False),
        (COPY, Sight(COPY, 2, False, (OLD,)), False),
        (OLD, Sight(OLD, 1, False, ()), True),
        (OLD, Sight(OLD, 1, False, (COPY,)), False),
    ],
)
def test_who_is_still_at_a_replica(address: tuple[str, int], told: Sight, suits: bool) -> None:
    """Reads are at a replica that is well, and at the primary as long as there is none."""
    assert told.suits(address, 1, replica=True) is suits


def test_one_of_the_replicas() -> None:
    """Reads are spread over the replicas; without any, the primary is asked."""
    sight = Sight(OLD, 1, False, (NEW, COPY))
    assert {sight.any_replica() for _ in range(100)} == {NEW, COPY}
    assert Sight(OLD, 1, False, ()).any_replica() == OLD


@pytest.fixture(params=installed())
def two(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    """Sentinels that do not agree: the second has seen a failover more. Nobody is at the addresses."""
    with ExitStack() as stack:
        servers = []
        for epoch in (3, 4):
            lines = [
                f"sentinel monitor main 127.0.0.1 {epoch} 2",
                f"sentinel config-epoch main {epoch}",
                f"sentinel current-epoch {epoch}",
            ]
            server = Server(request.param, sentinel=True, extra=lines)
            servers.append(stack.enter_context(server))
        yield servers


def asked(*ports: int) -> list[Sentinel]:
    return [Sentinel("main", resolve(f"redis://127.0.0.1:{port}")) for port in ports]


def test_the_newest_answer_counts(two: list[Server]) -> None:
    """Whoever is asked first, and whoever is away, the last failover that is known counts."""
    older, newer, nobody = two[0].port, two[1].port, free_port()
    for ports in ((older, newer), (newer, older), (nobody, older, newer)):
        sentinels = asked(*ports)
        for _ in range(2):
            sight = best(sentinels, "main")
            assert (sight.primary, sight.epoch) == (("127.0.0.1", 4), 4)
        for one in sentinels:
            one.close()


def test_one_that_was_away_is_asked_again(two: list[Server]) -> None:
    """A Sentinel that did not answer is left alone for a while, unless nobody else answers."""
    first, second = two
    sentinels = asked(first.port, second.port)
    second.kill()
    assert best(sentinels, "main").epoch == 3
    second.start()
    assert best(sentinels, "main").epoch == 3
    first.kill()
    assert best(sentinels, "main").epoch == 4
    second.kill()
    with pytest.raises(Unreachable, match="no Sentinel answers"):
        best(sentinels, "main")


def test_a_login_beside_a_provider() -> None:
    """A login that is given goes before what a ready-made client looks up for itself."""
    provider = redis.UsernamePasswordCredentialProvider("other", "secret")
    client = redis.Redis("host", credential_provider=provider)
    assert "credential_provider" in resolve(client).options
    options = resolve(client, Security(username="me")).options
    assert options["username"] == "me"
    assert "credential_provider" not in options
