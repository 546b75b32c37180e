"""All topologies, by the name that the command knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.chaos.clustered import Clustered
from tests.chaos.sentinels import Sentinels
from tests.chaos.topology import Single

__all__ = ["TOPOLOGIES"]

TOPOLOGIES: Mapping[str, Callable[..., Any]] = {
    "single": Single,
    "sentinel": Sentinels,
    "cluster": Clustered,
}
