"""All topologies, by the name that the command knows: each starts its servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from tests.chaos.clustered import clustered
from tests.chaos.sentinels import sentinels
from tests.chaos.single import single
from tests.chaos.topology import Topology

__all__ = ["TOPOLOGIES"]

TOPOLOGIES: Mapping[str, Callable[..., AbstractContextManager[Topology]]] = {
    "single": single,
    "sentinel": sentinels,
    "cluster": clustered,
}
