"""What plug-ins share that let others change objects: webhooks and mutating policies."""

from __future__ import annotations

from dataclasses import dataclass, field

from navarch.api.kinds import Subresource
from navarch.api.schema.decode import FieldValidation, normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.apiserver.admission.matching import Subject
from navarch.apiserver.contracts import AdmissionRequest, Object
from navarch.apiserver.registry.resource import Catalog

HIDDEN = ("uid", "creationTimestamp", "generation")
"""Metadata that upstream sets after mutating admission: nobody sees it on create."""


@dataclass(slots=True)
class Rounds:
    """What is known of one request between the two rounds of mutating admission."""

    called: set[str] = field(default_factory=set)
    """Who has been called and wants to be again if something changes afterwards."""
    again: set[str] = field(default_factory=set)
    """Those among them after whom something has changed."""
    output: Object | None = None
    """The object as the first round left it."""

    def object_changed(self) -> None:
        self.again |= self.called
        self.called.clear()


def completed(catalog: Catalog, obj: Object, seen: Subject, validation: FieldValidation) -> Object:
    """A changed object in canonical form, with its defaults. Raises ApiError 400 for what is no
    object of the kind."""
    resource = catalog.find(*seen.place)
    if resource is not None and resource.kind.gvk == seen.kind:
        obj, _ = resource.shape.normalise(obj, validation)
        obj.setdefault("metadata", {})
        resource.shape.default(obj)
        resource.strategy.defaults(obj)
        return obj
    row = Subresource("", (), *seen.kind)
    try:
        obj, _ = normalise_object(row, obj, validation)
        apply_defaults(row, obj)
    except KeyError:  # a kind without a schema: the options of a connection
        pass
    return obj


def hidden_metadata(request: AdmissionRequest, asked: Subject) -> Object:
    """The metadata of a new object that nobody is shown yet."""
    if request.operation != "CREATE" or asked.subresource or request.obj is None:
        return {}
    metadata = request.obj.get("metadata") or {}
    names = (*HIDDEN, "name") if request.is_name_generated else HIDDEN
    return {name: metadata[name] for name in names if name in metadata}


def without(obj: Object | None, hidden: Object) -> Object | None:
    if obj is None or not hidden:
        return obj
    metadata = {key: value for key, value in obj["metadata"].items() if key not in hidden}
    return {**obj, "metadata": metadata}


def restore(obj: Object, hidden: Object) -> None:
    metadata = obj["metadata"]
    for key, value in hidden.items():
        if key != "name" or not metadata.get("name"):
            metadata[key] = value
