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
from navarch.cluster.manifests import Placed, manifests
from navarch.network.gateway import CLASS, CONTROLLER, LEASE, MANAGER


def gateway_objects() -> Iterable[Placed]:
    """In the order in which they are made."""
    for definition in definitions():
        yield "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition
    values = {"user": GATEWAY_USER, "lease": LEASE, "manager": MANAGER}
    yield from manifests("gateway", controller=CONTROLLER, **values, **{"class": CLASS})


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
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": each["name"],
                "labels": {"app.kubernetes.io/managed-by": "navarch"},
                "annotations": each["annotations"],
            },
            "spec": each["spec"] | {"versions": versions},
        }
