"""TLS in front of a server: the servers that the tests start are built without it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator

import trustme

from tests.support.servers import free_port

DEADLINE = 10.0


@contextlib.contextmanager
def tls_proxy(
    upstream: int, authority: trustme.CA, *, clients: trustme.CA | None = None
) -> Iterator[int]:
    """Forward what comes over TLS to 127.0.0.1:`upstream`; the value is the port to connect to.

    Its certificate is for `localhost`. With `clients`, these need one of that authority.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    port = free_port()
    ready, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(_serve(port, upstream, context, ready, end)),
        name="tls",
        daemon=True,
    )
    thread.start()
    try:
        assert ready.wait(DEADLINE)
        yield port
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(DEADLINE)
        loop.close()


async def _serve(
    port: int, upstream: int, context: ssl.SSLContext, ready: threading.Event, end: asyncio.Event
) -> None:
    links: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        links.add(task)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", upstream)
        writers.extend((writer, to_server))
        try:
            ways = [_copy(reader, to_server), _copy(from_server, writer)]
            await asyncio.wait(map(asyncio.ensure_future, ways))
        finally:
            links.discard(task)

    async with await asyncio.start_server(link, "127.0.0.1", port, ssl=context):
        ready.set()
        await end.wait()
        if links:
            await asyncio.wait(links, timeout=DEADLINE)
    for one in writers:
        one.transport.abort()
    # The loop closes the sockets in its next turns.
    for _ in range(3):
        await asyncio.sleep(0)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
