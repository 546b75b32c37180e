"""What tests/worker says of how deliveries end, each with a list queue."""

from __future__ import annotations

from tests.worker import test_settling

for name, value in list(vars(test_settling).items()):
    own = getattr(value, "__module__", None) == test_settling.__name__
    if own and name.startswith(("test_", "Test")):
        globals()[name] = value
