"""Pod templates and their revisions: hashes that name them, annotations that number them.

Source: upstream's `pkg/controller/deployment/util` and `pkg/util/hash`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from navarch.api.objects import copy_object, encode
from navarch.api.types.apps_v1 import ReplicaSet
from navarch.api.types.core_v1 import PodTemplateSpec

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        "deprecated.deployment.rollback.to",
    }
)
SAFE_DIGITS = str.maketrans("0123456789", "456789bcdf")
"""Ten letters of the alphabet that spells no words."""


def template_hash(template: PodTemplateSpec, collisions: int | None) -> str:
    """A short name for a template; `collisions` tells apart templates that share one."""
    value = 0x811C9DC5
    for byte in encode(template) + (b"" if collisions is None else str(collisions).encode()):
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return str(value).translate(SAFE_DIGITS)


def same_template(one: PodTemplateSpec, other: PodTemplateSpec) -> bool:
    """Whether two templates make the same pods; the hash label does not count."""
    return _without_hash(one) == _without_hash(other)


def _without_hash(template: PodTemplateSpec) -> PodTemplateSpec:
    if HASH_LABEL not in template.metadata.labels:
        return template
    copied = copy_object(template)
    copied.metadata.labels.pop(HASH_LABEL)
    return copied


def revision_of(annotations: Mapping[str, str]) -> int:
    """The revision an object says it has; 0 where it says none."""
    try:
        return int(annotations.get(REVISION, "0"))
    except ValueError:
        return 0


def highest_revision(sets: Iterable[ReplicaSet]) -> int:
    return max((revision_of(rs.metadata.annotations) for rs in sets), default=0)


def copied_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """A Deployment's annotations as far as its ReplicaSets get them."""
    return {key: value for key, value in annotations.items() if key not in NOT_COPIED}


def numbered(annotations: Mapping[str, str], revision: int) -> dict[str, str]:
    """Annotations with a new revision, the one before noted in the history."""
    before = annotations.get(REVISION, "")
    result = {**annotations, REVISION: str(revision)}
    if before and before != str(revision):
        history = annotations.get(REVISION_HISTORY, "")
        result[REVISION_HISTORY] = f"{history},{before}" if history else before
    return result
