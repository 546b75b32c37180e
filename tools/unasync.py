"""Generate src/millstream/sync from src/millstream/aio, or check that it is current.

    python tools/unasync.py           # write
    python tools/unasync.py --check   # compare; exit status 1 and the names when something differs

The async source is the only one that people edit. The substitutions below are applied to whole
files, docstrings and comments included, in this order; then ruff removes imports that are left
without a use, sorts and formats. A substitution that no file needs is an error: it would hide that
a name has changed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("src/millstream/aio")
TARGET = Path("src/millstream/sync")

SUBSTITUTIONS = [
    # Syntax
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait asyncio\.to_thread\(([\w.]+)\)", r"\1()"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    # Types
    (r"\bAsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\bAwaitable\[((?:[^][]|\[[^][]*\])+)\]", r"\1"),
    # Names
    (r"\baclose\b", "close"),
    (r"\bAsyncClient\b", "Client"),
    (
        r"\bAsync(Ahead|Aside|Background|Confirming|Driver|Inbox|Letterbox|Listener|PubSub|Sender|WaitingSender)\b",
        r"Blocking\1",
    ),
    (r"\bDelivery\b", "SyncDelivery"),
    (r"\bFeed\b", "SyncFeed"),
    (r"\bHandle\b", "SyncHandle"),
    (r"\bRequest\b", "SyncRequest"),
    (r"\bTransaction\b", "SyncTransaction"),
    (r"\bmillstream\.aio\b", "millstream.sync"),
    (r"\bdriver\.aio", "driver.blocking"),
    # Words
    (
        r"The asyncio API\. ``millstream\.sync`` is generated from this package\.",
        "The blocking API.",
    ),
    (r"from one event loop", "from any number of threads"),
]


def translate(text: str, used: set[str]) -> str:
    """Apply the table to one file's text; add the patterns that matched to `used`."""
    for pattern, replacement in SUBSTITUTIONS:
        text, count = re.subn(pattern, replacement, text)
        if count:
            used.add(pattern)
    return text


def tidy(text: str, path: Path) -> str:
    """Remove unused imports, sort them, and format, with the project's own settings."""
    for command in (
        ["check", "--fix", "--exit-zero", "--quiet", "--select", "F401,I001,RUF022"],
        ["format", "--quiet"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"],
            input=text,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        text = done.stdout
    return text


def generate(root: Path) -> tuple[dict[Path, str], list[str]]:
    """The files that TARGET must consist of, and the patterns that no source needed."""
    files: dict[Path, str] = {}
    used: set[str] = set()
    for source in sorted((root / SOURCE).rglob("*.py")):
        name = source.relative_to(root / SOURCE)
        header = (
            f"# GENERATED from {(SOURCE / name).as_posix()} by tools/unasync.py - do not edit\n"
        )
        path = root / TARGET / name
        files[path] = tidy(header + translate(source.read_text("utf-8"), used), path)
    unused = [pattern for pattern, _ in SUBSTITUTIONS if pattern not in used]
    return files, unused if used else []  # nothing used: aio/ has no code yet


def stale(root: Path, files: dict[Path, str]) -> list[str]:
    """What is wrong with TARGET as it is on disk: one line for each file, empty when current."""
    there = set((root / TARGET).rglob("*.py"))
    wrong = dict.fromkeys(there - files.keys(), "surplus")
    wrong |= dict.fromkeys(files.keys() - there, "missing")
    for path in there & files.keys():
        if path.read_text("utf-8") != files[path]:
            wrong[path] = "differs"
    return [f"{path.relative_to(root)}: {what}" for path, what in sorted(wrong.items())]


def write(root: Path, files: dict[Path, str]) -> None:
    """Make TARGET consist of exactly these files."""
    for path in set((root / TARGET).rglob("*.py")) - files.keys():
        path.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write or check; the exit status."""
    parser = argparse.ArgumentParser(description="Generate the sync API from the async one.")
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args(arguments).check

    files, unused = generate(root)
    if not check:
        write(root, files)
    problems = stale(root, files)
    for line in problems:
        print(f"{line} (run: make sync)")
    for pattern in unused:
        print(f"substitution without a use: {pattern}")
    return 1 if problems or unused else 0


if __name__ == "__main__":
    sys.exit(main())
