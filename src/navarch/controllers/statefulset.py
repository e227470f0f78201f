"""The StatefulSet controller: pods with a number, a name and volumes of their own, in order.

What is done next is decided in `statefulset_plan`, from what the caches show; as names are fixed,
nothing can be made twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object, from_object
from navarch.api.selectors import LabelSelector, label_selector_from_object
from navarch.api.types.apps_v1 import ControllerRevision, StatefulSet
from navarch.api.types.core_v1 import PersistentVolumeClaim, Pod, PodTemplateSpec
from navarch.client import (
    Claimant,
    Controller,
    ControllerContext,
    KubernetesObject,
    claim,
    controller_of,
    object_key,
    slow_start,
)
from navarch.controllers import statefulset_plan as plan
from navarch.controllers.history import Collision, History, bring_up_to_date, surplus
from navarch.controllers.pods import (
    PodControl,
    controller_key,
    is_namespace_terminating,
    seconds_until_available,
)


def version_of(revision: ControllerRevision) -> plan.Version:
    template = {**revision.data["spec"]["template"]}
    template.pop("$patch", None)
    return plan.Version(revision.metadata.name, from_object(PodTemplateSpec, template))


def _sets_named(claim: PersistentVolumeClaim) -> list[str]:
    meta = claim.metadata
    owners = (ref for ref in meta.ownerReferences if ref.kind == "StatefulSet")
    return [f"{meta.namespace}/{ref.name}" for ref in owners]


class StatefulSetController(Controller):
    """Watches: StatefulSets; their pods and revisions; claims that refer to a set."""

    name = "statefulset"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        informer = context.informers.informer
        self.sets = informer(StatefulSet)
        self.pods = informer(Pod)
        self.revisions = informer(ControllerRevision)
        self.claims = informer(PersistentVolumeClaim)
        self.recorder = context.recorder("statefulset-controller")
        self.control = PodControl(self.client, self.recorder)
        self.watch(self.sets)
        self.watch(self.pods, self._sets_of)
        self.watch(self.revisions, lambda revision: controller_key(revision, "StatefulSet"))
        self.watch(self.claims, _sets_named)

    def _sets_of(self, pod: Pod) -> list[str]:
        if key := controller_key(pod, "StatefulSet"):
            return [key]
        if pod.metadata.deletionTimestamp or controller_of(pod) is not None:
            return []
        return [
            object_key(owner)
            for owner in self.sets.cache.list(pod.metadata.namespace)
            if self._selector(owner).matches(pod.metadata.labels)
        ]

    @staticmethod
    def _selector(owner: StatefulSet) -> LabelSelector:
        return label_selector_from_object(owner.spec.selector)

    async def reconcile(self, key: str) -> None:
        owner = self.sets.cache.get(key)
        if owner is None:
            return
        selector = self._selector(owner)
        pods = await self._claim(owner, selector)
        try:
            history = await self._history(owner, selector)
        except Collision:
            counted = copy_object(owner)
            counted.status.collisionCount = (owner.status.collisionCount or 0) + 1
            await self.client.resource(StatefulSet).update_status(counted)
            return
        view = self._view(owner, history, pods)
        failure: ApiError | None = None
        try:
            await self._act(view, plan.plan(view))
        except ApiError as error:
            failure = error
        wanted = copy_object(owner)
        wanted.status = plan.next_status(view)
        if wanted.status != owner.status:
            await self.client.resource(StatefulSet).update_status(wanted)
        await self._clean(wanted, history, pods)
        if failure is not None and not is_namespace_terminating(failure):
            raise failure
        least = owner.spec.minReadySeconds
        waits = [w for pod in pods if (w := seconds_until_available(pod, least, view.now))]
        if waits:
            self.queue.add_after(key, min(waits))

    def _confirm(self, owner: StatefulSet) -> Callable[[], Awaitable[KubernetesObject]]:
        async def confirm() -> KubernetesObject:
            meta = owner.metadata
            return await self.client.resource(StatefulSet).get(meta.name, meta.namespace)

        return confirm

    async def _claim(self, owner: StatefulSet, selector: LabelSelector) -> list[Pod]:
        def matches(pod: Pod) -> bool:
            is_numbered = plan.ordinal(owner, pod.metadata.name) is not None
            return is_numbered and selector.matches(pod.metadata.labels)

        present = self.pods.cache.list(owner.metadata.namespace)
        claimant: Claimant[Pod] = Claimant(owner, matches, self._confirm(owner))
        return await claim(self.client.resource(Pod), claimant, present)

    async def _history(self, owner: StatefulSet, selector: LabelSelector) -> History:
        def matches(revision: ControllerRevision) -> bool:
            return selector.matches(revision.metadata.labels)

        resource = self.client.resource(ControllerRevision)
        present = self.revisions.cache.list(owner.metadata.namespace)
        claimant: Claimant[ControllerRevision] = Claimant(owner, matches, self._confirm(owner))
        owned = await claim(resource, claimant, present)
        template, collisions = owner.spec.template, owner.status.collisionCount
        return await bring_up_to_date(resource, owner, template, owned, collisions)

    def _view(self, owner: StatefulSet, history: History, pods: Sequence[Pod]) -> plan.View:
        update = version_of(history.current)
        named = [each for each in history.old if each.metadata.name == owner.status.currentRevision]
        current = version_of(named[0]) if named else update
        return plan.View(owner, pods, current, update, self.clock.now())

    async def _act(self, view: plan.View, actions: plan.Actions) -> None:
        owner = view.owner
        for pod in actions.repair:
            await self.client.resource(Pod).update(plan.repaired(view, pod))
        for pod in actions.furnish:
            await self._furnish(owner, pod)
        await self._own_claims(owner, view.pods)

        async def make(index: int) -> None:
            pod = actions.create[index]
            if await self._furnish(owner, pod):
                try:
                    await self.control.create(pod, owner)
                except ApiError as error:
                    # The cache lags behind what was made a moment ago.
                    if not error.is_already_exists:
                        raise

        _, failure = await slow_start(len(actions.create), make)
        for pod in actions.delete:
            try:
                await self.control.delete(pod, owner)
            except ApiError as error:
                if not (error.is_not_found or error.is_conflict):
                    raise
        if failure is not None:
            raise failure

    async def _furnish(self, owner: StatefulSet, pod: Pod) -> bool:
        """Make the claims that the pod lacks. False when one belongs to a pod of the past and is on
        its way out: the new pod has to wait for its successor."""
        number = plan.ordinal(owner, pod.metadata.name)
        resource = self.client.resource(PersistentVolumeClaim)
        for _, wanted in plan.claims_of(owner, number or 0):
            meta = wanted.metadata
            try:
                present = await resource.get(meta.name, meta.namespace)
            except ApiError as error:
                if not error.is_not_found:
                    raise
                if plan.claim_owners(owner, pod, number or 0):
                    wanted.metadata.ownerReferences = plan.claim_owners(owner, pod, number or 0)
                await resource.create(wanted)
                text = f"create Claim {meta.name} Pod {pod.metadata.name} in StatefulSet "
                text += f"{owner.metadata.name} success"
                self.recorder.event(owner, "Normal", "SuccessfulCreate", text)
                continue
            is_stale = any(
                reference.kind == "Pod"
                and reference.name == pod.metadata.name
                and reference.uid != pod.metadata.uid
                for reference in present.metadata.ownerReferences
            )
            if present.metadata.deletionTimestamp or is_stale:
                self.queue.add_after(object_key(owner), 1.0)
                return False
        return True

    async def _own_claims(self, owner: StatefulSet, pods: Sequence[Pod]) -> None:
        """Let the claims belong to whom the retention policy says, and only touch such references:
        nothing to do for sets that keep everything and always did."""
        if not owner.spec.volumeClaimTemplates:
            return
        resource = self.client.resource(PersistentVolumeClaim)
        for pod in pods:
            number = plan.ordinal(owner, pod.metadata.name)
            if number is None:
                continue
            for _, named in plan.claims_of(owner, number):
                present = self.claims.cache.get(object_key(named))
                if present is None:
                    continue
                owners = plan.owners_mended(owner, pod, number, present.metadata.ownerReferences)
                if owners is not None:
                    mended = copy_object(present)
                    mended.metadata.ownerReferences = owners
                    await resource.update(mended)

    async def _clean(self, owner: StatefulSet, history: History, pods: Sequence[Pod]) -> None:
        live = {plan.revision_of(pod) for pod in pods} | {owner.status.currentRevision}
        resource = self.client.resource(ControllerRevision)
        for each in surplus(history.old, live, owner.spec.revisionHistoryLimit):
            meta = each.metadata
            try:
                await resource.delete(meta.name, meta.namespace, uid=meta.uid)
            except ApiError as error:
                if not error.is_not_found:
                    raise
