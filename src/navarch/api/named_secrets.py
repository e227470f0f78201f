"""Which Secrets Ingresses and Gateways name, and as whom the components speak that serve them: they
may read these Secrets and no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

INGRESS_USER, GATEWAY_USER = "system:navarch:ingress", "system:navarch:gateway"
ANNOTATION_PREFIX = "nginx.ingress.kubernetes.io/"
SECRET_ANNOTATIONS = ("auth-secret", "auth-tls-secret", "proxy-ssl-secret")
GATEWAY_GROUP = "gateway.networking.k8s.io"
GATEWAY_LABEL = f"{GATEWAY_GROUP}/gateway-name"
"""On the Service of a Gateway."""

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""


def of_ingress(ingress: Object) -> Iterator[Key]:
    """Of its own namespace; it cannot name others'."""
    metadata = ingress["metadata"]
    annotations = metadata.get("annotations") or {}
    named = [annotations.get(ANNOTATION_PREFIX + name) or "" for name in SECRET_ANNOTATIONS]
    tls = (ingress.get("spec") or {}).get("tls") or ()
    for text in (*named, *(each.get("secretName") or "" for each in tls)):
        namespace, _, name = text.strip().rpartition("/")
        if name and namespace in ("", metadata["namespace"]):
            yield metadata["namespace"], name


def of_gateway(gateway: Object, grants: Iterable[Object]) -> Iterator[Key]:
    """Certificates of its listeners: those of other namespaces need one of the ReferenceGrants."""
    own = gateway["metadata"]["namespace"]
    granted = [*grants]
    for listener in (gateway.get("spec") or {}).get("listeners") or ():
        for each in (listener.get("tls") or {}).get("certificateRefs") or ():
            key = each.get("namespace") or own, each["name"]
            is_secret = not each.get("group") and each.get("kind", "Secret") == "Secret"
            if is_secret and (key[0] == own or any(_lets(grant, own, key) for grant in granted)):
                yield key


def _lets(grant: Object, namespace: str, key: Key) -> bool:
    """Whether a grant lets Gateways of a namespace name a Secret."""
    source = {"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": namespace}
    return (
        grant["metadata"]["namespace"] == key[0]
        and source in grant["spec"]["from"]
        and any(
            (each.get("group", ""), each.get("kind")) == ("", "Secret")
            and each.get("name", key[1]) == key[1]
            for each in grant["spec"]["to"]
        )
    )
