"""What a namespace that is being deleted reports: what is left in it, and what went wrong.

Pure. All five conditions are always there, "False" meaning that all is well; types, reasons and
messages are upstream's (`pkg/controller/namespace/deletion`), because people and tools read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from navarch.api.times import format_time
from navarch.api.types.core_v1 import NamespaceCondition

FINE = {
    "NamespaceDeletionDiscoveryFailure": (
        "ResourcesDiscovered",
        "All resources successfully discovered",
    ),
    "NamespaceDeletionGroupVersionParsingFailure": (
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    "NamespaceDeletionContentFailure": (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    "NamespaceContentRemaining": ("ContentRemoved", "All content successfully removed"),
    "NamespaceFinalizersRemaining": (
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
    ),
}
"""The conditions in their order, with what they say when there is no trouble."""


@dataclass(slots=True)
class Leftovers:
    """What one pass over a namespace's content left behind."""

    remaining: dict[str, int] = field(default_factory=dict)
    """Objects by `resource.group`."""
    finalizers: dict[str, int] = field(default_factory=dict)
    """Objects by the finalizer that holds them."""
    failures: list[Exception] = field(default_factory=list)
    undiscovered: Sequence[str] = ()
    """Group versions whose resources are not known."""
    estimate: float = 0.0
    """Seconds until what remains should be gone."""

    def add(self, other: Leftovers) -> None:
        self.remaining |= other.remaining
        for name, count in other.finalizers.items():
            self.finalizers[name] = self.finalizers.get(name, 0) + count
        self.failures += other.failures
        self.estimate = max(self.estimate, other.estimate)

    def troubles(self) -> dict[str, tuple[str, str]]:
        """The conditions that are not fine: reason and message by type."""
        found: dict[str, tuple[str, str]] = {}
        if self.undiscovered:
            listed = ", ".join(
                f"{name}: stale GroupVersion discovery: {name}" for name in self.undiscovered
            )
            found["NamespaceDeletionDiscoveryFailure"] = (
                "DiscoveryFailed",
                f"Discovery failed for some groups, {len(self.undiscovered)} failing: "
                f"unable to retrieve the complete list of server APIs: {listed}",
            )
        if self.failures:
            found["NamespaceDeletionContentFailure"] = (
                "ContentDeletionFailed",
                f"Failed to delete all resource types, {len(self.failures)} remaining: "
                + ", ".join(sorted(map(str, self.failures))),
            )
        if self.remaining:
            found["NamespaceContentRemaining"] = (
                "SomeResourcesRemain",
                f"Some resources are remaining: {_counts(self.remaining, 'has')}",
            )
        if self.finalizers:
            found["NamespaceFinalizersRemaining"] = (
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining: "
                + _counts(self.finalizers, "in"),
            )
        return found


def _counts(counts: Mapping[str, int], verb: str) -> str:
    return ", ".join(
        sorted(f"{name} {verb} {count} resource instances" for name, count in counts.items())
    )


def next_conditions(
    present: Sequence[NamespaceCondition], leftovers: Leftovers, now: datetime
) -> list[NamespaceCondition]:
    """The conditions after a pass; those of other types are kept."""
    troubles = leftovers.troubles()
    by_type = {condition.type: condition for condition in present}
    for kind, fine in FINE.items():
        status = "True" if kind in troubles else "False"
        reason, message = troubles.get(kind, fine)
        old = by_type.get(kind)
        since = old.lastTransitionTime if old is not None and old.status == status else None
        by_type[kind] = NamespaceCondition(
            type=kind,
            status=status,
            lastTransitionTime=since or format_time(now),
            reason=reason,
            message=message,
        )
    return [*by_type.values()]
