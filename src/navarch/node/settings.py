"""What a node agent is told when it is started: everything that differs between nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from navarch.api.types.core_v1 import Taint


@dataclass(frozen=True)
class NodeOptions:
    """The options of `navarch kubelet`."""

    kubeconfig: Path
    node_name: str
    node_ip: str = ""
    """The address other nodes and the API server reach this node at; found out when empty."""
    runtime_endpoint: str = "unix:///run/containerd/containerd.sock"
    root_directory: Path = Path("/var/lib/kubelet")
    pod_logs_directory: Path = Path("/var/log/pods")
    manifest_directory: Path | None = None
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: Path = Path("/etc/resolv.conf")
    hosts_file: Path = Path("/etc/hosts")
    cgroup_root: str = ""
    """This node's own place in the cgroup tree, such as `/navarch/main/node-1`."""
    max_pods: int = 110
    port: int = 10250
    listen_address: str = ""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    register_node: bool = True
    reserved: dict[str, str] = field(default_factory=dict)
    """Resources kept back from pods, by name (`cpu`, `memory`): upstream's kubeReserved."""
    cpu: str = ""
    memory: str = ""
    """Capacity to report instead of the machine's, for several nodes on one machine."""
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    log_max_size: int = 10 * 1024 * 1024
    log_max_files: int = 5
    pressure: PressureOptions = field(default_factory=lambda: PressureOptions())
    cgroups: CgroupOptions = field(default_factory=lambda: CgroupOptions())
    shutdown: ShutdownOptions = field(default_factory=lambda: ShutdownOptions())


DEFAULT_EVICTION_HARD = {
    "memory.available": "100Mi",
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "imagefs.inodesFree": "5%",
}


@dataclass(frozen=True)
class PressureOptions:
    """When the node counts as short of something, and what is kept of pods that have ended. The
    maps are `KubeletConfiguration`'s: from signal to quantity, percentage or duration."""

    eviction_hard: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_EVICTION_HARD))
    eviction_soft: Mapping[str, str] = field(default_factory=dict)
    eviction_soft_grace_period: Mapping[str, str] = field(default_factory=dict)
    eviction_minimum_reclaim: Mapping[str, str] = field(default_factory=dict)
    transition_seconds: float = 300.0
    """How long a condition stays after it was last seen."""
    maximum_grace_seconds: int = 0
    """The most a pod gets to end in when a soft threshold evicts it."""
    kernel_notification: bool = False
    """Whether the kernel's word on memory is listened to between two looks."""
    local_storage_isolation: bool = True
    containers_per_pod: int = 1
    """Ended instances kept of each container (-1: all)."""
    containers_in_all: int = -1
    container_minimum_age: float = 0.0


@dataclass(frozen=True)
class CgroupOptions:
    """How pods share the machine."""

    driver: str = ""
    """`cgroupfs` or `systemd`; empty: what the runtime says, or else cgroupfs."""
    enforce: tuple[str, ...] = ("pods",)
    """enforceNodeAllocatable: which of `pods`, `system-reserved`, `kube-reserved` (or `none`)."""
    system_reserved: Mapping[str, str] = field(default_factory=dict)
    kube_reserved_cgroup: str = ""
    system_reserved_cgroup: str = ""
    pod_pids_limit: int = -1
    cpu_cfs_quota: bool = True
    cpu_period_micros: int = 100_000
    qos_reserved: Mapping[str, str] = field(default_factory=dict)
    """Per cent of Guaranteed pods' requests that other classes cannot take, such as memory: 50%."""
    swap_behavior: str = ""
    """memorySwap: empty or `NoSwap`, or `LimitedSwap`."""
    single_process_oom_kill: bool = False
    memory_qos: bool = False
    """The feature gate MemoryQoS: memory.min and memory.high where the kernel has them."""
    memory_throttling_factor: float = 0.9


@dataclass(frozen=True)
class ShutdownGrace:
    """Seconds for the pods from this priority up to the next one listed."""

    priority: int
    seconds: int


@dataclass(frozen=True)
class ShutdownOptions:
    """Graceful node shutdown; all zero: pods are not told of it."""

    grace_seconds: float = 0.0
    critical_grace_seconds: float = 0.0
    """The last part of `grace_seconds`, for critical pods alone."""
    by_priority: tuple[ShutdownGrace, ...] = ()
    on_terminate: bool = False
    """Whether the end of the agent's own process (SIGTERM) is the machine's end, as it is for a
    node that lives in namespaces of its own."""
