"""``millstream server``."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

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

__all__ = ["server"]

PASSWORD = "MILLSTREAM_SERVER_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with the password of the user ``default``."""

HIDDEN = "***"

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="PORT",
        help="TCP port. Default: 6379; none beside --socket; 7000 for --cluster.",
        show_default=False,
    ),
]
Bind = Annotated[
    list[str] | None,
    typer.Option(
        "--bind",
        metavar="ADDRESS",
        help="Listen on this IP address, instead of this machine's own. May be repeated.",
        show_default=False,
    ),
]
Socket = Annotated[
    str | None,
    typer.Option("--socket", metavar="PATH", help="Unix socket.", show_default=False),
]
Dir = Annotated[
    str | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Data directory. Default: millstream/server in your XDG data directory.",
        show_default=False,
    ),
]
Save = Annotated[
    list[str] | None,
    typer.Option(
        "--save",
        metavar="SECONDS:CHANGES",
        help='When to write a snapshot, such as 100:1. May be repeated. "": never. '
        "Default: never, but with --aof no as the server does by itself.",
        show_default=False,
    ),
]
AofOption = Annotated[
    Aof,
    typer.Option("--aof", help="Flush the append-only file to disk; no: write none."),
]
RewritePercentage = Annotated[
    int,
    typer.Option(
        "--aof-rewrite-percentage",
        min=0,
        max=2**31 - 1,
        metavar="N",
        help="Rewrite the append-only file when it has grown by N %.",
    ),
]
RewriteMinSize = Annotated[
    str,
    typer.Option("--aof-rewrite-min-size", metavar="SIZE", help="But not below this size."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--maxmemory",
        metavar="SIZE",
        help="Refuse sends above this, such as 2gb. Nothing is evicted. Default: no limit.",
        show_default=False,
    ),
]
PasswordFile = Annotated[
    str | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help=f"Its first line is the password of the user default. - asks for it. Or set ${PASSWORD}.",
        show_default=False,
    ),
]
AclFile = Annotated[
    str | None,
    typer.Option(
        "--acl-file",
        metavar="FILE",
        help="Users, one a line: user NAME RULE ...",
        show_default=False,
    ),
]
Replicas = Annotated[
    int,
    typer.Option(
        "--replicas",
        min=0,
        metavar="N",
        help="For tests: N replicas (with --cluster: of each master).",
    ),
]
Sentinels = Annotated[
    int,
    typer.Option("--sentinels", min=0, metavar="N", help="For tests: N Sentinels that watch."),
]
Cluster = Annotated[
    int,
    typer.Option("--cluster", min=0, metavar="N", help="For tests: a cluster of N masters."),
]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="When a process dies, leave the others running.")
]
Binary = Annotated[
    str | None,
    typer.Option(
        "--binary",
        metavar="PROGRAM",
        help="Server program. Default: the embedded Valkey, else valkey-server or redis-server.",
        show_default=False,
    ),
]
Print = Annotated[bool, typer.Option("--print", help="Print the configuration, run nothing.")]
JsonReady = Annotated[bool, typer.Option("--json", help="Print one line of JSON when it is ready.")]


def server(
    *,
    port: Port = None,
    bind: Bind = None,
    socket: Socket = None,
    directory: Dir = None,
    save: Save = None,
    aof: AofOption = "everysec",
    aof_rewrite_percentage: RewritePercentage = 100,
    aof_rewrite_min_size: RewriteMinSize = "64mb",
    maxmemory: MaxMemory = None,
    password_file: PasswordFile = None,
    acl_file: AclFile = None,
    replicas: Replicas = 0,
    sentinels: Sentinels = 0,
    cluster: Cluster = 0,
    keep_going: KeepGoing = False,
    binary: Binary = None,
    only_print: Print = False,
    json_output: JsonReady = False,
) -> int:
    """Configure a server for messages and run it until Ctrl-C or SIGTERM."""
    settings = Settings(
        save=parse_save(save or (), aof),
        aof=aof,
        rewrite_percentage=aof_rewrite_percentage,
        rewrite_min_size=parse_size(aof_rewrite_min_size),
        maxmemory=parse_size(maxmemory) if maxmemory is not None else 0,
    )
    if replicas or sentinels or cluster:
        if bind or socket:
            message = (
                "several processes are for tests on this machine: leave out --bind and --socket"
            )
            raise UsageError(message)
        layout = _several(directory, port, replicas, sentinels, cluster)
    else:
        path = _path(directory, "server")
        layout = single(
            path, port=port, bind=bind or (), socket=None if socket is None else _path(socket, "")
        )
    access = _access(password_file, acl_file, link=not only_print or len(layout.nodes) > 1)
    file = File(layout, settings, access, find_program(binary))
    check(file)
    for text in warnings(file):
        say(f"warning: {text}")
    if only_print:
        _print(file, json_output)
        return 0
    return _run(file, json_output, keep_going)


def _several(
    directory: str | None, port: int | None, replicas: int, sentinels: int, cluster: int
) -> Layout:
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


def _access(password_file: str | None, acl_file: str | None, *, link: bool) -> Access:
    password = _password(password_file)
    users: tuple[str, ...] = ()
    if acl_file is not None:
        users = parse_users(_read(acl_file).splitlines(), acl_file)
    asked = password is not None or bool(users)
    return Access(password, users, make_link() if asked and link else None)


def _password(source: str | None) -> str | None:
    """Return the password: not from the command line, which every user of the machine can see."""
    if source is None:
        password = os.environ.pop(PASSWORD, None)  # no server inherits it
        where = f"${PASSWORD}"
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


def _print(file: File, as_json: bool) -> None:
    nodes = file.layout.nodes
    for node in nodes:
        text = configuration(file, node)
        if as_json:
            show_json({"role": node.role, "path": str(config_path(node)), "text": text})
        else:
            if len(nodes) > 1:
                show_text(f"# ===== {config_path(node)}")
            show_text(text)


def _run(file: File, as_json: bool, keep_going: bool) -> int:
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
