"""What several commands take alike."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.declare import Queue
from millstream.driver.target import ENVIRONMENT_VARIABLE
from millstream.errors import UsageError
from millstream.policy import Retry

__all__ = ["Json", "Limit", "Namespace", "QueueName", "Url", "queue_of"]

QueueName = Annotated[
    str, typer.Argument(metavar="QUEUE", help="Name of the queue.", show_default=False)
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=ENVIRONMENT_VARIABLE,
        metavar="URL",
        help="The server. Default: a server of one's own, embedded://",
        show_default=False,
    ),
]
Namespace = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="First part of all keys.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Limit = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show N at most.")]

NEVER = 2**31 - 1


def queue_of(name: str) -> Queue[bytes]:
    """Declare a queue without knowing what its bodies are.

    Raises:
        UsageError: no queue can have this name.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = f"the queue's name must be valid UTF-8, not {name!r}"
        raise UsageError(message) from error
    # Who receives may be elected to take over expired leases. It does not know how many crashes
    # the workers of this queue allow, so it leaves it to them to give a message up.
    return Queue(name, bytes, retry=Retry(max_crashes=NEVER))
