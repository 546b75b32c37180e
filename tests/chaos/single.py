"""A run with one server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from tests.chaos.schedule import Fault, Kind
from tests.chaos.topology import Forgetting, Topology
from tests.support.servers import Server

__all__ = ["SINGLE", "Persistence", "single"]

Persistence = Literal["always", "everysec"]

SINGLE = (
    Kind("kill-server", ("server",), 0.0, 3.0, weight=3),
    Kind("restart-server", ("server",), 0.0, 1.0),
    Kind("stop-server", ("server",), 0.1, 6.0, weight=2),
)

UNWRITTEN = Forgetting(2.5, sends=True)
"""What was confirmed that a server with ``appendfsync everysec`` may forget when it is killed: it
writes before it answers, but puts that off for up to 2 s while the disk is slow."""


@contextmanager
def single(
    server_name: str = "valkey-8.1", persistence: Persistence = "always"
) -> Iterator[Topology]:
    """Start one server.

    Args:
        server_name: which one.
        persistence: its ``appendfsync``.
    """
    with Server(server_name, appendonly=True, appendfsync=persistence) as server:
        # start() does not leave the thread, so that the server ends with this process.

        async def kill(fault: Fault) -> None:
            server.kill()
            await asyncio.sleep(fault.seconds)  # the work itself
            server.start()

        async def restart(fault: Fault) -> None:
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(fault.seconds)  # the work itself
            server.start()

        async def stop(fault: Fault) -> None:
            server.pause()
            await asyncio.sleep(fault.seconds)  # the work itself
            server.resume()

        yield Topology(
            f"one {server_name}, appendfsync {persistence}",
            server.tcp_url,
            [server.port],
            lambda: [server],
            SINGLE,
            {"kill-server": kill, "restart-server": restart, "stop-server": stop},
            {"kill-server": UNWRITTEN} if persistence == "everysec" else {},
        )
