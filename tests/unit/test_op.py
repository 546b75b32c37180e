"""Scripts and operations as values."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path

import pytest

from millstream.protocol.op import Command, Op, Script, load_script

LUA = Path(str(resources.files("millstream.protocol"))) / "lua"
SCRIPTS = sorted(path.stem for path in LUA.glob("*.lua"))
LIBRARIES = sorted(path.stem for path in (LUA / "lib").glob("*.lua"))


def includes(source: str) -> list[str]:
    return re.findall(r"^-- @include (\w+)$", source, re.MULTILINE)


def code(source: str) -> str:
    """A script without its comments."""
    return re.sub(r"--.*", "", source)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_known_by_its_hash(name: str) -> None:
    """The server finds it under the SHA-1 of what it was given."""
    script = load_script(name)

    assert script.name == name
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()  # noqa: S324 - the server's choice
    assert load_script(name) == script


@pytest.mark.parametrize("name", SCRIPTS)
def test_includes_are_put_in_place(name: str) -> None:
    """The server gets one text: the libraries first, none of them twice, nothing left to include."""
    own = (LUA / f"{name}.lua").read_text("utf-8")
    script = load_script(name)

    assert includes(script.source) == []
    assert len(set(includes(own))) == len(includes(own))
    # A script that others are a part of has theirs, too.
    parts = [
        load_script(part).source for part in re.findall(r"^-- @script (\w+)$", own, re.MULTILINE)
    ]
    for library in includes(own):
        text = (LUA / "lib" / f"{library}.lua").read_text("utf-8")
        assert script.source.count(text) == 1 + sum(part.count(text) for part in parts)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_counts_the_keys(name: str) -> None:
    """Every key that the code uses is declared, and numbered without a gap."""
    source = (LUA / f"{name}.lua").read_text("utf-8")
    script = load_script(name)
    used = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", code(script.source))}
    declared = re.findall(r"^--.*", source, re.MULTILINE)
    numbers = {int(number) for line in declared for number in re.findall(r"KEYS\[(\d+)\]", line)}

    assert numbers == set(range(1, script.keys + 1))
    # The parts of transact.lua number those that they are given.
    assert used <= numbers or name == "transact"


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_spell_no_key(name: str) -> None:
    """A cluster must know every key before it runs a script."""
    calls = re.findall(r"redis\.p?call\('[^']*'(?:, '[^']*')*", code(load_script(name).source))

    assert calls or name == "peek"
    assert not [call for call in calls if ":" in call or "{" in call]


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_library_is_used(name: str) -> None:
    """A library that no script includes is dead."""
    sources = [(LUA / f"{script}.lua").read_text("utf-8") for script in SCRIPTS]

    assert any(name in includes(source) for source in sources)


@pytest.mark.parametrize("name", [*SCRIPTS, *(f"lib/{name}" for name in LIBRARIES)])
def test_nothing_is_global(name: str) -> None:
    """A global variable is an error at the server, on a path that a test may not take."""
    source = code((LUA / f"{name}.lua").read_text("utf-8"))

    # A function of a table is as local as its table.
    assert not re.findall(r"^\s*function \w+\s*\(", source, re.MULTILINE)


def test_a_call_names_script_and_keys() -> None:
    """What goes out is EVALSHA; the script is there in case the server does not know it."""
    script = Script("example", "return 1", "abc", 2)

    command = script.call(["k1", "k2"], [7, b"x", "y"])

    assert command == Command(("EVALSHA", "abc", 2, "k1", "k2", 7, b"x", "y"), script)


@pytest.mark.parametrize("keys", [[], ["k1"], ["k1", "k2", "k3"]])
def test_a_wrong_number_of_keys_is_refused(keys: list[str]) -> None:
    """Before it goes out, since the server could not tell."""
    with pytest.raises(ValueError, match=r"example\.lua takes 2 keys, not"):
        Script("example", "return 1", "abc", 2).call(keys, [])


def test_an_op_is_a_value() -> None:
    """It may be kept, compared and run again."""
    commands = (Command(("GET", "k")),)
    op = Op(commands, decode=len)

    assert op == Op(commands, decode=len)
    assert op.repeatable
    assert op.decode([b"x"]) == 1
    with pytest.raises(AttributeError):
        op.repeatable = False  # type: ignore[misc] # that is the point


def test_an_unknown_script_is_an_error() -> None:
    """A wrong name shows when the module is imported."""
    with pytest.raises(FileNotFoundError):
        load_script("nothing")
