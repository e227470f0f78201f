"""The addon `ingress`: where its component runs, as whom, and what the API holds because of it.

The names are those of upstream's ingress-nginx, which manifests, Helm charts and habits know:
namespace, IngressClass and Service. nginx runs on the first node and listens there on ports 80 and
443, so that `curl --resolve HOST:80:$(navarch ip)` works; the Service has an address of its own.

The component has credentials of its own, as it reads Secrets, which no other component of a node
may. Its rights exist only while the addon is on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from navarch.cluster import processes

if TYPE_CHECKING:
    from navarch.cluster.profile import Paths, Profile

USER = "system:navarch:ingress"
CLASS = "nginx"
NAMESPACE, SERVICE = "ingress-nginx", "ingress-nginx-controller"
_RBAC = "rbac.authorization.k8s.io"
_LABELS = {
    "app.kubernetes.io/name": "ingress-nginx",
    "app.kubernetes.io/component": "controller",
    "app.kubernetes.io/managed-by": "navarch",
}
Placed = tuple[str, dict[str, Any]]


def ingress_objects(profile: Profile) -> list[Placed]:
    """In the order in which they are made."""
    return [
        ("/api/v1/namespaces", _object("v1", "Namespace", NAMESPACE)),
        *_rights(),
        (
            "/apis/networking.k8s.io/v1/ingressclasses",
            _object(
                "networking.k8s.io/v1",
                "IngressClass",
                CLASS,
                annotations={"ingressclass.kubernetes.io/is-default-class": "true"},
            )
            | {"spec": {"controller": "k8s.io/ingress-nginx"}},
        ),
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
    ("", ("services", "secrets"), ("get", "list", "watch")),
    ("discovery.k8s.io", ("endpointslices",), ("get", "list", "watch")),
    ("networking.k8s.io", ("ingresses", "ingressclasses"), ("get", "list", "watch")),
    ("networking.k8s.io", ("ingresses/status",), ("update", "patch")),
    ("", ("events",), ("create", "patch")),
    ("events.k8s.io", ("events",), ("create", "patch")),
)
OWN_RULES = (
    ("discovery.k8s.io", ("endpointslices",), ("create", "update", "delete")),
    ("coordination.k8s.io", ("leases",), ("get", "create", "update")),
)


def _rights() -> list[Placed]:
    roles = (
        ("ClusterRole", "clusterroles", "", RULES),
        ("Role", "roles", NAMESPACE, OWN_RULES),
    )
    found: list[Placed] = []
    for kind, plural, namespace, rules in roles:
        where = f"/apis/{_RBAC}/v1/" + (f"namespaces/{namespace}/" if namespace else "")
        name = "ingress-nginx"
        role = _object(f"{_RBAC}/v1", kind, name, namespace)
        role["rules"] = [
            {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
            for group, resources, verbs in rules
        ]
        binding = _object(f"{_RBAC}/v1", f"{kind}Binding", name, namespace)
        binding["roleRef"] = {"apiGroup": _RBAC, "kind": kind, "name": name}
        binding["subjects"] = [{"apiGroup": _RBAC, "kind": "User", "name": USER}]
        found += [
            (where + plural, role),
            (where + plural.removesuffix("s") + "bindings", binding),
        ]
    return found


def _object(
    version: str,
    kind: str,
    name: str,
    namespace: str = "",
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": dict(_LABELS)}
    if namespace:
        metadata["namespace"] = namespace
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def end_nginx(paths: Paths, component: str = "ingress") -> None:
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
