"""Which processes there are, and what clients are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.errors import UsageError
from millstream.server.layout import Layout, clustered, replicated, single

HERE = Path("/here")


def ports(layout: Layout) -> list[tuple[str, int, int | None]]:
    return [(node.role, node.port, node.master) for node in layout.nodes]


def test_one_server() -> None:
    """It is on port 6379, for this machine."""
    layout = single(HERE, port=None)

    assert ports(layout) == [("server", 6379, None)]
    assert layout.local
    assert layout.urls() == ["redis://127.0.0.1:6379"]


def test_a_socket() -> None:
    """Beside a socket there is a port only when it is asked for."""
    alone = single(HERE, port=None, socket=Path("/a b/s"))
    both = single(HERE, port=7, socket=Path("/s"))

    assert ports(alone) == [("server", 0, None)]
    assert alone.urls("ann:x@") == ["unix://ann:x@/a%20b/s"]
    assert both.urls() == ["redis://127.0.0.1:7", "unix:///s"]
    assert single(HERE, port=None, bind=["10.1.2.3"], socket=Path("/s")).local


@pytest.mark.parametrize(
    ("bind", "url", "local"),
    [
        (["0.0.0.0"], "redis://127.0.0.1:7", False),  # noqa: S104 - only looked at
        (["::"], "redis://[::1]:7", False),
        (["10.1.2.3", "127.0.0.1"], "redis://10.1.2.3:7", False),
        (["::1"], "redis://[::1]:7", True),
    ],
)
def test_other_addresses(bind: list[str], url: str, local: bool) -> None:
    """Clients are told an address that they can reach."""
    layout = single(HERE, port=7, bind=bind)

    assert layout.urls() == [url]
    assert layout.local is local


def test_replicas_and_sentinels() -> None:
    """Replicas follow the master, Sentinels are 20,000 above; clients are told of the Sentinels."""
    layout = replicated(HERE, port=100, replicas=2, sentinels=3)

    assert ports(layout)[:3] == [
        ("master", 100, None),
        ("replica", 101, 100),
        ("replica", 102, 100),
    ]
    assert ports(layout)[3:] == [("sentinel", port, None) for port in (20100, 20101, 20102)]
    hosts = "127.0.0.1:20100,127.0.0.1:20101,127.0.0.1:20102"
    assert layout.urls() == [f"redis+sentinel://{hosts}/millstream"]
    assert replicated(HERE, port=100, replicas=1).urls("x@") == ["redis://x@127.0.0.1:100"]
    assert len({node.directory for node in layout.nodes}) == 6


def test_a_cluster() -> None:
    """Masters come first; each replica has a master; clients are told of the masters."""
    layout = clustered(HERE, port=7, masters=3, replicas=2)

    assert ports(layout)[:3] == [("master", port, None) for port in (7, 8, 9)]
    assert [master for role, _, master in ports(layout)[3:]] == [7, 8, 9, 7, 8, 9]
    assert layout.urls() == ["redis+cluster://127.0.0.1:7,127.0.0.1:8,127.0.0.1:9"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: single(HERE, port=0), "--socket"),
        (lambda: single(HERE, port=65_536), "no port"),
        (lambda: single(HERE, port=7, bind=["here"]), "--bind takes an IP address"),
        (lambda: single(HERE, port=None, socket=Path("/" + "x" * 120)), "too long"),
        (lambda: replicated(HERE, port=7, replicas=0, sentinels=1), "--replicas 1"),
        (lambda: replicated(HERE, port=60_000, replicas=1, sentinels=1), "no port"),
        (lambda: replicated(HERE, port=0, replicas=1), "need a port"),
        (lambda: clustered(HERE, port=56_000, masters=3), "no port"),
        (lambda: clustered(HERE, port=7000, masters=1000), "1000 processes"),
        (lambda: replicated(HERE, port=7000, replicas=10**12), "processes are more"),
    ],
)
def test_what_cannot_be(make: Callable[[], Layout], said: str) -> None:
    """What would listen nowhere, or nobody can want, is refused."""
    with pytest.raises(UsageError, match=said):
        make()
