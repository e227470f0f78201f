"""A pod as the scheduler sees it: what it asks of nodes, worked out once per state of the pod."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import NamedTuple

from propcache.api import cached_property

from navarch.api.objects import encode
from navarch.api.persistent_volumes import claim_name
from navarch.api.types.core_v1 import NodeSelector, Pod, PreferredSchedulingTerm, Volume
from navarch.scheduler.requests import Requests, requests_of
from navarch.scheduler.terms import Kind, Placement, Term, terms_of

TERMINAL = ("Succeeded", "Failed")
DEFAULT_SCHEDULER = "default-scheduler"
LATER_THAN_ALL = "9999"

Port = tuple[str, str, int]
"""Address, protocol and number of a port on the node."""


class ClaimUse(NamedTuple):
    """A claim for a volume that the pod uses."""

    name: str
    is_ephemeral: bool
    """Made for this pod, and gone with it."""


class PodInfo:
    """Wraps a pod; the pod itself is shared and never changed. What only some plugins need is
    computed when first asked for."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        meta = pod.metadata
        self.name = meta.name
        self.namespace = meta.namespace
        self.uid = meta.uid
        self.key = f"{meta.namespace}/{meta.name}"
        self.labels = meta.labels
        self.priority = pod.spec.priority or 0
        self.deleting = bool(meta.deletionTimestamp)

    @property
    def node(self) -> str:
        return self.pod.spec.nodeName

    @cached_property
    def requests(self) -> Requests:
        return requests_of(self.pod)

    @cached_property
    def importance(self) -> tuple[int, str]:
        """Sorts the most important first: of equals, that which runs longest. What has not started
        is as new as can be; RFC 3339 in UTC sorts as text."""
        return -self.priority, self.pod.status.startTime or LATER_THAN_ALL

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """The ports it wants on the node. Init containers are gone before others start, so only
        those that stay count."""
        spec = self.pod.spec
        sidecars = [c for c in spec.initContainers if c.restartPolicy == "Always"]
        return tuple(
            (port.hostIP or "0.0.0.0", port.protocol or "TCP", port.hostPort)
            for container in [*spec.containers, *sidecars]
            for port in container.ports
            if port.hostPort > 0
        )

    @cached_property
    def tolerations_key(self) -> bytes:
        """Equal for pods that tolerate the same."""
        return encode(self.pod.spec.tolerations)

    @cached_property
    def node_affinity_key(self) -> bytes:
        """Equal for pods that ask for the same nodes."""
        spec = self.pod.spec
        affinity = spec.affinity and spec.affinity.nodeAffinity
        return encode((spec.nodeSelector, affinity)) if affinity or spec.nodeSelector else b""

    @property
    def required_nodes(self) -> NodeSelector | None:
        affinity = self.pod.spec.affinity
        if affinity is None or affinity.nodeAffinity is None:
            return None
        return affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution

    @property
    def preferred_nodes(self) -> list[PreferredSchedulingTerm]:
        affinity = self.pod.spec.affinity
        if affinity is None or affinity.nodeAffinity is None:
            return []
        return affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution

    @cached_property
    def labels_key(self) -> Hashable:
        """Equal for pods with equal labels."""
        return _the_same(frozenset(self.labels.items()))

    @cached_property
    def terms(self) -> tuple[Placement, ...]:
        """What it says about being near to other pods."""
        return terms_of(self)

    def terms_of_kind(self, kind: Kind) -> list[tuple[int, Term]]:
        return [(weight, term) for found, weight, term in self.terms if found is kind]

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The images it needs, with their tags."""
        spec = self.pod.spec
        names = [c.image for c in [*spec.initContainers, *spec.containers]]
        names += [v.image.reference for v in spec.volumes if v.image is not None]
        return tuple(map(tagged, names))

    @cached_property
    def claims(self) -> tuple[ClaimUse, ...]:
        """The claims it uses."""
        uses = (
            ClaimUse(claim_name(self.pod, volume), volume.ephemeral is not None)
            for volume in self.pod.spec.volumes
        )
        return tuple(use for use in uses if use.name)

    @cached_property
    def disks(self) -> tuple[Volume, ...]:
        """Disks that it names itself."""
        return tuple(
            volume
            for volume in self.pod.spec.volumes
            if volume.gcePersistentDisk or volume.awsElasticBlockStore or volume.iscsi or volume.rbd
        )

    @cached_property
    def gates(self) -> tuple[str, ...]:
        return tuple(gate.name for gate in self.pod.spec.schedulingGates)


def is_terminal(pod: Pod) -> bool:
    return pod.status.phase in TERMINAL


def tagged(image: str) -> str:
    """An image's name with a tag; nothing stands for the latest."""
    return image if image.rfind(":") > image.rfind("/") else f"{image}:latest"


@lru_cache(maxsize=4096)
def _the_same(key: Hashable) -> Hashable:
    """Of equal keys the one that came first, so that a thousand pods share it."""
    return key
