"""The StatefulSet controller: pods with a number, a name and volumes of their own, in order.

What is done next is decided in `statefulset_plan`, from what the caches show; as names are fixed,
nothing can be made twice."""

from __future__ import annotations

from collections.abc import Sequence

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.types.apps_v1 import ControllerRevision, StatefulSet
from navarch.api.types.core_v1 import PersistentVolumeClaim, Pod
from navarch.client import ControllerContext, object_key, slow_start
from navarch.controllers import statefulset_plan as plan
from navarch.controllers.history import History, RevisionedController, surplus, template_of
from navarch.controllers.pods import PACE_SECONDS, is_namespace_terminating


def version_of(revision: ControllerRevision) -> plan.Version:
    return plan.Version(revision.metadata.name, template_of(revision))


class StatefulSetController(RevisionedController[StatefulSet]):
    """Watches: StatefulSets; their pods and revisions; claims that go, for which a pod may wait."""

    name = "statefulset"
    kind = StatefulSet
    hash_label = "controller.kubernetes.io/hash"
    pace = PACE_SECONDS / 5
    """Most sets go pod by pod, so that every event counts and gathering would only delay."""

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.claims = context.informers.informer(PersistentVolumeClaim)
        self.claim_resource = self.client.resource(PersistentVolumeClaim)
        self.pod_resource = self.client.resource(Pod)
        self.depends_on(self.claims)
        self.claims.add_handler(on_delete=self._claim_gone)

    def _claim_gone(self, claim: PersistentVolumeClaim) -> None:
        for owner in self.owners.cache.list(claim.metadata.namespace):
            stems = (f"{t.metadata.name}-" for t in owner.spec.volumeClaimTemplates)
            if claim.metadata.name.startswith(tuple(f"{s}{owner.metadata.name}-" for s in stems)):
                self.enqueue(object_key(owner))

    @staticmethod
    def collisions(owner: StatefulSet) -> int:
        return owner.status.collisionCount or 0

    async def reconcile(self, key: str) -> None:
        owner = self.owners.cache.get(key)
        if owner is None or self.is_behind(key):
            return
        selector = self.selector(owner)

        def is_member(pod: Pod) -> bool:
            is_numbered = plan.ordinal(owner, pod.metadata.name) is not None
            return is_numbered and selector.matches(pod.metadata.labels)

        selected = [
            revision
            for revision in self.dependents(self.revisions, owner)
            if selector.matches(revision.metadata.labels)
        ]
        revisions = await self.claim(owner, self.revisions, selected, lambda _: True)
        present = self.dependents(self.pods, owner)
        pods = await self.claim(owner, self.pods, present, is_member)
        self.set_size(key, len(pods))
        history = await self.history(owner, owner.spec.template, revisions)
        view = self._view(owner, history, pods)
        actions = plan.plan(view)
        failure: ApiError | None = None
        replaced = 0
        try:
            await self._act(view, actions)
            replaced = len(actions.replace)
        except ApiError as error:
            failure = error
        await self.put_status(owner, plan.next_status(view, replaced, history.collisions))
        self.await_availability(owner, pods, view.now)
        await self._clean(view, history)
        if failure is not None and not is_namespace_terminating(failure):
            raise failure

    def _view(self, owner: StatefulSet, history: History, pods: Sequence[Pod]) -> plan.View:
        update = version_of(history.current)
        named = [each for each in history.old if each.metadata.name == owner.status.currentRevision]
        current = version_of(named[0]) if named else update
        return plan.View(owner, pods, current, update, self.clock.now(), self.claims.cache)

    async def _act(self, view: plan.View, actions: plan.Actions) -> None:
        """Raises the first failure, after which nothing more is done in this pass."""
        owner = view.owner

        async def make(index: int) -> None:
            await self._create(owner, actions.create[index])

        _, failure = await slow_start(len(actions.create), make)
        if failure is not None:
            raise failure
        for pod in actions.furnish:
            if problems := await self._furnish(owner, pod):
                raise problems[0]
        for pod in actions.repair:
            await self._update(owner, pod)
        for change in actions.own:
            await self._own(owner, change)
        unwanted = [*actions.delete, *actions.replace]
        _, failure = await slow_start(
            len(unwanted), lambda index: self._delete(owner, unwanted[index])
        )
        if failure is not None:
            raise failure

    def _tell(self, owner: StatefulSet, verb: str, what: str, error: ApiError | None) -> None:
        """An event about a pod (`Pod x`) or a claim of the set."""
        text = f"{verb} {what} in StatefulSet {owner.metadata.name}"
        if error is None:
            done = "success" if what.startswith("Claim") else "successful"
            self.recorder.event(owner, "Normal", f"Successful{verb}", f"{text} {done}")
        else:
            text = f"{text} failed error: {error}"
            self.recorder.event(owner, "Warning", f"Failed{verb}", text)

    async def _create(self, owner: StatefulSet, pod: Pod) -> None:
        """Make the pod once it has all its claims."""
        name = f"Pod {pod.metadata.name}"
        problems = await self._furnish(owner, pod)
        if problems:
            self._tell(owner, "Create", name, problems[0])
            raise problems[0]
        try:
            created = await self.pod_resource.create(pod)
        except ApiError as error:
            if error.is_already_exists:
                raise
            self._tell(owner, "Create", name, error)
            raise
        self.writes.wrote(object_key(owner), self.pods, created)
        self._tell(owner, "Create", name, None)

    async def _furnish(self, owner: StatefulSet, pod: Pod) -> list[ApiError]:
        """Make the claims that the pod lacks. The reasons why it cannot have them all."""
        number = plan.ordinal(owner, pod.metadata.name) or 0
        problems = []
        for template in owner.spec.volumeClaimTemplates:
            name = plan.claim_name(owner, template, number)
            present = self.claims.cache.get(f"{owner.metadata.namespace}/{name}")
            if present is not None:
                if present.metadata.deletionTimestamp:
                    text = f"pvc {name} is being deleted"
                    problems.append(ApiError(409, "Conflict", text))
                continue
            wanted = plan.new_claim(owner, template, number)
            wanted.metadata.ownerReferences += plan.claim_owners(owner, pod, number)
            what = f"Claim {name} {{}}Pod {pod.metadata.name}"
            try:
                await self.claim_resource.create(wanted)
            except ApiError as error:
                if error.is_already_exists:
                    continue  # The cache lags behind what was made a moment ago.
                self._tell(owner, "Create", what.format("for "), error)
                text = f"failed to create PVC {name}: {error}"
                problems.append(ApiError(error.status, error.reason, text, error.details))
            else:
                self._tell(owner, "Create", what.format(""), None)
        return problems

    async def _update(self, owner: StatefulSet, pod: Pod) -> None:
        name = f"Pod {pod.metadata.name}"
        try:
            updated = await self.pod_resource.update(pod)
        except ApiError as error:
            self._tell(owner, "Update", name, error)
            raise
        self.writes.wrote(object_key(owner), self.pods, updated)
        self._tell(owner, "Update", name, None)

    async def _own(self, owner: StatefulSet, change: plan.Ownership) -> None:
        """Let a claim belong to whom the retention policy says."""
        if change.is_contested:
            text = (
                f"PersistentVolumeClaim {change.claim.metadata.name} has a conflicting "
                "OwnerReference that acts as a manging controller, the retention policy is "
                "ignored for this claim"
            )
            self.recorder.event(owner, "Warning", "ConflictingController", text)
        mended = copy_object(change.claim)
        mended.metadata.ownerReferences = change.owners
        await self.claim_resource.update(mended)
        if change.is_told:
            self._tell(owner, "Update", f"Pod {change.pod.metadata.name}", None)

    async def _delete(self, owner: StatefulSet, pod: Pod) -> None:
        meta = pod.metadata
        try:
            await self.pod_resource.delete(meta.name, meta.namespace, uid=meta.uid)
        except ApiError as error:
            if not (error.is_not_found or error.is_conflict):
                self._tell(owner, "Delete", f"Pod {meta.name}", error)
                raise
        self.writes.deleted(object_key(owner), self.pods, pod)
        self._tell(owner, "Delete", f"Pod {meta.name}", None)

    async def _clean(self, view: plan.View, history: History) -> None:
        live = {view.current.revision, *map(plan.revision_of, view.pods)}
        unused = [each for each in history.old if each.metadata.name not in live]
        limit = view.owner.spec.revisionHistoryLimit
        await self.delete_revisions(view.owner, surplus(unused, (), limit))
