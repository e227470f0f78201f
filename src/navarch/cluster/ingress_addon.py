"""The addon `ingress`: where its component runs, as whom, and what the API holds because of it.

The names are those of upstream's ingress-nginx, which manifests, Helm charts and habits know:
namespace, IngressClass and Service. nginx runs on every node and listens there on ports 80 and 443,
so that `curl --resolve HOST:80:$(navarch ip)` works; the Service has an address of its own.

The component has credentials of its own, as it reads Secrets, which no other component of a node
may. Its rights exist only while the addon is on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from navarch.api.named_secrets import INGRESS_USER
from navarch.cluster import processes
from navarch.cluster.api import Api
from navarch.cluster.manifests import Placed, manifests
from navarch.network.ingress import LEASE

if TYPE_CHECKING:
    from navarch.cluster.profile import Paths

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
    """End the nginx of a node, which outlives its controller so that a new one can go on with it:
    when the addon is off, none comes."""
    for file in paths.root.glob(f"nodes/*/{component}/nginx.pid"):
        try:
            pid = int(file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if str(file.parent).encode() in command:
            processes.end([pid], grace=2.0)
