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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from navarch.api.objects import copy_object
from navarch.api.types.apps_v1 import StatefulSet, StatefulSetStatus
from navarch.api.types.core_v1 import (
    PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource,
    Pod,
    PodTemplateSpec,
    Volume,
)
from navarch.api.types.meta_v1 import OwnerReference
from navarch.client import owner_reference
from navarch.controllers.history import HASH
from navarch.controllers.pods import is_available, is_ready, is_terminal, pod_from_template

BURST = 500
"""How many pods are created in one go."""
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


def new_claim(
    owner: StatefulSet, template: PersistentVolumeClaim, number: int
) -> PersistentVolumeClaim:
    """A claim of the pod with that number."""
    claim = copy_object(template)
    claim.metadata.name = claim_name(owner, template, number)
    claim.metadata.namespace = owner.metadata.namespace
    claim.metadata.labels |= owner.spec.selector.matchLabels if owner.spec.selector else {}
    return claim


def claim_name(owner: StatefulSet, template: PersistentVolumeClaim, number: int) -> str:
    return f"{template.metadata.name}-{owner.metadata.name}-{number}"


def new_pod(owner: StatefulSet, template: PodTemplateSpec, revision: str, number: int) -> Pod:
    pod = pod_from_template(template, owner)
    pod.metadata.name = f"{owner.metadata.name}-{number}"
    pod.metadata.labels[HASH] = revision
    pod.spec.hostname = pod.metadata.name
    pod.spec.subdomain = owner.spec.serviceName
    identify(owner, pod, number)
    return pod


def identify(owner: StatefulSet, pod: Pod, number: int) -> None:
    """Give the pod the labels and volumes that go with its number."""
    pod.metadata.labels |= identity_labels(pod, number)
    own = {
        template.metadata.name: claim_name(owner, template, number)
        for template in owner.spec.volumeClaimTemplates
    }
    volumes = [
        Volume(name=name, persistentVolumeClaim=PersistentVolumeClaimVolumeSource(claimName=claim))
        for name, claim in own.items()
    ]
    pod.spec.volumes = volumes + [each for each in pod.spec.volumes if each.name not in own]


def identity_labels(pod: Pod, number: int) -> dict[str, str]:
    return {NAME_LABEL: pod.metadata.name, INDEX_LABEL: str(number)}


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


def has_stale_owner(owner: StatefulSet, pod: Pod, claim: PersistentVolumeClaim) -> bool:
    """Whether the claim refers to a set or pod of the same name, but of the past: such claims are
    left to the garbage collector."""
    own = {
        ("StatefulSet", owner.metadata.name): owner.metadata.uid,
        ("Pod", pod.metadata.name): pod.metadata.uid,
    }
    return any(
        ref.uid != own.get((ref.kind, ref.name), ref.uid) for ref in claim.metadata.ownerReferences
    )


def is_contested(owner: StatefulSet, pod: Pod, claim: PersistentVolumeClaim) -> bool:
    """Whether there is a policy to be carried out, but somebody else controls the claim."""
    own = {owner.metadata.uid, pod.metadata.uid}
    foreign = [ref for ref in claim.metadata.ownerReferences if ref.uid not in own]
    return any(_retention(owner)) and any(ref.controller for ref in foreign)


def owners_mended(
    owner: StatefulSet, pod: Pod, number: int, claim: PersistentVolumeClaim
) -> list[OwnerReference] | None:
    """The owners that a claim shall have; None when there is nothing to mend."""
    if has_stale_owner(owner, pod, claim):
        return None
    present = claim.metadata.ownerReferences
    own = {owner.metadata.uid, pod.metadata.uid}
    ours = [ref for ref in present if ref.uid in own]
    others = [ref for ref in present if ref.uid not in own]
    if is_contested(owner, pod, claim):
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


class Claims(Protocol):
    """The claims there are, by their keys: a cache, or a dict."""

    def get(self, key: str, /) -> PersistentVolumeClaim | None: ...


@dataclass(frozen=True, slots=True)
class View:
    owner: StatefulSet
    pods: Sequence[Pod]
    current: Version
    update: Version
    now: datetime
    claims: Claims

    @property
    def is_ordered(self) -> bool:
        return self.owner.spec.podManagementPolicy != "Parallel"

    @property
    def numbers(self) -> range:
        return range(start_of(self.owner), start_of(self.owner) + replicas_of(self.owner))

    @property
    def partition(self) -> int:
        rolling = self.owner.spec.updateStrategy.rollingUpdate
        return (rolling.partition or 0) if rolling is not None else 0

    def new_pod(self, number: int) -> Pod:
        """Below the partition pods keep the current template; where none was ever given, as many
        as still have it."""
        strategy = self.owner.spec.updateStrategy
        kept = self.partition
        if strategy.type == "RollingUpdate" and strategy.rollingUpdate is None:
            kept = self.owner.status.currentReplicas
        is_kept = number < start_of(self.owner) + kept
        version = self.current if is_kept else self.update
        return new_pod(self.owner, version.template, version.revision, number)

    def is_well(self, pod: Pod | None) -> bool:
        """Running, ready, for long enough, and not on its way out."""
        return (
            pod is not None
            and not pod.metadata.deletionTimestamp
            and pod.status.phase == "Running"
            and is_available(pod, self.owner.spec.minReadySeconds, self.now)
        )

    def claims_there(self, number: int) -> Iterator[PersistentVolumeClaim]:
        """The claims of a number, as far as they exist."""
        for template in self.owner.spec.volumeClaimTemplates:
            name = claim_name(self.owner, template, number)
            claim = self.claims.get(f"{self.owner.metadata.namespace}/{name}")
            if claim is not None:
                yield claim


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who is to own a claim, and the pod it is the claim of."""

    claim: PersistentVolumeClaim
    owners: list[OwnerReference]
    pod: Pod
    is_contested: bool
    is_told: bool
    """Whether an event tells of it as of an update of the pod."""


@dataclass(slots=True)
class Actions:
    create: list[Pod] = field(default_factory=list)
    furnish: list[Pod] = field(default_factory=list)
    """Pods that wait, perhaps for claims that are not there."""
    repair: list[Pod] = field(default_factory=list)
    """Pods as they have to be."""
    own: list[Ownership] = field(default_factory=list)
    delete: list[Pod] = field(default_factory=list)
    replace: list[Pod] = field(default_factory=list)
    """Pods to be deleted because they are of an old template."""


def plan(view: View) -> Actions:
    actions = Actions()
    if view.owner.metadata.deletionTimestamp:
        return actions
    numbered = {n: p for p in view.pods if (n := ordinal(view.owner, p.metadata.name)) is not None}
    wanted = view.numbers
    for number in wanted:
        must_wait = _tend(view, number, numbered.get(number), actions)
        if (must_wait and view.is_ordered) or len(actions.create) == BURST:
            return actions
    condemned = {n: numbered[n] for n in sorted(numbered, reverse=True) if n not in wanted}
    for number, pod in condemned.items():
        _see_to_claims(view, number, pod, actions, False)
    lowest_unwell = next((p for p in reversed(condemned.values()) if not view.is_well(p)), None)
    for pod in condemned.values():
        is_blocked = pod.metadata.deletionTimestamp or (
            view.is_ordered and not view.is_well(pod) and pod is not lowest_unwell
        )
        if not is_blocked:
            actions.delete.append(pod)
        if view.is_ordered:
            return actions
    if view.owner.spec.updateStrategy.type != "OnDelete":
        _update(view, numbered, actions)
    return actions


def _tend(view: View, number: int, pod: Pod | None, actions: Actions) -> bool:
    """See to one number. Whether an ordered set has to wait for what comes of it."""
    if pod is None:
        made = view.new_pod(number)
        # A claim of a pod that was scaled away is about to go: its successor has to wait.
        if not _retention(view.owner)[1] or not any(
            has_stale_owner(view.owner, made, claim) for claim in view.claims_there(number)
        ):
            actions.create.append(made)
        return True
    if is_terminal(pod):
        # However it ended, its number has to be somebody.
        if not pod.metadata.deletionTimestamp:
            actions.delete.append(pod)
        return True
    is_pending = pod.status.phase == "Pending"
    if is_pending:
        actions.furnish.append(pod)
        _see_to_claims(view, number, pod, actions, False)
    if view.is_ordered and not view.is_well(pod):
        return True
    if pod.metadata.labels.get(NAME_LABEL) != pod.metadata.name:
        repaired = copy_object(pod)
        repaired.metadata.labels |= identity_labels(pod, number)
        actions.repair.append(repaired)
    if not is_pending:
        _see_to_claims(view, number, pod, actions, True)
    return False


def _see_to_claims(view: View, number: int, pod: Pod, actions: Actions, is_told: bool) -> None:
    for claim in view.claims_there(number):
        owners = owners_mended(view.owner, pod, number, claim)
        if owners is not None:
            contested = is_contested(view.owner, pod, claim)
            actions.own.append(Ownership(claim, owners, pod, contested, is_told))


def _update(view: View, numbered: Mapping[int, Pod], actions: Actions) -> None:
    """Replace the highest pod that is of another template, if all above it are well."""
    for number in reversed(view.numbers[view.partition :]):
        pod = numbered.get(number)
        if pod is None or pod in actions.delete:
            return
        if revision_of(pod) != view.update.revision and not pod.metadata.deletionTimestamp:
            actions.replace.append(pod)
            return
        if not view.is_well(pod):
            return


def next_status(view: View, replaced: int = 0, collisions: int | None = None) -> StatefulSetStatus:
    """The status that the pods amount to, less those that were just deleted to be `replaced`."""
    owner = view.owner
    status = StatefulSetStatus(
        observedGeneration=owner.metadata.generation,
        currentRevision=view.current.revision,
        updateRevision=view.update.revision,
        collisionCount=collisions or 0,
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
    status.currentReplicas = max(0, status.currentReplicas - replaced)
    counts = {status.replicas, status.updatedReplicas, status.readyReplicas}
    if owner.spec.updateStrategy.type != "OnDelete" and counts == {replicas_of(owner)}:
        # The update is complete: what was new is what is current.
        status.currentReplicas = status.updatedReplicas
        status.currentRevision = status.updateRevision
    return status
