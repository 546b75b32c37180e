"""The tests of the API that say what a queue promises, each with a list queue.

They are the same functions: a promise is written down once, in tests/api.
"""

from __future__ import annotations

from types import ModuleType

from tests.api import test_control, test_delay, test_operate, test_receive, test_settle

PROMISES: tuple[ModuleType, ...] = (
    *(test_control, test_delay, test_operate),
    *(test_receive, test_settle),
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
