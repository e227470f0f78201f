"""The Deployment controller: one ReplicaSet for each version of the pod template.

The set whose template equals the Deployment's is the new one; it is made when it is missing, under
a name that ends in the template's hash, so that going back to an earlier template finds the earlier
set again. What each pass does to the sets is decided in `rollout`, each step waits for what the
ReplicaSet controller reports. Old sets are kept at zero replicas as the history for `rollout undo`.

Source: apps/v1 API; upstream's `pkg/controller/deployment`.
"""

from __future__ import annotations

from collections.abc import Sequence

from navarch.api.errors import ApiError, ignoring
from navarch.api.objects import copy_object
from navarch.api.types.apps_v1 import Deployment, ReplicaSet, ReplicaSetSpec
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta
from navarch.client import ControllerContext, controller_of, object_key, owner_reference
from navarch.controllers.deployment_status import (
    is_complete,
    next_status,
    note_pause,
    note_progress,
    seconds_until_deadline,
)
from navarch.controllers.pods import find_condition, is_namespace_terminating, is_terminal
from navarch.controllers.revisions import (
    HASH_LABEL,
    REVISION,
    copied_annotations,
    highest_revision,
    numbered,
    revision_of,
    rollback_revision,
    rolled_back,
    same_template,
    template_hash,
)
from navarch.controllers.rollout import (
    Plan,
    View,
    find_new,
    new_replicas,
    plan,
    replicas_of,
    sets_to_delete,
    size_annotations,
)
from navarch.controllers.workload import WorkloadController, controlled

LONGEST_NAME = 253


def new_set(deployment: Deployment, old: Sequence[ReplicaSet]) -> ReplicaSet:
    """The ReplicaSet of the Deployment's present template."""
    template = copy_object(deployment.spec.template)
    hash_ = template_hash(template, deployment.status.collisionCount)
    template.metadata.labels[HASH_LABEL] = hash_
    selector = copy_object(deployment.spec.selector or LabelSelector())
    selector.matchLabels[HASH_LABEL] = hash_
    meta = deployment.metadata
    rs = ReplicaSet(
        metadata=ObjectMeta(
            name=f"{meta.name[: LONGEST_NAME - 1 - len(hash_)]}-{hash_}",
            namespace=meta.namespace,
            labels={**template.metadata.labels},
            annotations={
                **copied_annotations(meta.annotations),
                REVISION: str(highest_revision(old) + 1),
                **size_annotations(deployment),
            },
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


class DeploymentController(WorkloadController[Deployment]):
    """Watches: Deployments; ReplicaSets; and pods that end, for Recreate has to know when the last
    one is gone."""

    name = "deployment"
    kind = Deployment

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.sets = context.informers.informer(ReplicaSet)
        self.set_resource = self.client.resource(ReplicaSet)
        self.follow(self.sets)
        self.pods.add_handler(on_delete=self._pod_deleted)

    def _pod_deleted(self, pod: Pod) -> None:
        reference = controller_of(pod)
        if reference is None or reference.kind != "ReplicaSet":
            return
        rs = self.sets.cache.get(f"{pod.metadata.namespace}/{reference.name}")
        key = self.owner_key(rs) if rs is not None and rs.metadata.uid == reference.uid else None
        owner = self.owners.cache.get(key) if key is not None else None
        if owner is not None and owner.spec.strategy.type == "Recreate":
            self.enqueue(key)

    async def reconcile(self, key: str) -> None:
        cached = self.owners.cache.get(key)
        if cached is None or self.is_behind(key):
            return
        deployment = copy_object(cached)
        selector = self.selector(deployment)
        if selector.empty:
            text = "This deployment is selecting all pods. A non-empty selector is required."
            self.recorder.event(deployment, "Warning", "SelectingAll", text)
            deployment.status.observedGeneration = deployment.metadata.generation
            await self._save(cached, deployment)
            return
        candidates = self.dependents(self.sets, deployment)
        sets = await self.claim(
            deployment, self.sets, candidates, lambda rs: selector.matches(rs.metadata.labels)
        )
        if not deployment.metadata.deletionTimestamp:
            note_pause(deployment, self.clock.now())
        view = await self._view(deployment, sets)
        # Nothing can be made any more, nor has to be.
        with ignoring(is_namespace_terminating):
            await self._advance(cached, view)

    async def _view(self, deployment: Deployment, sets: Sequence[ReplicaSet]) -> View:
        new = find_new(deployment, sets)
        old = [rs for rs in sets if rs is not new]
        if new is not None:
            new = await self._number(deployment, new, old)
        has_old_pods = deployment.spec.strategy.type == "Recreate" and any(
            not is_terminal(pod) for rs in old for pod in controlled(self.pods, rs.metadata.uid)
        )
        return View(deployment, new, old, has_old_pods)

    async def _number(
        self, deployment: Deployment, new: ReplicaSet, old: Sequence[ReplicaSet]
    ) -> ReplicaSet:
        """Give the new set the highest revision, and the Deployment the same."""
        revision = max(highest_revision(old) + 1, revision_of(new.metadata.annotations))
        # The sizes are noted when a set is resized: noting them here would hide the change.
        annotations = numbered(new.metadata.annotations, revision)
        annotations |= copied_annotations(deployment.metadata.annotations)
        deployment.metadata.annotations[REVISION] = str(revision)
        if find_condition(deployment.status.conditions, "Progressing") is None:
            text = f'Found new replica set "{new.metadata.name}"'
            note_progress(deployment, ("True", "FoundNewReplicaSet", text), self.clock.now())
        same_seconds = new.spec.minReadySeconds == deployment.spec.minReadySeconds
        if annotations == new.metadata.annotations and same_seconds:
            return new
        changed = copy_object(new)
        changed.metadata.annotations = annotations
        changed.spec.minReadySeconds = deployment.spec.minReadySeconds
        return await self._update_set(deployment, changed)

    async def _update_set(self, deployment: Deployment, rs: ReplicaSet) -> ReplicaSet:
        updated = await self.set_resource.update(rs)
        self.writes.wrote(object_key(deployment), self.sets, updated)
        return updated

    async def _advance(self, cached: Deployment, view: View) -> None:
        deployment = view.deployment
        decided = plan(view)
        new, sets = view.new, view.sets
        is_idle = deployment.spec.paused or deployment.metadata.deletionTimestamp
        goes_back = not is_idle and rollback_revision(deployment) is not None
        if goes_back and new is not None:
            await self._roll_back(deployment, view)
            return
        if decided.create or goes_back:
            new = await self._create(cached, view)
            if new is None:
                return
            sets = [*view.old, new]
        else:
            sets = [await self._resize(deployment, rs, decided) for rs in sets]
            new = next((rs for rs in sets if new and rs.metadata.uid == new.metadata.uid), None)
        now = self.clock.now()
        status = next_status(deployment, new, sets, now, decided.is_rollout)
        deployment.status = status
        await self._save(cached, deployment)
        if deployment.spec.paused or (decided.is_rollout and is_complete(deployment, status)):
            await self._clean_up(deployment, [rs for rs in sets if rs is not new])
        left = seconds_until_deadline(deployment, status, now)
        if left is not None:
            self.queue.add_after(object_key(deployment), max(0.0, left) + 1.0)

    async def _save(self, cached: Deployment, deployment: Deployment) -> None:
        """Write status and revision, together and as a status: an annotation written otherwise
        would count as a change of what is wanted."""
        before, after = (each.metadata.annotations.get(REVISION) for each in (cached, deployment))
        if deployment.status == cached.status and before == after:
            return
        written = await self.resource.update_status(deployment)
        self.writes.wrote(object_key(deployment), self.owners, written)

    async def _create(self, cached: Deployment, view: View) -> ReplicaSet | None:
        """Make the set of the present template. None when the Deployment has to be looked at
        again first, because its hash collided with another set's."""
        deployment = view.deployment
        wanted = new_set(deployment, view.old)
        name = wanted.metadata.name
        try:
            created = await self.set_resource.create(wanted)
        except ApiError as error:
            if error.is_already_exists:
                return await self._collided(cached, deployment, name)
            if not is_namespace_terminating(error):
                text = f'Failed to create new replica set "{name}": {error}'
                note_progress(
                    deployment, ("False", "ReplicaSetCreateError", text), self.clock.now()
                )
                self.recorder.event(deployment, "Warning", "ReplicaSetCreateError", text)
                await self._save(cached, deployment)
            raise
        self.writes.wrote(object_key(deployment), self.sets, created)
        if replicas_of(created):
            text = f"Scaled up replica set {name} from 0 to {replicas_of(created)}"
            self.recorder.event(deployment, "Normal", "ScalingReplicaSet", text)
        deployment.metadata.annotations[REVISION] = created.metadata.annotations[REVISION]
        text = f'Created new replica set "{name}"'
        note_progress(deployment, ("True", "NewReplicaSetCreated", text), self.clock.now())
        return created

    async def _collided(
        self, cached: Deployment, deployment: Deployment, name: str
    ) -> ReplicaSet | None:
        there = await self.set_resource.get(name, deployment.metadata.namespace)
        reference = controller_of(there)
        is_ours = reference is not None and reference.uid == deployment.metadata.uid
        if is_ours and same_template(there.spec.template, deployment.spec.template):
            return there  # our own, which the informer has not shown yet
        deployment.status.collisionCount = (deployment.status.collisionCount or 0) + 1
        await self._save(cached, deployment)
        return None

    async def _resize(self, deployment: Deployment, rs: ReplicaSet, decided: Plan) -> ReplicaSet:
        before, noted = replicas_of(rs), size_annotations(deployment)
        wanted = decided.sizes.get(rs.metadata.name)
        if wanted is None or (
            wanted == before and noted.items() <= rs.metadata.annotations.items()
        ):
            return rs
        changed = copy_object(rs)
        changed.spec.replicas = wanted
        changed.metadata.annotations |= noted
        updated = await self._update_set(deployment, changed)
        if wanted != before:
            verb = "up" if wanted > before else "down"
            text = f"Scaled {verb} replica set {rs.metadata.name} from {before} to {wanted}"
            self.recorder.event(deployment, "Normal", "ScalingReplicaSet", text)
        return updated

    async def _roll_back(self, deployment: Deployment, view: View) -> None:
        """What the annotation that stands for the old `spec.rollbackTo` asks for."""
        event = rolled_back(deployment, view.sets)
        written = await self.resource.update(deployment)
        self.writes.wrote(object_key(deployment), self.owners, written)
        self.recorder.event(deployment, *event)

    async def _clean_up(self, deployment: Deployment, old: Sequence[ReplicaSet]) -> None:
        for rs in sets_to_delete(deployment, old):
            await self.set_resource.remove(rs)
