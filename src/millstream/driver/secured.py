"""The options of redis-py's connections that have to do with users and TLS."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from redis.connection import SSLConnection

from millstream.errors import UsageError
from millstream.security import Security, check_file

__all__ = ["secured"]

_KNOWN = frozenset(
    name for name in inspect.signature(SSLConnection.__init__).parameters if name.startswith("ssl_")
)
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def secured(
    options: Mapping[str, Any], security: Security | None, *, tls: bool, sentinel: bool
) -> dict[str, Any]:
    """Put what ``security`` says before some options, and see that redis-py takes them.

    Args:
        options: of a URL or a client.
        security: what goes before them.
        tls: whether the connection speaks TLS.
        sentinel: whether it is one to a Sentinel, which has users of its own.

    Raises:
        UsageError: there is no such option, or no such file; or it is for TLS, and this is none.
    """
    result = dict(options)
    if security is not None:
        login = security.sentinel_login if sentinel else security.login
        if login:
            result.pop("credential_provider", None)  # redis-py takes one or the other
        result |= login
        result |= _certificates(security)
    given = sorted(name for name in result if name.startswith("ssl"))
    if given and not tls:
        name = given[0]
        message = f"{name} is for TLS, and this connection has none: begin the URL with rediss://"
        raise UsageError(message)
    if unknown := [name for name in given if name not in _KNOWN]:
        message = f"there is no option {unknown[0]}; there are {', '.join(sorted(_KNOWN))}"
        raise UsageError(message)
    for name in _FILES:
        check_file(name, result.get(name))
    return result


def _certificates(security: Security) -> dict[str, Any]:
    files = {
        "ssl_ca_certs": security.ca_certs,
        "ssl_certfile": security.certfile,
        "ssl_keyfile": security.keyfile,
    }
    options: dict[str, Any] = {name: str(path) for name, path in files.items() if path is not None}
    if security.keyfile_password is not None:
        options["ssl_password"] = security.keyfile_password
    if security.check_hostname is not None:
        options["ssl_check_hostname"] = security.check_hostname
    if not security.verify:
        options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return options
