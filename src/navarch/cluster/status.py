"""`navarch status`: how a profile stands, in minikube's words and exit codes.

Read from the kernel (which processes live, which namespaces are there) and from the API server's
own health, never from what some file claims. Answers in a fraction of a second: nothing heavy is
imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from navarch.cluster import kubeconfig, processes
from navarch.cluster.api import Api
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import Paths, Profile

RUNNING, STOPPED, ERROR, CONFIGURED = "Running", "Stopped", "Error", "Configured"
IRRELEVANT = "Irrelevant"

HOST_BAD, CLUSTER_BAD, KUBECONFIG_BAD = 1, 2, 4
"""Bits of the exit code, right to left, as minikube's."""


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """One line of `navarch status`: the control plane with the first node, or another node."""

    name: str
    host: str
    kubelet: str
    apiserver: str
    kubeconfig: str
    worker: bool = False

    def text(self) -> str:
        """minikube's block of lines."""
        lines = [self.name, f"type: {'Worker' if self.worker else 'Control Plane'}"]
        lines += [
            f"{key}: {value}"
            for key, value in (
                ("host", self.host),
                ("kubelet", self.kubelet),
                ("apiserver", self.apiserver),
                ("kubeconfig", self.kubeconfig),
            )
            if value != IRRELEVANT
        ]
        return "\n".join(lines) + "\n"

    def data(self) -> dict[str, str | bool]:
        """minikube's JSON."""
        return {
            "Name": self.name,
            "Host": self.host,
            "Kubelet": self.kubelet,
            "APIServer": self.apiserver,
            "Kubeconfig": self.kubeconfig,
            "Worker": self.worker,
        }


def status(profile: Profile, paths: Paths) -> list[MachineStatus]:
    """The control plane first, then the other nodes."""
    names = profile.node_names()
    machines = [] if profile.joined else [_control_plane(profile, paths)]
    for node in names[len(machines) :]:
        host = _node_host(paths, node)
        kubelet = _kubelet(paths, node) if host == RUNNING else STOPPED
        machines.append(MachineStatus(node, host, kubelet, IRRELEVANT, IRRELEVANT, worker=True))
    return machines


def exit_code(machines: Sequence[MachineStatus]) -> int:
    """What is wrong, as bits."""
    code = 0
    for machine in machines:
        if machine.host != RUNNING:
            code |= HOST_BAD
        if machine.apiserver not in (RUNNING, IRRELEVANT) or machine.kubelet not in (
            RUNNING,
            IRRELEVANT,
        ):
            code |= CLUSTER_BAD
        if machine.kubeconfig not in (CONFIGURED, IRRELEVANT):
            code |= KUBECONFIG_BAD
    return code


def _control_plane(profile: Profile, paths: Paths) -> MachineStatus:
    names = profile.node_names()
    running = any(processes.is_running(paths.run, each) for each in ("supervisor", "apiserver"))
    host = RUNNING if running else STOPPED
    if names and running:
        host = _node_host(paths, names[0])
    if host == STOPPED:
        # A machine that is off says nothing about its parts.
        kubelet = STOPPED if names else IRRELEVANT
        return MachineStatus(profile.name, STOPPED, kubelet, STOPPED, STOPPED)
    return MachineStatus(
        name=profile.name,
        host=host,
        kubelet=_kubelet(paths, names[0]) if names else IRRELEVANT,
        apiserver=_apiserver(profile, paths),
        kubeconfig=kubeconfig.context_state(profile, kubeconfig.user_files()),
    )


def _node_host(paths: Paths, node: str) -> str:
    """A node is its namespaces and a container runtime in them."""
    if not Pins(paths.pins, node).are_alive():
        return STOPPED
    return RUNNING if processes.is_running(paths.run, f"containerd-{node}") else ERROR


def _kubelet(paths: Paths, node: str) -> str:
    return RUNNING if processes.is_running(paths.run, f"node-{node}") else STOPPED


def _apiserver(profile: Profile, paths: Paths) -> str:
    if not processes.is_running(paths.run, "apiserver"):
        return STOPPED
    api = Api(profile, paths, timeout=2.0)
    try:
        return RUNNING if api.is_ready() else ERROR
    finally:
        api.close()
