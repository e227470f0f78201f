"""The addon `ingress`: where its component runs, as whom, and what the API holds because of it.

The names are those of upstream's ingress-nginx, which manifests, Helm charts and habits know:
namespace, IngressClass and Service. nginx runs on every node and listens there on ports 80 and 443,
so that `curl --resolve HOST:80:$(navarch ip)` works; the Service has an address of its own.

The component has credentials of its own, as it reads Secrets, which no other component of a node
may. Its rights exist only while the addon is on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navarch.api.named_secrets import INGRESS_USER
from navarch.cluster import processes
from navarch.cluster.api import Api, ApiUnavailableError
from navarch.network.ingress import LEASE

if TYPE_CHECKING:
    from navarch.cluster.profile import Paths, Profile

CLASS = "nginx"
NAMESPACE, SERVICE = "ingress-nginx", "ingress-nginx-controller"
_RBAC = "rbac.authorization.k8s.io"
_NETWORKING = "/apis/networking.k8s.io/v1"
_LABELS = {
    "app.kubernetes.io/name": "ingress-nginx",
    "app.kubernetes.io/component": "controller",
}
Placed = tuple[str, dict[str, Any]]
Words = tuple[str, ...]
Rule = tuple[str, Words, Words] | tuple[str, Words, Words, Words]
"""Group, resources, verbs, and the names of the only objects that are meant."""


def ingress_objects(profile: Profile) -> list[Placed]:
    """In the order in which they are made."""
    ingress_class = _object("networking.k8s.io/v1", "IngressClass", CLASS)
    ingress_class["metadata"]["annotations"] = {
        "ingressclass.kubernetes.io/is-default-class": "true"
    }
    ingress_class["spec"] = {"controller": "k8s.io/ingress-nginx"}
    return [
        ("/api/v1/namespaces", _object("v1", "Namespace", NAMESPACE)),
        *rights("ingress-nginx", INGRESS_USER, RULES, NAMESPACE, OWN_RULES),
        (f"{_NETWORKING}/ingressclasses", ingress_class),
        (
            f"/api/v1/namespaces/{NAMESPACE}/services",
            _object("v1", "Service", SERVICE, NAMESPACE)
            | {
                "spec": {
                    "type": "LoadBalancer",
                    # Who asks is seen in logs and by source ranges.
                    "externalTrafficPolicy": "Local",
                    "ipFamilyPolicy": "PreferDualStack",
                    "ports": [
                        {
                            "name": name,
                            "port": port,
                            "targetPort": port,
                            "protocol": "TCP",
                            "appProtocol": name,
                        }
                        for name, port in (("http", 80), ("https", 443))
                    ],
                }
            },
        ),
    ]


RULES = (
    ("", ("services", "secrets", "nodes"), ("get", "list", "watch")),
    ("discovery.k8s.io", ("endpointslices",), ("get", "list", "watch")),
    ("networking.k8s.io", ("ingresses", "ingressclasses"), ("get", "list", "watch")),
    ("networking.k8s.io", ("ingresses/status",), ("update", "patch")),
    ("", ("events",), ("create", "patch")),
    ("events.k8s.io", ("events",), ("create", "patch")),
)


def lease_rules(name: str) -> tuple[Rule, ...]:
    """To hold one lease, and no other component's. What is made cannot be bound to a name."""
    group, leases = "coordination.k8s.io", ("leases",)
    return (group, leases, ("create",)), (group, leases, ("get", "update"), (name,))


OWN_RULES: tuple[Rule, ...] = (
    ("discovery.k8s.io", ("endpointslices",), ("create", "patch", "delete")),
    *lease_rules(LEASE),
)


def rights(
    name: str, user: str, rules: Iterable[Rule], namespace: str, own: Iterable[Rule]
) -> list[Placed]:
    """Roles for a component's user: `rules` for the whole cluster, `own` within a namespace."""
    roles = (
        ("ClusterRole", "clusterroles", "", rules),
        ("Role", "roles", namespace, own),
    )
    found: list[Placed] = []
    for kind, plural, within, allowed in roles:
        where = f"/apis/{_RBAC}/v1/" + (f"namespaces/{within}/" if within else "")
        role = labelled(f"{_RBAC}/v1", kind, name, within)
        role["rules"] = [
            {"apiGroups": [rule[0]], "resources": list(rule[1]), "verbs": list(rule[2])}
            | ({"resourceNames": list(*rule[3:])} if rule[3:] else {})
            for rule in allowed
        ]
        binding = labelled(f"{_RBAC}/v1", f"{kind}Binding", name, within)
        binding["roleRef"] = {"apiGroup": _RBAC, "kind": kind, "name": name}
        binding["subjects"] = [{"apiGroup": _RBAC, "kind": "User", "name": user}]
        found += [
            (where + plural, role),
            (where + plural.removesuffix("s") + "bindings", binding),
        ]
    return found


def labelled(version: str, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    """The beginning of an object of ours."""
    labels = {"app.kubernetes.io/managed-by": "navarch"}
    metadata = {"name": name, "labels": labels} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _object(version: str, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    found = labelled(version, kind, name, namespace)
    found["metadata"]["labels"] |= _LABELS
    return found


def take_back(api: Api) -> None:
    """The addon is off: no Ingress shall say any more that it can be reached there. Controllers
    cannot take that back, as they end with their rights. What another one wrote stays."""
    try:
        service = api.get(f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}")
    except ApiUnavailableError as error:
        if error.status == 404:
            return
        raise
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
