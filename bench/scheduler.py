"""How many decisions per second the scheduler's algorithm makes: `python bench/scheduler.py`.

No API server is involved: nodes are chosen for pods, which are assumed on them, one after another,
as the scheduler does while it binds in the background. Each kind of pod has a cluster of its own,
empty at first. The process's own time counts, whatever else the machine does.

A tenth of the nodes are tainted; `taints` are pods that tolerate that. All but `plain` belong to a
Service per app, and so are spread by default unless they say how themselves.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from navarch.api.objects import from_object
from navarch.api.selectors import EVERYTHING, LabelSelector, label_selector_from_map
from navarch.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.cycle import Failure, schedule
from navarch.scheduler.dra.devices import Devices
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile

APPS = 20
ZONES = 3
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
DRIVER = "csi.example.com"
NONE: Mapping[str, int] = {}


@cache
def claim(namespace: str, name: str) -> PersistentVolumeClaim:
    return from_object(
        PersistentVolumeClaim,
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "annotations": {"pv.kubernetes.io/bind-completed": "yes"},
            },
            "spec": {"volumeName": f"pv-{name}", "accessModes": ["ReadWriteOnce"]},
            "status": {"phase": "Bound"},
        },
    )


@cache
def volume(name: str) -> PersistentVolume:
    zone = f"z{int(name.rpartition('p')[2]) % ZONES}"
    terms = [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": [zone]}]}]
    return from_object(
        PersistentVolume,
        {
            "metadata": {"name": name, "labels": {ZONE: zone}},
            "spec": {
                "csi": {"driver": DRIVER, "volumeHandle": name},
                "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
            },
        },
    )


@dataclass
class Objects:
    """Every pod belongs to the Service of its app, if there are any, and has a claim that is bound
    to a volume in one of the zones."""

    services: bool
    nodes: int
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {"default": {}})
    selectors: dict[str, LabelSelector] = field(default_factory=dict)
    devices: Devices = field(default_factory=Devices)

    def __post_init__(self) -> None:
        self.limits = {f"n{number}": 64 for number in range(self.nodes)}

    def default_selector(self, pod: PodInfo) -> LabelSelector:
        if not self.services:
            return EVERYTHING
        app = pod.labels["app"]
        if app not in self.selectors:
            self.selectors[app] = label_selector_from_map(pod.labels)
        return self.selectors[app]

    def budgets(self, namespace: str) -> tuple[()]:
        return ()

    def claim(self, namespace: str, name: str) -> PersistentVolumeClaim:
        return claim(namespace, name)

    def volume(self, name: str) -> PersistentVolume:
        return volume(name)

    def storage_class(self, name: str) -> None:
        return None

    def volumes_of_class(self, name: str) -> tuple[()]:
        return ()

    def csi_driver(self, name: str) -> None:
        return None

    def capacities(self, storage_class: str) -> tuple[()]:
        return ()

    def volume_limits(self, driver: str) -> Mapping[str, int]:
        return self.limits

    def attachment_counts(self) -> Mapping[str, int]:
        return NONE

    def attachments(self, node: str) -> tuple[()]:
        return ()


def node(number: int) -> Node:
    taint = {"key": "special", "value": "yes", "effect": "NoSchedule"}
    return from_object(
        Node,
        {
            "metadata": {
                "name": f"n{number}",
                "labels": {
                    HOSTNAME: f"n{number}",
                    ZONE: f"z{number % ZONES}",
                    "disk": "ssd" if number % 2 else "hdd",
                },
            },
            "spec": {"taints": [] if number % 10 else [taint]},
            "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}},
        },
    )


def pod(number: int, make: Callable[[dict[str, Any], int], dict[str, Any]]) -> Pod:
    name, labels = f"p{number}", {"app": f"a{number % APPS}"}
    requests = {"cpu": "100m", "memory": "128Mi"}
    container = {"name": "c", "image": "app:1", "resources": {"requests": requests}}
    same = {"matchLabels": labels}
    meta = {"name": name, "namespace": "default", "uid": name, "labels": labels}
    spec = {"containers": [container], **make(same, number)}
    return from_object(Pod, {"metadata": meta, "spec": spec})


def constraint(key: str, same: dict[str, Any], when: str) -> dict[str, Any]:
    return {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": same}


def spread(same: dict[str, Any], number: int) -> dict[str, Any]:
    hard = constraint(ZONE, same, "DoNotSchedule")
    return {"topologySpreadConstraints": [hard, constraint(HOSTNAME, same, "ScheduleAnyway")]}


def spread_hosts(same: dict[str, Any], number: int) -> dict[str, Any]:
    return {"topologySpreadConstraints": [constraint(HOSTNAME, same, "DoNotSchedule")]}


def near(kind: str, key: str, same: dict[str, Any], number: int) -> dict[str, Any]:
    term = {"labelSelector": same, "topologyKey": key}
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def tolerant(same: dict[str, Any], number: int) -> dict[str, Any]:
    return {"tolerations": [{"key": "special", "operator": "Exists"}]}


def with_volume(same: dict[str, Any], number: int) -> dict[str, Any]:
    claim = {"claimName": f"claim-p{number}"}
    return {"volumes": [{"name": "data", "persistentVolumeClaim": claim}]}


def demanding(same: dict[str, Any], number: int) -> dict[str, Any]:
    """With preferred node affinity, hard spreading and preferred anti-affinity."""
    ssd = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    apart = {"labelSelector": same, "topologyKey": HOSTNAME}
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    return {
        "affinity": {
            "nodeAffinity": {preferred: [{"weight": 10, "preference": ssd}]},
            "podAntiAffinity": {preferred: [{"weight": 100, "podAffinityTerm": apart}]},
        },
        "topologySpreadConstraints": [constraint(ZONE, same, "DoNotSchedule")],
    }


def nothing(same: dict[str, Any], number: int) -> dict[str, Any]:
    return {}


SHAPES: Mapping[str, Callable[[dict[str, Any], int], dict[str, Any]]] = {
    "plain": nothing,
    "default spread": nothing,
    "spread zones": spread,
    "spread hosts": spread_hosts,
    "affinity": partial(near, "podAffinity", ZONE),
    "anti-affinity": partial(near, "podAntiAffinity", HOSTNAME),
    "taints": tolerant,
    "volumes": with_volume,
    "demanding": demanding,
}


def decisions(shape: str, nodes: int, pods: int) -> float:
    """Per second of CPU time."""
    cluster = Cluster()
    for number in range(nodes):
        cluster.set_node(node(number))
    objects = Objects(shape != "plain", nodes)
    profile, rng = default_profile(), random.Random(1)
    made = [pod(number, SHAPES[shape]) for number in range(pods)]
    for number in range(pods):
        volume(f"pv-{claim('default', f'claim-p{number}').metadata.name}")
    gc.collect()
    gc.freeze()
    started = time.process_time()
    for each in made:
        info = PodInfo(each)
        chosen = schedule(info, cluster, objects, profile, rng)
        if isinstance(chosen, Failure):
            raise SystemExit(chosen.message)
        cluster.set_pod(info, chosen.node)
    seconds = time.process_time() - started
    gc.unfreeze()
    return pods / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--pods", type=int, default=3000)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    arguments = parser.parse_args()
    print("decisions/s".ljust(16), *(f"{nodes:>6} nodes" for nodes in arguments.nodes))
    for shape in arguments.shapes:
        rates = (decisions(shape, nodes, arguments.pods) for nodes in arguments.nodes)
        print(shape.ljust(16), *(f"{rate:>12.0f}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
