"""``--read-from``: commands that only look can ask a replica."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Cli, cli_for
from tests.support.sentinel import SLOW, SentinelSetup
from tests.support.wait import until


def evaluated(setup: SentinelSetup) -> int:
    """How many scripts the replica has been asked for."""
    stats: Any = setup.replicas[0].admin().info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_a_replica_answers(
    namespace: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a URL of Sentinels, the replica is asked when it is wanted, and only then."""
    with SentinelSetup() as setup:
        cli = cli_for(setup.limited_url, namespace, monkeypatch, capfd)
        assert cli("send", "orders", "1").status == 0
        assert cli("stats", "orders", "--json").objects[0]["ready"] == 1
        assert evaluated(setup) == 0

        def there() -> bool:
            found = cli("stats", "orders", "--json", "--read-from", "replica").objects
            return bool(found[0]["ready"] == 1)

        until(there, SLOW)
        before = evaluated(setup)
        assert before > 0
        assert cli("peek", "orders", "--read-from", "replica", "--json").objects[0]["body"] == 1
        assert evaluated(setup) > before
        for command in ("dead", "replay"):
            assert cli(command, "orders", "--read-from", "replica").status == 0


def test_one_server_answers(cli: Cli) -> None:
    """Without Sentinels there is one server to ask; nobody else can be named."""
    cli("send", "orders", "1")
    assert cli("peek", "orders", "--read-from", "replica", "--json").objects[0]["body"] == 1
    wrong = cli("stats", "--read-from", "secondary")
    assert wrong.status == 2
    assert "replica" in wrong.err
