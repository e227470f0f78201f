"""Object metadata: names, labels, annotations, owners, finalizers (upstream's
`apimachinery/pkg/api/validation/objectmeta.go`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from navarch.api import names
from navarch.api.errors import FieldError, invalid
from navarch.api.validation.common import Errors, Object, dns1123_label, indexed, qualified_name

NameRule = Callable[[str], list[str]]

ANNOTATIONS_LIMIT = 256 * 1024
STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
NOT_STANDARD = "name is neither a standard finalizer name nor is it fully qualified"


def validate_object_meta(
    metadata: Object, namespaced: bool, rule: NameRule, path: str = "metadata"
) -> Errors:
    """Complaints about the metadata of a new object, or of the result of an update."""
    errors = Errors()
    generate = metadata.get("generateName")
    if generate:
        errors.problems(f"{path}.generateName", generate, names.as_prefix(rule)(generate))
    name = metadata.get("name") or ""
    if not name:
        errors.required(f"{path}.name", "name or generateName is required")
    else:
        errors.check(f"{path}.name", name, rule)
    namespace = metadata.get("namespace") or ""
    if namespaced:
        if not namespace:
            errors.required(f"{path}.namespace")
        else:
            errors.check(f"{path}.namespace", namespace, dns1123_label)
    elif namespace:
        errors.forbidden(f"{path}.namespace", "not allowed on this type")
    errors.not_negative(f"{path}.generation", metadata.get("generation"))
    if metadata.get("labels"):
        errors.labels(f"{path}.labels", metadata["labels"])
    if metadata.get("annotations"):
        check_annotations(errors, f"{path}.annotations", metadata["annotations"])
    if metadata.get("ownerReferences"):
        _check_owners(errors, f"{path}.ownerReferences", metadata["ownerReferences"])
    if metadata.get("finalizers"):
        _check_finalizers(errors, f"{path}.finalizers", metadata["finalizers"])
    if metadata.get("managedFields"):
        _check_managed_fields(errors, f"{path}.managedFields", metadata["managedFields"])
    return errors


def validate_object_meta_update(new: Object, old: Object, path: str = "metadata") -> Errors:
    """Complaints about what an update may not change in the metadata."""
    errors = Errors()
    if old.get("deletionTimestamp"):
        before = old.get("finalizers") or ()
        added = sorted(each for each in new.get("finalizers") or () if each not in before)
        if added:
            listed = ", ".join(f'"{each}"' for each in added)
            detail = (
                "no new finalizers can be added if the object is being deleted, found new "
                f"finalizers []string{{{listed}}}"
            )
            errors.forbidden(f"{path}.finalizers", detail)
    version = new.get("resourceVersion")
    if not version:
        errors.invalid(f"{path}.resourceVersion", "", "must be specified for an update")
    if (new.get("generation") or 0) < (old.get("generation") or 0):
        errors.invalid(f"{path}.generation", new.get("generation") or 0, "must not be decremented")
    for key in (
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ):
        errors.immutable(f"{path}.{key}", new.get(key), old.get(key))
    return errors


def validate_template_meta(errors: Errors, path: str, metadata: Object) -> None:
    """The metadata of an object made from a template: labels and annotations only."""
    check_annotations(errors, f"{path}.annotations", metadata.get("annotations") or {})
    errors.labels(f"{path}.labels", metadata.get("labels"))
    for key, value in metadata.items():
        if key not in ("labels", "annotations") and value:
            errors.forbidden(
                f"{path}.{key}", "cannot be set for an Ephemeral Volume's PVC template"
            )


def check_annotations(errors: Errors, path: str, annotations: Mapping[str, Any]) -> None:
    size = 0
    for key, value in annotations.items():
        # Keys are compared without regard to case, for the sake of some old ones.
        errors.problems(path, key, qualified_name(key.lower()))
        size += len(key) + len(value)
    if size > ANNOTATIONS_LIMIT // 4:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
        if size > ANNOTATIONS_LIMIT:
            errors.too_long(path, ANNOTATIONS_LIMIT)


def _check_owners(errors: Errors, path: str, references: list[Object]) -> None:
    controller = ""
    for reference in references:
        version, kind = reference.get("apiVersion") or "", reference.get("kind") or ""
        group, _, number = version.rpartition("/")
        if not number:
            errors.invalid(f"{path}.apiVersion", version, "version must not be empty")
        if not kind:
            errors.invalid(f"{path}.kind", kind, "must not be empty")
        for key in ("name", "uid"):
            if not reference.get(key):
                errors.invalid(f"{path}.{key}", "", "must not be empty")
        if kind == "Event" and group in ("", "events.k8s.io"):
            named = f"{group}/{number}, Kind=Event"
            errors.invalid(path, reference, f"{named} is disallowed from being an owner")
        if reference.get("controller"):
            owner = f"{kind}/{reference.get('name')}"
            if controller:
                detail = (
                    "Only one reference can have Controller set to true. Found "
                    f'"true" in references for {controller} and {owner}'
                )
                errors.invalid(path, references, detail)
            controller = owner


def _check_finalizers(errors: Errors, path: str, finalizers: list[str]) -> None:
    for finalizer in finalizers:
        errors.check(path, finalizer, qualified_name)
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        detail = "finalizer orphan and foregroundDeletion cannot be both set"
        errors.invalid(path, finalizers, detail)


def check_finalizer(errors: Errors, path: str, finalizer: str) -> None:
    errors.check(path, finalizer, qualified_name)
    if not is_standard(finalizer):
        errors.invalid(path, finalizer, NOT_STANDARD)


def is_standard(finalizer: str) -> bool:
    return "/" in finalizer or finalizer in STANDARD_FINALIZERS


def validate_standard_finalizers(metadata: Object) -> list[FieldError]:
    """What the kinds of Kubernetes itself ask of finalizers besides: to say whose they are."""
    return [
        invalid(f"metadata.finalizers[{index}]", finalizer, NOT_STANDARD)
        for index, finalizer in enumerate(metadata.get("finalizers") or ())
        if not is_standard(finalizer)
    ]


def _check_managed_fields(errors: Errors, path: str, entries: list[Object]) -> None:
    for here, entry in indexed(path, entries):
        if entry.get("operation") not in ("Apply", "Update"):
            detail = "must be `Apply` or `Update`"
            errors.invalid(f"{here}.operation", entry.get("operation") or "", detail)
        if entry.get("fieldsType") not in (None, "", "FieldsV1"):
            errors.invalid(f"{here}.fieldsType", entry["fieldsType"], "must be `FieldsV1`")
        check_field_manager(errors, f"{here}.manager", entry.get("manager") or "")
        errors.no_longer(f"{here}.subresource", entry.get("subresource") or "", 256)


def check_field_manager(errors: Errors, path: str, manager: str) -> None:
    errors.no_longer(path, manager.encode(errors="surrogatepass"), 128)
    for position, character in enumerate(manager):
        if not character.isprintable():
            detail = f"invalid character U+{ord(character):04X} (at position {position})"
            errors.invalid(path, manager, detail)
