"""Both drivers against servers that restart, hang, refuse and forget."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from millstream.errors import NotConnected, ServerRefused, TimedOut, UsageError
from millstream.protocol import admin as operations
from millstream.protocol.keys import queue_keys
from millstream.protocol.op import Command, Op, Pause, Plan
from millstream.protocol.send import send
from tests.driver.drivers import Driver, Kind, make, op, opened, ops
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port
from tests.support.wait import auntil

PING = op("PING")


def password(server: Server, word: str) -> None:
    """Ask new connections for a password; those that are there stay."""
    server.admin().config_set("requirepass", word)


# --- working ----------------------------------------------------------------------------------


async def test_operations(any_server: Server, kind: Kind) -> None:
    """An operation's commands go out together, and its decoder gets their raw replies."""
    async with opened(kind, any_server.limited_url) as driver:
        assert await driver.run(PING) == b"PONG"
        replies = await driver.run(ops(("ECHO", "a"), ("ECHO", b"\xff\x00"), ("ECHO", 7)))

    assert replies == [b"a", b"\xff\x00", b"7"]


async def test_many_operations_at_a_time(server: Server, kind: Kind) -> None:
    """Concurrent operations, from tasks or threads, get their own results."""
    async with opened(kind, server.url) as driver:
        numbers = range(200)
        results = await asyncio.gather(*(driver.run(op("ECHO", n)) for n in numbers))

    assert results == [str(n).encode() for n in numbers]


async def test_a_transaction(any_server: Server, kind: Kind, namespace: str) -> None:
    """Its commands run together, and their replies come as those of any operation."""
    key = f"{namespace}:n"
    together = replace(ops(("SET", key, 1), ("INCR", key), ("GET", key)), atomic=True)
    async with opened(kind, any_server.limited_url) as driver:
        assert await driver.run(together) == [b"OK", 2, b"2"]
        await driver.run(op("DEL", key))


async def test_a_transaction_that_is_refused(server: Server, kind: Kind, namespace: str) -> None:
    """The error is that of the command: refused before it ran, or when it did."""
    key = f"{namespace}:n"
    async with opened(kind, server.url) as driver:
        for command, code in ((("NONSENSE",), "ERR"), (("LPUSH", key, 1), "WRONGTYPE")):
            with pytest.raises(ServerRefused) as caught:
                await driver.run(replace(ops(("SET", key, 1), command), atomic=True))
            assert caught.value.code == code
        await driver.run(op("DEL", key))


async def test_a_transaction_without_memory(own_server: Server, kind: Kind) -> None:
    """A full server takes none; the commands that it runs all the same are run one by one."""
    async with opened(kind, own_server.url) as driver:
        await driver.run(op("SET", "k", 1))
        own_server.admin().config_set("maxmemory", 1)

        assert await driver.run(replace(ops(("GET", "k"), ("DEL", "k")), atomic=True)) == [b"1", 1]


async def test_a_user_who_may_begin_no_transaction(own_server: Server, kind: Kind) -> None:
    """The commands run as they come, and what they answer is not lost."""
    rules = ["+@all", "-multi", "-exec"]
    admin: Any = own_server.admin()
    admin.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", *rules)
    url = f"redis://u:p@127.0.0.1:{own_server.port}"
    async with opened(kind, url) as driver:
        together = replace(ops(("SET", "n", 1), ("INCR", "n")), atomic=True)
        assert await driver.run(together) == [b"OK", 2]


async def test_the_first_operation_connects(server: Server, kind: Kind) -> None:
    """A driver that was not opened connects with its first operations, once."""
    driver = make(kind, server.url)
    assert driver.url == ""

    results = await asyncio.gather(*(driver.run(PING) for _ in range(10)))

    assert set(results) == {b"PONG"}
    assert driver.url == server.url
    await driver.close()


async def test_a_plan(server: Server, kind: Kind, namespace: str) -> None:
    """A plan's operations run one after the other, each with the result of the one before."""
    key = f"{namespace}:n"

    def count() -> Plan[list[int]]:
        seen = []
        for _ in range(3):
            seen.append((yield op("INCR", key)))
            yield Pause(0.05)
        yield op("DEL", key)
        return seen

    async with opened(kind, server.url) as driver:
        started = time.monotonic()
        assert await driver.drive(count()) == [1, 2, 3]
        assert time.monotonic() - started >= 0.15


async def test_a_plan_may_handle_a_failure(server: Server, kind: Kind) -> None:
    """A plan gets the error of an operation where it asked for it; unhandled, it is raised."""

    def careful() -> Plan[str]:
        try:
            yield op("NONSENSE")
        except ServerRefused as error:
            yield PING
            return error.code
        return ""

    def careless() -> Plan[None]:
        yield PING
        yield op("NONSENSE")

    async with opened(kind, server.url) as driver:
        assert await driver.drive(careful()) == "ERR"
        with pytest.raises(ServerRefused):
            await driver.drive(careless())


# --- refusals ---------------------------------------------------------------------------------


async def test_a_refusal_is_not_repeated(server: Server, kind: Kind, namespace: str) -> None:
    """An error of the server is raised at once, with its code and what it means."""
    async with opened(kind, server.limited_url) as driver:
        started = time.monotonic()
        with pytest.raises(ServerRefused, match=r"on the keys foreign.*millstream acl") as caught:
            await driver.run(op("SET", "foreign", "1"))
        assert time.monotonic() - started < 4

    assert caught.value.code == "NOPERM"
    assert "suite:***@" in str(caught.value)


async def test_an_error_among_several_replies(server: Server, kind: Kind) -> None:
    """When one of an operation's commands is refused, the operation is."""
    async with opened(kind, server.url) as driver:
        with pytest.raises(ServerRefused):
            await driver.run(ops(("PING",), ("NONSENSE",), ("PING",)))
        assert await driver.run(PING) == b"PONG"


@pytest.mark.parametrize("login", ["", "default:wrong@", "nobody:secret@", ":wrong@"])
async def test_a_wrong_password(own_server: Server, kind: Kind, login: str) -> None:
    """A login that fails is a refusal that says so, at once, and not a lost connection."""
    password(own_server, "secret")
    driver = make(kind, f"redis://{login}127.0.0.1:{own_server.port}")
    started = time.monotonic()

    with pytest.raises(ServerRefused, match="password") as caught:
        await driver.open()

    assert time.monotonic() - started < 4
    assert caught.value.code == ("WRONGPASS" if login else "NOAUTH")
    assert "wrong" not in str(caught.value).replace("is wrong", "")
    await driver.close()


async def test_a_password_that_was_changed(own_server: Server, kind: Kind) -> None:
    """A login that begins to fail while the driver is in use is a refusal, too, not retried."""
    async with opened(kind, own_server.tcp_url, timeout=5) as driver:
        password(own_server, "secret")
        own_server.admin().client_kill_filter(_type="normal", skipme=True)
        started = time.monotonic()

        with pytest.raises(ServerRefused) as caught:
            await driver.run(PING)

        assert caught.value.code == "NOAUTH"
        assert time.monotonic() - started < 4
        own_server.admin().config_set("requirepass", "")
        assert await driver.run(PING) == b"PONG"


# --- losses -----------------------------------------------------------------------------------


async def test_nobody_listens(kind: Kind) -> None:
    """A refused connection is NotConnected at once, and the password is not shown."""
    url = f"redis://app:s3cret@127.0.0.1:{free_port()}"
    driver = make(kind, url)
    started = time.monotonic()

    with pytest.raises(NotConnected) as caught:
        await driver.run(PING)

    assert time.monotonic() - started < 4
    assert caught.value.url == url.replace("s3cret", "***")
    assert "s3cret" not in str(caught.value)
    await driver.close()


async def test_a_black_hole(kind: Kind, black_hole: int) -> None:
    """Where nobody answers, opening fails within connect_timeout."""
    driver = make(kind, f"redis://127.0.0.1:{black_hole}", connect_timeout=0.5)
    started = time.monotonic()

    with pytest.raises(TimedOut, match=str(black_hole)):
        await driver.open()

    assert 0.3 < time.monotonic() - started < 5
    await driver.close()


@pytest.mark.parametrize("login", ["", ":secret@"])
async def test_a_server_that_hangs_from_the_start(proxy: Proxy, kind: Kind, login: str) -> None:
    """A server whose kernel accepts, but that does not answer, fails within connect_timeout."""
    proxy.stall()
    url = proxy.url.replace("//", f"//{login}")
    driver = make(kind, url, connect_timeout=0.5, timeout=10)
    started = time.monotonic()

    with pytest.raises(TimedOut):
        await driver.open()

    assert 0.3 < time.monotonic() - started < 5
    await driver.close()


async def test_all_who_connect_share_the_attempt(proxy: Proxy, kind: Kind) -> None:
    """A server that hangs from the start takes all who wait for it the same time, not one after the other."""
    proxy.stall()
    driver = make(kind, proxy.url, connect_timeout=2)
    began = time.monotonic()
    runs = (driver.run(PING) for _ in range(6))
    found = await asyncio.gather(*runs, return_exceptions=True)

    assert time.monotonic() - began < 9  # one after the other: 12
    assert {type(error) for error in found} == {TimedOut}
    proxy.resume()
    assert await driver.run(PING) == b"PONG"
    await driver.close()


async def test_who_has_less_time_than_the_attempt(proxy: Proxy, kind: Kind) -> None:
    """Its operation fails in its own time; that of others goes on."""
    proxy.stall()
    driver = make(kind, proxy.url, connect_timeout=60)
    patient = asyncio.ensure_future(driver.run(PING))
    await auntil(lambda: proxy.connections > 0)
    with pytest.raises(TimedOut):
        await driver.run(replace(PING, patience=0.3))
    assert not patient.done()
    proxy.resume()
    assert await patient == b"PONG"
    await driver.close()


async def test_a_server_that_hangs_later(proxy: Proxy, kind: Kind) -> None:
    """A server that stops answering is TimedOut within the timeout, and used again later."""
    async with opened(kind, proxy.url, connect_timeout=2, timeout=2) as driver:
        proxy.stall()
        started = time.monotonic()

        with pytest.raises(TimedOut):
            await driver.run(PING)

        assert 1.9 < time.monotonic() - started < 8
        proxy.resume()
        assert await driver.run(PING) == b"PONG"


async def test_a_hanging_server_takes_everybody_the_same_time(proxy: Proxy, kind: Kind) -> None:
    """Many who wait for a server that hangs give up together, not one after the other."""
    async with opened(kind, proxy.url, connect_timeout=1, timeout=1) as driver:
        proxy.stall()
        started = time.monotonic()

        results = await asyncio.gather(
            *(driver.run(PING) for _ in range(6)), return_exceptions=True
        )

        assert {type(result) for result in results} <= {TimedOut, NotConnected}
        assert time.monotonic() - started < 5  # one after the other: at least six seconds
        proxy.resume()
        assert await driver.run(PING) == b"PONG"


async def test_a_process_that_hangs(own_server: Server, kind: Kind) -> None:
    """A stopped server process is TimedOut; when it goes on, so does the driver."""
    async with opened(kind, own_server.tcp_url, timeout=2) as driver:
        own_server.pause()
        try:
            with pytest.raises(TimedOut):
                await driver.run(PING)
        finally:
            own_server.resume()

        assert await driver.run(PING) == b"PONG"


async def test_a_restart(own_server: Server, kind: Kind) -> None:
    """After a restart the next operation connects again by itself."""
    async with opened(kind, own_server.url) as driver:
        for _ in range(3):
            own_server.restart()
            assert await driver.run(PING) == b"PONG"


async def test_a_restart_while_idle_costs_no_operation(own_server: Server, kind: Kind) -> None:
    """A connection that was lost while it was idle does not fail what must not be repeated."""
    async with opened(kind, own_server.url) as driver:
        for _ in range(3):
            await asyncio.to_thread(own_server.restart)
            assert await driver.run(op("ECHO", "x", repeatable=False)) == b"x"


async def test_operations_outlast_a_restart(own_server: Server, kind: Kind) -> None:
    """Operations that begin while the server is down succeed when it comes back in time."""
    async with opened(kind, own_server.url, timeout=10) as driver:
        own_server.stop()
        waiting = [asyncio.create_task(driver.run(PING)) for _ in range(5)]
        done, _ = await asyncio.wait(waiting, timeout=0.2)
        assert not done

        own_server.start()

        assert await asyncio.gather(*waiting) == [b"PONG"] * 5


async def test_a_server_that_stays_away(own_server: Server, kind: Kind) -> None:
    """When the server does not come back within the timeout, the operation is NotConnected."""
    async with opened(kind, own_server.url, timeout=0.5) as driver:
        own_server.stop()
        started = time.monotonic()

        with pytest.raises(NotConnected):
            await driver.run(PING)

        assert time.monotonic() - started < 5


async def test_a_lost_reply_is_asked_for_again(
    server: Server, proxy: Proxy, kind: Kind, namespace: str
) -> None:
    """A repeatable operation runs again when its reply was lost."""
    key = f"{namespace}:n"
    async with opened(kind, proxy.url) as driver:
        proxy.drop_replies(to=b"INCR")

        assert await driver.run(op("INCR", key)) == 2

    assert proxy.lost == 1
    server.admin().delete(key)


async def test_what_is_not_repeatable_runs_once(
    server: Server, proxy: Proxy, kind: Kind, namespace: str
) -> None:
    """An operation that must not be repeated fails when its reply was lost, and ran once."""
    key = f"{namespace}:n"
    async with opened(kind, proxy.url) as driver:
        proxy.drop_replies(to=b"INCR")

        with pytest.raises(NotConnected):
            await driver.run(op("INCR", key, repeatable=False))

        assert server.admin().get(key) == b"1"
        assert await driver.run(op("DEL", key)) == 1


async def test_a_cut_half_way_through_a_reply(
    server: Server, proxy: Proxy, kind: Kind, namespace: str
) -> None:
    """Half a reply is not taken for one; the operation is run again on a new connection."""
    async with opened(kind, proxy.url) as driver:
        proxy.drop_replies(after=1000, to=b"ECHO")

        assert await driver.run(op("ECHO", b"x" * 5000)) == b"x" * 5000
        assert await driver.run(op("ECHO", "next")) == b"next"


# --- servers that cannot serve at the moment --------------------------------------------------


async def test_forgotten_scripts_are_loaded_again(
    any_server: Server, kind: Kind, namespace: str
) -> None:
    """After SCRIPT FLUSH an operation loads its script and runs, also among other commands."""
    keys = queue_keys(namespace, "orders")
    async with opened(kind, any_server.limited_url) as driver:
        for number in range(1, 4):
            any_server.admin().script_flush()
            await driver.run(send(keys, "producer", number, [b"1", b"2"]))
            assert (await driver.run(operations.stats(keys))).ready == 2 * number

        any_server.admin().script_flush()
        stats = operations.stats(keys)
        three = Op((PING.commands[0], *stats.commands, PING.commands[0]), decode=list)
        before, _, after = await driver.run(three)
        assert (before, after) == (b"PONG", b"PONG")


async def test_an_optional_command(any_server: Server, kind: Kind, namespace: str) -> None:
    """Its error is left among the replies, and the others count; without the word it is raised."""
    wrong = ("HSET", f"{namespace}:key")
    async with opened(kind, any_server.limited_url) as driver:
        optional = Op((Command(wrong, optional=True), PING.commands[0]), decode=list)
        error, pong = await driver.run(optional)
        assert isinstance(error, Exception)
        assert pong == b"PONG"

        with pytest.raises(ServerRefused, match="wrong number of arguments"):
            await driver.run(Op((Command(wrong), PING.commands[0]), decode=list))


async def test_a_replica_becomes_a_master(any_server: Server, kind: Kind, namespace: str) -> None:
    """READONLY passes: an operation waits until the server is a master again."""
    keys = queue_keys(namespace, "orders")
    admin: Any = any_server.admin()
    async with opened(kind, any_server.limited_url, timeout=10) as driver:
        await driver.run(send(keys, "producer", 1, [b"1"]))
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            sending = asyncio.create_task(driver.run(send(keys, "producer", 2, [b"2"])))
            setting = asyncio.create_task(driver.run(op("SET", f"{namespace}:x", "1", "PX", 50)))
            done, _ = await asyncio.wait([sending, setting], timeout=0.3)
            assert not done
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")
        await asyncio.gather(sending, setting)
        assert (await driver.run(operations.stats(keys))).ready == 2


async def test_a_replica_that_stays_one(own_server: Server, kind: Kind) -> None:
    """When the server remains a replica, the operation says so after its timeout."""
    async with opened(kind, own_server.url, timeout=2) as driver:
        replicate: Any = own_server.admin().execute_command
        replicate("REPLICAOF", "127.0.0.1", "1")

        with pytest.raises(NotConnected, match="READONLY"):
            await driver.run(op("SET", "x", "1"))


async def test_an_address_that_leads_to_another_master(
    own_server: Server, server: Server, kind: Kind, namespace: str
) -> None:
    """When a demoted server's address has passed to the new master, the driver finds that one,
    although its connection to the old one is fine.
    """
    key = f"{namespace}:x"
    with Proxy(own_server.port) as proxy:
        async with opened(kind, proxy.url, timeout=10) as driver:
            await driver.run(op("SET", key, "old"))
            proxy._wire._upstream = server.port
            replicate: Any = own_server.admin().execute_command
            replicate("REPLICAOF", "127.0.0.1", "1")

            await driver.run(op("SET", key, "new", "PX", 60_000))

            assert server.admin().get(key) == b"new"


async def test_a_server_that_loads_its_data(kind: Kind) -> None:
    """LOADING passes: an operation waits until the data is there, and opening succeeds meanwhile."""
    with Server(extra=["key-load-delay 2000", "loading-process-events-interval-bytes 1024"]) as one:
        admin: Any = one.admin()
        admin.mset({f"key-{n}": "x" * 100 for n in range(400)})
        admin.save()
        one.kill()
        starting = threading.Thread(target=one.start)
        starting.start()
        driver = make(kind, one.url, timeout=20)
        await auntil(lambda: _opens(driver))
        refused = await driver.run(op("INFO", "persistence"))

        assert await driver.run(op("GET", "key-399")) == b"x" * 100

        assert b"loading:1" in refused
        await asyncio.to_thread(starting.join)
        await driver.close()


async def _opens(driver: Driver) -> bool:
    try:
        await driver.open()
    except NotConnected:
        return False  # its socket is not there yet
    return True


# --- closing ----------------------------------------------------------------------------------


async def test_close(own_server: Server, kind: Kind) -> None:
    """A closed driver has no connection, makes none, and says that it is closed."""
    admin: Any = own_server.admin()
    driver = make(kind, own_server.url)
    await driver.run(PING)

    await driver.close()
    await driver.close()

    await auntil(lambda: len(admin.client_list()) == 1)
    for call in (driver.run(PING), driver.open()):
        with pytest.raises(UsageError, match="closed"):
            await call
    assert len(admin.client_list()) == 1


async def test_close_ends_the_tries(own_server: Server, kind: Kind) -> None:
    """An operation that tries again and again ends when the driver is closed."""
    driver = make(kind, own_server.url, timeout=30)
    await driver.open()
    own_server.stop()
    waiting = asyncio.create_task(driver.run(PING))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    started = time.monotonic()

    await driver.close()

    with pytest.raises((NotConnected, UsageError)):
        await waiting
    assert time.monotonic() - started < 10
