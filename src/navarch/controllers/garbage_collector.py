"""The garbage collector: deletes objects whose owners are gone, and sees to ordered deletions.

Three ways to delete an owner (the API conventions' propagation policies):

* background: the owner goes at once, its dependents after it;
* foreground: the owner keeps the finalizer `foregroundDeletion` until every dependent that says
  `blockOwnerDeletion` is gone, which the collector deletes meanwhile;
* orphan: the owner keeps the finalizer `orphan` until the references of its dependents to it are
  taken out.

An object with several owners stays as long as one of them stays. The graph lags behind the truth,
so before anything is deleted the object and all its owners are asked for at the server, and the
deletion holds only for the very version that was judged.

Source: upstream's `pkg/controller/garbagecollector`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from navarch.api.errors import ApiError, ignoring, missing
from navarch.api.kinds import kind_by_resource
from navarch.api.types.core_v1 import ObjectReference
from navarch.api.types.meta_v1 import OwnerReference
from navarch.client import Controller, ControllerContext, PatchType, slow_start
from navarch.client.ratelimit import exponential
from navarch.controllers.discovery import ApiResource
from navarch.controllers.garbage_collector_graph import (
    FOREGROUND,
    ORPHAN,
    Graph,
    Identity,
    Node,
    claimed,
)
from navarch.controllers.garbage_collector_monitors import Monitors, SlimMetadata

DISCOVERY_KEY = "discovery"
"""No object's uid."""
DISCOVERY_SECONDS = 30.0
AT_ONCE = 50
"""So many dependents are let go at the same time."""
CATALOG_SETTLES_SECONDS = 0.2
"""A new definition is served a moment after it is written, and often several come together."""


@dataclass(slots=True)
class Owners:
    """An object's owners by what is known of them at the server."""

    solid: list[OwnerReference] = field(default_factory=list)
    dangling: list[OwnerReference] = field(default_factory=list)
    waiting: list[OwnerReference] = field(default_factory=list)
    """Those that are deleted in foreground and wait for this one."""


class Verdict(Enum):
    KEEP = "an owner is there"
    TRIM = "an owner is there, and references to others are of no use any more"
    FOREGROUND = "its owners wait for it, and it has dependents of its own"
    DELETE = "no owner is left"


def judge(owners: Owners, has_dependents: bool) -> Verdict:
    """What becomes of an object that has owner references."""
    if owners.solid:
        return Verdict.TRIM if owners.dangling or owners.waiting else Verdict.KEEP
    return Verdict.FOREGROUND if owners.waiting and has_dependents else Verdict.DELETE


def propagation(finalizers: Iterable[str]) -> str:
    """A policy that was asked for earlier is honoured."""
    if ORPHAN in finalizers:
        return "Orphan"
    return "Foreground" if FOREGROUND in finalizers else "Background"


class GarbageCollector(Controller):
    """Watches: everything, through `Monitors`. Keys are uids."""

    name = "garbage-collector"
    workers = 20

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.recorder = context.recorder("garbage-collector-controller")
        self.graph = Graph(self.queue.add, self._report)
        self.monitors = Monitors(context, self.graph, self._rediscover)

    def _rediscover(self) -> None:
        self.queue.add_after(DISCOVERY_KEY, CATALOG_SETTLES_SECONDS)

    def _report(self, node: Node, reference: OwnerReference) -> None:
        own = node.identity
        subject = ObjectReference(
            apiVersion=own.api_version,
            kind=own.kind,
            namespace=own.namespace,
            name=own.name,
            uid=own.uid,
        )
        text = (
            f"ownerRef {claimed(reference, own.namespace)} does not exist in namespace "
            f'"{own.namespace}"'
        )
        self.recorder.event(subject, "Warning", "OwnerRefInvalidNamespace", text)

    async def run(self) -> None:
        """Nothing is judged before the graph is complete."""
        delay = 0.1
        while True:
            try:
                await self.monitors.sync()
                break
            except ApiError as error:
                self.log.warning("discovery: %s; again in %.1f s", error, delay)
                await self.clock.sleep(delay)
                delay = min(delay * 2, 10.0)
        await self.monitors.wait_synced()
        self.queue.add_after(DISCOVERY_KEY, DISCOVERY_SECONDS)
        await super().run()

    async def reconcile(self, key: str) -> None:
        if key == DISCOVERY_KEY:
            self.queue.add_after(DISCOVERY_KEY, DISCOVERY_SECONDS)
            await self.monitors.sync()
            return
        node = self.graph.nodes.get(key)
        if node is None:
            return
        if node.is_orphaning:
            await self._orphan_dependents(node)
        elif node.is_foreground or not node.is_deleting:
            await self._judge(node)

    async def _judge(self, node: Node) -> None:
        resource = self.monitors.resource_of(node.identity)
        if resource is None:
            # A kind not discovered yet, or one that does not exist: there is no telling.
            self._look_again(node)
            return
        if resource.is_namespaced and not node.identity.namespace:
            return  # claimed by a cluster-scoped object, which cannot have such an owner
        latest = await self._get(resource, node.identity)
        if latest is None:
            self.graph.disprove(node.identity)
            return
        if node.is_foreground:
            await self._advance_foreground(resource, node)
            return
        if latest.ownerReferences:
            owners = await self._classify(node, latest.ownerReferences)
            if owners is not None:
                await self._carry_out(resource, node, latest, owners)
        if node.is_virtual:
            # Until an informer shows it, it may vanish without anybody being told.
            self._look_again(node)

    def _look_again(self, node: Node) -> None:
        node.looks += 1
        delay = exponential(0.1, 1000.0, node.looks - 1)
        self.queue.add_after(node.identity.uid, delay)

    async def _get(self, resource: ApiResource, identity: Identity) -> SlimMetadata | None:
        """The object as the server has it; None if there is none with this uid."""
        namespace = identity.namespace if resource.is_namespaced else ""
        found = await self.monitors.client_of(resource).find(identity.name, namespace)
        return found.metadata if found and found.metadata.uid == identity.uid else None

    async def _classify(self, node: Node, references: Sequence[OwnerReference]) -> Owners | None:
        """None where an owner is of a kind that cannot be asked for."""
        owners = Owners()
        namespace = node.identity.namespace
        for reference in references:
            claim = claimed(reference, namespace)
            unscoped = claim._replace(namespace="")
            if self.graph.is_absent(claim) or self.graph.is_absent(unscoped):
                owners.dangling.append(reference)
                continue
            resource = self.monitors.resource_of(claim)
            if resource is None:
                self._look_again(node)
                return None
            if resource.is_namespaced and not namespace:
                return None  # never right, and nobody but a person can tell what was meant
            latest = await self._get(resource, claim)
            if latest is None:
                self.graph.note_absent(claim if resource.is_namespaced else unscoped)
                owners.dangling.append(reference)
            elif latest.deletionTimestamp and FOREGROUND in latest.finalizers:
                owners.waiting.append(reference)
            else:
                owners.solid.append(reference)
        return owners

    async def _carry_out(
        self, resource: ApiResource, node: Node, latest: SlimMetadata, owners: Owners
    ) -> None:
        verdict = judge(owners, bool(node.dependents))
        if verdict is Verdict.KEEP:
            return
        if verdict is Verdict.TRIM:
            useless = {reference.uid for reference in (*owners.dangling, *owners.waiting)}
            await self._drop_owners(resource, latest, useless)
            return
        policy = propagation(latest.finalizers)
        version = latest.resourceVersion
        if verdict is Verdict.FOREGROUND:
            policy = "Foreground"
            if any(dependent.is_foreground for dependent in node.dependents):
                # Perhaps a circle, in which each would wait for the other for ever.
                version = await self._unblock(resource, latest)
        try:
            await self.monitors.client_of(resource).delete(
                latest.name,
                latest.namespace,
                uid=latest.uid,
                resource_version=version,
                propagation=policy,
            )
        except ApiError as error:
            if not error.is_not_found:
                raise
            self.graph.disprove(node.identity)

    async def _advance_foreground(self, resource: ApiResource, node: Node) -> None:
        """Let the owner go when nothing blocks it, else see that what blocks it is deleted."""
        blocking = node.blocking_dependents()
        if not blocking:
            await self._drop_finalizer(resource, node.identity, FOREGROUND)
        for dependent in blocking:
            if not dependent.is_foreground:
                self.queue.add(dependent.identity.uid)

    async def _orphan_dependents(self, node: Node) -> None:
        """References out first, the finalizer after: the other way round a crash in between would
        have the dependents deleted."""
        resource = self.monitors.resource_of(node.identity)
        if resource is None:
            self._look_again(node)
            return
        dependents = [*node.dependents]
        _, failure = await slow_start(
            len(dependents), lambda index: self._let_go(node, dependents[index]), AT_ONCE
        )
        if failure is not None:
            raise failure
        await self._drop_finalizer(resource, node.identity, ORPHAN)

    async def _let_go(self, owner: Node, dependent: Node) -> None:
        resource = self.monitors.resource_of(dependent.identity)
        if resource is None:
            raise ApiError(404, "NotFound", f"the server has no {dependent.identity.kind}")
        latest = await self._get(resource, dependent.identity)
        if latest is not None:
            await self._drop_owners(resource, latest, {owner.identity.uid})

    async def _drop_owners(
        self, resource: ApiResource, latest: SlimMetadata, uids: set[str]
    ) -> None:
        kept = [ref for ref in latest.ownerReferences if ref.uid not in uids]
        if len(kept) < len(latest.ownerReferences):
            removed = [{"$patch": "delete", "uid": uid} for uid in sorted(uids)]
            await self._patch_owners(resource, latest, kept, removed)

    async def _unblock(self, resource: ApiResource, latest: SlimMetadata) -> str:
        """Say of no owner any more that it has to wait; the version after that."""
        changed = [
            reference for reference in latest.ownerReferences if reference.blockOwnerDeletion
        ]
        for reference in changed:
            reference.blockOwnerDeletion = False
        entries = [{"uid": ref.uid, "blockOwnerDeletion": False} for ref in changed]
        return await self._patch_owners(resource, latest, latest.ownerReferences, entries)

    async def _patch_owners(
        self,
        resource: ApiResource,
        latest: SlimMetadata,
        whole: Sequence[OwnerReference],
        entries: Sequence[Any],
    ) -> str:
        """Built-in kinds merge the entries by uid, whatever else changed meanwhile; for custom ones
        the whole list is replaced, if the object has not changed."""
        is_built_in = kind_by_resource(resource.group, resource.version, resource.plural)
        metadata: dict[str, Any] = {"uid": latest.uid, "ownerReferences": entries}
        if not is_built_in:
            metadata |= {"resourceVersion": latest.resourceVersion, "ownerReferences": whole}
        with ignoring(missing):
            patched = await self.monitors.client_of(resource).patch(
                latest.name,
                latest.namespace,
                {"metadata": metadata},
                patch_type=PatchType.STRATEGIC if is_built_in else PatchType.MERGE,
            )
            return patched.metadata.resourceVersion
        return latest.resourceVersion

    async def _drop_finalizer(
        self, resource: ApiResource, identity: Identity, finalizer: str
    ) -> None:
        latest = await self._get(resource, identity)
        if latest is None or finalizer not in latest.finalizers:
            return
        kept = [each for each in latest.finalizers if each != finalizer]
        guard = {"uid": latest.uid, "resourceVersion": latest.resourceVersion}
        with ignoring(missing):
            await self.monitors.client_of(resource).patch(
                latest.name, latest.namespace, {"metadata": {**guard, "finalizers": kept}}
            )
