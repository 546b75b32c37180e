"""Where the server is: a URL or a ready-made redis-py client becomes a ``Target``.

A target makes plain redis-py connections. Drivers use these directly and not through redis-py's
client classes: their retries, pools and reply parsers cost more than the server does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

import redis.asyncio.connection as async_connections
import redis.connection as blocking_connections
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.sentinel import SentinelConnectionPool

from millstream.driver.embedded import EmbeddedServer, start_or_join
from millstream.errors import UsageError

try:
    from redis.driver_info import DriverInfo
except ImportError:  # an older redis-py, which reads its version once
    _WHO: Mapping[str, Any] = {}
else:
    # By itself it reads its version anew for each connection, from the package's metadata: this
    # takes longer than to connect.
    _WHO = {"driver_info": DriverInfo()}

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "Target",
    "Transport",
    "hide_password",
    "resolve",
    "target_options",
]

ENVIRONMENT_VARIABLE = "MILLSTREAM_URL"

_QUERY_ITEM = re.compile(r"(?P<name>[?&][^=&]*)=[^&]*")

Transport = Literal["tcp", "tls", "unix"]

_SCHEMES = {
    "redis": "redis",
    "valkey": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
}

_CLASSES: Mapping[Transport, tuple[Any, Any]] = {
    "tcp": (async_connections.Connection, blocking_connections.Connection),
    "tls": (async_connections.SSLConnection, blocking_connections.SSLConnection),
    "unix": (
        async_connections.UnixDomainSocketConnection,
        blocking_connections.UnixDomainSocketConnection,
    ),
}

# What a ready-made client and a URL may say about a connection. Timeouts, retries, protocol and
# decoding are the driver's business.
_OPTIONS = {"host", "port", "path", "db", "username", "password", "credential_provider"} | {
    "client_name",
    "socket_keepalive_options",
}


@dataclass(frozen=True, slots=True)
class Target:
    """One server and how to reach it.

    Attributes:
        url: for people, its password hidden.
        transport: TCP, TLS or a unix socket.
        options: for redis-py's connection.
        embedded: our share in an embedded server, to be closed at the end.
    """

    url: str
    transport: Transport
    options: Mapping[str, Any]
    embedded: EmbeddedServer | None = None

    def __repr__(self) -> str:
        """Show no secrets."""
        return f"Target({self.url!r})"

    def async_connection(self, connect_timeout: float) -> Any:
        """Make a connection for asyncio; it is not connected yet.

        Raises:
            UsageError: it is to check certificates in a way that redis-py has for blocking ones only.
        """
        if unknown := sorted(name for name in self.options if "ocsp" in name):
            message = (
                f"{unknown[0]} is not known to redis-py's connections for asyncio: "
                "leave it out, or use the blocking Client"
            )
            raise UsageError(message)
        # The driver has its own timers: redis-py's would put each write into a task of its own.
        return _CLASSES[self.transport][0](**self._common(connect_timeout), socket_timeout=None)

    def blocking_connection(self, connect_timeout: float, timeout: float | None) -> Any:
        """Make a blocking connection; it is not connected yet."""
        return _CLASSES[self.transport][1](**self._common(connect_timeout), socket_timeout=timeout)

    def _common(self, connect_timeout: float) -> dict[str, Any]:
        keepalive = {} if self.transport == "unix" else {"socket_keepalive": True}
        return {
            **keepalive,
            **_WHO,
            **self.options,
            "socket_connect_timeout": connect_timeout,
            "protocol": 2,
            "decode_responses": False,
        }


def resolve(source: object = None) -> Target:
    """Find the server.

    Args:
        source: a URL (``redis:// rediss:// valkey:// valkeys:// unix:// embedded://[dir]``), or
            a ready-made ``redis.Redis`` or ``redis.asyncio.Redis``, whose address and
            credentials are taken. None: the URL in ``$MILLSTREAM_URL``, else ``embedded://``.

    Raises:
        UsageError: it is no such thing.
        NotConnected: an embedded server could not be started.
    """
    if source is None:
        source = os.environ.get(ENVIRONMENT_VARIABLE) or "embedded://"
    if isinstance(source, str):
        return _from_url(source)
    pool = getattr(source, "connection_pool", None)
    if pool is not None:
        return _from_pool(pool)
    message = f"expected a URL or a redis-py client, not {type(source).__name__}"
    raise UsageError(message)


def hide_password(url: str) -> str:
    """Return a URL that may be shown: without its password, wherever it stands.

    It takes nothing for granted: a URL that cannot be read is shown in an error.
    """
    url = _QUERY_ITEM.sub(_hide_item, url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    # A password may have characters in it that should have been escaped.
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{separator}{user}{colon and ':***'}{at}{place}"


def _hide_item(item: re.Match[str]) -> str:
    secret = "password" in unquote(item["name"]).lower()
    return f"{item['name']}=***" if secret else item[0]


def _from_url(url: str) -> Target:
    scheme, separator, rest = url.partition("://")
    if scheme == "embedded" and separator:
        server = start_or_join(unquote(rest) or None)
        shown = f"embedded://{server.directory}"
        return Target(shown, "unix", {"path": str(server.socket_path)}, server)
    known = _SCHEMES.get(scheme) if separator else None
    if known is None:
        known_schemes = "://, ".join([*_SCHEMES, "redis+cluster", "embedded"])
        message = f"{hide_password(url)!r} is not a URL of {known_schemes}://"
        raise UsageError(message)
    try:
        parse: Any = blocking_connections.parse_url
        options: dict[str, Any] = dict(parse(f"{known}://{rest}"))
    except ValueError as error:
        # What it cannot read may be a part of the password, so neither text nor cause is shown.
        detail = "" if "@" in url else f": {error}"
        message = f"cannot read the URL {hide_password(url)!r}{detail}"
        raise UsageError(message) from None
    connection_class = options.pop("connection_class", blocking_connections.Connection)
    return Target(hide_password(url), _transport(connection_class), target_options(options))


def _from_pool(pool: Any) -> Target:
    if isinstance(pool, SentinelConnectionPool | AsyncSentinelConnectionPool):
        # It has no address of its own, and the default one would be another server.
        message = "a client that a Sentinel made is not supported: pass the URL of the master"
        raise UsageError(message)
    options = target_options(pool.connection_kwargs)
    transport = _transport(pool.connection_class)
    if transport == "unix":
        shown = f"unix://{options.get('path', '')}"
    else:
        scheme = "rediss" if transport == "tls" else "redis"
        shown = f"{scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return Target(shown, transport, options)


def _transport(connection_class: Any) -> Transport:
    """Tell the transport of a redis-py connection class, ours or derived from it."""
    for transport in ("unix", "tls", "tcp"):
        if issubclass(connection_class, _CLASSES[transport]):
            return transport
    message = f"connections of the class {connection_class.__name__} are not supported"
    raise UsageError(message)


def target_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is taken of a client's or a URL's options."""
    return {
        name: value
        for name, value in options.items()
        if (name in _OPTIONS or name.startswith("ssl")) and not _is_unsaid(name, value)
    }


def _is_unsaid(name: str, value: object) -> bool:
    # A blocking client says of each check that it is off, also those that asyncio does not know.
    return value is None or ("ocsp" in name and value is False)
