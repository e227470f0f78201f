"""What Gateways and routes refer to: Services, Secrets, namespaces, and the grants that let
references cross from one namespace to another. Everything that is asked for is noted, as that is
what the controller has to follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from navarch.network.gateway import GROUP
from navarch.network.gateway.objects import ReferenceGrant
from navarch.network.nginx import backends


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is not as its user wishes: a condition's reason and message."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object that is referred to from another: `kind` from `namespace`."""

    kind: str
    namespace: str
    group: str
    name: str
    to_kind: str
    to_namespace: str


@dataclass(slots=True)
class Around(backends.Around):
    labels: Callable[[str], Mapping[str, str] | None]
    """Those of a namespace; None if there is none of that name."""
    grants: Sequence[ReferenceGrant] = ()

    def is_granted(self, wanted: Wanted) -> bool:
        """Whether a reference may be followed: within a namespace always, elsewhere if a grant in
        the namespace it leads to says so."""
        if wanted.namespace == wanted.to_namespace:
            return True
        return any(
            any(
                (each.group, each.kind, each.namespace) == (GROUP, wanted.kind, wanted.namespace)
                for each in grant.spec.from_
            )
            and any(
                (each.group, each.kind) == (wanted.group, wanted.to_kind)
                and each.name in ("", wanted.name)
                for each in grant.spec.to
            )
            for grant in self.grants
            if grant.metadata.namespace == wanted.to_namespace
        )
