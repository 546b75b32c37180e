"""A run with a primary that Sentinels watch, and its replica.

Sends are confirmed by the replica (``durability="replicas:1"``), so none that is confirmed may be
lost. What else is confirmed, such as an acknowledgement, has no such promise: a failover may forget the
last moments.

One replica: WAIT does not say which of several has confirmed, and Sentinels that are asked to fail over
while the primary lives may promote another one. Who has two asks for ``replicas:2``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.schedule import Fault, Kind
from tests.chaos.topology import DURABLE, LAG, Forgetting, Strike, Topology
from tests.support.sentinel import SentinelSetup

__all__ = ["SENTINELS", "sentinels"]

SENTINELS = (
    Kind("kill-primary", ("server",), 0.0, 3.0, weight=5),
    Kind("stop-primary", ("server",), 0.2, 6.0, weight=5),
    Kind("fail-over", ("server",), 0.0, 0.0, weight=3),
    Kind("kill-replica", ("server",), 0.0, 3.0, weight=2),
)


@contextmanager
def sentinels(server_name: str = "valkey-8.1") -> Iterator[Topology]:
    """Start a primary, a replica, and three Sentinels."""
    with SentinelSetup(server_name, replicas=1, appendonly=True) as setup:
        yield Topology(
            f"{server_name}, a primary and a replica under three Sentinels, sends with durability replicas:1",
            setup.url,
            [server.port for server in (*setup.servers, *setup.sentinels)],
            lambda: [setup.primary],
            SENTINELS,
            _strikes(setup),
            dict.fromkeys(("kill-primary", "stop-primary", "fail-over"), Forgetting(LAG, False)),
            DURABLE,
        )


def _strikes(setup: SentinelSetup) -> dict[str, Strike]:
    async def kill(fault: Fault) -> None:
        old = await asyncio.to_thread(lambda: setup.primary)
        old.kill()
        await asyncio.to_thread(setup.wait_for_failover, old)
        await asyncio.sleep(fault.seconds)  # the work itself
        old.start()

    async def stop(fault: Fault) -> None:
        old = await asyncio.to_thread(lambda: setup.primary)
        old.pause()
        # Longer than it takes to count as down: then it comes back and takes itself for the primary.
        await asyncio.sleep(fault.seconds)  # the work itself
        old.resume()

    async def fail_over(fault: Fault) -> None:
        await asyncio.to_thread(setup.fail_over)

    async def kill_replica(fault: Fault) -> None:
        [replica, *_] = await asyncio.to_thread(lambda: setup.replicas)
        replica.kill()
        await asyncio.sleep(fault.seconds)  # the work itself
        replica.start()

    def settled(strike: Strike) -> Strike:
        async def until_all_is_well(fault: Fault) -> None:
            await strike(fault)
            await asyncio.to_thread(setup.settle)

        return until_all_is_well

    return {
        "kill-primary": settled(kill),
        "stop-primary": settled(stop),
        "fail-over": settled(fail_over),
        "kill-replica": settled(kill_replica),
    }
