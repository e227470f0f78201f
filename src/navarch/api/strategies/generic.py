"""What most strategies share: generations, and who may write the status.

* `metadata.generation` counts changes of the desired state, for the kinds that have it.
* A create starts with an empty status, an update of the object keeps the old status, and an update
  of its status keeps everything else (for some kinds the metadata, too).

The caller has set name and uid when `prepare_create` runs, and `generation` is never the client's.
An object may share parts with `old` afterwards only where they are copied here: `old` comes out of
a cache and is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import msgspec

from navarch.api.errors import FieldError
from navarch.api.patch.common import copy_json
from navarch.api.schema.facts import Shape, TypeFacts, schema_for
from navarch.api.schema.walker import walker_of
from navarch.api.strategies.base import Object, Strategy
from navarch.api.times import format_time, now
from navarch.api.validation.fields import Field

encode_json = msgspec.json.Encoder().encode

_ENVELOPE = frozenset({"apiVersion", "kind", "metadata", "status"})
_STATUS_METADATA = ("labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp")


def _current_time() -> str:
    return format_time(now())


@dataclass(frozen=True, slots=True)
class Rules:
    """The functions that say what is wrong with the objects of a kind: with the new state, and with
    its difference from the old one. What they find they tell the fields."""

    create: Callable[[Field], None] = lambda obj: None
    update: Callable[[Field, Field], None] | None = None
    """Without one, the whole object has to be right as a new one has."""
    status: Callable[[Field, Field], None] = lambda obj, old: None
    others: Mapping[str, Callable[[Field, Field], None]] = field(default_factory=dict)
    """By further subresources that objects are updated through."""


class GenericStrategy(Strategy):
    """The rules of a plain kind, and the base of the others."""

    rules = Rules()

    timestamp: Callable[[], str] = staticmethod(_current_time)
    """The clock of the few kinds whose server side notes a time; tests replace it."""

    has_generation = False
    status_keeps_metadata = False
    """A status update cannot change labels, annotations, finalizers and owners either."""

    def desired_state(self, obj: Object) -> Object:
        """What a generation counts the changes of."""
        return {key: value for key, value in obj.items() if key not in _ENVELOPE}

    def empty_status(self, obj: Object) -> Object | None:
        """The status of a new object; None for kinds without one."""
        return zero_status(obj.get("apiVersion", ""), obj.get("kind", ""))

    def reset_fields(self, subresource: str) -> tuple[str, ...]:
        fields = super().reset_fields(subresource)
        return (*fields, "metadata") if subresource and self.status_keeps_metadata else fields

    def validate(self, obj: Object) -> list[FieldError]:
        checked = Field(obj)
        self.rules.create(checked)
        return checked.errors

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        status = self.rules.others.get(subresource, self.rules.status)
        rule = status if subresource else self.rules.update
        if rule is None:
            return self.validate(obj)
        checked = Field(obj)
        rule(checked, Field(old))
        return checked.errors

    def prepare_create(self, obj: Object) -> None:
        metadata = obj.setdefault("metadata", {})
        if self.has_generation:
            metadata["generation"] = 1
        else:
            metadata.pop("generation", None)
        if self.status_is_subresource:
            status = self.empty_status(obj)
            if status is None:
                obj.pop("status", None)
            else:
                obj["status"] = status

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        keep_generation(obj, old)
        if subresource:
            keep_all_but_status(obj, old)
            if self.status_keeps_metadata:
                reset_metadata(obj, old)
            return
        if self.status_is_subresource:
            keep(obj, old, "status")
        if self.has_generation and self.desired_state(obj) != self.desired_state(old):
            obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1


def keep(obj: Object, old: Object, key: str) -> None:
    """Take over field `key` of the old object, or its absence."""
    if key in old:
        obj[key] = copy_json(old[key])
    else:
        obj.pop(key, None)


def keep_all_but_status(obj: Object, old: Object) -> None:
    """What a status update may not touch: everything beside metadata and status."""
    for key in [key for key in obj if key not in _ENVELOPE and key not in old]:
        del obj[key]
    for key in old:
        # Mostly nobody tried to change it, and comparing costs less than copying.
        if key not in _ENVELOPE and not (
            key in obj and (obj[key] is old[key] or encode_json(obj[key]) == encode_json(old[key]))
        ):
            obj[key] = copy_json(old[key])


def keep_generation(obj: Object, old: Object) -> None:
    generation = old["metadata"].get("generation")
    if generation is None:
        obj["metadata"].pop("generation", None)
    else:
        obj["metadata"]["generation"] = generation


def reset_metadata(obj: Object, old: Object) -> None:
    """Take the metadata a client could change from the old object; managedFields stay."""
    for key in _STATUS_METADATA:
        keep(obj["metadata"], old["metadata"], key)


@cache
def _status_facts(api_version: str, kind: str) -> TypeFacts | None:
    group, _, version = api_version.rpartition("/")
    try:
        field = schema_for(group, version, kind).fields.get("status")
    except KeyError:
        return None
    return field.type if field is not None and field.type.shape is Shape.STRUCT else None


def zero_status(api_version: str, kind: str) -> Object | None:
    """The empty status as Go encodes it: with the fields that have no `omitempty`."""
    facts = _status_facts(api_version, kind)
    return walker_of(facts).empty() if facts is not None else None
