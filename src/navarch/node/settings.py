"""What a node agent is told when it is started: everything that differs between nodes.

An option that upstream's KubeletConfiguration has as well bears its name in snake case and has its
default; durations are seconds. `configuration` fills these options from such files. A few options
keep names of their own (`configuration.options.NAMES_OF_FIELDS`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from navarch.api.types.core_v1 import Taint

REPLACED = "NAVARCH_REPLACED"
"""Set in the environment of an agent that is told to end because another one takes over."""

EVICTION_HARD = {
    "memory.available": "100Mi",
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "imagefs.inodesFree": "5%",
}
"""Upstream's default thresholds on Linux."""


@dataclass(frozen=True)
class NodeOptions:
    """The options of `navarch kubelet`."""

    kubeconfig: Path
    node_name: str
    config: Path | None = None
    """A KubeletConfiguration file. What is given beside it (flags) goes before what it says."""
    config_dir: Path | None = None
    """Drop-in files (`*.conf`), merged over `config` in the order of their names."""

    # Who and where the node is
    node_ip: str = ""
    """The address other nodes and the API server reach this node at, or one of each family with a
    comma between; found out when empty."""
    register_node: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    provider_id: str = ""
    node_status_update_frequency: float = 10.0
    node_status_report_frequency: float = 300.0
    node_status_max_images: int = 50
    """-1 is all of them."""
    node_lease_duration_seconds: int = 40
    cpu: str = ""
    memory: str = ""
    """Capacity to report instead of the machine's, for several nodes on one machine."""

    # The HTTPS server
    listen_address: str = ""
    port: int = 10250
    healthz_port: int = 10248
    healthz_bind_address: str = "127.0.0.1"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_min_version: str = ""
    tls_cipher_suites: tuple[str, ...] = ()
    client_ca: Path | None = None
    rotate_certificates: bool = False
    """Whether the client certificate is renewed before it ends, by asking the cluster for one."""
    server_tls_bootstrap: bool = False
    """The same for the certificate that is served."""
    anonymous_auth: bool = False
    authentication_token_webhook: bool = True
    authentication_token_webhook_cache_ttl: float = 120.0
    authorization_mode: str = "Webhook"
    authorization_webhook_cache_authorized_ttl: float = 300.0
    authorization_webhook_cache_unauthorized_ttl: float = 30.0
    enable_server: bool = True
    enable_debugging_handlers: bool = True
    enable_debug_flags_handler: bool = True
    enable_system_log_handler: bool = True
    enable_system_log_query: bool = False
    node_logs_directory: Path = Path("/var/log")
    """What `/logs/` shows."""

    # Pods
    runtime_endpoint: str = "unix:///run/containerd/containerd.sock"
    runtime_request_timeout: float = 120.0
    root_directory: Path = Path("/var/lib/kubelet")
    pod_logs_directory: Path = Path("/var/log/pods")
    manifest_directory: Path | None = None
    static_pod_url: str = ""
    static_pod_url_header: dict[str, tuple[str, ...]] = field(default_factory=dict)
    file_check_frequency: float = 20.0
    http_check_frequency: float = 20.0
    policy_socket: Path | None = None
    """Where pods are announced to the enforcement of network policies, and waited for."""
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: Path = Path("/etc/resolv.conf")
    hosts_file: Path = Path("/etc/hosts")
    max_pods: int = 110
    pods_per_core: int = 0
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    seccomp_default: bool = False
    user_namespaces_ids_per_pod: int = 65536
    crash_loop_back_off_max_container_restart_period: float = 300.0
    volume_stats_agg_period: float = 60.0
    local_storage_capacity_isolation: bool = True
    container_log_max_size: int = 10 * 1024 * 1024
    container_log_max_files: int = 5
    container_log_max_workers: int = 1
    container_log_monitor_interval: float = 10.0
    shutdown_grace_period: float = 0.0
    shutdown_grace_period_critical_pods: float = 0.0
    shutdown_grace_period_by_pod_priority: dict[int, float] = field(default_factory=dict)
    """Seconds by the lowest priority they are for."""

    shutdown_on_terminate: bool = False
    """Whether the end of the agent's process (SIGTERM) is the machine's end, as it is for a node
    that lives in namespaces of its own."""

    # Images
    serialize_image_pulls: bool = True
    max_parallel_image_pulls: int | None = None
    registry_pull_qps: int = 5
    registry_burst: int = 10
    image_minimum_gc_age: float = 120.0
    image_maximum_gc_age: float = 0.0
    image_gc_high_threshold_percent: int = 85
    image_gc_low_threshold_percent: int = 80
    image_credential_provider_config: Path | None = None
    image_credential_provider_bin_dir: Path | None = None
    image_pull_credentials_verification_policy: str = "NeverVerifyPreloadedImages"
    preloaded_images_verification_allowlist: tuple[str, ...] = ()

    # Resources
    cgroup_root: str = ""
    """This node's own place in the cgroup tree, such as `/navarch/main/node-1`."""
    cgroup_driver: str = "cgroupfs"
    pod_pids_limit: int = -1
    cpu_cfs_quota: bool = True
    cpu_cfs_quota_period: float = 0.1
    kube_reserved: dict[str, str] = field(default_factory=dict)
    system_reserved: dict[str, str] = field(default_factory=dict)
    """Resources kept back from pods, by name (`cpu`, `memory`, `ephemeral-storage`, `pid`)."""
    reserved_system_cpus: str = ""
    kube_reserved_cgroup: str = ""
    system_reserved_cgroup: str = ""
    enforce_node_allocatable: tuple[str, ...] = ("pods",)
    eviction_hard: dict[str, str] = field(default_factory=lambda: dict(EVICTION_HARD))
    eviction_soft: dict[str, str] = field(default_factory=dict)
    eviction_soft_grace_period: dict[str, float] = field(default_factory=dict)
    eviction_pressure_transition_period: float = 300.0
    eviction_max_pod_grace_period: int = 0
    eviction_minimum_reclaim: dict[str, str] = field(default_factory=dict)
    kernel_memcg_notification: bool = False
    qos_reserved: dict[str, str] = field(default_factory=dict)
    """Per cent of Guaranteed (and Burstable) pods' memory requests that pods of lower classes
    cannot take, by the feature gate QOSReserved: `memory: 50%`."""
    memory_swap_behavior: str = ""
    memory_throttling_factor: float = 0.9
    memory_reservation_policy: str = "None"
    single_process_oom_kill: bool | None = None
    oom_score_adj: int = -999
    protect_kernel_defaults: bool = False
    fail_swap_on: bool = False
    fail_cgroup_v1: bool = False
    """Upstream refuses machines with swap or with cgroup v1 unless it is told not to; a cluster on
    somebody's own machine takes it as it is, as minikube and kind do."""
    feature_gates: dict[str, bool] = field(default_factory=dict)

    @property
    def reserved(self) -> tuple[dict[str, str], ...]:
        """What is kept back from pods, for whomever. Processors named for the system count instead
        of shares of them."""
        if not self.reserved_system_cpus:
            return (self.kube_reserved, self.system_reserved)
        count = len(parse_cpu_set(self.reserved_system_cpus))
        kube = {name: value for name, value in self.kube_reserved.items() if name != "cpu"}
        return (kube, {**self.system_reserved, "cpu": str(count)})

    @staticmethod
    def completed(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options as they were given and, under them, what the files say that they name."""
        if not (values.get("config") or values.get("config_dir")):
            return values
        from .configuration.options import completed

        return completed(values)


def parse_cpu_set(text: str) -> frozenset[int]:
    """The processors of a list such as `0-2,7`. Raises ValueError."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(f"unable to parse the list of CPUs {text!r}")
        found.update(range(first, last + 1))
    return frozenset(found)
