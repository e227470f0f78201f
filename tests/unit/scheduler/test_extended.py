"""The cluster goes on while an extender thinks."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from navarch.api.types.core_v1 import Node
from navarch.scheduler.cluster import FIRST_SLOTS, Cluster
from navarch.scheduler.cycle import Choice
from navarch.scheduler.extended import ClusterChanged, schedule_with
from navarch.scheduler.extenders import Extender, Filtered
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile

from .conftest import cluster_of, cycle_of, node, pod


class Thinking:
    """Keeps all nodes; meanwhile something happens."""

    is_ignorable = False
    name = "thinking"
    config = SimpleNamespace(filterVerb="f", prioritizeVerb="p", preemptVerb="")

    def __init__(self, cluster: Cluster, change: Any) -> None:
        self.cluster, self.change = cluster, change

    def is_interested(self, info: PodInfo) -> bool:
        return True

    async def filter(self, info: PodInfo, nodes: Mapping[str, Node]) -> Filtered:
        self.change(self.cluster)
        self.change = lambda cluster: None
        return Filtered(frozenset(nodes), {}, {})

    async def prioritize(self, info: PodInfo, nodes: Mapping[str, Node]) -> dict[str, int]:
        return {"c": 1000}


async def search(cluster: Cluster, extender: Thinking) -> Any:
    cycle = cycle_of(pod(), cluster)
    return await schedule_with([cast("Extender", extender)], cycle, default_profile())


def grow(cluster: Cluster) -> None:
    for number in range(FIRST_SLOTS + 1):
        cluster.set_node(node(f"n{number}"))


def replace(cluster: Cluster) -> None:
    """Another node gets the slot."""
    cluster.remove_node("c")
    cluster.set_node(node("z"))


@pytest.mark.parametrize("change", [lambda cluster: cluster.remove_node("c"), grow, replace])
async def test_a_search_that_slots_changed_under_begins_anew(change: Any) -> None:
    cluster = cluster_of([node("a"), node("b"), node("c")])
    extender = Thinking(cluster, change)
    with pytest.raises(ClusterChanged):
        await search(cluster, extender)
    found = await search(cluster, extender)
    assert isinstance(found, Choice)
    assert (found.node == "c") == ("c" in cluster.slots)


async def test_pods_that_come_meanwhile_change_nothing() -> None:
    cluster = cluster_of([node("a"), node("b"), node("c")])
    extender = Thinking(cluster, lambda cluster: cluster.set_pod(pod("other"), "a"))
    found = await search(cluster, extender)
    assert isinstance(found, Choice) and found.node == "c"
