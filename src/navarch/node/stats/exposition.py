"""`/metrics/resource` and `/metrics/cadvisor` in Prometheus' text format, with upstream's names.

Dashboards and autoscalers go by names, labels and units, so these are tables of upstream's. Lines
are written straight: objects for some ten thousand samples would cost more than the measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

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


class Exposition:
    """Collects samples by metric, and writes them with their explanation."""

    def __init__(self) -> None:
        self._samples: dict[str, list[str]] = {}
        self._heads: dict[str, tuple[str, str]] = {}

    def head(self, name: str, kind: str, text: str) -> None:
        self._heads[name] = (kind, text)

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


RESOURCE = {
    "node_cpu_usage_seconds_total": (
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    ),
    "node_memory_working_set_bytes": ("gauge", "[STABLE] Current working set of the node in bytes"),
    "node_swap_usage_bytes": (
        "gauge",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
    ),
    "container_cpu_usage_seconds_total": (
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    ),
    "container_memory_working_set_bytes": (
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    ),
    "container_swap_usage_bytes": (
        "gauge",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on "
        "non-windows systems",
    ),
    "container_swap_limit_bytes": (
        "gauge",
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on "
        "non-windows systems",
    ),
    "container_start_time_seconds": (
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    ),
    "pod_cpu_usage_seconds_total": (
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    ),
    "pod_memory_working_set_bytes": ("gauge", "[STABLE] Current working set of the pod in bytes"),
    "pod_swap_usage_bytes": (
        "gauge",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows "
        "systems",
    ),
    "resource_scrape_error": (
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    ),
    "scrape_error": (
        "gauge",
        "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container "
        "metrics, 0 otherwise",
    ),
}


def resource_metrics(snapshot: Snapshot | None) -> bytes:
    """None: the look has failed, and only that is told."""
    result = Exposition()
    for name, (kind, text) in RESOURCE.items():
        result.head(name, kind, text)
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


CADVISOR = {
    "container_cpu_usage_seconds_total": "Cumulative cpu time consumed in seconds.",
    "container_cpu_user_seconds_total": "Cumulative user cpu time consumed in seconds.",
    "container_cpu_system_seconds_total": "Cumulative system cpu time consumed in seconds.",
    "container_cpu_cfs_periods_total": "Number of elapsed enforcement period intervals.",
    "container_cpu_cfs_throttled_periods_total": "Number of throttled period intervals.",
    "container_cpu_cfs_throttled_seconds_total": (
        "Total time duration the container has been throttled."
    ),
    "container_memory_usage_bytes": (
        "Current memory usage in bytes, including all memory regardless of when it was accessed"
    ),
    "container_memory_working_set_bytes": "Current working set in bytes.",
    "container_memory_rss": "Size of RSS in bytes.",
    "container_memory_cache": "Number of bytes of page cache memory.",
    "container_memory_mapped_file": "Size of memory mapped files in bytes.",
    "container_memory_kernel_usage": "Size of kernel memory allocated in bytes.",
    "container_memory_swap": "Container swap usage in bytes.",
    "container_memory_failcnt": "Number of memory usage hits limits",
    "container_memory_max_usage_bytes": "Maximum memory usage recorded in bytes",
    "container_memory_total_active_file_bytes": "Current total active file in bytes.",
    "container_memory_total_inactive_file_bytes": "Current total inactive file in bytes.",
    "container_memory_failures_total": "Cumulative count of memory allocation failures.",
    "container_oom_events_total": "Count of out of memory events observed for the container",
    "container_fs_inodes_free": "Number of available Inodes",
    "container_fs_inodes_total": "Number of Inodes",
    "container_fs_limit_bytes": (
        "Number of bytes that can be consumed by the container on this filesystem."
    ),
    "container_fs_usage_bytes": (
        "Number of bytes that are consumed by the container on this filesystem."
    ),
    "container_fs_reads_bytes_total": "Cumulative count of bytes read",
    "container_fs_writes_bytes_total": "Cumulative count of bytes written",
    "container_fs_reads_total": "Cumulative count of reads completed",
    "container_fs_writes_total": "Cumulative count of writes completed",
    "container_network_receive_bytes_total": "Cumulative count of bytes received",
    "container_network_receive_packets_total": "Cumulative count of packets received",
    "container_network_receive_packets_dropped_total": (
        "Cumulative count of packets dropped while receiving"
    ),
    "container_network_receive_errors_total": (
        "Cumulative count of errors encountered while receiving"
    ),
    "container_network_transmit_bytes_total": "Cumulative count of bytes transmitted",
    "container_network_transmit_packets_total": "Cumulative count of packets transmitted",
    "container_network_transmit_packets_dropped_total": (
        "Cumulative count of packets dropped while transmitting"
    ),
    "container_network_transmit_errors_total": (
        "Cumulative count of errors encountered while transmitting"
    ),
    "container_pressure_cpu_stalled_seconds_total": (
        "Total time duration no tasks in the container could make progress due to CPU congestion."
    ),
    "container_pressure_cpu_waiting_seconds_total": (
        "Total time duration tasks in the container have waited due to CPU congestion."
    ),
    "container_pressure_memory_stalled_seconds_total": (
        "Total time duration no tasks in the container could make progress due to memory "
        "congestion."
    ),
    "container_pressure_memory_waiting_seconds_total": (
        "Total time duration tasks in the container have waited due to memory congestion."
    ),
    "container_pressure_io_stalled_seconds_total": (
        "Total time duration no tasks in the container could make progress due to IO congestion."
    ),
    "container_pressure_io_waiting_seconds_total": (
        "Total time duration tasks in the container have waited due to IO congestion."
    ),
    "container_processes": "Number of processes running inside the container.",
    "container_last_seen": "Last time a container was seen by the exporter",
    "container_start_time_seconds": "Start time of the container since unix epoch in seconds.",
    "container_spec_cpu_period": "CPU period of the container.",
    "container_spec_cpu_quota": "CPU quota of the container.",
    "container_spec_cpu_shares": "CPU share of the container.",
    "container_spec_memory_limit_bytes": "Memory limit for the container.",
    "container_spec_memory_swap_limit_bytes": "Memory swap limit for the container.",
    "container_scrape_error": (
        "1 if there was an error while getting container metrics, 0 otherwise"
    ),
    "machine_cpu_cores": "Number of logical CPU cores.",
    "machine_cpu_physical_cores": "Number of physical CPU cores.",
    "machine_cpu_sockets": "Number of CPU sockets.",
    "machine_memory_bytes": "Amount of memory installed on the machine.",
    "machine_swap_bytes": "Amount of swap memory available on the machine.",
    "machine_scrape_error": "1 if there was an error while getting machine metrics, 0 otherwise.",
    "cadvisor_version_info": (
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, "
        "cadvisor version & cadvisor revision."
    ),
}
_NOT_AS_NAMED = frozenset({"container_memory_failcnt", "container_fs_inodes_total"})
"""A counter whose name does not end in total, and a gauge whose name does."""


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
    result = Exposition()
    for name, text in CADVISOR.items():
        is_counter = name.endswith("_total") != (name in _NOT_AS_NAMED)
        result.head(name, "counter" if is_counter else "gauge", text)
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
