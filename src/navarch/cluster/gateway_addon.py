"""The addon `gateway-api`: where its component runs, as whom, and what the API holds because of it:
the standard channel's CustomResourceDefinitions of the kinds that are served, and the GatewayClass
`navarch`. Who has installed definitions of his own keeps the kinds that are not here.

As with the addon `ingress`, nginx runs on every node, and the component has credentials of its
own, whose rights exist only while the addon is on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from navarch.api.named_secrets import GATEWAY_USER
from navarch.cluster.ingress_addon import Placed, labelled, lease_rules, rights
from navarch.network.gateway import CLASS, CONTROLLER, GROUP, LEASE

WATCH = ("get", "list", "watch")
RULES = (
    ("", ("services", "secrets", "namespaces", "nodes"), WATCH),
    ("discovery.k8s.io", ("endpointslices",), WATCH),
    ("", ("services",), ("create", "patch", "delete")),
    ("discovery.k8s.io", ("endpointslices",), ("create", "patch", "delete")),
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
    yield from rights("navarch:gateway-api", GATEWAY_USER, RULES, "kube-system", lease_rules(LEASE))
    yield (
        f"/apis/{GROUP}/v1/gatewayclasses",
        labelled(f"{GROUP}/v1", "GatewayClass", CLASS) | {"spec": {"controllerName": CONTROLLER}},
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
        definition = labelled("apiextensions.k8s.io/v1", "CustomResourceDefinition", each["name"])
        definition["metadata"]["annotations"] = each["annotations"]
        definition["spec"] = each["spec"] | {"versions": versions}
        yield definition
