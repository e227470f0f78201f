"""`/metrics` and `/metrics/probes`: what the agent counts, under upstream's names.

Counters live in the process-wide Prometheus registry, where each part of the agent keeps its own;
what is a state rather than a count (running pods, volumes) is written out as it is now.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence

from prometheus_client import REGISTRY, disable_created_metrics
from prometheus_client.exposition import generate_latest

from navarch import KUBERNETES_VERSION

from ..podspec import is_static
from ..probes.manager import ProbeManager
from ..worker import PodWorker
from .exposition import Exposition, labels_text
from .summary import Storage

# Upstream's counters have no series of when they were created.
disable_created_metrics()  # type: ignore[no-untyped-call]

_BYTES, _INODES = ("capacity", "available", "used"), ("inodes", "inodes_free", "inodes_used")


def build_info() -> dict[str, str]:
    """The labels of `kubernetes_build_info`."""
    version = KUBERNETES_VERSION.removeprefix("v").split(".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "build_date": "1970-01-01T00:00:00Z",
        "compiler": platform.python_implementation().lower(),
        "git_commit": "unknown",
        "git_tree_state": "clean",
        "git_version": KUBERNETES_VERSION,
        "go_version": f"python{platform.python_version()}",
        "major": version[0],
        "minor": version[1],
        "platform": f"linux/{machine}",
    }


def kubelet_metrics(
    node: str, workers: Sequence[PodWorker], storage: Storage, cgroup_version: int
) -> bytes:
    result = Exposition("/metrics")
    result.add("kubernetes_build_info", labels_text(build_info()), 1)
    result.add("kubelet_node_name", labels_text({"node": node}), 1)
    result.add("kubelet_cgroup_version", "", cgroup_version)
    _pods(result, workers)
    _volumes(result, storage)
    return result.text() + generate_latest(REGISTRY)


def _pods(result: Exposition, workers: Sequence[PodWorker]) -> None:
    sandboxes = (worker.state.sandbox for worker in workers)
    running = sum(1 for sandbox in sandboxes if sandbox is not None and sandbox.ready)
    result.add("kubelet_running_pods", "", running)
    states = Counter(
        each.state.name.lower() for worker in workers for each in worker.state.containers
    )
    for state, count in sorted(states.items()):
        labels = labels_text({"container_state": state})
        result.add("kubelet_running_containers", labels, count)
    active = [each for each in workers if each.active]
    for name, chosen in (("kubelet_desired_pods", workers), ("kubelet_active_pods", active)):
        counts = Counter("true" if is_static(each.pod) else "" for each in chosen)
        for static in ("", "true"):
            result.add(name, labels_text({"static": static}), counts[static])


def _volumes(result: Exposition, storage: Storage) -> None:
    shown = {
        use.claim: use.space
        for uses in storage.volumes.values()
        for use in uses
        if use.claim is not None
    }
    for name in (*(f"{each}_bytes" for each in _BYTES), *_INODES):
        for (namespace, claim), space in sorted(shown.items()):
            labels = labels_text({"namespace": namespace, "persistentvolumeclaim": claim})
            value = getattr(space, name.removesuffix("_bytes"))
            result.add(f"kubelet_volume_stats_{name}", labels, value)


def probe_metrics(probes: ProbeManager) -> bytes:
    result = Exposition("/metrics")
    for pod, spec, found in probes.watched():
        for kind, tracker in found.trackers.items():
            for outcome, count in tracker.totals.items():
                labels = {
                    "container": spec.name,
                    "namespace": pod.metadata.namespace,
                    "pod": pod.metadata.name,
                    "pod_uid": pod.metadata.uid,
                    "probe_type": kind.value,
                    "result": outcome,
                }
                result.add("prober_probe_total", labels_text(labels), count)
    return result.text()
