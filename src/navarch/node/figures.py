"""What the node agent counts of pressure, preemption, devices and shutdown, under upstream's names,
in the process-wide Prometheus registry.

Upstream's counters here have no `_total` at their end, which the library would add to a Counter:
they are gauges that only grow.
"""

from __future__ import annotations

from prometheus_client import Gauge, Histogram

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
