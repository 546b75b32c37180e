"""The connections of a test at a server that other tests have used before.

One of them may still be there: the server learns in its own time of a client that was closed by force.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.servers import Server

__all__ = ["newcomers", "newcomers_asleep"]


def newcomers(server: Server) -> Callable[[], list[dict[str, str]]]:
    """Make a list of the connections that were opened after this call, as CLIENT LIST tells of them."""
    admin: Any = server.admin()
    newest = int(admin.client_id())
    return lambda: [one for one in admin.client_list() if int(one["id"]) > newest]


def newcomers_asleep(server: Server) -> Callable[[], int]:
    """Make a count of those that sleep in a read that waits."""
    found = newcomers(server)
    return lambda: sum("b" in one["flags"] for one in found())
