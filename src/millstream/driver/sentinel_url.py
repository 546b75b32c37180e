"""What a ``redis+sentinel://`` URL says: where the Sentinels are, and whom they are asked for.

    redis+sentinel://[user:password@]host[:26379][,host...]/name[/db][?option=value&...]

User, password, database and options are for the servers; ``sentinel_username`` and
``sentinel_password`` are for the Sentinels. With TLS, both get the options of TLS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import redis.connection

from millstream.errors import UsageError

__all__ = ["PORT", "Named", "read"]

PORT = 26379

_LOGIN = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True, slots=True)
class Named:
    """A primary by its name.

    Attributes:
        name: under which the Sentinels know it.
        options: for connections to the servers, as redis-py reads them of a URL.
        sentinels: for connections to each Sentinel.
    """

    name: str
    options: Mapping[str, Any] = field(repr=False)
    sentinels: Sequence[Mapping[str, Any]] = field(repr=False)


def read(rest: str, *, tls: bool) -> Named:
    """Read what stands behind the scheme.

    Raises:
        UsageError: it makes no sense.
        ValueError: so it is, but the text may have parts of the URL in it, and so a secret.
    """
    place, _, query = rest.partition("?")
    login, at, place = place.rpartition("@")
    hosts, _, path = place.partition("/")
    name, _, db = path.partition("/")
    if not name:
        message = (
            "a URL of Sentinels needs the name of the primary: redis+sentinel://host1,host2/name"
        )
        raise UsageError(message)
    if db and not db.isdecimal():
        message = (
            "behind the name of the primary, a URL of Sentinels has the number of the database"
        )
        raise UsageError(message)
    items = parse_qsl(query, keep_blank_values=True)
    if unknown := [key for key, _ in items if key.startswith("sentinel_") and key not in _LOGIN]:
        message = f"{unknown[0]} is not known: there are {' and '.join(_LOGIN)}"
        raise ValueError(message)
    for_servers = urlencode([(key, value) for key, value in items if key not in _LOGIN])
    options = _parsed(f"{login}{at}server/{db}?{for_servers}", tls=tls)
    del options["host"]
    login_there = {_LOGIN[key]: value for key, value in items if key in _LOGIN}
    secured = {key: value for key, value in options.items() if key.startswith("ssl_")}
    sentinels = [{"port": PORT, **_host(one), **login_there, **secured} for one in hosts.split(",")]
    return Named(unquote(name), options, sentinels)


def _host(text: str) -> dict[str, Any]:
    host = _parsed(text, tls=False)
    if "host" not in host:
        message = "the host of a Sentinel is missing in the URL"
        raise UsageError(message)
    return host


def _parsed(text: str, *, tls: bool) -> dict[str, Any]:
    parse: Any = redis.connection.parse_url
    options = dict(parse(f"{'rediss' if tls else 'redis'}://{text}"))
    options.pop("connection_class", None)
    return options
