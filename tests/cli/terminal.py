"""Run the command on a terminal, as people see it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios

from tests.cli.conftest import Spawn


def on_a_terminal(spawn: Spawn, columns: int, *words: str) -> str:
    """What a command prints on a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = spawn(*words, stdout=theirs)
    os.close(theirs)
    output = b""
    try:
        while data := os.read(ours, 65_536):
            output += data
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(20) == 0
    return output.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """What stands on the terminal, without weights and colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
