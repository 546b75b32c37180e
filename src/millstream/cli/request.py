"""``millstream request``."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from millstream.cli.json_input import why_not_json
from millstream.cli.names import endpoint_of
from millstream.cli.options import Header, Json, Namespace, Url
from millstream.cli.outgoing import checked_bodies, given, headers_of, opened
from millstream.cli.output import body_value, json_line, say, show_json
from millstream.errors import BrokerError, DeliveryError, MillstreamError, UsageError
from millstream.sync.client import Client

__all__ = ["request"]

EndpointName = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Name of the endpoint.", show_default=False)
]
Body = Annotated[
    str | None,
    typer.Argument(metavar="BODY", help="The request: a JSON value.", show_default=False),
]
FromFile = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="The request is what is in a file. - is standard input.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="S", help="Seconds that it may take in all.")
]
Progress = Annotated[
    bool, typer.Option("--progress", help="Show on stderr what the handler says of its progress.")
]

TOLD = ("id", "type_name", "detail", "traceback", "reason", "state")
"""What errors know, for scripts."""


def request(
    endpoint: EndpointName,
    body: Body = None,
    *,
    source: FromFile = None,
    header: Header = None,
    timeout: Timeout = 5.0,
    progress: Progress = False,
    json_output: Json = False,
    url: Url = None,
    namespace: Namespace = "ms",
) -> None:
    """Ask an endpoint and print its reply."""
    # These say what is wrong before it connects.
    target = endpoint_of(endpoint, timeout)
    headers = headers_of(header)
    data = _body(body, source, target.max_body)
    began = time.monotonic()
    try:
        with Client(url, namespace=namespace) as client:
            reply = client.request(
                target, data, headers=headers, on_progress=_show_note if progress else None
            )
            seconds = time.monotonic() - began
    except (BrokerError, DeliveryError) as error:
        if json_output:
            show_json(_failure(endpoint, error))
        raise
    found = body_value(reply)
    if json_output:
        found = {"endpoint": endpoint, "reply": found, "seconds": round(seconds, 4)}
    show_json(found)


def _body(body: str | None, source: str | None, longest: int) -> bytes:
    """Return the request.

    Raises:
        UsageError: there is none, or two, or it is not JSON.
    """
    given_here = checked_bodies(None if body is None else [body], source)
    if given_here:
        return given_here[0]
    with opened(source) as file:
        assert file is not None  # noqa: S101 - there is a source
        # A file may be endless. What is too long is refused where all bodies are.
        data = file.read(longest + 1).strip()
    if len(data) <= longest and (reason := why_not_json(data)) is not None:
        message = f"what is in {source} is {reason}"
        raise UsageError(message)
    return data


def _show_note(note: Any) -> None:
    say(f"progress: {json_line(note).decode()}")


def _failure(endpoint: str, error: MillstreamError) -> dict[str, Any]:
    """Return what came instead of a reply."""
    known = {name: getattr(error, name, None) for name in TOLD}
    return {
        "endpoint": endpoint,
        "error": type(error).__name__,
        "message": str(error),
        **given(**known),
    }
