"""What ``millstream server`` does: options become values, and values processes."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from millstream.cli.output import Failed, say, show_json, show_text
from millstream.driver.embedded_places import default_directory
from millstream.errors import UsageError
from millstream.server import launcher
from millstream.server.access import Access, make_link, parse_users
from millstream.server.advice import check, warnings
from millstream.server.configuration import File, configuration
from millstream.server.launcher import Running, config_path, serve
from millstream.server.layout import Layout, clustered, replicated, single
from millstream.server.program import find_program
from millstream.server.settings import Aof, Settings, parse_save, parse_size

__all__ = ["access_of", "file_of", "one", "run", "settings_of", "several", "show_files"]

HIDDEN = "***"


def settings_of(
    save: Sequence[str],
    aof: Aof,
    *,
    rewrite_percentage: int,
    rewrite_min_size: str,
    maxmemory: str | None,
) -> Settings:
    """Return what servers keep.

    Raises:
        UsageError: an option makes no sense.
    """
    return Settings(
        save=parse_save(save, aof),
        aof=aof,
        rewrite_percentage=rewrite_percentage,
        rewrite_min_size=parse_size(rewrite_min_size),
        maxmemory=parse_size(maxmemory) if maxmemory is not None else 0,
    )


def one(directory: str | None, port: int | None, bind: Sequence[str], socket: str | None) -> Layout:
    """Return a single server.

    Raises:
        UsageError: it cannot be.
    """
    path = None if socket is None else _path(socket, "")
    return single(_path(directory, "server"), port=port, bind=bind, socket=path)


def file_of(layout: Layout, settings: Settings, access: Access, binary: str | None) -> File:
    """Put a set-up together; say what somebody should know about it.

    Raises:
        UsageError: there is no such program, or everybody could read the messages.
    """
    file = File(layout, settings, access, find_program(binary))
    check(file)
    for text in warnings(file):
        say(f"warning: {text}")
    return file


def several(
    directory: str | None, port: int | None, replicas: int, sentinels: int, cluster: int
) -> Layout:
    """Return the processes of a set-up for tests.

    Raises:
        UsageError: they cannot be.
    """
    if cluster:
        if sentinels:
            message = "a cluster has no Sentinels, its nodes watch each other: give one of the two"
            raise UsageError(message)
        path = _path(directory, "cluster")
        return clustered(path, port=port, masters=cluster, replicas=replicas)
    path = _path(directory, "replicas")
    return replicated(path, port=port, replicas=replicas, sentinels=sentinels)


def _path(text: str | None, name: str) -> Path:
    try:
        return Path(default_directory(name) if text is None else text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such home; a NUL in the name
        message = f"cannot use the path {text!r}: {error}"
        raise UsageError(message) from error


def access_of(
    variable: str, password_file: str | None, acl_file: str | None, *, link: bool
) -> Access:
    """Read passwords and users.

    Args:
        variable: of the environment, with the password if there is no file with it.
        password_file: a file, or ``-``.
        acl_file: a file with users.
        link: whether processes have to log in, too.

    Raises:
        UsageError: a file cannot be read, or has something else in it.
    """
    password = _password(variable, password_file)
    users: tuple[str, ...] = ()
    if acl_file is not None:
        users = parse_users(_read(acl_file).splitlines(), acl_file)
    asked = password is not None or bool(users)
    return Access(password, users, make_link() if asked and link else None)


def _password(variable: str, source: str | None) -> str | None:
    """Return the password: not from the command line, which every user of the machine can see."""
    if source is None:
        password = os.environ.pop(variable, None)  # no server inherits it
        where = f"${variable}"
    elif source == "-" and sys.stdin.isatty():
        password, where = getpass.getpass("Password: "), "it"
    else:
        text = sys.stdin.readline() if source == "-" else _read(source)
        password = text.split("\n", 1)[0].removesuffix("\r")
        where = source
    if password == "":
        message = f"{where} has no password: leave it out to have none"
        raise UsageError(message)
    return password


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:
        message = f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        raise UsageError(message) from error


def show_files(file: File, *, as_json: bool) -> None:
    """Print the configuration of each process."""
    nodes = file.layout.nodes
    for node in nodes:
        text = configuration(file, node)
        if as_json:
            show_json({"role": node.role, "path": str(config_path(node)), "text": text})
        else:
            if len(nodes) > 1:
                show_text(f"# ===== {config_path(node)}")
            show_text(text)


def run(file: File, *, as_json: bool, keep_going: bool) -> int:
    """Run the processes until they have ended; return the exit status.

    Raises:
        Failed: they did not become what they should be.
        UsageError: the directory, a port or a socket cannot be used.
    """

    def ready(running: Running) -> None:
        (_show_json if as_json else _show)(running)

    try:
        return serve(file, ready=ready, tell=say, keep_going=keep_going)
    except launcher.Failed as error:
        raise Failed(str(error), status=1) from error


def _show(running: Running) -> None:
    file = running.file
    layout = file.layout
    for node, pid in zip(layout.nodes, running.pids, strict=True):
        say(f"{node} is process {pid}, with {config_path(node)}")
    hint = ""
    if file.access.asked:
        hint = f"; put the password in the place of {HIDDEN}"
    say(f"{file.program} is ready, and stops at Ctrl-C{hint}")
    for url in _urls(file):
        show_text(f"export MILLSTREAM_URL='{url}'")


def _urls(file: File) -> list[str]:
    if not file.access.asked:
        return file.layout.urls()
    user = "" if file.access.password is not None else "USER"
    return file.layout.urls(f"{user}:{HIDDEN}@")


def _show_json(running: Running) -> None:
    file = running.file
    urls = _urls(file)
    nodes = [
        {
            "role": node.role,
            "host": file.layout.host,
            "port": node.port or None,
            "socket": None if node.socket is None else str(node.socket),
            "pid": pid,
            "directory": str(node.directory),
            "config": str(config_path(node)),
        }
        for node, pid in zip(file.layout.nodes, running.pids, strict=True)
    ]
    show_json(
        {
            "url": urls[0],
            "urls": urls,
            "server": file.program.name,
            "version": file.program.version,
            "nodes": nodes,
            "warnings": warnings(file),
        }
    )
