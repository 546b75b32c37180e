"""The tests of the API that need no server by itself, on a cluster.

They are the same functions: a promise is written down once, in tests/api.
"""

from __future__ import annotations

from types import ModuleType

from tests.api import (
    test_gather,
    test_operate,
    test_receive,
    test_send,
)

PROMISES: tuple[ModuleType, ...] = (
    *(test_gather, test_operate),
    *(test_receive, test_send),
)

for module in PROMISES:
    theirs = module.__name__.rpartition("test_")[2]
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if name.startswith("test_"):
            globals()[f"test_{theirs}_{name.removeprefix('test_')}"] = value
        elif name.startswith("Test"):
            globals()[f"Test{theirs.title()}{name.removeprefix('Test')}"] = value
