"""`/metrics/resource` and `/metrics/cadvisor` in Prometheus' text format, with upstream's names.

Dashboards and autoscalers go by names, labels and units, so `metrics.json` has upstream's.
Lines are written straight: objects for some ten thousand samples would cost more than the
measuring.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .cgroup import CgroupUsage
from .snapshot import ContainerLook, PodLook, Snapshot
from .summary import Storage

Labels = Mapping[str, str]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def labels_text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


@cache
def _heads() -> dict[str, dict[str, tuple[str, str]]]:
    return dict(json.loads(Path(__file__).with_name("metrics.json").read_bytes()))


class Exposition:
    """Collects samples by metric, and writes them with their explanation: for each page and metric,
    `metrics.json` has its type and text."""

    def __init__(self, page: str) -> None:
        self._samples: dict[str, list[str]] = {}
        self._heads = _heads()[page]

    def add(self, name: str, labels: str, value: float, milliseconds: int | None = None) -> None:
        shown = str(value) if isinstance(value, int) else repr(float(value))
        stamp = "" if milliseconds is None else f" {milliseconds}"
        self._samples.setdefault(name, []).append(f"{name}{labels} {shown}{stamp}\n")

    def text(self) -> bytes:
        parts = []
        for name in sorted(self._samples):
            kind, text = self._heads[name]
            parts.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n")
            parts.extend(self._samples[name])
        return "".join(parts).encode()


def resource_metrics(snapshot: Snapshot | None) -> bytes:
    """None: the look has failed, and only that is told."""
    result = Exposition("/metrics/resource")
    failed = int(snapshot is None)
    result.add("scrape_error", "", failed)
    result.add("resource_scrape_error", "", failed)
    if snapshot is None:
        return result.text()
    stamp = int(snapshot.time.timestamp() * 1000)
    _usage(result, "node", "", snapshot.node, stamp)
    for pod in snapshot.pods:
        place = {"namespace": pod.target.namespace, "pod": pod.target.name}
        _usage(result, "pod", labels_text(place), pod.usage, stamp)
        for look in pod.containers:
            labels = labels_text({"container": look.target.name, **place})
            _usage(result, "container", labels, look.usage, stamp)
            started = look.target.created_at / 1e9
            result.add("container_start_time_seconds", labels, started)
            usage = look.usage
            if usage.swap_limit is not None:
                result.add("container_swap_limit_bytes", labels, usage.swap_limit, stamp)
    return result.text()


def _usage(result: Exposition, kind: str, labels: str, usage: CgroupUsage, stamp: int) -> None:
    if usage.cpu_nanoseconds is not None:
        seconds = usage.cpu_nanoseconds / 1e9
        result.add(f"{kind}_cpu_usage_seconds_total", labels, seconds, stamp)
    if usage.working_set is not None:
        result.add(f"{kind}_memory_working_set_bytes", labels, usage.working_set, stamp)
    if usage.swap is not None:
        result.add(f"{kind}_swap_usage_bytes", labels, usage.swap, stamp)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the metrics of the machine tell."""

    cores: int
    memory: int
    swap: int
    kernel: str = ""
    os_image: str = ""
    identity: Mapping[str, str] | None = None
    """Ids of the machine, its boot and its hardware, as labels."""


def cadvisor_metrics(snapshot: Snapshot, machine: Machine, storage: Storage) -> bytes:
    result = Exposition("/metrics/cadvisor")
    _machine(result, machine)
    stamp = int(snapshot.time.timestamp() * 1000)
    result.add("container_scrape_error", "", 0)
    above = {"/": snapshot.node, **snapshot.cgroups}
    for path, usage in above.items():
        _cgroup(result, _labels(path), usage, stamp)
    node = _labels("/")
    if storage.node is not None:
        _space(result, {**node, "device": "nodefs"}, storage.node.used, storage, stamp)
    _network(result, node, snapshot.interfaces, stamp)
    for pod in snapshot.pods:
        _pod(result, pod, storage, stamp)
    return result.text()


def _labels(path: str, pod: PodLook | None = None, look: ContainerLook | None = None) -> Labels:
    return {
        "container": look.target.name if look is not None else "",
        "id": path,
        "image": look.target.image if look is not None else "",
        "name": look.target.id if look is not None else "",
        "namespace": pod.target.namespace if pod is not None else "",
        "pod": pod.target.name if pod is not None else "",
    }


def _machine(result: Exposition, machine: Machine) -> None:
    labels = labels_text(machine.identity or {})
    for name, value in (
        ("machine_cpu_cores", machine.cores),
        ("machine_cpu_physical_cores", machine.cores),
        ("machine_cpu_sockets", 1),
        ("machine_memory_bytes", machine.memory),
        ("machine_swap_bytes", machine.swap),
    ):
        result.add(name, labels, value)
    result.add("machine_scrape_error", "", 0)
    versions = {
        "cadvisorRevision": "",
        "cadvisorVersion": "",
        "dockerVersion": "",
        "kernelVersion": machine.kernel,
        "osVersion": machine.os_image,
    }
    result.add("cadvisor_version_info", labels_text(versions), 1)


def _cgroup(result: Exposition, labels: Labels, usage: CgroupUsage, stamp: int) -> None:
    text = labels_text(labels)
    if usage.cpu_nanoseconds is not None:
        total = labels_text({**labels, "cpu": "total"})
        seconds = usage.cpu_nanoseconds / 1e9
        result.add("container_cpu_usage_seconds_total", total, seconds, stamp)
    for name, value in _figures(usage):
        result.add(name, text, value, stamp)
    for failure, count in (("pgfault", usage.page_faults), ("pgmajfault", usage.major_page_faults)):
        # The kernel sums up what is below a cgroup, and that is what there is to tell.
        scoped = labels_text({**labels, "failure_type": failure, "scope": "hierarchy"})
        result.add("container_memory_failures_total", scoped, count, stamp)
    result.add("container_last_seen", text, stamp // 1000, stamp)


def _figures(usage: CgroupUsage) -> Iterator[tuple[str, float]]:
    for name, value in (
        ("container_memory_usage_bytes", usage.memory),
        ("container_memory_working_set_bytes", usage.working_set),
        ("container_memory_rss", usage.rss),
        ("container_memory_swap", usage.swap),
        ("container_processes", usage.processes),
        ("container_spec_memory_limit_bytes", usage.memory_limit or 0),
        ("container_spec_memory_swap_limit_bytes", usage.swap_limit or 0),
    ):
        if value is not None:
            yield name, value
    for name, figure in usage.details.items():
        if not name.startswith("container_fs_"):
            yield name, figure
    for resource, lines in usage.pressure.items():
        for kind, word in (("full", "stalled"), ("some", "waiting")):
            if kind in lines:
                name = f"container_pressure_{resource}_{word}_seconds_total"
                yield name, lines[kind].total / 1e6


def _network(result: Exposition, labels: Labels, found: Iterable[object], stamp: int) -> None:
    for interface in found:
        text = labels_text({**labels, "interface": getattr(interface, "name", "")})
        for way, prefix in (("receive", "rx"), ("transmit", "tx")):
            for what, attribute in (
                ("bytes", "bytes"),
                ("packets", "packets"),
                ("packets_dropped", "dropped"),
                ("errors", "errors"),
            ):
                name = f"container_network_{way}_{what}_total"
                result.add(name, text, getattr(interface, f"{prefix}_{attribute}"), stamp)


def _space(result: Exposition, labels: Labels, used: int, storage: Storage, stamp: int) -> None:
    text = labels_text(labels)
    whole = storage.node if labels["device"] == "nodefs" else storage.images
    result.add("container_fs_usage_bytes", text, used, stamp)
    if whole is not None:
        result.add("container_fs_limit_bytes", text, whole.capacity, stamp)
        result.add("container_fs_inodes_total", text, whole.inodes, stamp)
        result.add("container_fs_inodes_free", text, whole.inodes_free, stamp)


def _pod(result: Exposition, pod: PodLook, storage: Storage, stamp: int) -> None:
    target = pod.target
    labels = _labels(target.cgroup, pod)
    _cgroup(result, labels, pod.usage, stamp)
    _network(result, {**labels, "name": target.sandbox}, pod.interfaces, stamp)
    use = storage.pods.get(target.uid)
    for look in pod.containers:
        mine = _labels(look.cgroup, pod, look)
        _cgroup(result, mine, look.usage, stamp)
        started = look.target.created_at // 1_000_000_000
        result.add("container_start_time_seconds", labels_text(mine), started, stamp)
        on_disk = {**mine, "device": "imagefs"}
        if use is not None and look.target.name in use.containers:
            used = use.containers[look.target.name].root.bytes
            _space(result, on_disk, used, storage, stamp)
        for name, value in look.usage.details.items():
            if name.startswith("container_fs_"):
                result.add(name, labels_text(on_disk), value, stamp)
