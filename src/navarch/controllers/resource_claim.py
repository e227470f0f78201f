"""The resource claim controller: claims for devices made for pods, and given back after them.

A pod that names a template gets a claim of its own from it, owned by the pod and told in the pod's
status. A claim is reserved for the pods that use it. When the last of them is done, it loses its
allocation, so that the next pod is not tied to the node of the one before, and then the finalizer
that kept it from vanishing under a running pod; one that was made for a pod is deleted. A pod that
got its node from somebody other than the scheduler gets its reservation here.

Pods are looked up at the API server before a reservation is taken away from one that the cache does
not know: it may be a new pod, which the scheduler saw first.
Source: KEP-4381; upstream's `pkg/controller/resourceclaim`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from msgspec import structs
from prometheus_client import REGISTRY

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object, to_object
from navarch.api.resource_claims import (
    FINALIZER,
    POD_CLAIM,
    ClaimProblem,
    NotCreatedYet,
    check_owner,
    claim_name,
    is_generated,
    is_reserved_for,
    known_claim_names,
    owning_pod,
    reservation,
)
from navarch.api.types.core_v1 import Pod, PodResourceClaim, PodResourceClaimStatus
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.resource_v1 import (
    ResourceClaim,
    ResourceClaimConsumerReference,
    ResourceClaimTemplate,
)
from navarch.client import (
    Controller,
    ControllerContext,
    drop_managed_fields,
    object_key,
    owner_reference,
)
from navarch.controllers.pods import is_terminal
from navarch.controllers.resource_claim_figures import ClaimFigures, creating

BY_CLAIM, BY_TEMPLATE, BY_OWNER = "resource claims", "resource claim templates", "pod"
FIELD_MANAGER = "ResourceClaimController"
NAME_BASE = 57
"""Leaves a hyphen and five random characters of the 63 that a name may have."""
DELETED_KEPT = 10_000


def is_done(pod: Pod) -> bool:
    """It will not run any more, or never has."""
    return is_terminal(pod) or bool(pod.metadata.deletionTimestamp and not pod.spec.nodeName)


def generate_name(pod: str, claim: str) -> str:
    """The base of a claim's name. If it is too long, both parts lose in proportion."""
    base = f"{pod}-{claim}-"
    if len(base) <= NAME_BASE:
        return base
    pod = pod[: len(pod) * NAME_BASE // len(base)]
    base = f"{pod}-"
    return base + claim[: len(claim) * NAME_BASE // len(f"{pod}-{claim}-")]


def claim_for(pod: Pod, claim: PodResourceClaim, template: ResourceClaimTemplate) -> ResourceClaim:
    inner = copy_object(template.spec)
    return ResourceClaim(
        metadata=ObjectMeta(
            generateName=generate_name(pod.metadata.name, claim.name),
            namespace=pod.metadata.namespace,
            labels=inner.metadata.labels,
            annotations={**inner.metadata.annotations, POD_CLAIM: claim.name},
            ownerReferences=[structs.replace(owner_reference(pod), blockOwnerDeletion=None)],
        ),
        spec=inner.spec,
    )


def released(
    claim: ResourceClaim, remaining: list[ResourceClaimConsumerReference]
) -> ResourceClaim | None:
    """The claim as its status is to be once only these consumers are left; None: as it is."""
    status = claim.status
    is_ours = FINALIZER in claim.metadata.finalizers
    lost_one = len(remaining) < len(status.reservedFor)
    abandoned = bool(claim.metadata.deletionTimestamp and status.allocation and is_ours)
    if not lost_one and (remaining or not abandoned):
        return None
    after = copy_object(claim)
    after.status.reservedFor = remaining
    if not remaining and is_ours:
        after.status.allocation = None
    return after


def needs_no_finalizer(claim: ResourceClaim, has_changed: bool) -> bool:
    """It was given back just now, or is to go and nobody holds it."""
    if FINALIZER not in claim.metadata.finalizers or claim.status.reservedFor:
        return False
    is_free = claim.status.allocation is None
    return is_free and (has_changed or bool(claim.metadata.deletionTimestamp))


class ResourceClaimController(Controller):
    """Watches: pods with claims, claims, templates. Keys begin with what they are the key of."""

    name = "resource-claim"
    workers = 10

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.recorder = context.recorder("resource_claim")
        self.pods = context.informers.informer(Pod)
        self.claims = context.informers.informer(ResourceClaim, transform=drop_managed_fields)
        self.templates = context.informers.informer(ResourceClaimTemplate)
        self._deleted: OrderedDict[str, None] = OrderedDict()
        """Pods that are gone for certain."""
        self._made: dict[str, dict[str, str]] = {}
        """Claims that the cache does not have yet: their names, by pod and by the pod's name for
        them. Without this a pod would get two."""
        for informer in (self.pods, self.claims, self.templates):
            self.depends_on(informer)
        self.pods.add_index(BY_CLAIM, _claims_of)
        self.pods.add_index(BY_TEMPLATE, _templates_of)
        self.claims.add_index(BY_OWNER, _owner_of)
        self.pods.add_handler(self._pod_seen, lambda _, pod: self._pod_seen(pod), self._pod_gone)
        self.claims.add_handler(
            self._claim_seen, lambda _, claim: self._claim_seen(claim), self._wake_users
        )
        self.templates.add_handler(self._template_seen, lambda _, new: self._template_seen(new))

    def _pod_seen(self, pod: Pod, is_gone: bool = False) -> None:
        if not pod.spec.resourceClaims and pod.status.extendedResourceClaimStatus is None:
            return
        if is_gone or is_done(pod):
            namespace = pod.metadata.namespace
            self.enqueue(f"claim:{namespace}/{name}" for name in known_claim_names(pod))
        if not is_gone and not pod.metadata.deletionTimestamp:
            self.enqueue(f"pod:{object_key(pod)}")

    def _pod_gone(self, pod: Pod) -> None:
        self._made.pop(pod.metadata.uid, None)
        self._deleted[pod.metadata.uid] = None
        if len(self._deleted) > DELETED_KEPT:
            self._deleted.popitem(last=False)
        self._pod_seen(pod, is_gone=True)

    def _claim_seen(self, claim: ResourceClaim) -> None:
        self.enqueue(f"claim:{object_key(claim)}")
        self._wake_users(claim)

    def _wake_users(self, claim: ResourceClaim) -> None:
        for pod in self.pods.cache.by_index(BY_CLAIM, object_key(claim)):
            self._pod_seen(pod)

    def _template_seen(self, template: ResourceClaimTemplate) -> None:
        for pod in self.pods.cache.by_index(BY_TEMPLATE, object_key(template)):
            self._pod_seen(pod)

    async def run(self) -> None:
        figures = ClaimFigures(self.claims.cache.list)
        REGISTRY.register(figures)
        try:
            await super().run()
        finally:
            REGISTRY.unregister(figures)

    async def reconcile(self, key: str) -> None:
        kind, _, key = key.partition(":")
        if kind == "pod":
            await self._reconcile_pod(key)
        else:
            await self._reconcile_claim(key)

    async def _reconcile_pod(self, key: str) -> None:
        pod = self.pods.cache.get(key)
        if pod is None or pod.metadata.deletionTimestamp or is_terminal(pod):
            return
        made: dict[str, str] = {}
        for claim in pod.spec.resourceClaims:
            try:
                if name := await self._ensure(pod, claim):
                    made[claim.name] = name
            except (ApiError, ClaimProblem) as error:
                text = error.message if isinstance(error, ApiError) else str(error)
                message = f"PodResourceClaim {claim.name}: {text}"
                self.recorder.event(pod, "Warning", "FailedResourceClaimCreation", message)
                raise ApiError(getattr(error, "status", 409), "Conflict", message) from error
        if made:
            await self._tell(pod, made)
        if pod.spec.nodeName:
            await self._reserve(pod)

    async def _ensure(self, pod: Pod, claim: PodResourceClaim) -> str | None:
        """The name of a claim that the pod's status does not tell of yet."""
        try:
            name = claim_name(pod, claim)
        except NotCreatedYet:
            pass
        else:
            if name is None or self._is_there(pod, claim, name):
                return None
        if claim.resourceClaimTemplateName is None:
            return None
        for each in self.claims.cache.by_index(BY_OWNER, pod.metadata.uid):
            if each.metadata.annotations.get(POD_CLAIM) == claim.name:
                return each.metadata.name
        known = self._made.setdefault(pod.metadata.uid, {})
        if claim.name in known:
            return known[claim.name]
        where = f"{pod.metadata.namespace}/{claim.resourceClaimTemplateName}"
        template = self.templates.cache.get(where)
        if template is None:
            name = claim.resourceClaimTemplateName
            missing = f'resourceclaimtemplate.resource.k8s.io "{name}" not found'
            raise ClaimProblem(f'resource claim template "{name}": {missing}')
        wanted = claim_for(pod, claim, template)
        try:
            with creating(wanted):
                made = await self.client.resource(ResourceClaim).create(wanted)
        except ApiError as error:
            text = f"create ResourceClaim : {error.message}"
            raise ApiError(error.status, error.reason, text) from error
        known[claim.name] = made.metadata.name
        return made.metadata.name

    def _is_there(self, pod: Pod, claim: PodResourceClaim, name: str) -> bool:
        found = self.claims.cache.get(f"{pod.metadata.namespace}/{name}")
        if found is None:
            made = self._made.get(pod.metadata.uid, {})
            return made.get(claim.name) == name
        self._made.get(pod.metadata.uid, {}).pop(claim.name, None)
        owner = owning_pod(found)
        is_own = owner is not None and owner.uid == pod.metadata.uid
        return is_own or not is_generated(claim)

    async def _tell(self, pod: Pod, made: dict[str, str]) -> None:
        statuses = [
            PodResourceClaimStatus(name=name, resourceClaimName=claim)
            for name, claim in {
                **{s.name: s.resourceClaimName for s in pod.status.resourceClaimStatuses},
                **made,
            }.items()
        ]
        status = {"resourceClaimStatuses": [to_object(each) for each in statuses]}
        await self.client.resource(Pod).apply_status(pod, status, FIELD_MANAGER)

    async def _reserve(self, pod: Pod) -> None:
        """Who got a node without the scheduler gets what is allocated already."""
        for each in pod.spec.resourceClaims:
            try:
                name = claim_name(pod, each)
            except ClaimProblem:
                return
            claim = self.claims.cache.get(f"{pod.metadata.namespace}/{name}")
            if name is None or claim is None:
                continue
            if is_generated(each):
                try:
                    check_owner(pod, claim)
                except ClaimProblem as problem:
                    raise ApiError(409, "Conflict", str(problem)) from problem
            if claim.status.allocation is not None and not is_reserved_for(claim, pod.metadata.uid):
                mine = copy_object(claim)
                mine.status.reservedFor.append(reservation(pod.metadata))
                await self.client.resource(ResourceClaim).update_status(mine)

    async def _reconcile_claim(self, key: str) -> None:
        claim = self.claims.cache.get(key)
        if claim is None:
            return
        claims = self.client.resource(ResourceClaim)
        namespace = claim.metadata.namespace
        remaining = [
            each for each in claim.status.reservedFor if await self._holds(each, namespace)
        ]
        after = released(claim, remaining)
        if after is not None:
            claim = await claims.update_status(after)
        if needs_no_finalizer(claim, after is not None):
            claim = copy_object(claim)
            claim.metadata.finalizers.remove(FINALIZER)
            claim = await claims.update(claim)
        if not remaining:
            await self._delete_unused(claim)

    async def _holds(self, consumer: ResourceClaimConsumerReference, namespace: str) -> bool:
        """Whether a reservation counts. What is not a pod's is left to whoever made it."""
        if consumer.apiGroup or consumer.resource != "pods":
            return True
        if consumer.uid in self._deleted:
            return False
        pod = self.pods.cache.get(f"{namespace}/{consumer.name}")
        if pod is None:
            pod = await self.client.resource(Pod).find(consumer.name, namespace)
            return pod is not None and pod.metadata.uid == consumer.uid
        return pod.metadata.uid == consumer.uid and not is_done(pod)

    async def _delete_unused(self, claim: ResourceClaim) -> None:
        """A claim that was made for a pod which will not run is of no use. If the pod is not known
        (yet), this is left to the garbage collector."""
        owner = owning_pod(claim)
        if owner is None or claim.metadata.deletionTimestamp:
            return
        meta = claim.metadata
        pod = self.pods.cache.get(f"{meta.namespace}/{owner.name}")
        if pod is None or (pod.metadata.uid == owner.uid and not is_done(pod)):
            return
        await self.client.resource(ResourceClaim).remove(claim)


def _claims_of(pod: Pod) -> Iterable[str]:
    return (f"{pod.metadata.namespace}/{name}" for name in known_claim_names(pod))


def _templates_of(pod: Pod) -> Iterable[str]:
    return (
        f"{pod.metadata.namespace}/{claim.resourceClaimTemplateName}"
        for claim in pod.spec.resourceClaims
        if claim.resourceClaimTemplateName is not None
    )


def _owner_of(claim: ResourceClaim) -> Iterable[str]:
    owner = owning_pod(claim)
    return () if owner is None else (owner.uid,)
