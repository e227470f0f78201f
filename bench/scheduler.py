"""How many pods per second the scheduler's algorithm places: `python bench/scheduler.py`.

No API server is involved: pods are chosen nodes for and assumed on them, one after another, as the
scheduler does while it binds in the background.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping

from navarch.api.selectors import LabelSelector, label_selector_from_map
from navarch.api.types.core_v1 import (
    Affinity,
    Container,
    Node,
    NodeAffinity,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    Pod,
    PodAffinityTerm,
    PodAntiAffinity,
    PodSpec,
    PreferredSchedulingTerm,
    Taint,
    TopologySpreadConstraint,
    WeightedPodAffinityTerm,
)
from navarch.api.types.meta_v1 import LabelSelector as LabelSelectorObject
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.cycle import Failure, schedule
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile

APPS = 20


class Objects:
    """Every pod belongs to the Service of its app."""

    namespaces: Mapping[str, Mapping[str, str]] = {"default": {}}

    def default_selector(self, pod: PodInfo) -> LabelSelector:
        return label_selector_from_map(pod.labels)

    def budgets(self, namespace: str) -> tuple[()]:
        return ()

    def claim(self, namespace: str, name: str) -> None:
        return None

    def volume(self, name: str) -> None:
        return None

    def storage_class(self, name: str) -> None:
        return None

    def volumes_of_class(self, name: str) -> tuple[()]:
        return ()

    def csi_driver(self, name: str) -> None:
        return None

    def capacities(self, storage_class: str) -> tuple[()]:
        return ()

    def volume_limits(self, driver: str) -> Mapping[str, int]:
        return {}

    def attachments(self, node: str) -> tuple[()]:
        return ()


def node(number: int) -> Node:
    labels = {
        "kubernetes.io/hostname": f"n{number}",
        "topology.kubernetes.io/zone": f"z{number % 3}",
        "disk": "ssd" if number % 2 else "hdd",
    }
    made = Node(metadata=ObjectMeta(name=f"n{number}", labels=labels))
    made.status.allocatable = {"cpu": "32", "memory": "64Gi", "pods": "110"}
    if number % 10 == 0:
        made.spec.taints = [Taint(key="special", value="yes", effect="NoSchedule")]
    return made


def plain(number: int) -> Pod:
    container = Container(name="c", image="app:1")
    container.resources.requests = {"cpu": "100m", "memory": "128Mi"}
    name, labels = f"p{number}", {"app": f"a{number % APPS}"}
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default", uid=name, labels=labels),
        spec=PodSpec(containers=[container]),
    )


def demanding(number: int) -> Pod:
    """With node affinity, spreading and preferred anti-affinity."""
    pod = plain(number)
    selector = LabelSelectorObject(matchLabels=pod.metadata.labels)
    requirement = NodeSelectorRequirement(key="disk", operator="In", values=["ssd"])
    preference = NodeSelectorTerm(matchExpressions=[requirement])
    apart = PodAffinityTerm(labelSelector=selector, topologyKey="kubernetes.io/hostname")
    pod.spec.affinity = Affinity(
        nodeAffinity=NodeAffinity(
            preferredDuringSchedulingIgnoredDuringExecution=[
                PreferredSchedulingTerm(weight=10, preference=preference)
            ]
        ),
        podAntiAffinity=PodAntiAffinity(
            preferredDuringSchedulingIgnoredDuringExecution=[
                WeightedPodAffinityTerm(weight=100, podAffinityTerm=apart)
            ]
        ),
    )
    pod.spec.topologySpreadConstraints = [
        TopologySpreadConstraint(
            maxSkew=1,
            topologyKey="topology.kubernetes.io/zone",
            whenUnsatisfiable="DoNotSchedule",
            labelSelector=selector,
        )
    ]
    return pod


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=5000)
    arguments = parser.parse_args()
    for make in (plain, demanding):
        cluster = Cluster()
        for number in range(arguments.nodes):
            cluster.set_node(node(number))
        objects, profile, rng = Objects(), default_profile(), random.Random(1)
        pods = [make(number) for number in range(arguments.pods)]
        started = time.perf_counter()
        for pod in pods:
            info = PodInfo(pod)
            chosen = schedule(info, cluster, objects, profile, rng)
            if isinstance(chosen, Failure):
                raise SystemExit(chosen.message)
            cluster.set_pod(info, chosen.node)
        seconds = time.perf_counter() - started
        rate = arguments.pods / seconds
        print(f"{make.__name__}: {rate:.0f} pods/s on {arguments.nodes} nodes")


if __name__ == "__main__":
    main()
