"""The figures of claims for devices, under upstream's names (`resourceclaim_controller_*`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from navarch.api.resource_claims import EXTENDED_CLAIM, POD_CLAIM
from navarch.api.types.resource_v1 import ResourceClaim

PREFIX = "resourceclaim_controller"
LABELS = ("allocated", "admin_access", "source")

_creates = prometheus_client.Counter(
    f"{PREFIX}_creates",
    "Number of ResourceClaims creation requests, categorized by creation status and admin access",
    ("status", "admin_access"),
)


@contextmanager
def creating(claim: ResourceClaim) -> Iterator[None]:
    """Counts the attempt to make this claim."""
    try:
        yield
    except Exception:
        _creates.labels("failure", _admin_access(claim)).inc()
        raise
    _creates.labels("success", _admin_access(claim)).inc()


class ClaimFigures(Collector):
    """Counts the claims that there are when somebody asks, and not before."""

    def __init__(self, claims: Callable[[], Iterable[ResourceClaim]]) -> None:
        self._claims = claims

    def describe(self) -> tuple[()]:
        """Nothing, so that several control planes in one process may register theirs."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        text = (
            "Number of ResourceClaims, categorized by allocation status, admin access, and source"
        )
        family = GaugeMetricFamily(f"{PREFIX}_resource_claims", text, labels=LABELS)
        for labels, count in Counter(map(_labels, self._claims())).items():
            family.add_metric(labels, count)
        yield family


def _labels(claim: ResourceClaim) -> tuple[str, str, str]:
    annotations, source = claim.metadata.annotations, ""
    if annotations.get(EXTENDED_CLAIM) == "true":
        source = "extended_resource"
    elif annotations.get(POD_CLAIM):
        source = "resource_claim_template"
    is_allocated = claim.status.allocation is not None
    return str(is_allocated).lower(), _admin_access(claim), source


def _admin_access(claim: ResourceClaim) -> str:
    requests = claim.spec.devices.requests
    return str(any(each.exactly and each.exactly.adminAccess for each in requests)).lower()
