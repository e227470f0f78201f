"""The history of a pod template: ControllerRevisions, which DaemonSets and StatefulSets go back to.

Each distinct template has one revision, named after its owner and the hash of the template; going
back to an old template takes its revision out again and gives it the highest number.
Source: upstream's `pkg/controller/history`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object, from_object, to_object
from navarch.api.types.apps_v1 import ControllerRevision
from navarch.api.types.core_v1 import PodTemplateSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import (
    ControllerContext,
    KubernetesObject,
    controller_of,
    object_key,
    owner_reference,
)
from navarch.controllers.revisions import template_hash
from navarch.controllers.workload import W, WorkloadController, index_by_controller

HASH = "controller-revision-hash"
"""The label of pods that says which revision they are of."""
DEFAULT_LIMIT = 10
LONGEST_PREFIX = 223


@dataclass(frozen=True, slots=True)
class History:
    """The revision of the template as it is, and all others, the oldest first."""

    current: ControllerRevision
    old: Sequence[ControllerRevision]
    duplicates: Sequence[ControllerRevision] = ()
    """Others of the same template, which should not be."""
    collisions: int | None = None
    """How often the template's hash was that of another one."""


def snapshot(template: PodTemplateSpec) -> Any:
    """A patch that makes an object have this template again.

    It is to the byte what upstream's controllers write: clients of theirs tell by the bytes which
    revision a template is of, and keys in order and the objects that are never left out count.
    """
    plain = to_object(template)
    spec = plain.setdefault("spec", {})
    plain.setdefault("metadata", {})
    for containers in ("initContainers", "containers"):
        for container in spec.get(containers, ()):
            container.setdefault("resources", {})
    for volume in spec.get("volumes", ()):
        claim = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
        if claim is not None:
            claim.setdefault("metadata", {})
            claim.setdefault("spec", {}).setdefault("resources", {})
    patch = {"spec": {"template": {**plain, "$patch": "replace"}}}
    return msgspec.json.decode(msgspec.json.encode(patch, order="sorted"))


def template_of(revision: ControllerRevision) -> PodTemplateSpec:
    template = {**revision.data["spec"]["template"]}
    template.pop("$patch", None)
    return from_object(PodTemplateSpec, template)


def means_the_same(revision: ControllerRevision, data: Any) -> bool:
    """Whether a revision, with the defaults of today filled in, is of the same template: an upgrade
    that adds a default must not look like a change."""
    try:
        template = with_defaults(template_of(revision))
    except (LookupError, TypeError, msgspec.ValidationError):
        return False  # Somebody else's, of whatever it is.
    return bool(snapshot(template) == data)


def with_defaults(template: PodTemplateSpec) -> PodTemplateSpec:
    """The template as the API stores it."""
    # Costs memory, and is needed when a template changes.
    from navarch.api.kinds import KINDS
    from navarch.api.schema.defaults import apply_defaults
    from navarch.api.strategies.podspec import default_pod_spec

    holder = {"template": to_object(template)}
    holder["template"].setdefault("spec", {})
    apply_defaults(next(each for each in KINDS if each.kind == "PodTemplate"), holder)
    default_pod_spec(holder["template"]["spec"])
    return from_object(PodTemplateSpec, holder["template"])


def new_revision(
    owner: KubernetesObject, template: PodTemplateSpec, number: int, hash_label: str, hash_: str
) -> ControllerRevision:
    return ControllerRevision(
        metadata=ObjectMeta(
            name=f"{owner.metadata.name[:LONGEST_PREFIX]}-{hash_}",
            namespace=owner.metadata.namespace,
            labels={**template.metadata.labels, hash_label: hash_},
            annotations=owner.metadata.annotations,
            ownerReferences=[owner_reference(owner)],
        ),
        data=snapshot(template),
        revision=number,
    )


def sort_out(revisions: Sequence[ControllerRevision], data: Any) -> tuple[History | None, int]:
    """The history there is (None: the template has no revision yet), and the number that the
    template's revision has to have."""
    ordered = sorted(revisions, key=_age)
    equal = [each for each in ordered if each.data == data]
    if not equal and ordered and means_the_same(ordered[-1], data):
        equal = ordered[-1:]
    names = {each.metadata.name for each in equal}
    old = [each for each in ordered if each.metadata.name not in names]
    number = max((each.revision for each in old), default=0) + 1
    return (History(equal[-1], old, equal[:-1]) if equal else None), number


def _age(revision: ControllerRevision) -> tuple[int, str, str]:
    meta = revision.metadata
    return revision.revision, meta.creationTimestamp or "", meta.name


def surplus(
    old: Sequence[ControllerRevision], live: Collection[str], limit: int | None
) -> list[ControllerRevision]:
    """The oldest revisions above the limit, but none (by its hash) that pods still have. A limit
    below zero is none."""
    limit = DEFAULT_LIMIT if limit is None else limit
    unused = [each for each in old if each.metadata.labels.get(HASH) not in live]
    return unused[: max(0, len(old) - limit)] if limit >= 0 else []


class RevisionedController(WorkloadController[W]):
    """A controller of objects whose templates have a history."""

    hash_label: ClassVar[str]
    """The label of revisions that has the hash of the template."""

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.revisions = context.informers.informer(ControllerRevision)
        self.revision_resource = self.client.resource(ControllerRevision)
        self.follow(self.pods)
        index_by_controller(self.revisions)
        self.depends_on(self.revisions)
        self.revisions.add_handler(self._revision_came, self._changed, self._gone)

    def _revision_came(self, revision: ControllerRevision) -> None:
        """One that says whose it is changes nothing; its owner may have been waiting to see it."""
        key = self.owner_key(revision)
        if key is not None and self.writes.are_pending(key):
            self.queue.add(key)
        elif controller_of(revision) is None:
            self._came(revision)

    async def history(
        self, owner: W, template: PodTemplateSpec, revisions: Sequence[ControllerRevision]
    ) -> History:
        """See to it that the template has the revision with the highest number. `revisions` are
        those the owner has. Raises ApiError."""
        data = snapshot(template)
        found, number = sort_out(revisions, data)
        collisions = self.collisions(owner)
        if found is None:
            current, collisions = await self._create_revision(owner, template, number, collisions)
            old = [each for each in revisions if each.metadata.name != current.metadata.name]
            return History(current, sorted(old, key=_age), (), collisions)
        current = found.current
        if current.revision < number:
            current = copy_object(current)
            current.revision = number
            current = await self.update_revision(owner, current)
        return History(current, found.old, found.duplicates, collisions)

    @staticmethod
    def collisions(owner: Any) -> int | None:
        count: int | None = owner.status.collisionCount
        return count

    async def _create_revision(
        self, owner: W, template: PodTemplateSpec, number: int, collisions: int | None
    ) -> tuple[ControllerRevision, int | None]:
        while True:
            hash_ = template_hash(template, collisions)
            wanted = new_revision(owner, template, number, self.hash_label, hash_)
            try:
                created = await self.revision_resource.create(wanted)
            except ApiError as error:
                if not error.is_already_exists:
                    raise
            else:
                self.writes.wrote(object_key(owner), self.revisions, created)
                return created, collisions
            meta = wanted.metadata
            present = await self.revision_resource.get(meta.name, meta.namespace)
            if present.data == wanted.data:
                return present, collisions
            collisions = (collisions or 0) + 1

    async def update_revision(self, owner: W, revision: ControllerRevision) -> ControllerRevision:
        updated = await self.revision_resource.update(revision)
        self.writes.wrote(object_key(owner), self.revisions, updated)
        return updated

    async def delete_revisions(self, owner: W, revisions: Sequence[ControllerRevision]) -> None:
        for each in revisions:
            await self.revision_resource.remove(each)
            self.writes.deleted(object_key(owner), self.revisions, each)

    async def claim_revisions(
        self, owner: W, is_member: Callable[[ControllerRevision], bool]
    ) -> list[ControllerRevision]:
        """What the owner has of revisions, those included that it adopts now."""
        candidates = self.dependents(self.revisions, owner)
        return await self.claim(owner, self.revisions, candidates, is_member)
