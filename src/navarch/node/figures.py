"""What the node agent counts of pods, pressure, preemption, devices and shutdown, under upstream's
names, in the process-wide Prometheus registry.

Some of upstream's counters have no `_total` at their end, which the library would add to a Counter:
they are gauges that only grow.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from navarch.api.types.core_v1 import PodStatus

evictions = Gauge(
    "kubelet_evictions", "Pods evicted, by the signal they were evicted for", ["eviction_signal"]
)
preemptions = Gauge(
    "kubelet_preemptions",
    "Pods that made room for a critical one, by the resource it lacked",
    ["preemption_signal"],
)
admission_rejections = Gauge(
    "kubelet_admission_rejections_total", "Pods the node refused, by reason", ["reason"]
)
shutdown_started = Gauge(
    "kubelet_graceful_shutdown_start_time_seconds",
    "When the last graceful shutdown of the node began (Unix time)",
)
shutdown_ended = Gauge(
    "kubelet_graceful_shutdown_end_time_seconds",
    "When the last graceful shutdown of the node was done (Unix time)",
)
device_registrations = Gauge(
    "kubelet_device_plugin_registration_total", "Registrations of device plug-ins",
    ["resource_name"],
)  # fmt: skip
device_allocations = Histogram(
    "kubelet_device_plugin_alloc_duration_seconds",
    "Time device plug-ins take to allocate",
    ["resource_name"],
)

claim_operations = Histogram(
    "dra_operations_duration_seconds",
    "Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a "
    "pod when the pod starts or stops.",
    ["operation_name", "is_error"],
)

started_pods = Counter("kubelet_started_pods", "[ALPHA] Cumulative number of pods started")
started_pods_errors = Counter(
    "kubelet_started_pods_errors", "[ALPHA] Cumulative number of errors when starting pods"
)
started_containers = Counter(
    "kubelet_started_containers",
    "[ALPHA] Cumulative number of containers started",
    ["container_type"],
)
started_containers_errors = Counter(
    "kubelet_started_containers_errors",
    "[ALPHA] Cumulative number of errors when starting containers",
    ["container_type", "code"],
)
terminated_containers = Counter(
    "kubelet_terminated_containers",
    "[ALPHA] Cumulative number of container terminations.",
    ["container_type", "exit_code", "reason"],
)
pod_start_seconds = Histogram(
    "kubelet_pod_start_duration_seconds",
    "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting "
    "to run",
    buckets=(0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600),
)
relist_seconds = Histogram(
    "kubelet_pleg_relist_duration_seconds",
    "[ALPHA] Duration in seconds for relisting pods in PLEG.",
)


def count_terminations(before: PodStatus, after: PodStatus) -> None:
    """Counts the containers that a pod's newest status says for the first time to have ended."""
    for kind, name in (
        ("init_container", "initContainerStatuses"),
        ("container", "containerStatuses"),
        ("ephemeral_container", "ephemeralContainerStatuses"),
    ):
        known = {each.name for each in getattr(before, name) if each.state.terminated is not None}
        for status in getattr(after, name):
            end = status.state.terminated
            if end is not None and status.name not in known:
                terminated_containers.labels(kind, str(end.exitCode), end.reason).inc()
