"""The addon `ingress`: where its component runs, as whom, and what the API holds because of it.

The names are those of upstream's ingress-nginx, which manifests, Helm charts and habits know:
namespace, IngressClass and Service. nginx runs on every node and listens there on ports 80 and 443,
so that `curl --resolve HOST:80:$(navarch ip)` works; the Service has an address of its own.

The component has credentials of its own, as it reads Secrets, which no other component of a node
may. Its rights exist only while the addon is on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navarch.api.named_secrets import INGRESS_USER
from navarch.cluster import containerd, processes
from navarch.cluster.api import Api
from navarch.cluster.manifests import Placed, manifests
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError
from navarch.cluster.supervisor import Description
from navarch.network.ingress import LEASE
from navarch.network.nginx import shared_directory

if TYPE_CHECKING:
    from navarch.cluster.profile import Paths

REPLACED_SECONDS, DRAIN_SECONDS = 60.0, 5.0
NAMESPACE, SERVICE = "ingress-nginx", "ingress-nginx-controller"
_NETWORKING = "/apis/networking.k8s.io/v1"


def ingress_objects() -> list[Placed]:
    """In the order in which they are made."""
    return manifests("ingress", user=INGRESS_USER, lease=LEASE)


def take_back(api: Api) -> None:
    """The addon is off: no Ingress shall say any more that it can be reached there. Controllers
    cannot take that back, as they end with their rights. What another one wrote stays."""
    service = api.find(f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}")
    if service is None:
        return
    slices = api.get(f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")["items"]
    ours = {*_addresses(service), *(service["spec"].get("externalIPs") or ())}
    for each in (one for every in slices for one in every.get("endpoints") or ()):
        ours.update(each["addresses"])
    for ingress in api.get(f"{_NETWORKING}/ingresses")["items"]:
        told = _addresses(ingress)
        if told and ours.issuperset(told):
            meta = ingress["metadata"]
            path = f"{_NETWORKING}/namespaces/{meta['namespace']}/ingresses/{meta['name']}/status"
            api.merge(path, {"status": {"loadBalancer": None}})


def _addresses(each: dict[str, Any]) -> list[str]:
    """What the status of a Service or an Ingress says."""
    found = ((each.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [one.get("ip") or one.get("hostname") or "" for one in found]


def end_nginx(paths: Paths, component: str) -> None:
    """End the nginx of all nodes, and remove what they kept, keys among it. They outlive their
    controllers, so that new ones can go on with them: when the addon is off, none come. Raises
    ClusterError while a controller is still there, which would start its nginx anew."""
    if not processes.wait_until(lambda: _are_as_described(paths), REPLACED_SECONDS):
        raise ClusterError(
            f"nodes still run the {component} controllers, so their nginx cannot be taken away",
            "See: navarch status; then: navarch start",
        )
    directories = [*paths.root.glob(f"nodes/*/{component}")]
    pids = [pid for each in directories if (pid := _nginx_of(each))]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    # What is under way may end; what does not, as a WebSocket, is cut.
    processes.end(processes.wait_gone(pids, DRAIN_SECONDS), grace=2.0)
    for each in directories:
        pins = Pins(paths.pins, each.parent.name)
        if pins.are_alive():
            containerd.run_in_node(pins, ["rm", "-rf", str(shared_directory(each))])
        shutil.rmtree(each)


def _are_as_described(paths: Paths) -> bool:
    """Whether no node's process runs that began before the addon was off."""
    for spec in Description.read(paths.run / "supervisor.json").processes:
        process = processes.read_pid_file(paths.run / f"{spec.name}.pid")
        if spec.node and process is not None and process.digest != spec.digest:
            return False
    return True


def _nginx_of(directory: Path) -> int:
    """The master that serves from a directory, 0 if there is none."""
    try:
        pid = int((directory / "nginx.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    return pid if str(directory).encode() in command else 0
