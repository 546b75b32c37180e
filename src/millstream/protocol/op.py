"""Operations as values: what to send in one round trip, and how to read the answer.

An ``Op`` is one or more commands that go out in one write. A ``Plan`` is a generator that yields
Ops (and Pauses) and returns a result; drivers run both, blocking or on asyncio, so that all logic
exists once and can be tested without a server.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["Argument", "Command", "Nodes", "Op", "Pause", "Plan", "Script", "Step", "load_script"]

T = TypeVar("T", covariant=True)  # noqa: PLC0105 - one letter, as everywhere in typing

Argument = str | bytes | int


class Script(msgspec.Struct, frozen=True):
    """A Lua script, known to the server by the hash of its source.

    Args:
        name: the file's name without ``.lua``.
        source: what the server runs, includes resolved.
        sha: how EVALSHA names it.
        keys: how many KEYS its header declares.
        open_ended: whether it takes any number of further ones (``KEYS[n..]``).
    """

    name: str
    source: str
    sha: str
    keys: int
    open_ended: bool = False

    def call(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
        """Return the command that runs this script."""
        fits = len(keys) >= self.keys if self.open_ended else len(keys) == self.keys
        if not fits:
            message = f"{self.name}.lua takes {self.keys} keys, not {len(keys)}"
            raise ValueError(message)
        return Command(("EVALSHA", self.sha, len(keys), *keys, *arguments), self)


class Command(msgspec.Struct, frozen=True):
    """One command, ready to be packed.

    Args:
        arguments: its name, and what it is given.
        script: that it runs, if any.
        optional: whether the others of its operation count without it: an error is left among
            the replies, where it would be raised otherwise.
    """

    arguments: Sequence[Argument]
    script: Script | None = None
    optional: bool = False


# No Struct: the tests look at each one as it is made (tests/support/slots.py).
@dataclass(frozen=True, slots=True)
class Op(Generic[T]):
    """One round trip: commands that go out in one write, and how to read their replies.

    Args:
        commands: in the order in which the server runs them. Their keys share one hash slot, so that one
            node of a cluster can run them all.
        decode: raw replies (RESP2 types, one for each command) to the result.
        repeatable: whether the driver may send it again when the reply was lost.
        atomic: whether the server is to run all of the commands or none, with nothing in between. A
            server without free memory takes no transactions; it gets them one after the other.
        patience: seconds after which it is of no use any more; None: the client's timeout.
        readonly: whether it changes nothing, so that a replica can run it.
        scattered: whether only the keys of each command share a slot: a cluster's nodes get theirs
            side by side.
        near: a key, or a slot, whose node is meant, for commands that name no key.
    """

    commands: tuple[Command, ...]
    decode: Callable[[list[Any]], T]
    repeatable: bool = True
    atomic: bool = False
    patience: float | None = None
    readonly: bool = False
    scattered: bool = False
    near: str | int | None = None


class Pause(msgspec.Struct, frozen=True):
    """A plan's wish to wait; the driver knows how."""

    seconds: float


class Nodes(msgspec.Struct, frozen=True):
    """A plan's question which nodes there are. The answer is a slot of each, for ``Op.near``.

    A single server is one node that has no slots: ``[None]``.
    """


Step = Op[Any] | Pause | Nodes
Plan = Generator[Step, Any, T]

_INCLUDE = re.compile(r"^-- @include (\w+)\n", re.MULTILINE)
_SCRIPT = re.compile(r"^-- @script (\w+)\n", re.MULTILINE)
_HEADER = re.compile(r"^--.*", re.MULTILINE)
_KEY = re.compile(r"KEYS\[(\d+)\]")
_FURTHER_KEYS = re.compile(r"KEYS\[\d+\.\.\]")

_LUA = resources.files(__package__) / "lua"


def load_script(name: str) -> Script:
    """Read ``lua/<name>.lua``, put its includes in place, and count the keys of its header."""
    text = _text(f"{name}.lua")
    header = " ".join(_HEADER.findall(text))
    source = _resolved(text)
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    keys = max((int(number) for number in _KEY.findall(header)), default=0)
    return Script(name, source, sha, keys, bool(_FURTHER_KEYS.search(header)))


def _resolved(text: str) -> str:
    """Put what a script includes in its place: parts of ``lua/lib``, and whole scripts.

    A whole script becomes a function of the same name: ``KEYS`` and ``ARGV`` are its parameters.
    """
    text = _INCLUDE.sub(lambda match: _text(f"lib/{match[1]}.lua"), text)
    return _SCRIPT.sub(lambda match: _as_function(match[1]), text)


def _as_function(name: str) -> str:
    body = _resolved(_text(f"{name}.lua"))
    return f"local function {name}(KEYS, ARGV)\n{body}end\n"


@functools.cache  # most parts are in many scripts
def _text(path: str) -> str:
    return (_LUA / path).read_text("utf-8")
