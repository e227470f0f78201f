"""The namespace controller: empties a namespace that is being deleted, then lets it go.

Deleting a namespace only marks it: `spec.finalizers` holds it until everything inside is gone.
Pods go first, and nothing else is touched before the last of them has ended, so that no container
runs on without the policies, secrets and services it was meant to run with (KEP-5080). Then every
other namespaced resource the server knows is deleted, custom ones included, all at once. What
remains after that waits for grace periods or for other people's finalizers; the conditions on the
namespace tell which.

Source: upstream's `pkg/controller/namespace`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from navarch.api.errors import ApiError, ignoring, missing
from navarch.api.objects import copy_object
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Namespace, Pod
from navarch.client import Controller, ControllerContext, PartialObject, ResourceClient, together
from navarch.client.ratelimit import exponential
from navarch.controllers.discovery import ApiResource, discover
from navarch.controllers.namespace_status import Leftovers, next_conditions
from navarch.controllers.pods import is_terminal

FINALIZER = "kubernetes"
FINALIZER_SECONDS = 15.0
"""How long content with finalizers is thought to take."""
FIRST_LOOK_SECONDS = 0.05
"""The first wait for what remains; each further one is twice as long."""

PODS = ApiResource("", "v1", "pods", "Pod", True, frozenset())


def grace_left(pods: Iterable[Pod], deleted_at: datetime, now: datetime) -> float:
    """Seconds for which the pods of a namespace may rightly still be there."""
    longest = max(
        (pod.spec.terminationGracePeriodSeconds or 0 for pod in pods if not is_terminal(pod)),
        default=0,
    )
    return 0.0 if (now - deleted_at).total_seconds() >= longest else float(longest)


def judge(
    resource: ApiResource, items: Sequence[PartialObject | Pod], grace: float, namespace: str
) -> Leftovers:
    """What objects that remain after their deletion mean."""
    if not items:
        return Leftovers()
    finalizers: dict[str, int] = {}
    for item in items:
        for name in item.metadata.finalizers:
            finalizers[name] = finalizers.get(name, 0) + 1
    group, plural = resource.group, resource.plural
    result = Leftovers({f"{plural}.{group}": len(items)}, finalizers)
    if grace:
        result.estimate = grace
    elif finalizers:
        result.estimate = FINALIZER_SECONDS
    else:
        gvr = f"{group}/{resource.version}, Resource={plural}"
        text = f"unexpected items still remain in namespace: {namespace} for gvr: {gvr}"
        result.failures.append(ApiError(500, "InternalError", text))
    return result


class NamespaceController(Controller):
    """Watches: namespaces; pods, because the end of the last one lets the deletion go on."""

    name = "namespace"
    workers = 10
    longest_delay = 60.0

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.namespaces = context.informers.informer(Namespace)
        self.resource = self.client.resource(Namespace)
        self._looks: dict[str, int] = {}
        self.watch(self.namespaces)
        context.informers.informer(Pod).add_handler(on_delete=self._pod_gone)

    def _pod_gone(self, pod: Pod) -> None:
        namespace = self.namespaces.cache.get(pod.metadata.namespace)
        if namespace is not None and namespace.metadata.deletionTimestamp:
            self.enqueue(pod.metadata.namespace)

    async def reconcile(self, key: str) -> None:
        cached = self.namespaces.cache.get(key)
        if cached is None or not cached.metadata.deletionTimestamp:
            self._looks.pop(key, None)
            return
        with ignoring(missing):
            await self._empty(key)

    async def _empty(self, name: str) -> None:
        namespace = await self.resource.get(name)
        if not namespace.metadata.deletionTimestamp:
            return
        if namespace.status.phase != "Terminating":
            namespace.status.phase = "Terminating"
            namespace = await self.resource.update_status(namespace)
        if FINALIZER not in namespace.spec.finalizers:
            return
        leftovers = await self._delete_content(namespace)
        wanted = copy_object(namespace)
        wanted.status.conditions = next_conditions(
            namespace.status.conditions, leftovers, self.clock.now()
        )
        if wanted.status != namespace.status:
            wanted = await self.resource.update_status(wanted)
        if leftovers.failures:
            raise leftovers.failures[0]
        if leftovers.undiscovered:
            text = f"{name}: some resources could not be discovered"
            raise ApiError(503, "ServiceUnavailable", text)
        if leftovers.estimate:
            looks = self._looks[name] = self._looks.get(name, 0) + 1
            longest = leftovers.estimate / 2 + 1
            self.queue.add_after(name, exponential(FIRST_LOOK_SECONDS, longest, looks - 1))
            return
        wanted.spec.finalizers = [each for each in wanted.spec.finalizers if each != FINALIZER]
        await self.resource.update(wanted, subresource="finalize")

    async def _delete_content(self, namespace: Namespace) -> Leftovers:
        discovered = await discover(self.client)
        total = Leftovers(undiscovered=discovered.missing)
        total.add(await self._delete_pods(namespace))
        if total.remaining or total.failures:
            return total
        name = namespace.metadata.name
        results = await together(
            *(
                self._guarded(resource, name)
                for resource in discovered.resources
                if resource.is_namespaced
                and "delete" in resource.verbs
                and (resource.group, resource.plural) != (PODS.group, PODS.plural)
            )
        )
        for result in results:
            total.add(result)
        return total

    async def _delete_pods(self, namespace: Namespace) -> Leftovers:
        name = namespace.metadata.name
        deleted_at = parse_time(namespace.metadata.deletionTimestamp or "")
        pods = self.client.resource(Pod)
        try:
            items = (await pods.list(name)).items
            if not items:
                return Leftovers()
            grace = grace_left(items, deleted_at, self.clock.now())
            await pods.delete_collection(name, propagation="Background")
            return judge(PODS, (await pods.list(name)).items, grace, name)
        except ApiError as error:
            return Leftovers(failures=[error])

    async def _guarded(self, resource: ApiResource, namespace: str) -> Leftovers:
        """One resource's trouble does not keep the others from being deleted."""
        try:
            return await self._delete_resource(resource, namespace)
        except ApiError as error:
            # 405 and 404: the resource went away or does not do what discovery promised.
            if error.status in (404, 405):
                return Leftovers()
            return Leftovers(failures=[error])

    async def _delete_resource(self, resource: ApiResource, namespace: str) -> Leftovers:
        client: ResourceClient[PartialObject] = self.client.metadata(
            resource.group, resource.version, resource.plural
        )
        can_list = "list" in resource.verbs
        if can_list and not (await client.list(namespace, limit=1)).items:
            return Leftovers()
        if "deletecollection" in resource.verbs:
            await client.delete_collection(namespace, propagation="Background")
        elif can_list:
            for item in (await client.list(namespace)).items:
                await self._delete_one(client, item)
        if not can_list:
            return Leftovers()
        remaining = (await client.list(namespace)).items
        return judge(resource, remaining, 0.0, namespace)

    async def _delete_one(self, client: ResourceClient[PartialObject], item: PartialObject) -> None:
        meta = item.metadata
        with ignoring(missing):
            await client.delete(meta.name, meta.namespace, propagation="Background")
