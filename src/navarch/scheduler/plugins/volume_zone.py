"""Volumes that can be used in one zone or region only, as their labels say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from navarch.api.types.core_v1 import PersistentVolumeClaim
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.framework import Cycle, NodePlugin, PodRejected, Verdict
from navarch.scheduler.podinfo import PodInfo

LABELS = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
}
"""The labels that count, and those that nodes may have in their stead."""
SEPARATOR = "__"


class VolumeZone(NodePlugin):
    """Keeps pods in the zones of their volumes. A node without any of these labels is not part of
    such a division, and takes all."""

    name: ClassVar[str] = "VolumeZone"
    interests: ClassVar[frozenset[tuple[Subject, Action]]] = frozenset(
        (subject, action)
        for subject in (Subject.CLAIM, Subject.VOLUME, Subject.STORAGE_CLASS, Subject.NODE)
        for action in (Action.ADD, Action.UPDATE)
    )

    def pre_filter(self, cycle: Cycle) -> Mask | None:
        """Volumes of claims that the pod names must be there."""
        for claim in _claims(cycle):
            name = claim.spec.volumeName
            if name and cycle.objects.volume(name) is None:
                raise PodRejected(self.name, f'persistentvolume "{name}" not found')
        return None

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        cluster = cycle.cluster
        wanted = [*_labels(cycle)]
        if not wanted:
            return None

        def compute() -> Mask:
            divided = np.zeros(cluster.size, np.bool_)
            for key in LABELS:
                divided |= cluster.label(key).column >= 0
            rejected = np.zeros(cluster.size, np.bool_)
            for key, value in wanted:
                rejected |= ~_has_one_of(cluster, key, value.split(SEPARATOR))
            return divided & rejected

        rejected = cluster.cached((self.name, *wanted), compute)
        return [Verdict(rejected, "node(s) had no available volume zone")]

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        if change.subject is not Subject.CLAIM:
            return True
        meta = change.new.metadata
        return meta.namespace == pod.namespace and meta.name in {use.name for use in pod.claims}


def _labels(cycle: Cycle) -> Iterator[tuple[str, str]]:
    """The zones and regions of the pod's volumes."""
    for claim in _claims(cycle):
        volume = cycle.objects.volume(claim.spec.volumeName)
        if volume is not None:
            labels = volume.metadata.labels
            yield from ((key, labels[key]) for key in LABELS if key in labels)


def _claims(cycle: Cycle) -> Iterator[PersistentVolumeClaim]:
    for use in cycle.pod.claims:
        claim = cycle.objects.claim(cycle.pod.namespace, use.name)
        if claim is not None and not use.is_ephemeral:
            yield claim


def _has_one_of(cluster: Cluster, key: str, values: list[str]) -> Mask:
    """Nodes whose label, or the one in its stead, has one of the values."""
    result = np.zeros(cluster.size, np.bool_)
    own, other = cluster.label(key), cluster.label(LABELS[key])
    result |= np.isin(own.column, [own.numbers.get(value, -2) for value in values])
    stands_in = np.isin(other.column, [other.numbers.get(value, -2) for value in values])
    return result | ((own.column < 0) & stands_in)
