"""Volumes: claims must be there, and their volumes reachable from the node or to be had there.

Claims of classes that wait for their first consumer have no volume yet. For each node it is seen
which free volumes they could get there, and whether the others could be provisioned: not by asking
anybody, but by what the class, the driver and its capacities say. All of it for all nodes at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from navarch.api.objects import encode
from navarch.api.persistent_volumes import (
    NO_PROVISIONER,
    SELECTED_NODE,
    can_hold,
    capacity,
    claim_class,
    free_matches,
    is_fully_bound,
    names_claim,
    requested,
    waits_for_consumer,
)
from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import StorageClass
from navarch.client import is_controlled_by
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.cluster import Cluster, Mask, Numbers
from navarch.scheduler.configuration.arguments import VolumeBindingArgs
from navarch.scheduler.framework import Cycle, NodePlugin, PodRejected, Verdict, VolumePlan
from navarch.scheduler.node_selection import matches_labels, selected
from navarch.scheduler.podinfo import ClaimUse, PodInfo

UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
OTHER_NODES = "node(s) didn't match PersistentVolume's node affinity"
NO_MATCH = "node(s) didn't find available persistent volumes to bind"
NO_SPACE = "node(s) did not have enough free storage"
NO_VOLUME = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"


@dataclass(slots=True)
class _Claims:
    """What was found out about a pod's claims."""

    bound: list[PersistentVolumeClaim]
    delayed: list[PersistentVolumeClaim]
    """Those without a node first to last by what they ask for: small ones take small volumes."""
    volumes: list[PersistentVolume] = field(default_factory=list)
    """Volumes that could be taken."""
    taken: dict[str, Numbers] = field(default_factory=dict)
    """Which of them a claim takes on each node, by the claim's name; -1: none."""


DEFAULTS = VolumeBindingArgs()


class VolumeBinding(NodePlugin):
    """Rejects pods whose claims are missing, on their way out or not bound, and nodes on which
    their volumes cannot be used or had."""

    name: ClassVar[str] = "VolumeBinding"
    interests: ClassVar[frozenset[tuple[Subject, Action]]] = frozenset(
        (subject, action)
        for subject in (
            Subject.CLAIM,
            Subject.VOLUME,
            Subject.STORAGE_CLASS,
            Subject.NODE,
            Subject.CSI_NODE,
            Subject.CSI_DRIVER,
            Subject.CAPACITY,
        )
        for action in (Action.ADD, Action.UPDATE)
    )

    def __init__(self, arguments: VolumeBindingArgs = DEFAULTS) -> None:
        self.seconds = float(arguments.bindTimeoutSeconds)

    def pre_filter(self, cycle: Cycle) -> Mask | None:
        pod = cycle.pod
        if not pod.claims:
            return None
        claims = [self._usable(cycle, use) for use in pod.claims]
        unbound = [claim for claim in claims if not is_fully_bound(claim)]
        for claim in unbound:
            storage_class = cycle.objects.storage_class(claim_class(claim))
            if claim.spec.volumeName or not waits_for_consumer(storage_class):
                raise PodRejected(self.name, UNBOUND)
        unbound.sort(key=lambda claim: requested(claim).milli_value())
        found = {claim.metadata.name: claim for claim in unbound}
        bound = [claim for claim in claims if is_fully_bound(claim)]
        cycle.state[self.name] = _Claims(bound, [*found.values()])
        return None

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        claims: _Claims | None = cycle.state.get(self.name)
        if claims is None:
            return None
        verdicts = _bound(cycle, claims.bound) if claims.bound else []
        if claims.delayed:
            verdicts += _delayed(cycle, claims)
        return verdicts

    def reserve(self, cycle: Cycle, slot: int) -> VolumePlan | None:
        claims: _Claims | None = cycle.state.get(self.name)
        if claims is None or not claims.delayed:
            return None
        bindings, provisions = [], []
        for claim in claims.delayed:
            taken = claims.taken.get(claim.metadata.name)
            number = int(taken[slot]) if taken is not None else -1
            if number >= 0:
                bindings.append((claim, claims.volumes[number]))
            else:
                provisions.append(claim)
        return VolumePlan(tuple(bindings), tuple(provisions), self.seconds)

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        new = change.new
        match change.subject:
            case Subject.CLAIM:
                mine = any(use.name == new.metadata.name for use in pod.claims)
                return mine and bool(new.metadata.namespace == pod.namespace)
            case Subject.NODE:
                old = change.old
                return old is None or bool(old.metadata.labels != new.metadata.labels)
        return True

    def _usable(self, cycle: Cycle, use: ClaimUse) -> PersistentVolumeClaim:
        """The claim, unless there is something wrong with it."""
        pod = cycle.pod
        claim = cycle.objects.claim(pod.namespace, use.name)
        if claim is None and use.is_ephemeral:
            text = "waiting for ephemeral volume controller to create the persistentvolumeclaim"
            raise PodRejected(self.name, f'{text} "{use.name}"')
        what = f'persistentvolumeclaim "{use.name}"'
        if claim is None:
            raise PodRejected(self.name, f"{what} not found")
        if claim.status.phase == "Lost":
            volume = claim.spec.volumeName
            text = f'{what} bound to non-existent persistentvolume "{volume}"'
            raise PodRejected(self.name, text)
        if claim.metadata.deletionTimestamp:
            raise PodRejected(self.name, f"{what} is being deleted")
        if use.is_ephemeral and not is_controlled_by(claim, pod.pod):
            text = f"PVC {pod.namespace}/{use.name} was not created for pod {pod.key}"
            raise PodRejected(self.name, f"{text} (pod is not owner)")
        return claim


def _bound(cycle: Cycle, claims: list[PersistentVolumeClaim]) -> list[Verdict]:
    elsewhere = np.zeros(cycle.cluster.size, np.bool_)
    missing = np.zeros(cycle.cluster.size, np.bool_)
    for claim in claims:
        volume = cycle.objects.volume(claim.spec.volumeName)
        if volume is None:
            missing[:] = True
        else:
            elsewhere |= ~_reachable(cycle.cluster, volume)
    return [Verdict(elsewhere & ~missing, OTHER_NODES), Verdict(missing, NO_VOLUME)]


def _delayed(cycle: Cycle, claims: _Claims) -> list[Verdict]:
    cluster = cycle.cluster
    unmatched = np.zeros(cluster.size, np.bool_)
    no_space = np.zeros(cluster.size, np.bool_)
    for claim in claims.delayed:
        node = claim.metadata.annotations.get(SELECTED_NODE)
        to_make = np.ones(cluster.size, np.bool_)
        if node is not None:
            # Somebody is making the volume, for this node.
            elsewhere = np.ones(cluster.size, np.bool_)
            if node in cluster.slots:
                elsewhere[cluster.slots[node]] = False
            unmatched |= elsewhere
        else:
            taken = claims.taken[claim.metadata.name] = _take(cycle, claim, claims)
            to_make = taken < 0
        if not (to_make & cycle.feasible).any():
            continue
        storage_class = cycle.objects.storage_class(claim_class(claim))
        if storage_class is None or storage_class.provisioner in ("", NO_PROVISIONER):
            unmatched |= to_make
            continue
        unmatched |= to_make & ~_in_topology(cluster, storage_class)
        room = _has_room(cycle, storage_class, claim)
        if room is not None:
            no_space |= to_make & ~room
    return [Verdict(unmatched, NO_MATCH), Verdict(no_space & ~unmatched, NO_SPACE)]


def _take(cycle: Cycle, claim: PersistentVolumeClaim, claims: _Claims) -> Numbers:
    """Which volume the claim gets on each node: the one that is reserved for it, else the smallest
    that can be used there and that no claim before takes."""
    cluster = cycle.cluster
    result = np.full(cluster.size, -1, np.int64)
    volumes = cycle.objects.volumes_of_class(claim_class(claim))
    reserved = next((v for v in volumes if names_claim(v, claim) and can_hold(v, claim)), None)
    if reserved is not None:
        result[_reachable(cluster, reserved)] = len(claims.volumes)
        claims.volumes.append(reserved)
        return result
    others = [*claims.taken.values()]
    numbers = {volume.metadata.name: n for n, volume in enumerate(claims.volumes)}
    free = free_matches(claim, volumes)
    free.sort(key=lambda volume: capacity(volume).milli_value())
    open_ = cycle.feasible.copy()
    for volume in free:
        if not open_.any():
            break
        number = numbers.get(volume.metadata.name, len(claims.volumes))
        if number == len(claims.volumes):
            claims.volumes.append(volume)
        here = open_ & _reachable(cluster, volume)
        for other in others:
            here &= other != number
        result[here] = number
        open_ &= ~here
    return result


def _reachable(cluster: Cluster, volume: PersistentVolume) -> Mask:
    """The nodes that a volume can be used on."""
    affinity = volume.spec.nodeAffinity
    required = affinity.required if affinity is not None else None
    if required is None:
        return np.ones(cluster.size, np.bool_)
    return cluster.cached(("volume on", encode(required)), lambda: selected(cluster, required))


def _in_topology(cluster: Cluster, storage_class: StorageClass) -> Mask:
    """The nodes for which volumes of the class may be made."""
    terms = storage_class.allowedTopologies
    if not terms:
        return np.ones(cluster.size, np.bool_)
    result = np.zeros(cluster.size, np.bool_)
    for term in terms:
        matching = np.full(cluster.size, bool(term.matchLabelExpressions))
        for each in term.matchLabelExpressions:
            column = cluster.label(each.key)
            matching &= np.isin(
                column.column, [column.numbers.get(value, -2) for value in each.values]
            )
        result |= matching
    return result


def _has_room(
    cycle: Cycle, storage_class: StorageClass, claim: PersistentVolumeClaim
) -> Mask | None:
    """The nodes that the driver has room for; None if it does not say."""
    driver = cycle.objects.csi_driver(storage_class.provisioner)
    if driver is None or not driver.spec.storageCapacity:
        return None
    wanted = requested(claim).value()
    result = np.zeros(cycle.cluster.size, np.bool_)
    for each in cycle.objects.capacities(storage_class.metadata.name):
        limit = each.maximumVolumeSize or each.capacity
        if limit is None or each.nodeTopology is None or parse_quantity(limit).value() < wanted:
            continue
        result |= matches_labels(cycle.cluster, each.nodeTopology)
    return result
