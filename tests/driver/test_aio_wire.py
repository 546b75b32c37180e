"""One connection for many tasks: everybody gets his own reply, whatever happens to the others."""

from __future__ import annotations

import asyncio
import contextlib
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis import exceptions

from millstream.driver.aio_wire import AsyncWire
from millstream.driver.packing import pack
from millstream.driver.target import resolve
from millstream.protocol.op import Argument, Command
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port
from tests.support.wait import auntil

Make = Callable[..., AsyncWire]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Make wires, which are closed at the end."""
    async with AsyncExitStack() as stack:

        def make(url: str, *, connect_timeout: float = 5, timeout: float = 10) -> AsyncWire:
            wire = AsyncWire(resolve(url), connect_timeout=connect_timeout, timeout=timeout)
            stack.push_async_callback(wire.close)
            return wire

        yield make


async def call(wire: AsyncWire, *arguments: Argument) -> Any:
    """Send one command and return its reply."""
    (reply,) = await wire.call(pack([Command(arguments)]), 1)
    return reply


async def echoes(wire: AsyncWire, text: str = "x") -> bool:
    return bool(await call(wire, "ECHO", text) == text.encode())


async def test_many_calls_get_their_own_replies(server: Server, make: Make) -> None:
    """Hundreds of calls at a time, of one command or several, get what they asked for."""
    wire = make(server.url)

    async def ask(number: int) -> None:
        commands = [Command(("ECHO", f"{number}.{part}")) for part in range(number % 4 + 1)]
        replies = await wire.call(pack(commands), len(commands))
        assert replies == [f"{number}.{part}".encode() for part in range(len(commands))]

    await asyncio.gather(*(ask(number) for number in range(500)))


async def test_an_error_stands_in_the_place_of_its_reply(server: Server, make: Make) -> None:
    """A command that is refused does not disturb the others of its write."""
    wire = make(server.url)
    commands = [Command(("ECHO", "1")), Command(("NONSENSE",)), Command(("ECHO", "2"))]

    one, error, two = await wire.call(pack(commands), 3)

    assert (one, two) == (b"1", b"2")
    assert isinstance(error, exceptions.ResponseError)


async def test_it_connects_once(own_server: Server, make: Make) -> None:
    """Calls that begin before there is a connection share the one that is made."""
    wire = make(own_server.url)

    await asyncio.gather(*(echoes(wire) for _ in range(50)))

    clients: Any = own_server.admin().client_list()
    assert len(clients) == 2  # this wire, and the asking client


async def test_a_cancelled_caller_leaves_the_wire_in_step(proxy: Proxy, make: Make) -> None:
    """A call that is cancelled while it waits does not give its reply to the next."""
    wire = make(proxy.url)
    assert await echoes(wire)
    proxy.stall(requests=False)
    calls = [asyncio.create_task(call(wire, "ECHO", f"{n}")) for n in range(4)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[2].cancel()
    await asyncio.wait([calls[0], calls[2]])
    proxy.resume()

    assert await calls[1] == b"1"
    assert await calls[3] == b"3"
    assert await echoes(wire)
    assert proxy.connections == 1


async def test_a_cancelled_write_leaves_no_half_command(proxy: Proxy, make: Make) -> None:
    """A call that is cancelled in the middle of a large write does not disturb those behind it."""
    wire = make(proxy.url)
    assert await echoes(wire)
    proxy.stall(replies=False)
    large = asyncio.create_task(call(wire, "ECHO", b"x" * 50_000_000))
    others = [asyncio.create_task(call(wire, "ECHO", f"{n}")) for n in range(3)]
    await asyncio.sleep(0)

    large.cancel()
    others[1].cancel()
    await asyncio.wait([large, others[1]])
    proxy.resume()

    assert (await others[0], await others[2]) == (b"0", b"2")
    assert await echoes(wire, "next")
    assert proxy.connections == 1


async def test_a_loss_in_the_middle_of_a_large_write(proxy: Proxy, make: Make) -> None:
    """Those who wait to write hear of a loss as soon as those who wait for a reply."""
    wire = make(proxy.url, timeout=2)
    assert await echoes(wire)
    proxy.stall()
    calls = [asyncio.create_task(call(wire, "ECHO", b"x" * 20_000_000)) for _ in range(3)]
    started = time.monotonic()

    results = await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(result, OSError | exceptions.RedisError) for result in results)
    assert time.monotonic() - started < 4  # each for itself: two seconds more
    proxy.resume()
    assert await echoes(wire)


async def test_a_cut_reaches_all_who_wait(proxy: Proxy, make: Make) -> None:
    """When the connection is lost, every call on it fails at once, and the next one reconnects."""
    wire = make(proxy.url)
    assert await echoes(wire)
    proxy.stall()
    calls = [asyncio.create_task(echoes(wire)) for _ in range(20)]
    await asyncio.sleep(0)

    proxy.cut()

    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {exceptions.ConnectionError}
    proxy.resume()
    assert await echoes(wire)


async def test_an_idle_wire_notices_a_cut(own_server: Server, make: Make) -> None:
    """A connection that was lost while nobody used it costs the next call nothing."""
    wire = make(own_server.url)
    assert await echoes(wire)

    own_server.restart()
    await auntil(lambda: wire._connection is None)

    assert await echoes(wire)


async def test_silence_is_a_timeout(proxy: Proxy, make: Make) -> None:
    """A server that does not answer is given up after the timeout, and found again later."""
    wire = make(proxy.url, timeout=1.5)
    assert await echoes(wire)
    proxy.stall()
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        await echoes(wire)

    assert 1.5 <= time.monotonic() - started < 8
    proxy.resume()
    assert await echoes(wire)


async def test_one_timeout_wakes_all_who_wait(proxy: Proxy, make: Make) -> None:
    """Calls behind the one that timed out do not wait for their own timeouts."""
    wire = make(proxy.url, timeout=1.5)
    assert await echoes(wire)
    proxy.stall()
    started = time.monotonic()

    results = await asyncio.gather(*(echoes(wire) for _ in range(10)), return_exceptions=True)

    assert time.monotonic() - started < 10  # one after the other: fifteen seconds
    assert all(isinstance(result, TimeoutError | exceptions.ConnectionError) for result in results)


async def test_refused_at_once(make: Make) -> None:
    """Where nobody listens, a call fails at once."""
    wire = make(f"redis://127.0.0.1:{free_port()}")
    started = time.monotonic()

    with pytest.raises(exceptions.ConnectionError):
        await echoes(wire)

    assert time.monotonic() - started < 4


async def test_a_black_hole(black_hole: int, make: Make) -> None:
    """Where nobody answers, a call fails after the time for connecting, and so do all others."""
    wire = make(f"redis://127.0.0.1:{black_hole}", connect_timeout=0.3)
    started = time.monotonic()

    with pytest.raises((TimeoutError, exceptions.TimeoutError)):
        await echoes(wire)

    assert 0.2 <= time.monotonic() - started < 4


async def test_a_server_that_accepts_and_is_silent(proxy: Proxy, make: Make) -> None:
    """A hanging server's kernel accepts; logging in has to succeed within the same time."""
    proxy.stall()
    wire = make(proxy.url.replace("//", "//:password@"), connect_timeout=0.3)
    started = time.monotonic()

    with pytest.raises((TimeoutError, exceptions.TimeoutError)):
        await echoes(wire)

    assert time.monotonic() - started < 4


async def test_a_reply_that_nobody_asked_for(own_server: Server, make: Make) -> None:
    """What the server says unasked cannot be matched to a call, so the connection is given up."""
    wire = make(own_server.url)
    assert await call(wire, "MONITOR") == b"OK"

    own_server.admin().ping()

    await auntil(lambda: wire._connection is None)
    assert await echoes(wire)


async def test_another_protocol(make: Make) -> None:
    """A server that speaks something else is an error for all who wait, not a silence."""
    with speaking_http() as port:
        wire = make(f"redis://127.0.0.1:{port}", timeout=5)
        started = time.monotonic()
        calls: list[Awaitable[bool]] = [echoes(wire) for _ in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(result, exceptions.RedisError) for result in results)
    assert time.monotonic() - started < 4


@contextlib.contextmanager
def speaking_http() -> Iterator[int]:
    """A server that answers every connection as a web server does; yields its port."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


async def test_a_missing_password_is_an_answer(own_server: Server, make: Make) -> None:
    """NOAUTH is an answer to a call, and not the loss of the connection."""
    wire = make(own_server.tcp_url)
    assert await echoes(wire)
    own_server.admin().config_set("requirepass", "secret")
    assert await call(wire, "RESET") == b"RESET"
    reply = await call(wire, "PING")

    assert isinstance(reply, exceptions.AuthenticationError)
    assert await call(wire, "AUTH", "secret") == b"OK"
    assert await echoes(wire)


async def test_close(proxy: Proxy, make: Make) -> None:
    """Closing fails the calls that wait, and those that come later; twice is fine."""
    wire = make(proxy.url)
    assert await echoes(wire)
    proxy.stall()
    waiting = asyncio.create_task(echoes(wire))
    await asyncio.sleep(0)

    await wire.close()
    await wire.close()

    with pytest.raises(exceptions.ConnectionError, match="closed"):
        await waiting
    with pytest.raises(exceptions.ConnectionError, match="closed"):
        await echoes(wire)
    proxy.resume()
    await auntil(lambda: proxy.connections == 0)


async def test_close_while_it_connects(proxy: Proxy, make: Make) -> None:
    """A connection that comes about during the close is not left open."""
    proxy.stall()
    wire = make(proxy.url.replace("//", "//:password@"), connect_timeout=2)
    calling = asyncio.create_task(echoes(wire))
    await auntil(lambda: proxy.connections == 1)

    await wire.close()
    proxy.resume()

    with pytest.raises((exceptions.RedisError, TimeoutError)):
        await calling
    await auntil(lambda: proxy.connections == 0)


async def test_close_before_it_connects(server: Server, make: Make) -> None:
    """Who waits for a connection that was not even begun is told the same, and is not cancelled."""
    wire = make(server.url)
    calling = asyncio.create_task(echoes(wire))
    await asyncio.sleep(0)  # it asks for a connection, which begins in the next turn
    await wire.close()
    with pytest.raises(exceptions.ConnectionError, match="closed"):
        await calling


async def test_the_patience_of_one_who_waits_for_the_connection(proxy: Proxy, make: Make) -> None:
    """His time is over; the others get the connection that is being made."""
    proxy.stall()
    wire = make(proxy.url)
    loop = asyncio.get_running_loop()
    patient = asyncio.create_task(echoes(wire))
    with pytest.raises(TimeoutError):
        await wire.call(pack([Command(("PING",))]), 1, until=loop.time() + 0.05)
    proxy.resume()
    assert await patient


async def test_the_patience_of_one_who_waits_for_a_reply(proxy: Proxy, make: Make) -> None:
    """His time is over; his reply is dropped when it comes, and the connection stays."""
    wire = make(proxy.url)
    assert await echoes(wire)
    loop = asyncio.get_running_loop()
    proxy.stall()
    patient = asyncio.create_task(echoes(wire, "y"))
    with pytest.raises(TimeoutError):
        await wire.call(pack([Command(("ECHO", "late"))]), 1, until=loop.time() + 0.05)
    proxy.resume()
    assert await patient
    assert await echoes(wire, "z")
    assert wire.losses == 0


async def test_the_patience_of_one_who_waits_for_room(proxy: Proxy, make: Make) -> None:
    """His time is over also while the socket takes nothing, for others have filled it."""
    wire = make(proxy.url)
    assert await echoes(wire)
    loop = asyncio.get_running_loop()
    proxy.stall()
    full = asyncio.create_task(echoes(wire, "x" * 20_000_000))
    await asyncio.sleep(0)
    begun = loop.time()
    with pytest.raises(TimeoutError):
        await wire.call(pack([Command(("PING",))]), 1, until=begun + 0.05)
    assert loop.time() < begun + 5  # without it, 10
    proxy.resume()
    assert await full
