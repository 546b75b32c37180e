"""Who logs in, and whom to trust: what may be said of a connection beside its URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from millstream.errors import UsageError

__all__ = ["Security"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """User, password and certificates, for those who do not want them in a URL.

    What is said here goes before what the URL, or the ready-made client, says. Certificates are for TLS,
    which the URL asks for: ``rediss://``, ``valkeys://``, ``rediss+sentinel://``.

    Args:
        username: of an ACL user. Default: the server's user ``default``.
        password: of that user.
        ca_certs: file (PEM) with the authorities that may vouch for the server. Default: those of
            this system.
        certfile: file (PEM) with this client's own certificate, for a server that wants one.
        keyfile: file (PEM) with its private key.
        keyfile_password: of that file.
        check_hostname: whether the certificate must be for the host of the URL; with Sentinels, for
            the addresses that they tell. Default: yes.
        verify: whether the server needs a certificate that somebody vouches for. False is for tests
            only: anybody can then play the server.
        sentinel_username: of a user of the Sentinels. Default: ``default``.
        sentinel_password: of that user.

    Raises:
        UsageError: a value is of a wrong type; a file does not exist; or ``keyfile`` has no
            ``certfile``.

    Guarantee: no secret is in its ``repr``, nor in an error or a log of this library.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_certs: str | Path | None = None
    certfile: str | Path | None = None
    keyfile: str | Path | None = None
    keyfile_password: str | None = field(default=None, repr=False)
    check_hostname: bool | None = None
    verify: bool = True
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what makes no sense; no error shows a value, which may be a secret."""
        for one in fields(self):
            value = getattr(self, one.name)
            flag = one.name in {"check_hostname", "verify"}
            kinds = bool if flag else (str, Path) if one.name in _FILES else str
            if not (isinstance(value, kinds) or (value is None and one.name != "verify")):
                wanted = "True or False" if flag else "text"
                message = f"{one.name} must be {wanted}, not of the type {type(value).__name__}"
                raise UsageError(message)
        for name in _FILES:
            check_file(name, getattr(self, name))
        if self.keyfile is not None and self.certfile is None:
            message = "keyfile is the key of a certificate: name that by certfile"
            raise UsageError(message)

    @property
    def login(self) -> Mapping[str, str]:
        """User and password of the servers, as far as they are given."""
        return _given(username=self.username, password=self.password)

    @property
    def sentinel_login(self) -> Mapping[str, str]:
        """User and password of the Sentinels, as far as they are given."""
        return _given(username=self.sentinel_username, password=self.sentinel_password)


_FILES = ("ca_certs", "certfile", "keyfile")


def check_file(name: str, path: str | Path | None) -> None:
    """See that a file is there, before a connection fails without naming it.

    Raises:
        UsageError: it is not.
    """
    if path is not None and not Path(path).is_file():
        message = f"{name}: there is no file {str(path)!r}"
        raise UsageError(message)


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}
