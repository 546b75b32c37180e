"""Notes of progress while connections break."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import millstream as ms
from tests.faults.working import NAMESPACE, PATIENCE
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.serving import serving
from tests.support.wait import auntil

INDEX: ms.Endpoint[Any, Any] = ms.Endpoint("index", timeout=60, lease=60)


@pytest.mark.parametrize("bad", ["worker", "caller"])
async def test_notes_are_told_once_and_in_order(own_server: Server, proxy: Proxy, bad: str) -> None:
    """Connections that are cut, and confirmations that are lost, change nothing of them."""
    worker = ms.Worker()

    @worker.on(INDEX)
    async def count(body: int, request: ms.Request[int]) -> str:
        for number in range(body):
            await request.progress(number)
        return "done"

    notes: list[int] = []
    of_worker, of_caller = (
        (proxy.url, own_server.url) if bad == "worker" else (own_server.url, proxy.url)
    )
    async with (
        ms.AsyncClient(of_caller, namespace=NAMESPACE) as mq,
        serving(own_server.admin(), of_worker, NAMESPACE, worker),
    ):
        request = asyncio.create_task(mq.request(INDEX, 600, on_progress=notes.append))
        for goal in range(50, 600, 100):
            await auntil(lambda goal=goal: len(notes) >= goal, PATIENCE)  # type: ignore[misc]
            await asyncio.to_thread(proxy.cut)
            if bad == "worker":
                await asyncio.to_thread(proxy.drop_replies, to=b"XADD")
        assert await request == "done"

    assert notes == [*range(600)]
