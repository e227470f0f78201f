"""The proxy's figures, under upstream's names (`kubeproxy_*`), in the process-wide registry."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_BY_FAMILY = ["ip_family"]
_SYNC = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING = (
    *(0.25, 0.5),
    *(float(second) for second in range(1, 60)),
    *(float(second) for second in range(60, 120, 5)),
    *(float(second) for second in range(120, 301, 30)),
)
FAMILY_NAMES = {"ip": "IPv4", "ip6": "IPv6"}


def _histogram(name: str, text: str, buckets: tuple[float, ...] = _SYNC) -> Histogram:
    return Histogram(f"kubeproxy_{name}", text, _BY_FAMILY, buckets=buckets)


sync = _histogram("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds")
sync_full = _histogram(
    "sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs"
)
sync_partial = _histogram(
    "sync_partial_proxy_rules_duration_seconds",
    "SyncProxyRules latency in seconds for partial resyncs",
)
network_programming = _histogram(
    "network_programming_duration_seconds",
    "In Cluster Network Programming Latency in seconds",
    _PROGRAMMING,
)
conntrack = _histogram(
    "conntrack_reconciler_sync_duration_seconds",
    "ReconcileConntrackFlowsLatency latency in seconds",
)
conntrack_deleted = Counter(
    "kubeproxy_conntrack_reconciler_deleted_entries",
    "Cumulative conntrack flows deleted by conntrack reconciler",
    _BY_FAMILY,
)
last_sync = Gauge(
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    "The last time proxy rules were successfully synced",
    _BY_FAMILY,
)
last_queued = Gauge(
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    "The last time a sync of proxy rules was queued",
    _BY_FAMILY,
)
endpoint_pending = Gauge(
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes"
)
endpoint_changes = Counter(
    "kubeproxy_sync_proxy_rules_endpoint_changes", "Cumulative proxy rules Endpoint changes"
)
service_pending = Gauge(
    "kubeproxy_sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes"
)
service_changes = Counter(
    "kubeproxy_sync_proxy_rules_service_changes", "Cumulative proxy rules Service changes"
)
sync_failures = Counter(
    "kubeproxy_sync_proxy_rules_nftables_sync_failures",
    "Cumulative proxy nftables sync failures",
    _BY_FAMILY,
)
cleanup_failures = Counter(
    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures",
    "Cumulative proxy nftables cleanup failures",
    _BY_FAMILY,
)
no_local_endpoints = Gauge(
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "Number of services with a Local traffic policy and no endpoints",
    ["traffic_policy", "ip_family"],
)
healthz = Counter("kubeproxy_proxy_healthz", "Cumulative proxy healthz HTTP status", ["code"])
livez = Counter("kubeproxy_proxy_livez", "Cumulative proxy livez HTTP status", ["code"])
