"""Gateways, routes and what they refer to, as manifests and as the translation has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from tests.unit.network.ingresses import service, slice_of

from navarch.api.types.core_v1 import Secret, Service
from navarch.network.gateway import CLASS, CONTROLLER, GROUP
from navarch.network.gateway.around import Around
from navarch.network.gateway.objects import (
    Gateway,
    GatewayClass,
    HTTPRoute,
    ReferenceGrant,
)
from navarch.network.gateway.translate import Translation, View, translate
from navarch.network.nginx.backends import Services

Object = dict[str, Any]
INFRA, APP, WEB = "infra", "app", "web"


def manifest(kind: str, name: str, namespace: str, spec: Object, version: str = "v1") -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": f"{GROUP}/{version}", "kind": kind, "metadata": metadata, "spec": spec}


def listener(name: str = "http", port: int = 80, hostname: str = "", **more: Any) -> Object:
    """`takes="All"` says whose routes it takes, `certificates` names Secrets."""
    found: Object = {"name": name, "port": port, "protocol": more.pop("protocol", "HTTP")}
    if hostname:
        found["hostname"] = hostname
    if takes := more.pop("takes", ""):
        found["allowedRoutes"] = {"namespaces": {"from": takes}}
    if (names := more.pop("certificates", None)) is not None:
        references = [each if isinstance(each, dict) else {"name": each} for each in names]
        found["tls"] = {"mode": "Terminate", "certificateRefs": references}
    return found | more


def gateway(
    name: str = "gateway", *listeners: Object, namespace: str = INFRA, **spec: Any
) -> Object:
    return manifest(
        "Gateway",
        name,
        namespace,
        {"gatewayClassName": CLASS, "listeners": [*listeners] or [listener()], **spec},
    )


def backend(name: str, weight: int = 1, **more: Any) -> Object:
    return {"name": name, "port": 80, "weight": weight, **more}


def rule(*backends: str | Object, path: str = "", exact: str = "", **more: Any) -> Object:
    """`path` is a prefix; `matches` and `filters` are as in the manifest."""
    found: Object = {**more}
    if backends:
        found["backendRefs"] = [
            backend(each) if isinstance(each, str) else each for each in backends
        ]
    if path or exact:
        kind, value = ("Exact", exact) if exact else ("PathPrefix", path)
        found["matches"] = [{"path": {"type": kind, "value": value}}]
    return found


def route(
    name: str,
    *rules: Object,
    parents: Sequence[Object | str] = ("gateway",),
    hosts: Sequence[str] = (),
    namespace: str = INFRA,
) -> Object:
    kind: Object = {"group": GROUP, "kind": "Gateway"}
    spec: Object = {
        "parentRefs": [
            kind | ({"name": each} if isinstance(each, str) else each) for each in parents
        ]
    }
    if hosts:
        spec["hostnames"] = [*hosts]
    if rules:
        spec["rules"] = [*rules]
    return manifest("HTTPRoute", name, namespace, spec)


def grant(name: str, namespace: str, *, kind: str, of: str, to: str, to_name: str = "") -> Object:
    """Lets `kind` of namespace `of` refer to `to` in this namespace."""
    target: Object = {"group": "", "kind": to} | ({"name": to_name} if to_name else {})
    spec = {"from": [{"group": GROUP, "kind": kind, "namespace": of}], "to": [target]}
    return manifest("ReferenceGrant", name, namespace, spec, "v1beta1")


KINDS: Mapping[str, Any] = {
    "Gateway": Gateway,
    "GatewayClass": GatewayClass,
    "HTTPRoute": HTTPRoute,
    "ReferenceGrant": ReferenceGrant,
}
OUR_CLASS = manifest("GatewayClass", CLASS, "", {"controllerName": CONTROLLER})


def translated(
    *objects: Object,
    secrets: Mapping[str, Secret] | None = None,
    services: Mapping[str, Service] | None = None,
) -> Translation:
    """Services `a` and `b` with an endpoint each, `empty` without, in all namespaces."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for number, each in enumerate((OUR_CLASS, *objects)):
        value = msgspec.convert(each, KINDS[each["kind"]])
        value.metadata.uid = f"uid-{number}"
        value.metadata.generation = 1
        value.metadata.creationTimestamp = (
            value.metadata.creationTimestamp or f"2026-01-01T00:00:{number:02}Z"
        )
        found[each["kind"]].append(value)
    known = {"a": service("a"), "b": service("b"), "empty": service("empty"), **(services or {})}
    slices = {"a": [slice_of("10.1.0.1:8080")], "b": [slice_of("10.1.0.2:8080")]}
    namespaces = {name: {"team": name} for name in (INFRA, APP, WEB)}
    around = Around(
        Services(
            lambda key: known.get(key.partition("/")[2]),
            lambda key: slices.get(key.partition("/")[2], []),
        ),
        (secrets or {}).get,
        namespaces.get,
        found["ReferenceGrant"],
    )
    return translate(View(found["GatewayClass"], found["Gateway"], found["HTTPRoute"], around))
