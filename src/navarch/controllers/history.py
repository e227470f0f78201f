"""The history of a pod template: ControllerRevisions, which DaemonSets and StatefulSets go back to.

Each distinct template has one revision, named after its owner and the hash of the template; going
back to an old template takes its revision out again and gives it the highest number.
Source: upstream's `pkg/controller/history`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object, to_object
from navarch.api.types.apps_v1 import ControllerRevision
from navarch.api.types.core_v1 import PodTemplateSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import KubernetesObject, ResourceClient, owner_reference
from navarch.controllers.revisions import template_hash

HASH = "controller-revision-hash"
DEFAULT_LIMIT = 10


class Collision(Exception):
    """Another template has the same hash: count collisions and try again."""


@dataclass(frozen=True, slots=True)
class History:
    """The revision of the template as it is, and all others, the oldest first."""

    current: ControllerRevision
    old: Sequence[ControllerRevision]


def snapshot(template: PodTemplateSpec) -> Any:
    """A patch that makes an object have this template again."""
    return {"spec": {"template": {**to_object(template), "$patch": "replace"}}}


def new_revision(
    owner: KubernetesObject, template: PodTemplateSpec, number: int, collisions: int | None
) -> ControllerRevision:
    label = template_hash(template, collisions)
    return ControllerRevision(
        metadata=ObjectMeta(
            name=f"{owner.metadata.name}-{label}",
            namespace=owner.metadata.namespace,
            labels={**template.metadata.labels, HASH: label},
            annotations=owner.metadata.annotations,
            ownerReferences=[owner_reference(owner)],
        ),
        data=snapshot(template),
        revision=number,
    )


async def bring_up_to_date(
    resource: ResourceClient[ControllerRevision],
    owner: KubernetesObject,
    template: PodTemplateSpec,
    revisions: Sequence[ControllerRevision],
    collisions: int | None,
) -> History:
    """See to it that the template has the revision with the highest number. Raises Collision,
    ApiError."""
    data = snapshot(template)
    ordered = sorted(revisions, key=lambda each: (each.revision, each.metadata.name))
    equal = [each for each in ordered if each.data == data]
    old = [each for each in ordered if each.data != data]
    number = max((each.revision for each in old), default=0) + 1
    if not equal:
        wanted = new_revision(owner, template, number, collisions)
        try:
            return History(await resource.create(wanted), old)
        except ApiError as error:
            if not error.is_already_exists:
                raise
        meta = wanted.metadata
        present = await resource.get(meta.name, meta.namespace)
        if present.data != data:
            raise Collision(meta.name)
        return History(present, [each for each in old if each.metadata.name != meta.name])
    current = equal[-1]
    if current.revision < number:
        renumbered = copy_object(current)
        renumbered.revision = number
        current = await resource.update(renumbered)
    return History(current, old)


def surplus(
    old: Sequence[ControllerRevision], live: Collection[str], limit: int | None
) -> list[ControllerRevision]:
    """The oldest revisions above the limit, but none (by its hash or name) that pods still have."""
    count = len(old) - (DEFAULT_LIMIT if limit is None else limit)
    unused = [
        each
        for each in old
        if each.metadata.labels.get(HASH) not in live and each.metadata.name not in live
    ]
    return unused[: max(0, count)]
