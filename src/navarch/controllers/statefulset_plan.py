"""What a StatefulSet does next: pure.

Its pods have numbers, from `spec.ordinals.start` on, and with the number a name, a host name and
their own volume claims, which stay when the pod goes. With the policy OrderedReady one thing
happens at a time: pods are made from the lowest number up, each when all below it are available,
and taken away from the highest down; a pod that is not well halts both. With Parallel nothing waits
but updates, which always replace one pod after the other, from the highest number down to the
partition.

Source: upstream's `pkg/controller/statefulset`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from navarch.api.objects import copy_object
from navarch.api.types.apps_v1 import StatefulSet, StatefulSetStatus
from navarch.api.types.core_v1 import (
    PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource,
    Pod,
    PodTemplateSpec,
    Volume,
)
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.client import owner_reference
from navarch.controllers.history import HASH
from navarch.controllers.pods import is_available, is_ready, pod_from_template

NAME_LABEL = "statefulset.kubernetes.io/pod-name"
INDEX_LABEL = "apps.kubernetes.io/pod-index"
_NUMBERED = re.compile(r"(.*)-([0-9]+)", re.DOTALL)


def ordinal(owner: StatefulSet, name: str) -> int | None:
    """The number of a pod of that name; None if no pod of the set is called so."""
    match = _NUMBERED.fullmatch(name)
    return int(match[2]) if match and match[1] == owner.metadata.name else None


def start_of(owner: StatefulSet) -> int:
    return owner.spec.ordinals.start if owner.spec.ordinals is not None else 0


def replicas_of(owner: StatefulSet) -> int:
    return 1 if owner.spec.replicas is None else owner.spec.replicas


def is_in_range(owner: StatefulSet, number: int) -> bool:
    return start_of(owner) <= number < start_of(owner) + replicas_of(owner)


def revision_of(pod: Pod) -> str:
    return pod.metadata.labels.get(HASH, "")


def claims_of(owner: StatefulSet, number: int) -> Iterator[tuple[str, PersistentVolumeClaim]]:
    """The claims of the pod with that number, by the name of the volume."""
    labels = owner.spec.selector.matchLabels if owner.spec.selector is not None else {}
    for template in owner.spec.volumeClaimTemplates:
        meta = template.metadata
        claim = PersistentVolumeClaim(
            metadata=ObjectMeta(
                name=f"{meta.name}-{owner.metadata.name}-{number}",
                namespace=owner.metadata.namespace,
                labels={**meta.labels, **labels},
                annotations=meta.annotations,
            ),
            spec=template.spec,
        )
        yield meta.name, claim


def new_pod(owner: StatefulSet, template: PodTemplateSpec, revision: str, number: int) -> Pod:
    pod = pod_from_template(template, owner)
    pod.metadata.generateName = ""
    pod.metadata.name = f"{owner.metadata.name}-{number}"
    pod.metadata.labels[HASH] = revision
    pod.spec.hostname = pod.metadata.name
    pod.spec.subdomain = owner.spec.serviceName
    identify(owner, pod, number)
    return pod


def identify(owner: StatefulSet, pod: Pod, number: int) -> None:
    """Give the pod the labels and volumes that go with its number."""
    pod.metadata.labels[NAME_LABEL] = pod.metadata.name
    pod.metadata.labels[INDEX_LABEL] = str(number)
    own = dict(claims_of(owner, number))
    volumes = [
        Volume(
            name=name,
            persistentVolumeClaim=PersistentVolumeClaimVolumeSource(claimName=claim.metadata.name),
        )
        for name, claim in own.items()
    ]
    pod.spec.volumes = volumes + [each for each in pod.spec.volumes if each.name not in own]


def has_identity(owner: StatefulSet, pod: Pod, number: int) -> bool:
    """Whether the labels are as they ought to be; volumes cannot change."""
    labels = pod.metadata.labels
    wanted = {NAME_LABEL: pod.metadata.name, INDEX_LABEL: str(number)}
    return wanted.items() <= labels.items()


def claim_owners(owner: StatefulSet, pod: Pod, number: int) -> list[OwnerReference]:
    """Who takes the claims of a pod along: the set when it is deleted, the pod when it is scaled
    away, or nobody."""
    deleted, scaled = _retention(owner)
    if scaled and not is_in_range(owner, number):
        return [owner_reference(pod, controller=True)]
    return [owner_reference(owner, controller=True)] if deleted else []


def _retention(owner: StatefulSet) -> tuple[bool, bool]:
    """Whether claims go with the set, and whether they go with a pod that is scaled away."""
    policy = owner.spec.persistentVolumeClaimRetentionPolicy
    if policy is None:
        return False, False
    return policy.whenDeleted == "Delete", policy.whenScaled == "Delete"


def owners_mended(
    owner: StatefulSet, pod: Pod, number: int, present: Sequence[OwnerReference]
) -> list[OwnerReference] | None:
    """The owners that a claim shall have; None when there is nothing to mend. What refers to a set
    or pod of that name but of the past is left to the garbage collector, and a claim that somebody
    else controls is not taken from them."""
    own = {owner.metadata.uid, pod.metadata.uid}
    names = {("StatefulSet", owner.metadata.name), ("Pod", pod.metadata.name)}
    if any((ref.kind, ref.name) in names and ref.uid not in own for ref in present):
        return None
    ours = [ref for ref in present if ref.uid in own]
    others = [ref for ref in present if ref.uid not in own]
    if any(_retention(owner)) and any(ref.controller for ref in others):
        return others if ours else None
    wanted = claim_owners(owner, pod, number)
    is_right = {ref.uid for ref in ours} == {ref.uid for ref in wanted}
    if is_right and all(ref.controller for ref in ours):
        return None
    return [*others, *wanted]


@dataclass(frozen=True, slots=True)
class Version:
    """A template and the name of its revision."""

    revision: str
    template: PodTemplateSpec


@dataclass(frozen=True, slots=True)
class View:
    owner: StatefulSet
    pods: Sequence[Pod]
    current: Version
    update: Version
    now: datetime

    @property
    def is_ordered(self) -> bool:
        return self.owner.spec.podManagementPolicy != "Parallel"

    @property
    def first_updated(self) -> int:
        """The lowest number that gets the new template; what is below keeps the current one."""
        strategy = self.owner.spec.updateStrategy
        partition = strategy.rollingUpdate.partition if strategy.rollingUpdate else None
        if strategy.type == "OnDelete":
            partition = 0
        return start_of(self.owner) + (partition or 0)

    def new_pod(self, number: int) -> Pod:
        version = self.update if number >= self.first_updated else self.current
        return new_pod(self.owner, version.template, version.revision, number)

    def is_well(self, pod: Pod | None) -> bool:
        """Running, ready, for long enough, and not on its way out."""
        return (
            pod is not None
            and not pod.metadata.deletionTimestamp
            and pod.status.phase == "Running"
            and is_available(pod, self.owner.spec.minReadySeconds, self.now)
        )


@dataclass(slots=True)
class Actions:
    create: list[Pod] = field(default_factory=list)
    delete: list[Pod] = field(default_factory=list)
    furnish: list[Pod] = field(default_factory=list)
    """Pods that wait, perhaps for claims that are not there."""
    repair: list[Pod] = field(default_factory=list)


def plan(view: View) -> Actions:
    actions = Actions()
    if view.owner.metadata.deletionTimestamp:
        return actions
    numbered = {n: p for p in view.pods if (n := ordinal(view.owner, p.metadata.name)) is not None}
    first = start_of(view.owner)
    wanted = range(first, first + replicas_of(view.owner))
    condemned = [numbered[n] for n in sorted(numbered, reverse=True) if n not in wanted]
    unwell = [numbered.get(n) for n in wanted if not view.is_well(numbered.get(n))]
    unwell += [pod for pod in reversed(condemned) if not view.is_well(pod)]
    for number in wanted:
        if _tend(view, number, numbered.get(number), actions) and view.is_ordered:
            return actions
    for pod in condemned:
        is_blocked = pod.metadata.deletionTimestamp or (
            not view.is_well(pod) and pod is not (unwell or [None])[0]
        )
        if not pod.metadata.deletionTimestamp and not (is_blocked and view.is_ordered):
            actions.delete.append(pod)
        if view.is_ordered:
            return actions
    if view.owner.spec.updateStrategy.type == "OnDelete":
        return actions
    for number in reversed(wanted):
        replica = numbered.get(number)
        if number < view.first_updated or replica is None or replica in actions.delete:
            break
        if revision_of(replica) != view.update.revision and not replica.metadata.deletionTimestamp:
            actions.delete.append(replica)
            break
        if not view.is_well(replica):
            break
    return actions


def _tend(view: View, number: int, pod: Pod | None, actions: Actions) -> bool:
    """See to one number. Whether an ordered set has to wait for what comes of it."""
    if pod is None:
        actions.create.append(view.new_pod(number))
        return True
    if pod.status.phase in ("Failed", "Succeeded"):
        # However it ended, its number has to be somebody.
        if not pod.metadata.deletionTimestamp:
            actions.delete.append(pod)
        return True
    if pod.status.phase in ("", "Pending"):
        actions.furnish.append(pod)
    if not has_identity(view.owner, pod, number):
        actions.repair.append(pod)
    return not view.is_well(pod)


def next_status(view: View) -> StatefulSetStatus:
    owner = view.owner
    status = StatefulSetStatus(
        observedGeneration=owner.metadata.generation,
        currentRevision=view.current.revision,
        updateRevision=view.update.revision,
        collisionCount=owner.status.collisionCount or 0,
        conditions=owner.status.conditions,
    )
    for pod in view.pods:
        status.replicas += 1
        if pod.status.phase == "Running" and is_ready(pod):
            status.readyReplicas += 1
            least = owner.spec.minReadySeconds
            status.availableReplicas += is_available(pod, least, view.now)
        if not pod.metadata.deletionTimestamp:
            status.currentReplicas += revision_of(pod) == view.current.revision
            status.updatedReplicas += revision_of(pod) == view.update.revision
    counts = {status.replicas, status.updatedReplicas, status.readyReplicas}
    if owner.spec.updateStrategy.type != "OnDelete" and counts == {replicas_of(owner)}:
        # The update is complete: what was new is what is current.
        status.currentReplicas = status.updatedReplicas
        status.currentRevision = status.updateRevision
    return status


def repaired(view: View, pod: Pod) -> Pod:
    result = copy_object(pod)
    number = ordinal(view.owner, pod.metadata.name)
    result.metadata.labels[NAME_LABEL] = pod.metadata.name
    result.metadata.labels[INDEX_LABEL] = str(number)
    return result
