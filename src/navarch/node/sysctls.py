"""Which kernel parameters a pod may set: those of its own namespaces that cannot harm others. Pure.

(`pkg/kubelet/sysctl`; the node's administrator may allow more by name or by `prefix*`.)
"""

from __future__ import annotations

from collections.abc import Sequence

from navarch.api.types.core_v1 import Pod

SAFE_SYSCTLS = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
)
_SWAPPED = str.maketrans("./", "/.")


def normalized(name: str) -> str:
    """With dots between the parts: `net/ipv4/conf/eth0.1/forwarding` has a dot within a part."""
    slash, dot = name.find("/"), name.find(".")
    return name.translate(_SWAPPED) if slash >= 0 and not 0 <= dot < slash else name


def forbidden(pod: Pod, allowed: Sequence[str]) -> str:
    """Why the pod may not set what it wants to set; empty if it may."""
    context = pod.spec.securityContext
    patterns = (*SAFE_SYSCTLS, *map(normalized, allowed))
    for sysctl in context.sysctls if context is not None else ():
        name = normalized(sysctl.name)
        if not any(_covers(pattern, name) for pattern in patterns):
            return f'"{name}" not allowlisted'
        shared = "Net" if pod.spec.hostNetwork else ""
        if not name.startswith("net."):
            shared = "IPC" if pod.spec.hostIPC else ""
        if shared:
            return f'"{name}" not allowed with host {shared} enabled'
    return ""


def _covers(pattern: str, name: str) -> bool:
    return name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))
