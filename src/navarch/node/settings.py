"""What a node agent is told when it is started: everything that differs between nodes."""

from __future__ import annotations

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
    """Resources kept back from pods, by name (`cpu`, `memory`)."""
    cpu: str = ""
    memory: str = ""
    """Capacity to report instead of the machine's, for several nodes on one machine."""
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    log_max_size: int = 10 * 1024 * 1024
    log_max_files: int = 5
