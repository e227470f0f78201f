"""What the kubelet's HTTP server needs to know of the pods on this node.

The pod workers implement it; tests have a small one of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from navarch.api.types.core_v1 import Pod


@dataclass(frozen=True, slots=True)
class Streams:
    """Which standard streams an exec or attach wants, and whether on a terminal."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


class ServerBackend(Protocol):
    """All look-ups raise ApiError: 404 for what is not here, 400 for what cannot be answered now
    (a container that waits to start), with upstream's messages."""

    def pods(self) -> Sequence[Pod]:
        """The pods of this node as the API shows them."""
        ...

    async def running_pods(self) -> Sequence[Pod]:
        """What the runtime runs, as pods made of what it knows of them."""
        ...

    def uid(self, namespace: str, pod: str) -> str:
        """The uid of the pod of that name."""
        ...

    def log_file(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path:
        """The log file of a container's current (or previous) instance."""
        ...

    def is_running(self, namespace: str, pod: str, container: str) -> bool:
        """Whether the container still writes to its log."""
        ...

    async def exec_url(
        self, namespace: str, pod: str, container: str, command: Sequence[str], streams: Streams
    ) -> str:
        """Where the runtime serves this exec (CRI Exec)."""
        ...

    async def attach_url(self, namespace: str, pod: str, container: str, streams: Streams) -> str:
        """Where the runtime serves this attach (CRI Attach)."""
        ...

    async def port_forward_url(self, namespace: str, pod: str, ports: Sequence[int] = ()) -> str:
        """Where the runtime serves port-forward into the pod (CRI PortForward). `ports` are for
        clients of WebSocket channels; others name each port with its stream."""
        ...

    async def run(
        self, namespace: str, pod: str, container: str, command: Sequence[str]
    ) -> tuple[int, bytes]:
        """Run a command to its end (CRI ExecSync): exit code, and stdout followed by stderr."""
        ...

    async def checkpoint(self, namespace: str, pod: str, container: str, *, timeout: int) -> str:
        """Save a running container's state to a file (CRI CheckpointContainer); its name."""
        ...


class Statistics(Protocol):
    """What the node and its pods use, in the forms that are asked for."""

    async def summary(self, *, only_cpu_and_memory: bool) -> Mapping[str, Any]:
        """`/stats/summary` (stats/v1alpha1)."""
        ...

    async def resource_metrics(self) -> bytes:
        """`/metrics/resource`."""
        ...

    async def cadvisor_metrics(self) -> bytes:
        """`/metrics/cadvisor`."""
        ...

    async def kubelet_metrics(self) -> bytes:
        """`/metrics`."""
        ...

    def probe_metrics(self) -> bytes:
        """`/metrics/probes`."""
        ...
