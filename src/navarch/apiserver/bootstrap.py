"""The objects every cluster is born with: namespaces, priority classes, roles and bindings.

What has to be written is planned from what is there, so a start that finds everything writes
nothing; else all writes of one rank go out at once and share the store's commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from navarch.api.errors import ApiError
from navarch.apiserver.authorization.bootstrap_policy import bootstrap_policy, reconciled
from navarch.apiserver.contracts import Lookup, Object

NAMESPACES = ("kube-system", "kube-public", "kube-node-lease", "default")
_PRIORITY_CLASSES = (
    (
        "system-node-critical",
        2000001000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2000000000,
        "Used for system critical pods that must run in the cluster, but can be moved to another "
        "node if necessary.",
    ),
)

Write = Callable[[str, Object], Awaitable[object]]
"""Writes an object of a resource (`roles.rbac.authorization.k8s.io`); raises ApiError."""


@dataclass(frozen=True, slots=True)
class Access:
    """How the bootstrap reads and writes. `replace` keeps to the object's resourceVersion;
    `recreate` deletes the object of the same name first."""

    lookup: Lookup
    create: Write
    replace: Write
    recreate: Write


@dataclass(frozen=True, slots=True)
class Step:
    """One write: `action` is create, replace or recreate."""

    action: str
    resource: str
    obj: Object


def plan(lookup: Lookup) -> list[list[Step]]:
    """The writes still to do, in ranks: namespaces come before what is in them."""
    first = _missing(lookup, "namespaces", map(_namespace, NAMESPACES))
    classes = (_priority_class(*facts) for facts in _PRIORITY_CLASSES)
    second = _missing(lookup, "priorityclasses.scheduling.k8s.io", classes)
    for resource, obj in bootstrap_policy():
        metadata = obj["metadata"]
        existing = lookup.get(resource, metadata.get("namespace", ""), metadata["name"])
        if existing is None:
            second.append(Step("create", resource, obj))
        elif obj.get("roleRef") != existing.get("roleRef"):
            second.append(Step("recreate", resource, obj))
        elif (wanted := reconciled(obj, existing)) is not None:
            second.append(Step("replace", resource, wanted))
    return [rank for rank in (first, second) if rank]


async def bootstrap(access: Access) -> int:
    """Write what is missing; returns the number of writes. A lost race with another API server at
    the same work is no error: it writes the same."""
    ranks = plan(access.lookup)
    for rank in ranks:
        await asyncio.gather(*(_apply(access, step) for step in rank))
    return sum(len(rank) for rank in ranks)


async def _apply(access: Access, step: Step) -> None:
    write: Write = getattr(access, step.action)
    try:
        await write(step.resource, step.obj)
    except ApiError as error:
        if not (error.is_already_exists or error.is_conflict):
            raise


def _missing(lookup: Lookup, resource: str, objects: Iterable[Object]) -> list[Step]:
    return [
        Step("create", resource, obj)
        for obj in objects
        if lookup.get(resource, "", obj["metadata"]["name"]) is None
    ]


def _namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _priority_class(name: str, value: int, description: str) -> Object:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": description,
    }
