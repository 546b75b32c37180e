"""Asking all workers of an endpoint at once.

Such a call is no message of the queue: nobody settles it, and it is not delivered again. It goes by the
queue's control stream, which every worker reads, with the fields of a request: body, headers, deadline,
and where the replies go.
"""

from __future__ import annotations

from typing import Any

from millstream.endpoint import Endpoint
from millstream.errors import UsageError
from millstream.protocol.keys import QueueKeys
from millstream.protocol.op import Op, load_script
from millstream.protocol.requests import Outgoing

__all__ = ["LONGEST", "check_length", "gathering"]

_GATHER = load_script("gather")

LONGEST = 64 * 1024
"""Bytes of body and headers together: each call stays in the control stream for a minute, up to a
thousand of them."""


def check_length(endpoint: Endpoint[Any, Any], body: bytes, headers: bytes) -> None:
    """Refuse what is too much to be told to all workers.

    Raises:
        UsageError: body and headers are too long.
    """
    if (length := len(body) + len(headers)) > LONGEST:
        message = (
            f"{endpoint.title}: what all workers are asked may have {LONGEST} bytes, headers included, "
            f"and this has {length}. Put it where they can read it, and send them the place"
        )
        raise UsageError(message)


def gathering(
    keys: QueueKeys, call: Outgoing, *, now_ms: int | None = None
) -> Op[tuple[str, list[str]]]:
    """Ask all workers of an endpoint; the result is the id of the call, and who is asked.

    Args:
        keys: of the endpoint's queue.
        call: what they are asked; its address is that of no other call.
        now_ms: the time, for tests; None: the server's clock.

    Nobody is asked, and the id is empty, when no worker serves the endpoint.
    """
    arguments = ["" if now_ms is None else now_ms, call.left_ms]
    command = _GATHER.call(
        [keys.members, keys.control], [*arguments, call.body, call.headers, call.address]
    )

    def decode(replies: list[Any]) -> tuple[str, list[str]]:
        if not replies[0]:
            return "", []
        id, *members = (one.decode() for one in replies[0])
        return id, members

    return Op((command,), decode, patience=call.left_ms / 1000)
