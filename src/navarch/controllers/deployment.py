"""The Deployment controller: one ReplicaSet for each version of the pod template.

The set whose template equals the Deployment's is the new one; it is made when it is missing, under
a name that ends in the template's hash, so that going back to an earlier template finds the earlier
set again. A rollout moves replicas from the old sets to the new one, all at once (Recreate) or
step by step within maxSurge and maxUnavailable (RollingUpdate); each step waits for what the
ReplicaSet controller reports. Old sets are kept at zero replicas as the history for `rollout undo`.

Source: apps/v1 API; upstream's `pkg/controller/deployment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.selectors import label_selector_from_object
from navarch.api.types.apps_v1 import Deployment, ReplicaSet, ReplicaSetSpec
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta
from navarch.client import Claimant, Controller, ControllerContext, claim, owner_reference
from navarch.client.objects import KubernetesObject, object_key
from navarch.controllers.deployment_status import (
    DeploymentStatusResult,
    ProgressNote,
    next_status,
    seconds_until_deadline,
)
from navarch.controllers.pods import controller_key, is_terminal, merged_labels
from navarch.controllers.revisions import (
    DESIRED_REPLICAS,
    HASH_LABEL,
    MAX_REPLICAS,
    REVISION,
    copied_annotations,
    highest_revision,
    numbered,
    revision_of,
    same_template,
    template_hash,
)
from navarch.controllers.rollout import (
    Scale,
    bounds_of,
    is_rolling,
    new_replicas,
    proportional,
    replicas_of,
    rolling_update,
)


def find_new(deployment: Deployment, sets: Sequence[ReplicaSet]) -> ReplicaSet | None:
    """The set that runs the Deployment's present template; the oldest where there are two."""
    matching = [rs for rs in sets if same_template(rs.spec.template, deployment.spec.template)]
    return min(matching, key=lambda rs: rs.metadata.creationTimestamp or "", default=None)


def is_scaling(deployment: Deployment, sets: Sequence[ReplicaSet]) -> bool:
    """Whether `spec.replicas` changed since the sets were last sized."""
    return any(
        rs.metadata.annotations.get(DESIRED_REPLICAS, str(replicas_of(deployment)))
        != str(replicas_of(deployment))
        for rs in sets
        if replicas_of(rs) > 0
    )


def scale_plan(deployment: Deployment, new: ReplicaSet | None, sets: Sequence[ReplicaSet]) -> Scale:
    """What a change of `spec.replicas` (or a pause) makes of the sets."""
    active = [rs for rs in sets if replicas_of(rs) > 0]
    latest = new if new is not None else max(sets, key=_revision, default=None)
    if len(active) <= 1:
        only = active[0] if active else latest
        if only is None or replicas_of(only) == replicas_of(deployment):
            return {}
        return {only.metadata.name: replicas_of(deployment)}
    if new is not None and is_saturated(deployment, new):
        return {rs.metadata.name: 0 for rs in active if rs is not new}
    return proportional(deployment, sets) if is_rolling(deployment) else {}


def is_saturated(deployment: Deployment, rs: ReplicaSet) -> bool:
    """The set alone already gives all that the Deployment asks for."""
    wanted = replicas_of(deployment)
    desired = rs.metadata.annotations.get(DESIRED_REPLICAS)
    return (
        replicas_of(rs) == wanted
        and desired == str(wanted)
        and rs.status.availableReplicas == wanted
    )


def sets_to_delete(deployment: Deployment, old: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    """Old sets beyond the history limit that are wholly done with, oldest revision first."""
    limit = deployment.spec.revisionHistoryLimit
    if limit is None:
        return []
    alive = [rs for rs in old if not rs.metadata.deletionTimestamp]
    surplus = len(alive) - limit
    if surplus <= 0:
        return []
    return [
        rs
        for rs in sorted(alive, key=_revision)[:surplus]
        if not rs.status.replicas
        and not replicas_of(rs)
        and rs.metadata.generation <= rs.status.observedGeneration
    ]


def _revision(rs: ReplicaSet) -> tuple[int, str]:
    return (revision_of(rs.metadata.annotations), rs.metadata.creationTimestamp or "")


def size_annotations(deployment: Deployment) -> dict[str, str]:
    """What a set notes of the Deployment's size, to see later that it has changed."""
    return {
        DESIRED_REPLICAS: str(replicas_of(deployment)),
        MAX_REPLICAS: str(replicas_of(deployment) + bounds_of(deployment).surge),
    }


class DeploymentController(Controller):
    """Watches: Deployments; ReplicaSets by the Deployment that controls or could adopt them; pods
    that end, for Recreate has to know when the last one is gone."""

    name = "deployment"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.deployments = context.informers.informer(Deployment)
        self.sets = context.informers.informer(ReplicaSet)
        self.pods = context.informers.informer(Pod)
        self.recorder = context.recorder("deployment-controller")
        self.watch(self.deployments)
        self.watch(self.sets, self._keys_of_set)
        self.depends_on(self.pods)
        self.pods.add_handler(on_delete=self._pod_deleted)

    def _keys_of_set(self, rs: ReplicaSet) -> list[str]:
        key = controller_key(rs, "Deployment")
        if key is not None:
            return [key]
        if any(reference.controller for reference in rs.metadata.ownerReferences):
            return []
        return [
            object_key(deployment)
            for deployment in self.deployments.cache.list(rs.metadata.namespace)
            if label_selector_from_object(deployment.spec.selector).matches(rs.metadata.labels)
        ]

    def _pod_deleted(self, pod: Pod) -> None:
        key = controller_key(pod, "ReplicaSet")
        rs = self.sets.cache.get(key) if key is not None else None
        if rs is not None:
            self.enqueue(controller_key(rs, "Deployment"))

    async def reconcile(self, key: str) -> None:
        cached = self.deployments.cache.get(key)
        if cached is None:
            return
        deployment = copy_object(cached)
        if not (
            deployment.spec.selector is not None
            and (deployment.spec.selector.matchLabels or deployment.spec.selector.matchExpressions)
        ):
            text = "This deployment is selecting all pods. A non-empty selector is required."
            self.recorder.event(deployment, "Warning", "SelectingAll", text)
            return
        sets = await self._claim(deployment)
        if deployment.metadata.deletionTimestamp:
            await self._write_status(deployment, sets, find_new(deployment, sets))
            return
        new = find_new(deployment, sets)
        if deployment.spec.paused or is_scaling(deployment, sets):
            await self._sync_sizes(deployment, new, sets)
            return
        await self._roll_out(deployment, new, sets)

    async def _claim(self, deployment: Deployment) -> list[ReplicaSet]:
        selector = label_selector_from_object(deployment.spec.selector)
        meta = deployment.metadata

        async def confirm() -> KubernetesObject:
            return await self.client.resource(Deployment).get(meta.name, meta.namespace)

        claimant: Claimant[ReplicaSet] = Claimant(
            deployment, lambda rs: selector.matches(rs.metadata.labels), confirm
        )
        candidates = self.sets.cache.list(meta.namespace)
        return await claim(self.client.resource(ReplicaSet), claimant, candidates)

    async def _sync_sizes(
        self, deployment: Deployment, new: ReplicaSet | None, sets: list[ReplicaSet]
    ) -> None:
        """A paused Deployment, or one that changes size, only has its sets resized."""
        old = [rs for rs in sets if rs is not new]
        if new is not None:
            new = await self._number(deployment, new, old)
            sets = [*old, new]
        sets = await self._scale(deployment, sets, scale_plan(deployment, new, sets))
        if deployment.spec.paused:
            await self._clean_up(deployment, [rs for rs in sets if not _is(rs, new)])
        await self._write_status(deployment, sets, _fresh(sets, new))

    async def _roll_out(
        self, deployment: Deployment, new: ReplicaSet | None, sets: list[ReplicaSet]
    ) -> None:
        old = [rs for rs in sets if rs is not new]
        note = ProgressNote.NONE
        if not is_rolling(deployment):
            scaled = await self._scale(deployment, old, {rs.metadata.name: 0 for rs in old})
            if any(map(replicas_of, old)) or self._old_pods_remain(old):
                every = [*scaled, *([new] if new else [])]
                await self._write_status(deployment, every, new)
                return
            old = scaled
        if new is None:
            new = await self._create_new(deployment, old)
            if new is None:
                return
            note = ProgressNote.CREATED
        else:
            new = await self._number(deployment, new, old)
        sets = [*old, new]
        if is_rolling(deployment):
            steps = rolling_update(deployment, new, old)
        else:
            steps = {new.metadata.name: replicas_of(deployment)}
        sets = await self._scale(deployment, sets, steps)
        new = _fresh(sets, new)
        status = await self._write_status(deployment, sets, new, note)
        if status.is_complete:
            await self._clean_up(deployment, [rs for rs in sets if not _is(rs, new)])

    def _old_pods_remain(self, old: Sequence[ReplicaSet]) -> bool:
        uids = {rs.metadata.uid for rs in old}
        return any(
            not is_terminal(pod)
            for rs in old[:1]
            for pod in self.pods.cache.list(rs.metadata.namespace)
            if any(reference.uid in uids for reference in pod.metadata.ownerReferences)
        )

    async def _create_new(
        self, deployment: Deployment, old: Sequence[ReplicaSet]
    ) -> ReplicaSet | None:
        """Make the set of the present template. None when the Deployment has to be looked at
        again first, because its hash collided with another set's."""
        rs = self._new_set(deployment, old)
        name = rs.metadata.name
        try:
            created = await self.client.resource(ReplicaSet).create(rs)
        except ApiError as error:
            if not error.is_already_exists:
                await self._write_failure(deployment, old, error)
                raise
            return await self._collided(deployment, name)
        if replicas_of(created):
            text = f"Scaled up replica set {name} from 0 to {replicas_of(created)}"
            self.recorder.event(deployment, "Normal", "ScalingReplicaSet", text)
        await self._number_deployment(deployment, revision_of(created.metadata.annotations))
        return created

    def _new_set(self, deployment: Deployment, old: Sequence[ReplicaSet]) -> ReplicaSet:
        template = copy_object(deployment.spec.template)
        hash_ = template_hash(template, deployment.status.collisionCount)
        template.metadata.labels[HASH_LABEL] = hash_
        selector = copy_object(deployment.spec.selector or LabelSelector())
        selector.matchLabels[HASH_LABEL] = hash_
        annotations = {
            **copied_annotations(deployment.metadata.annotations),
            REVISION: str(highest_revision(old) + 1),
            **size_annotations(deployment),
        }
        rs = ReplicaSet(
            metadata=ObjectMeta(
                name=f"{deployment.metadata.name}-{hash_}",
                namespace=deployment.metadata.namespace,
                labels=merged_labels(deployment.spec.template.metadata.labels, {HASH_LABEL: hash_}),
                annotations=annotations,
                ownerReferences=[owner_reference(deployment)],
            ),
            spec=ReplicaSetSpec(
                replicas=0,
                minReadySeconds=deployment.spec.minReadySeconds,
                selector=selector,
                template=template,
            ),
        )
        rs.spec.replicas = new_replicas(deployment, [*old, rs], rs)
        return rs

    async def _collided(self, deployment: Deployment, name: str) -> ReplicaSet | None:
        meta = deployment.metadata
        there = await self.client.resource(ReplicaSet).get(name, meta.namespace)
        ours = any(reference.uid == meta.uid for reference in there.metadata.ownerReferences)
        if ours and same_template(there.spec.template, deployment.spec.template):
            return there  # our own, which the informer has not shown yet
        wanted = copy_object(deployment)
        wanted.status.collisionCount = (deployment.status.collisionCount or 0) + 1
        await self.client.resource(Deployment).update_status(wanted)
        return None

    async def _number(
        self, deployment: Deployment, new: ReplicaSet, old: Sequence[ReplicaSet]
    ) -> ReplicaSet:
        """Give the new set the highest revision, and the Deployment the same."""
        revision = max(highest_revision(old) + 1, revision_of(new.metadata.annotations))
        # The sizes are noted when a set is resized: noting them here would hide the change.
        annotations = numbered(new.metadata.annotations, revision)
        annotations |= copied_annotations(deployment.metadata.annotations)
        await self._number_deployment(deployment, revision)
        same_seconds = new.spec.minReadySeconds == deployment.spec.minReadySeconds
        if annotations == new.metadata.annotations and same_seconds:
            return new
        changed = copy_object(new)
        changed.metadata.annotations = annotations
        changed.spec.minReadySeconds = deployment.spec.minReadySeconds
        return await self.client.resource(ReplicaSet).update(changed)

    async def _number_deployment(self, deployment: Deployment, revision: int) -> None:
        if deployment.metadata.annotations.get(REVISION) == str(revision):
            return
        meta = deployment.metadata
        patched = await self.client.resource(Deployment).patch(
            meta.name,
            meta.namespace,
            {"metadata": {"uid": meta.uid, "annotations": {REVISION: str(revision)}}},
        )
        meta.annotations[REVISION] = str(revision)
        meta.resourceVersion = patched.metadata.resourceVersion

    async def _scale(
        self, deployment: Deployment, sets: Sequence[ReplicaSet], sizes: Scale
    ) -> list[ReplicaSet]:
        """Give the sets their sizes; the sets as they are then."""
        noted = size_annotations(deployment)
        return [
            await self._scale_one(deployment, rs, sizes.get(rs.metadata.name), noted) for rs in sets
        ]

    async def _scale_one(
        self, deployment: Deployment, rs: ReplicaSet, size: int | None, noted: Mapping[str, str]
    ) -> ReplicaSet:
        before = replicas_of(rs)
        wanted = before if size is None else size
        is_noted = noted.items() <= rs.metadata.annotations.items()
        if wanted == before and (is_noted or not before):
            return rs
        changed = copy_object(rs)
        changed.spec.replicas = wanted
        changed.metadata.annotations |= noted
        result = await self.client.resource(ReplicaSet).update(changed)
        if wanted != before:
            verb = "up" if wanted > before else "down"
            text = f"Scaled {verb} replica set {rs.metadata.name} from {before} to {wanted}"
            self.recorder.event(deployment, "Normal", "ScalingReplicaSet", text)
        return result

    async def _clean_up(self, deployment: Deployment, old: Sequence[ReplicaSet]) -> None:
        for rs in sets_to_delete(deployment, old):
            meta = rs.metadata
            try:
                await self.client.resource(ReplicaSet).delete(
                    meta.name, meta.namespace, uid=meta.uid
                )
            except ApiError as error:
                if not error.is_not_found:
                    raise

    async def _write_failure(
        self, deployment: Deployment, sets: Sequence[ReplicaSet], error: ApiError
    ) -> None:
        text = f"Failed to create new replica set: {error}"
        self.recorder.event(deployment, "Warning", "ReplicaSetCreateError", text)
        result = next_status(
            deployment, sets, None, self.clock.now(), ProgressNote.CREATE_FAILED, str(error)
        )
        await self._put_status(deployment, result.deployment)

    async def _write_status(
        self,
        deployment: Deployment,
        sets: Sequence[ReplicaSet],
        new: ReplicaSet | None,
        note: ProgressNote = ProgressNote.NONE,
    ) -> DeploymentStatusResult:
        now = self.clock.now()
        result = next_status(deployment, sets, new, now, note)
        await self._put_status(deployment, result.deployment)
        wait = seconds_until_deadline(result.deployment, now)
        if wait is not None:
            self.queue.add_after(object_key(deployment), wait)
        return result

    async def _put_status(self, deployment: Deployment, wanted: Deployment) -> None:
        if wanted.status != deployment.status:
            await self.client.resource(Deployment).update_status(wanted)


def _is(rs: ReplicaSet, other: ReplicaSet | None) -> bool:
    return other is not None and rs.metadata.uid == other.metadata.uid


def _fresh(sets: Sequence[ReplicaSet], rs: ReplicaSet | None) -> ReplicaSet | None:
    """The set as it is after the latest writes."""
    return next((candidate for candidate in sets if _is(candidate, rs)), rs)
