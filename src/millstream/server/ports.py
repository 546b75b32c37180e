"""Whether the addresses of a set-up are free: asked before, as a server would only say it in its log."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from millstream.errors import UsageError
from millstream.server.layout import BUS_ABOVE, Layout

__all__ = ["check_free"]


def check_free(layout: Layout) -> None:
    """Look whether all ports and sockets can be used.

    Raises:
        UsageError: one cannot.
    """
    for node in layout.nodes:
        ports = [node.port] if node.port else []
        if layout.kind == "cluster":
            ports.append(node.port + BUS_ABOVE)
        for port in ports:
            for address in layout.bind:
                _check_port(address, port)
        if node.socket is not None:
            _check_socket(node.socket)


def _check_port(address: str, port: int) -> None:
    host = address.removeprefix("-")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} of {host} is in use: give another --port, or stop who uses it"
            raise UsageError(message) from error
        if address != host:  # the server goes on without it, too
            return
        message = f"cannot listen on port {port} of {host}: {error.strerror}"
        raise UsageError(message) from error


def _check_socket(path: Path) -> None:
    # A server removes whatever is there.
    if not path.exists() and not path.is_symlink():
        if not path.parent.is_dir():
            message = f"the directory of the socket {path} does not exist"
            raise UsageError(message)
        return
    if not path.is_socket():
        message = f"{path} is there and is no socket: give another --socket"
        raise UsageError(message)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return  # left behind by one that was killed
    message = f"the socket {path} is in use: give another --socket, or stop who uses it"
    raise UsageError(message)
