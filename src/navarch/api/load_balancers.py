"""What the annotations on Services of type LoadBalancer are called, for those who give addresses
and those who announce them. They are MetalLB's, and its earlier names are understood as well."""

from __future__ import annotations

from navarch.api.types.core_v1 import Service

PREFIXES = ("metallb.io/", "metallb.universe.tf/")
POOL_ANNOTATION = "metallb.io/ip-allocated-from-pool"


def annotation(service: Service, name: str) -> str:
    annotations = service.metadata.annotations
    return next((annotations[p + name] for p in PREFIXES if annotations.get(p + name)), "")


def is_ours(service: Service) -> bool:
    """Whether what is in the Service's status is from this cluster's pools. Other providers do not
    write this annotation, and neither do people who set a status by hand."""
    return bool(annotation(service, "ip-allocated-from-pool"))
