"""``millstream server``: its options. What it does with them is in ``serving.py``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from millstream.errors import UsageError

__all__ = ["PASSWORD", "server"]

PASSWORD = "MILLSTREAM_SERVER_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with the password of the user ``default``."""

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
Aof = Annotated[
    Literal["everysec", "always", "no"],
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
    aof: Aof = "everysec",
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
    # Other commands start sooner without it.
    from millstream.cli import serving

    settings = serving.settings_of(
        save or (),
        aof,
        rewrite_percentage=aof_rewrite_percentage,
        rewrite_min_size=aof_rewrite_min_size,
        maxmemory=maxmemory,
    )
    if replicas or sentinels or cluster:
        if bind or socket:
            message = (
                "several processes are for tests on this machine: leave out --bind and --socket"
            )
            raise UsageError(message)
        layout = serving.several(directory, port, replicas, sentinels, cluster)
    else:
        layout = serving.one(directory, port, bind or (), socket)
    link = not only_print or len(layout.nodes) > 1
    access = serving.access_of(PASSWORD, password_file, acl_file, link=link)
    file = serving.file_of(layout, settings, access, binary)
    if only_print:
        serving.show_files(file, as_json=json_output)
        return 0
    return serving.run(file, as_json=json_output, keep_going=keep_going)
