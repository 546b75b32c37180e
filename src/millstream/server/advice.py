"""What somebody should know about a set-up before it has their messages."""

from __future__ import annotations

from millstream.errors import UsageError
from millstream.server.configuration import File
from millstream.server.layout import FAILOVER_NEEDS
from millstream.server.settings import persistence_warning

__all__ = ["check", "warnings"]


def check(file: File) -> None:
    """Refuse what nobody can want.

    Raises:
        UsageError: everybody on the network could read and delete the messages.
    """
    if not file.layout.local and file.access.open:
        message = (
            "without a password everybody who reaches the server can read and delete messages: give "
            "--password-file or an --acl-file with the user default, or leave out --bind"
        )
        raise UsageError(message)


def warnings(file: File) -> list[str]:
    """Return what may lose messages, or surprise; each is a sentence or two."""
    found = [persistence_warning(file.settings), _copies(file), _failover(file), _users(file)]
    if file.program.crashes:
        found.append(
            f"stream commands can crash {file.program} (CVE-2025-62507): use 8.2.3 or later"
        )
    if file.settings.aof != "no" and not file.settings.rewrite_percentage:
        found.append("the append-only file is never rewritten, so it grows with every message")
    return [text for text in found if text is not None]


def _copies(file: File) -> str | None:
    settings = file.settings
    if file.layout.kind == "server" or settings.aof != "no" or settings.save:
        return None
    return "a master that starts again empties its replicas, too: they copy what it has"


def _failover(file: File) -> str | None:
    layout = file.layout
    masters, sentinels = len(layout.having("master")), len(layout.having("sentinel"))
    if layout.kind == "cluster" and layout.having("replica") and masters < FAILOVER_NEEDS:
        return (
            f"{FAILOVER_NEEDS} masters are needed for a majority when one is gone; with {masters}, no "
            "replica takes its place"
        )
    if 0 < sentinels < FAILOVER_NEEDS:
        return (
            f"{FAILOVER_NEEDS} Sentinels are needed for a majority when one is gone; with {sentinels}, "
            "there is no failover then"
        )
    return None


def _users(file: File) -> str | None:
    if not (file.access.users and file.access.open):
        return None
    return (
        "who gives no name and no password may do everything: add the line 'user default off' to the "
        "ACL file, or give a --password-file"
    )
