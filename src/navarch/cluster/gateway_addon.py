"""The addon `gateway-api`: where its component runs, as whom, and what the API holds because of it:
the standard channel's CustomResourceDefinitions of the kinds that are served, and the GatewayClass
`navarch`. Who has installed definitions of his own keeps the kinds that are not here.

As with the addon `ingress`, nginx runs on the first node, and the component has credentials of its
own, whose rights exist only while the addon is on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from navarch.network.gateway import CLASS, CONTROLLER, GROUP

USER = "system:navarch:gateway"
_RBAC = "rbac.authorization.k8s.io"
Placed = tuple[str, dict[str, Any]]

WATCH = ("get", "list", "watch")
RULES = (
    ("", ("services", "secrets", "namespaces"), WATCH),
    ("discovery.k8s.io", ("endpointslices",), WATCH),
    ("", ("services",), ("create", "patch", "delete")),
    ("discovery.k8s.io", ("endpointslices",), ("create", "patch")),
    (GROUP, ("gatewayclasses", "gateways", "httproutes", "referencegrants"), WATCH),
    (GROUP, ("gatewayclasses/status", "gateways/status", "httproutes/status"), ("patch",)),
    # Whoever makes an object its owner's must be able to keep the owner from going before it.
    (GROUP, ("gateways/finalizers",), ("update",)),
    ("", ("services/finalizers",), ("update",)),
)


def gateway_objects() -> Iterable[Placed]:
    """In the order in which they are made."""
    for definition in definitions():
        yield "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition
    name = "navarch:gateway-api"
    role = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name}
    yield (
        f"/apis/{_RBAC}/v1/clusterroles",
        _object(f"{_RBAC}/v1", "ClusterRole", name)
        | {
            "rules": [
                {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
                for group, resources, verbs in RULES
            ]
        },
    )
    yield (
        f"/apis/{_RBAC}/v1/clusterrolebindings",
        _object(f"{_RBAC}/v1", "ClusterRoleBinding", name)
        | {"roleRef": role, "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": USER}]},
    )
    yield (
        f"/apis/{GROUP}/v1/gatewayclasses",
        _object(f"{GROUP}/v1", "GatewayClass", CLASS) | {"spec": {"controllerName": CONTROLLER}},
    )


def definitions() -> Iterable[dict[str, Any]]:
    """The CustomResourceDefinitions, unpacked from the data file of the gateway component."""
    import json
    from pathlib import Path

    from navarch.network import gateway

    packed = json.loads((Path(gateway.__file__).parent / "crds.json").read_bytes())
    for each in packed:
        versions = [
            {"name": version, "storage": storage, **row["row"]}
            for row in each["rows"]
            for version, storage in row["versions"].items()
        ]
        definition = _object("apiextensions.k8s.io/v1", "CustomResourceDefinition", each["name"])
        definition["metadata"]["annotations"] = each["annotations"]
        definition["spec"] = each["spec"] | {"versions": versions}
        yield definition


def _object(version: str, kind: str, name: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "navarch"}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}}
