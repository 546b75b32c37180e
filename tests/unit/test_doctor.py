"""What facts mean for messages: each check of the doctor, with facts as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from millstream.errors import ServerRefused
from millstream.message import ConsumerStats
from millstream.protocol.doctor.examine import in_order, of_queues, of_server
from millstream.protocol.doctor.facts import Facts, LatencyEvent, Refusal, SlowCall, gather
from millstream.protocol.doctor.finding import Finding
from millstream.protocol.doctor.queues import Backlog, Survey, survey, watched
from millstream.protocol.doctor.rights import lacking, rights
from millstream.protocol.op import Op

GIB = 2**30

GOOD = Facts(
    info={
        "redis_version": "7.2.4",
        "valkey_version": "8.1.4",
        "aof_enabled": "1",
        "aof_last_write_status": "ok",
        "aof_last_bgrewrite_status": "ok",
        "rdb_last_bgsave_status": "ok",
        "maxmemory": str(4 * GIB),
        "used_memory": str(GIB),
        "total_system_memory": str(16 * GIB),
        "mem_fragmentation_ratio": "1.1",
        "evicted_keys": "0",
        "role": "master",
        "connected_slaves": "1",
        "slave0": "ip=10.0.0.2,port=6379,state=online,offset=12,lag=1",
        "min_slaves_good_slaves": "1",
        "connected_clients": "12",
        "maxclients": "10000",
    },
    config={
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "save": "3600 1",
        "maxmemory-policy": "noeviction",
        "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
        "min-replicas-to-write": "1",
        "timeout": "0",
        "tcp-keepalive": "300",
    },
    slow=(SlowCall("XADD", 0.02, 1000),),
    now=2000.0,
    round_trips=(0.0001, 0.0002),
    clock_ahead=0.01,
)
"""A server that nothing is wrong with."""


def facts(
    info: Mapping[str, str | None] | None = None,
    config: Mapping[str, str | None] | None = None,
    **other: Any,
) -> Facts:
    """The good server, but for some facts; None: it does not say."""

    def merged(base: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
        both = {**base, **changes}
        return {name: value for name, value in both.items() if value is not None}

    return replace(
        GOOD,
        info=merged(GOOD.info, info or {}),
        config=merged(GOOD.config, config or {}),
        **other,
    )


def told(some: Facts) -> dict[str, str]:
    """Check -> severity."""
    return {one.check: one.severity for one in of_server(some)}


def test_a_good_server_gets_no_finding() -> None:
    """Nothing is said of a server that is as it should be."""
    assert told(GOOD) == {}


def test_of_what_is_unknown_nothing_is_said() -> None:
    """A server that says nothing has no findings but that it says nothing."""
    silent = Facts(refused=(Refusal("INFO", "NOPERM"), Refusal("CONFIG GET", "NOPERM")))

    assert told(Facts()) == {}
    assert told(silent) == {"unchecked.info": "note", "unchecked.config_get": "note"}


@pytest.mark.parametrize(
    ("info", "config", "expected"),
    [
        ({"aof_enabled": "0"}, {"save": ""}, {"persistence.off": "loses"}),
        ({"aof_enabled": "0"}, {"save": "100 1"}, {"persistence.rdb_only": "loses"}),
        ({"aof_enabled": "0"}, {"save": None}, {"persistence.rdb_only": "loses"}),
        ({"aof_enabled": None}, {"appendonly": "no"}, {"persistence.rdb_only": "loses"}),
        ({"aof_enabled": None}, {"appendonly": None}, {}),
        ({}, {"appendfsync": "no"}, {"persistence.fsync_no": "loses"}),
        ({}, {"appendfsync": "everysec"}, {"persistence.fsync_everysec": "note"}),
        (
            {},
            {"no-appendfsync-on-rewrite": "yes"},
            {"persistence.no_fsync_on_rewrite": "loses"},
        ),
        ({"aof_last_write_status": "err"}, {}, {"persistence.aof_write_failed": "loses"}),
        ({"aof_last_bgrewrite_status": "err"}, {}, {"persistence.aof_rewrite_failed": "risk"}),
        ({"rdb_last_bgsave_status": "err"}, {}, {"persistence.rdb_failed": "risk"}),
        (
            {"aof_enabled": "0", "rdb_last_bgsave_status": "err"},
            {},
            {"persistence.rdb_only": "loses", "persistence.rdb_failed": "loses"},
        ),
        ({"aof_delayed_fsync": "3"}, {}, {"persistence.fsync_delayed": "risk"}),
        ({}, {"maxmemory-policy": "allkeys-lru"}, {"memory.policy": "loses"}),
        ({}, {"maxmemory-policy": "volatile-ttl"}, {"memory.policy": "loses"}),
        (
            {"maxmemory_policy": "allkeys-lfu"},
            {"maxmemory-policy": None},
            {"memory.policy": "loses"},
        ),
        (
            {"maxmemory": "0"},
            {"maxmemory-policy": "allkeys-lru"},
            {"memory.policy": "note", "memory.unlimited": "risk"},
        ),
        ({"evicted_keys": "5"}, {}, {"memory.evicted": "loses"}),
        ({"used_memory": str(4 * GIB)}, {}, {"memory.nearly_full": "risk"}),
        ({"maxmemory": str(16 * GIB)}, {}, {"memory.limit_too_high": "risk"}),
        ({"mem_fragmentation_ratio": "2.5"}, {}, {"memory.fragmented": "note"}),
        ({"mem_fragmentation_ratio": "0.5"}, {}, {"memory.swapped": "risk"}),
        ({"mem_fragmentation_ratio": "9", "used_memory": "1000"}, {}, {}),
        ({"mem_fragmentation_ratio": "nan?"}, {}, {}),
        ({"errorstat_OOM": "count=12"}, {}, {"memory.refused": "risk"}),
        ({}, {"min-replicas-to-write": "0"}, {"replication.no_minimum": "loses"}),
        ({"min_slaves_good_slaves": "0"}, {}, {"replication.too_few": "risk"}),
        (
            {"min_slaves_good_slaves": "0"},
            {"min-replicas-to-write": None},
            {"replication.too_few": "risk"},
        ),
        (
            {"min_slaves_good_slaves": None},
            {"min-replicas-to-write": None},
            {"replication.no_minimum": "loses"},
        ),
        ({"slave0": None}, {}, {"replication.none": "note"}),
        (
            {"slave0": "ip=10.0.0.2,port=6379,state=online,offset=1,lag=45"},
            {},
            {"replication.lag": "risk"},
        ),
        (
            {"slave0": "ip=10.0.0.2,port=6379,state=wait_bgsave,offset=0,lag=0"},
            {},
            {"replication.not_online": "risk"},
        ),
        (
            {"role": "slave", "master_link_status": "up"},
            {},
            {"replication.is_replica": "risk"},
        ),
        (
            {"role": "slave", "master_link_status": "down"},
            {"replica-read-only": "no"},
            {
                "replication.is_replica": "risk",
                "replication.link_down": "risk",
                "replication.writable": "loses",
            },
        ),
        ({}, {"timeout": "30"}, {"connections.timeout": "note"}),
        ({}, {"timeout": "3600"}, {}),
        ({}, {"tcp-keepalive": "0"}, {"connections.keepalive": "risk"}),
        ({"connected_clients": "9000"}, {}, {"connections.nearly_all": "risk"}),
        (
            {},
            {"client-output-buffer-limit": "normal 1000 0 0 slave 1000 0 0 pubsub 0 0 0"},
            {
                "connections.normal_buffer": "note",
                "connections.replica_buffer": "risk",
                "connections.pubsub_buffer": "risk",
            },
        ),
        ({}, {"client-output-buffer-limit": "nonsense"}, {}),
    ],
    ids=str,
)
def test_server(
    info: dict[str, str | None], config: dict[str, str | None], expected: dict[str, str]
) -> None:
    """Each fact that is not as it should be is found, and nothing else."""
    assert told(facts(info, config)) == expected


@pytest.mark.parametrize(
    ("redis", "valkey", "expected"),
    [
        ("8.2.1", None, {"version.stream_crash": "loses", "version.lua": "risk"}),
        ("8.2.2", None, {}),
        ("8.4.0", None, {}),
        ("7.0.15", None, {"version.lua": "risk"}),
        ("7.4.6", None, {}),
        ("7.4.5", None, {"version.lua": "risk"}),
        ("6.2.20", None, {}),
        ("7.2.4", "8.1.3", {"version.lua": "risk"}),
        ("7.2.4", "9.0.0", {}),
        ("8.2.1", "8.1.4", {}),
        ("255.255.255", None, {}),
        ("unstable", None, {}),
        (None, None, {}),
    ],
)
def test_versions(redis: str | None, valkey: str | None, expected: dict[str, str]) -> None:
    """Versions with known holes are named, and Valkey by its own version."""
    assert told(facts({"redis_version": redis, "valkey_version": valkey})) == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"slow": (SlowCall("KEYS", 2.5, 1900),)}, {"speed.slow_commands": "risk"}),
        ({"slow": (SlowCall("KEYS", 2.5, 1900),), "now": 1e6}, {}),
        ({"latency": (LatencyEvent("fork", 1.5),)}, {"speed.latency": "risk"}),
        ({"latency": (LatencyEvent("fork", 0.1),)}, {}),
        ({"round_trips": (0.0001, 0.03, 0.04)}, {"speed.far": "risk"}),
        ({"clock_ahead": -30.0}, {"speed.clock": "note"}),
        ({"clock_ahead": None, "round_trips": ()}, {}),
        (
            {"cluster": {"cluster_state": "fail", "cluster_slots_assigned": "16000"}},
            {"cluster.slots": "risk"},
        ),
        (
            {
                "cluster": {
                    "cluster_state": "ok",
                    "cluster_slots_assigned": "16384",
                    "cluster_slots_fail": "0",
                    "cluster_slots_pfail": "100",
                }
            },
            {"cluster.failing": "risk"},
        ),
        (
            {"cluster": {"cluster_state": "fail", "cluster_slots_assigned": "16384"}},
            {"cluster.down": "risk"},
        ),
        ({"cluster": {"cluster_state": "ok", "cluster_slots_assigned": "16384"}}, {}),
    ],
    ids=str,
)
def test_what_was_measured(other: dict[str, Any], expected: dict[str, str]) -> None:
    """Slow commands, latency, distance, clocks and slots."""
    assert told(replace(GOOD, **other)) == expected


def test_each_finding_says_what_why_and_what_to_do() -> None:
    """No text is empty, and none spans lines."""
    bad = facts(
        {"aof_enabled": "0", "evicted_keys": "1", "maxmemory": "0"},
        {"save": "", "maxmemory-policy": "allkeys-lru", "tcp-keepalive": "0"},
    )
    found = [*of_server(bad)]

    assert len(found) >= 5
    for one in found:
        assert all(text and "\n" not in text for text in (one.what, one.why, one.fix))


def test_the_worst_comes_first() -> None:
    """What can lose messages, then risks, then notes; the server before queues."""
    findings = [
        Finding(severity=severity, check="c", subject=subject, what="", why="", fix="")  # type: ignore[arg-type]
        for severity, subject in (
            ("note", "server"),
            ("risk", "queue 'a'"),
            ("loses", "queue 'a'"),
            ("risk", "server"),
        )
    ]

    assert [(one.severity, one.subject) for one in in_order(findings)] == [
        ("loses", "queue 'a'"),
        ("risk", "server"),
        ("risk", "queue 'a'"),
        ("note", "server"),
    ]


# What the server answers


def test_answers_become_facts() -> None:
    """What is refused is noted; what a command was given is not kept."""
    op = gather()
    asked = [str(one.arguments[-1]) for one in op.commands if one.arguments[0] == "CONFIG"]
    settings = [[name.encode(), b"1"] for name in asked]
    slow = [[1, 1000, 250_000, [b"xadd", b"key", b"*", b"b", b"secret"], b"addr", b"name"]]
    read = op.decode(
        [
            b"# Server\r\nredis_version:7.0.0\r\nbroken\r\n",
            b"alice",
            slow,
            Exception("NOPERM no"),
            Exception("ERR This instance has cluster support disabled"),
            *settings,
        ]
    )

    assert read.info == {"redis_version": "7.0.0"}
    assert read.user == "alice"
    assert read.slow == (SlowCall("XADD", 0.25, 1000),)
    assert read.refused == (Refusal("LATENCY LATEST", "NOPERM no"),)
    assert read.config["save"] == "1"
    assert "secret" not in repr(read)


def test_no_password_is_asked_for() -> None:
    """CONFIG GET would tell requirepass and masterauth."""
    asked = {one.arguments[-1] for one in gather().commands if one.arguments[0] == "CONFIG"}

    assert not {name for name in asked if "pass" in str(name) or "auth" in str(name)}
    assert "*" not in "".join(str(name) for name in asked)


def test_rights_are_not_tried_where_they_would_be_used() -> None:
    """Without transactions nothing is sent: it would be done."""
    plan = lacking("ms", ["xadd", "del"])
    first = next(plan)
    assert isinstance(first, Op)
    assert [one.arguments[0] for one in first.commands] == ["MULTI", "GET", "EXEC"]
    with pytest.raises(StopIteration) as end:
        plan.send(first.decode([Exception("no permissions to run the 'multi' command")] * 3))

    assert isinstance(end.value.value, Refusal)


def test_rights_of_a_role() -> None:
    """What a user may not do is a note, or a risk if somebody wants it to."""
    missing: list[Any] = [("worker", ["xadd"]), ("doctor", [])]

    [by_the_way] = rights("bob", missing, asked=False)
    [wanted] = rights(None, missing, asked=True)

    assert (by_the_way.severity, wanted.severity) == ("note", "risk")
    assert by_the_way.check == "rights.worker"
    assert by_the_way.fix == "ACL SETUSER bob +xadd"


# Queues


def looked(name: str, before: Backlog, after: Backlog, seconds: float = 2.0) -> dict[str, str]:
    looks = watched(Survey({name: before}), Survey({name: after}), seconds)
    return {one.check: one.severity for one in of_queues(looks)}


ALIVE = (ConsumerStats(name="w", in_flight=1, idle=1.0),)
GONE = (ConsumerStats(name="w", in_flight=0, idle=500.0),)
STUCK = (ConsumerStats(name="w", in_flight=3, idle=500.0),)
BUSY = Backlog(waiting=100, oldest=5.0, consumers=ALIVE)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (BUSY, BUSY, {}),
        (BUSY, replace(BUSY, waiting=500), {"queue.growing": "risk"}),
        (BUSY, replace(BUSY, waiting=105), {}),
        # A burst that is being worked off.
        (BUSY, replace(BUSY, waiting=500, oldest=0.5), {}),
        (BUSY, replace(BUSY, waiting=500, paused=True), {"queue.paused": "note"}),
        (Backlog(), Backlog(waiting=3, oldest=90.0), {"queue.unconsumed": "risk"}),
        (Backlog(), Backlog(waiting=3, oldest=5.0), {}),
        (
            Backlog(),
            Backlog(waiting=3, oldest=90.0, consumers=GONE),
            {"queue.unconsumed": "risk", "queue.gone": "note"},
        ),
        (Backlog(), Backlog(consumers=GONE), {"queue.gone": "note"}),
        # Its lease is longer than its silence.
        (Backlog(), Backlog(consumers=STUCK, in_flight=3, lease=600.0), {}),
        (Backlog(), Backlog(consumers=STUCK, in_flight=3), {"queue.stuck": "risk"}),
        (Backlog(), Backlog(dead=3), {"queue.dead_letters": "note"}),
    ],
)
def test_queue(before: Backlog, after: Backlog, expected: dict[str, str]) -> None:
    """Growth, neglect, dead consumers and dead letters are found."""
    assert looked("orders", before, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            Backlog(),
            Backlog(waiting=5, oldest=4000.0, kept=(10, 1000)),
            {"topic.forgotten": "risk"},
        ),
        (Backlog(), Backlog(waiting=5, oldest=4000.0, kept=(10, 1000), consumers=ALIVE), {}),
        (Backlog(trimmed=1), Backlog(trimmed=5), {"topic.trimmed": "loses"}),
        (Backlog(trimmed=5), Backlog(trimmed=5), {"topic.trimmed_before": "note"}),
    ],
)
def test_subscription(before: Backlog, after: Backlog, expected: dict[str, str]) -> None:
    """A subscription that nobody reads holds its topic; what retention took from it is lost."""
    assert looked("placed/mail", before, after) == expected


def test_the_rate_is_said() -> None:
    """How fast a backlog grows, and how fast it is worked off."""
    looks = watched(
        Survey({"q": BUSY}), Survey({"q": replace(BUSY, waiting=500, ended=50)}), seconds=4.0
    )
    [growing] = of_queues(looks)

    assert "grows by 100 messages a second, to 500 now; 12 a second are handled" in growing.what


def test_a_survey_survives_refusals() -> None:
    """Who may not even list queues is told so."""

    def drive(plan: Any) -> Any:
        plan.close()
        raise ServerRefused("NOPERM scan", code="NOPERM")

    [refused] = survey("ms", drive).refused

    assert "'ms'" in refused.question
