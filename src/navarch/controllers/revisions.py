"""Pod templates and their revisions: hashes that name them, annotations that number them.

Source: upstream's `pkg/controller/deployment/util` and `pkg/util/hash`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from navarch.api.objects import copy_object, encode
from navarch.api.types.apps_v1 import Deployment, ReplicaSet
from navarch.api.types.core_v1 import PodTemplateSpec

_NUMBER = re.compile(r"-?[0-9]{1,19}")
HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
ROLLBACK_TO = "deprecated.deployment.rollback.to"
NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        ROLLBACK_TO,
    }
)
HISTORY_CHARACTERS = 2000
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


def rollback_revision(deployment: Deployment) -> int | None:
    """The revision the Deployment is asked to go back to (0: the one before); None: it is not."""
    text = deployment.metadata.annotations.get(ROLLBACK_TO, "")
    return int(text) if _NUMBER.fullmatch(text) else None


def rolled_back(deployment: Deployment, sets: Sequence[ReplicaSet]) -> tuple[str, str, str]:
    """Give the Deployment (a copy) the template and the annotations of the set with the revision
    it is to go back to, and take the wish off. The event (type, reason, message) that tells so."""
    wanted = rollback_revision(deployment)
    annotations = deployment.metadata.annotations
    annotations.pop(ROLLBACK_TO, None)
    by_revision = {revision_of(rs.metadata.annotations): rs for rs in reversed(sets)}
    if not wanted:
        wanted = next(iter(sorted(by_revision, reverse=True)[1:]), 0)
        if not wanted:
            return "Warning", "DeploymentRollbackRevisionNotFound", "Unable to find last revision."
    target = by_revision.get(wanted)
    name = deployment.metadata.name
    if target is None:
        text = "Unable to find the revision to rollback to."
        return "Warning", "DeploymentRollbackRevisionNotFound", text
    if same_template(target.spec.template, deployment.spec.template):
        text = f'The rollback revision contains the same template as current deployment "{name}"'
        return "Warning", "DeploymentRollbackTemplateUnchanged", text
    template = copy_object(target.spec.template)
    template.metadata.labels.pop(HASH_LABEL, None)
    deployment.spec.template = template
    kept = {key: value for key, value in annotations.items() if key in NOT_COPIED}
    deployment.metadata.annotations = {**kept, **copied_annotations(target.metadata.annotations)}
    return "Normal", "DeploymentRollback", f'Rolled back deployment "{name}" to revision {wanted}'


def numbered(annotations: Mapping[str, str], revision: int) -> dict[str, str]:
    """Annotations with a new revision, the one before noted in the history, which forgets the
    oldest when it gets long."""
    before = annotations.get(REVISION, "")
    result = {**annotations, REVISION: str(revision)}
    if before and before != str(revision):
        history = [*filter(None, annotations.get(REVISION_HISTORY, "").split(",")), before]
        while len(",".join(history)) > HISTORY_CHARACTERS:
            del history[0]
        result[REVISION_HISTORY] = ",".join(history)
    return result
