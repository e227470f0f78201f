"""The webhooks of all configurations, compiled once for each change of a configuration.

A configuration takes effect with the write that makes it: the change is heard of before that write
returns, and the next request finds it. Order is by the configuration's name, then as listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from navarch.apiserver.admission.matching import Criteria
from navarch.apiserver.contracts import Lookup, Object
from navarch.apiserver.webhooks.client import Endpoint

if TYPE_CHECKING:
    from navarch.apiserver.admission.match_conditions import MatchConditions

DEFAULT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook of a configuration."""

    uid: str
    configuration: str
    name: str
    criteria: Criteria
    endpoint: Endpoint
    seconds: float
    fails_open: bool
    is_reinvoked: bool
    """Called again when somebody changed the object after it."""
    supports_dry_run: bool
    review_versions: tuple[str, ...]
    conditions: MatchConditions | None

    @classmethod
    def of(cls, configuration: str, index: int, webhook: Object) -> Hook:
        name = webhook.get("name") or ""
        return cls(
            f"{configuration}/{name}/{index}",
            configuration,
            name,
            Criteria.of(webhook),
            Endpoint.of(webhook.get("clientConfig") or {}),
            float(webhook.get("timeoutSeconds") or DEFAULT_SECONDS),
            webhook.get("failurePolicy") == "Ignore",
            webhook.get("reinvocationPolicy") == "IfNeeded",
            webhook.get("sideEffects") in ("None", "NoneOnDryRun"),
            tuple(webhook.get("admissionReviewVersions") or ()),
            _conditions(webhook.get("matchConditions")),
        )


def _conditions(conditions: list[Object] | None) -> MatchConditions | None:
    if not conditions:
        return None
    # Late: CEL is for those who use it.
    from navarch.apiserver.admission.match_conditions import MatchConditions

    return MatchConditions.compile(conditions)


class Configurations:
    """The webhooks of one kind of configuration, mutating or validating."""

    def __init__(self, lookup: Lookup, resource: str) -> None:
        self.is_empty = True
        self._objects: dict[str, Object] = {}
        self._compiled: dict[str, tuple[Hook, ...]] = {}
        self._hooks: tuple[Hook, ...] | None = ()
        """None when something has changed since it was made."""
        lookup.subscribe(f"{resource}.admissionregistration.k8s.io", self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        obj = new or old
        assert obj is not None
        name = obj["metadata"]["name"]
        self._compiled.pop(name, None)
        if new is None:
            self._objects.pop(name, None)
        else:
            self._objects[name] = new
        self.is_empty = not self._objects
        self._hooks = None

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """All webhooks in order. They are compiled here and not when the change is heard of: that
        is the hub's turn, which everybody waits for."""
        if self._hooks is None:
            for name in self._objects.keys() - self._compiled.keys():
                webhooks = self._objects[name].get("webhooks") or ()
                self._compiled[name] = tuple(
                    Hook.of(name, index, webhook) for index, webhook in enumerate(webhooks)
                )
            self._hooks = tuple(
                hook for name in sorted(self._compiled) for hook in self._compiled[name]
            )
        return self._hooks
