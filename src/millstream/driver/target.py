"""Where the server is: a URL or a ready-made redis-py client becomes a ``Target``.

A target makes plain redis-py connections. Drivers use these directly and not through redis-py's
client classes: their retries, pools and reply parsers cost more than the server does.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import unquote

import redis.asyncio.connection as async_connections
import redis.connection as blocking_connections
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.sentinel import SentinelConnectionPool

from millstream.driver import sentinel_url
from millstream.driver.embedded import EmbeddedServer, start_or_join
from millstream.driver.secured import secured
from millstream.driver.sentinel import shown
from millstream.driver.sentinels import Sentinels
from millstream.errors import UsageError
from millstream.security import Security

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
    "check_server",
    "hide_password",
    "resolve",
    "target_options",
]

logger = logging.getLogger("millstream.driver")
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
_SENTINEL = "+sentinel"
_CLUSTER = "+cluster"
_DATABASE = re.compile(r"/?[0-9]*/?")

SENTINEL_CONNECT_TIMEOUT = 1.5
"""Seconds to reach a server that Sentinels have named: a host that is gone does not refuse, and there
may be another primary by then."""

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
        sentinels: who tell where it is, if it has no address of its own; to be closed at the end.
        replica: whether a replica of it is meant.
    """

    url: str
    transport: Transport
    options: Mapping[str, Any]
    embedded: EmbeddedServer | None = None
    sentinels: Sentinels | None = None
    replica: bool = False

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

    async def connect(self, connection: Any) -> None:
        """Connect a connection for asyncio, to where the server is now.

        Raises:
            redis-py's errors, OSError.
        """
        if self.sentinels is None:
            await connection.connect()
        else:
            await self.sentinels.connect_async(connection, replica=self.replica)

    def connect_blocking(self, connection: Any, until: float | None = None) -> None:
        """Connect a blocking connection in the same way.

        Args:
            connection: it.
            until: time on the monotonic clock up to which to wait for Sentinels.
        """
        if self.sentinels is None:
            connection.connect()
        else:
            self.sentinels.connect(connection, replica=self.replica, until=until)

    def replicas(self) -> Target | None:
        """Return its replicas as a target of their own; None: nobody could tell where they are."""
        return None if self.sentinels is None else replace(self, replica=True)

    def node(self, address: tuple[str, int]) -> Target:
        """Return one of the servers that the Sentinels know, by its address, whatever it is."""
        scheme = "rediss" if self.transport == "tls" else "redis"
        host, port = address
        options = {**self.options, "host": host, "port": port}
        return replace(
            self, url=f"{scheme}://{shown(address)}", options=options, sentinels=None, replica=False
        )

    def close(self) -> None:
        """Leave what was started for it. It may take some seconds; safe to repeat."""
        if self.embedded is not None:
            self.embedded.close()
        if self.sentinels is not None:
            self.sentinels.close()

    def _common(self, connect_timeout: float) -> dict[str, Any]:
        if self.sentinels is not None:
            connect_timeout = min(connect_timeout, SENTINEL_CONNECT_TIMEOUT)
        keepalive = {} if self.transport == "unix" else {"socket_keepalive": True}
        return {
            **keepalive,
            **_WHO,
            **self.options,
            "socket_connect_timeout": connect_timeout,
            "protocol": 2,
            "decode_responses": False,
        }


def check_server(source: object) -> None:
    """Refuse what can be no server, while the one who has written it is still there.

    Raises:
        UsageError: it is neither a URL, nor a ready-made client of redis-py.
    """
    if isinstance(source, str):
        scheme, _, rest = source.partition("://")
        if scheme != "embedded":
            _check_url(source, rest, scheme.removesuffix(_CLUSTER))
    elif source is not None and not any(hasattr(source, name) for name in _OF_CLIENTS):
        raise _no_server(source)


_OF_CLIENTS = ("connection_pool", "nodes_manager", "transport")
"""Of a client, of one of a cluster, and of what was found before."""


def _no_server(source: object) -> UsageError:
    return UsageError(f"expected a URL or a redis-py client, not {type(source).__name__}")


def resolve(source: object = None, security: Security | None = None) -> Target:
    """Find the server.

    Args:
        source: a URL (``redis:// rediss:// valkey:// valkeys:// unix:// embedded://[dir]``, or with
            ``+sentinel``), or a ready-made ``redis.Redis`` or ``redis.asyncio.Redis``, whose
            address and credentials are taken. None: the URL in ``$MILLSTREAM_URL``, else
            ``embedded://``.
        security: goes before what the source says of users and certificates.

    Raises:
        UsageError: it is no such thing.
        NotConnected: an embedded server could not be started.
    """
    if source is None and not (source := os.environ.get(ENVIRONMENT_VARIABLE)):
        # Where another one was meant, messages would go nowhere.
        logger.info("no server is named by $%s: using an embedded one", ENVIRONMENT_VARIABLE)
        source = "embedded://"
    if isinstance(source, str):
        return _from_url(source, security)
    pool = getattr(source, "connection_pool", None)
    if pool is not None:
        return _from_pool(pool, security)
    raise _no_server(source)


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
    # Once more: signs in the password may have looked like a part of the query.
    place = _QUERY_ITEM.sub(_hide_item, place)
    return f"{scheme}{separator}{user}{colon and ':***'}{at}{place}"


def _hide_item(item: re.Match[str]) -> str:
    secret = "password" in unquote(item["name"]).lower()
    return f"{item['name']}=***" if secret else item[0]


def _from_url(url: str, security: Security | None) -> Target:
    scheme, separator, rest = url.partition("://")
    if scheme == "embedded" and separator:
        if security is not None:
            message = "an embedded server is this user's own: it takes no security"
            raise UsageError(message)
        server = start_or_join(unquote(rest) or None)
        shown_url = f"embedded://{server.directory}"
        return Target(shown_url, "unix", {"path": str(server.socket_path)}, server)
    base = scheme.removesuffix(_SENTINEL)
    known = _check_url(url, rest, scheme)
    try:
        if base != scheme:
            return _from_sentinel_url(url, rest, tls=known == "rediss", security=security)
        parse: Any = blocking_connections.parse_url
        options: dict[str, Any] = dict(parse(f"{known}://{rest}"))
    except UsageError:
        raise
    except ValueError as error:
        # What it cannot read may be a part of the password, so the text is not shown.
        detail = "" if "@" in url or "password" in url else f": {error}"
    else:
        return _from_options(url, options, security)
    # Not in the block above: there it would take along what has happened, for those who look.
    message = f"cannot read the URL {hide_password(url)!r}{detail}"
    raise UsageError(message)


def _check_url(url: str, rest: str, scheme: str) -> str:
    """Return what redis-py calls the scheme.

    Raises:
        UsageError: there is no such scheme, or its path is no database; redis-py would take number 0.
    """
    base = scheme.removesuffix(_SENTINEL)
    known = _SCHEMES.get(base) if "://" in url else None
    if known is None or (known == "unix" and base != scheme):
        known_schemes = "://, ".join(
            [*_SCHEMES, "redis+sentinel", "rediss+sentinel", "redis+cluster", "embedded"]
        )
        message = f"{hide_password(url)!r} is not a URL of {known_schemes}://"
        raise UsageError(message)
    if known != "unix" and base == scheme:
        # Behind the last @, before which signs of a password may look like a path.
        path = "".join(rest.rpartition("@")[2].partition("?")[0].partition("/")[1:])
        if not _DATABASE.fullmatch(unquote(path)):
            message = (
                f"cannot read the URL {hide_password(url)!r}: behind the host stands the number of a database, "
                "such as /0"
            )
            raise UsageError(message)
    return known


def _from_options(url: str, options: dict[str, Any], security: Security | None) -> Target:
    connection_class = options.pop("connection_class", blocking_connections.Connection)
    transport = _transport(connection_class)
    return Target(hide_password(url), transport, target_options(transport, options, security))


def _from_sentinel_url(url: str, rest: str, *, tls: bool, security: Security | None) -> Target:
    named = sentinel_url.read(rest, tls=tls)
    transport: Transport = "tls" if tls else "tcp"
    places = [_place(transport, options, security) for options in named.sentinels]
    options = target_options(transport, named.options, security)
    return Target(hide_password(url), transport, options, sentinels=Sentinels(named.name, places))


def _place(transport: Transport, options: Mapping[str, Any], security: Security | None) -> Target:
    """Return where one Sentinel is."""
    there = target_options(transport, options, security, sentinel=True)
    return Target(shown((there["host"], there["port"])), transport, there)


def _from_pool(pool: Any, security: Security | None) -> Target:
    kwargs = pool.connection_kwargs
    if isinstance(pool, SentinelConnectionPool | AsyncSentinelConnectionPool):
        return _from_sentinel_pool(pool, security)
    transport = _transport(pool.connection_class)
    options = target_options(transport, kwargs, security)
    if transport == "unix":
        shown_url = f"unix://{options.get('path', '')}"
    else:
        scheme = "rediss" if transport == "tls" else "redis"
        shown_url = f"{scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return Target(shown_url, transport, options)


def _from_sentinel_pool(pool: Any, security: Security | None) -> Target:
    if not pool.is_master:
        message = (
            "a client of replicas cannot send: pass the one of master_for(), and read_from="
            '"replica" to read from replicas'
        )
        raise UsageError(message)
    manager = pool.sentinel_manager
    if getattr(manager, "_force_master_ip", None) is not None:
        message = "force_master_ip is not supported: have the Sentinels announce an address"
        raise UsageError(message)
    places: list[Target] = []
    for client in manager.sentinels:
        its = client.connection_pool
        there = {"port": sentinel_url.PORT, **its.connection_kwargs}
        places.append(_place(_transport(its.connection_class), there, security))
    transport = _transport(pool.connection_class)
    options = target_options(transport, pool.connection_kwargs, security)
    scheme = "rediss" if transport == "tls" else "redis"
    hosts = ",".join(place.url for place in places)
    shown_url = f"{scheme}+sentinel://{hosts}/{pool.service_name}"
    return Target(shown_url, transport, options, sentinels=Sentinels(pool.service_name, places))


def target_options(
    transport: Transport,
    options: Mapping[str, Any],
    security: Security | None,
    *,
    sentinel: bool = False,
) -> dict[str, Any]:
    """Return what counts of a client's or a URL's options, with those of ``security`` before them."""
    return secured(_kept(options), security, tls=transport == "tls", sentinel=sentinel)


def _transport(connection_class: Any) -> Transport:
    """Tell the transport of a redis-py connection class, ours or derived from it."""
    for transport in ("unix", "tls", "tcp"):
        if issubclass(connection_class, _CLASSES[transport]):
            return transport
    message = f"connections of the class {connection_class.__name__} are not supported"
    raise UsageError(message)


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in options.items()
        if (name in _OPTIONS or name.startswith("ssl")) and not _is_unsaid(name, value)
    }


def _is_unsaid(name: str, value: object) -> bool:
    # A blocking client says of each check that it is off, also those that asyncio does not know.
    return value is None or ("ocsp" in name and value is False)
