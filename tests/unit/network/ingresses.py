"""Ingresses and what they refer to, for tests of the translation."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from navarch.api.named_secrets import ANNOTATION_PREFIX
from navarch.api.types.core_v1 import Secret, Service, ServicePort, ServiceSpec
from navarch.api.types.discovery_v1 import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import Ingress
from navarch.network.ingress.routes import Surroundings
from navarch.network.ingress.translate import Ports, Translation, translate
from navarch.network.nginx.backends import Services
from navarch.network.nginx.model import Route

NAMESPACE = "default"


def ingress(
    name: str = "web",
    paths: Mapping[str, str] | None = None,
    host: str = "web.example",
    *,
    kind: str = "Prefix",
    tls: str | None = None,
    created: str = "2026-01-01T00:00:00Z",
    **annotations: str,
) -> Ingress:
    """An Ingress: paths to Service names; `rewrite_target="/"` becomes that annotation."""
    routes = [
        {
            "path": path,
            "pathType": kind,
            "backend": {"service": {"name": service, "port": {"number": 80}}},
        }
        for path, service in ({"/": "a"} if paths is None else paths).items()
    ]
    spec: dict[str, Any] = {"rules": [{"host": host, "http": {"paths": routes}}]}
    if tls is not None:
        spec["tls"] = [{"hosts": [host], "secretName": tls}]
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-{name}",
        "creationTimestamp": created,
        "annotations": {
            ANNOTATION_PREFIX + key.replace("_", "-"): value for key, value in annotations.items()
        },
    }
    return msgspec.convert({"metadata": metadata, "spec": spec}, Ingress)


def service(name: str, **spec: Any) -> Service:
    ports = [ServicePort(name="http", port=80, protocol="TCP")]
    return Service(
        metadata=ObjectMeta(name=name, namespace=NAMESPACE),
        spec=ServiceSpec(**{"clusterIP": "10.96.0.1", "ports": ports, **spec}),
    )


def slice_of(*addresses: str, ready: bool = True) -> EndpointSlice:
    endpoints = [
        Endpoint(addresses=[each.rpartition(":")[0]], conditions=EndpointConditions(ready=ready))
        for each in addresses
    ]
    port = int(addresses[0].rpartition(":")[2]) if addresses else 1
    ports = [EndpointPort(name="http", port=port, protocol="TCP")]
    return EndpointSlice(addressType="IPv4", endpoints=endpoints, ports=ports)


def secret(name: str, **data: str) -> Secret:
    """`tls__crt` becomes the key `tls.crt`."""
    encoded = {
        key.replace("__", "."): base64.b64encode(text.encode()).decode()
        for key, text in data.items()
    }
    return Secret(metadata=ObjectMeta(name=name, namespace=NAMESPACE), data=encoded)


SERVICES = {f"{NAMESPACE}/{name}": service(name) for name in ("a", "b", "c")}


def surroundings(secrets: Mapping[str, Secret] | None = None) -> Surroundings:
    return Surroundings(
        Services(SERVICES.get, lambda key: [slice_of("10.0.0.1:8080")]), (secrets or {}).get
    )


def translated(*ingresses: Ingress, secrets: Mapping[str, Secret] | None = None) -> Translation:
    return translate(ingresses, surroundings(secrets), Ports())


def routes(translation: Translation, host: str = "web.example") -> list[Route]:
    hosts = {each.name: each for each in translation.plane.tables["ingress"]}
    return list(hosts[host].routes) if host in hosts else []
