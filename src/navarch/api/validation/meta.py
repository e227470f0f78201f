"""Object metadata: names, labels, annotations, owners, finalizers (upstream's
`apimachinery/pkg/api/validation/objectmeta.go`)."""

from __future__ import annotations

from collections.abc import Callable

from navarch.api import names
from navarch.api.validation.common import Object, dns1123_label, qualified_name
from navarch.api.validation.fields import Errors, Field

NameRule = Callable[[str], list[str]]

ANNOTATIONS_LIMIT = 256 * 1024
STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
_IMMUTABLE = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
NOT_STANDARD = "name is neither a standard finalizer name nor is it fully qualified"


def validate_object_meta(
    value: Object, namespaced: bool, rule: NameRule, path: str = "metadata"
) -> Errors:
    """Complaints about the metadata of a new object, or of the result of an update."""
    metadata = Field(value, step=path)
    metadata["generateName"].check_unless_empty(names.as_prefix(rule))
    metadata["name"].name(rule, "name or generateName is required")
    namespace = metadata["namespace"]
    if namespaced:
        namespace.name(dns1123_label)
    elif namespace:
        namespace.forbidden("not allowed on this type")
    metadata["generation"].not_negative()
    metadata["labels"].labels()
    check_annotations(metadata["annotations"])
    _check_owners(metadata["ownerReferences"])
    _check_finalizers(metadata["finalizers"])
    _check_managed_fields(metadata["managedFields"])
    return metadata.errors


def validate_object_meta_update(value: Object, old: Object, path: str = "metadata") -> Errors:
    """Complaints about what an update may not change in the metadata."""
    metadata = Field(value, step=path)
    if old.get("deletionTimestamp"):
        before = old.get("finalizers") or ()
        added = sorted(each for each in metadata.get("finalizers") or () if each not in before)
        if added:
            listed = ", ".join(f'"{each}"' for each in added)
            metadata["finalizers"].forbidden(
                "no new finalizers can be added if the object is being deleted, found new "
                f"finalizers []string{{{listed}}}"
            )
    if not metadata.get("resourceVersion"):
        metadata.at("resourceVersion", "").invalid("must be specified for an update")
    generation = metadata.number("generation")
    if generation.value < (old.get("generation") or 0):
        generation.invalid("must not be decremented")
    for key in _IMMUTABLE:
        metadata[key].immutable(old.get(key))
    return metadata.errors


def validate_template_meta(metadata: Field) -> None:
    """The metadata of an object made from a template: labels and annotations only."""
    check_annotations(metadata["annotations"])
    metadata["labels"].labels()
    for key in metadata.value or ():
        if key not in ("labels", "annotations") and metadata.get(key):
            metadata["uID" if key == "uid" else key].forbidden("cannot be set")


def check_annotations(field: Field) -> None:
    annotations, size = field.value or {}, 0
    for key, value in annotations.items():
        # Keys are compared without regard to case, for the sake of some old ones.
        if problems := qualified_name(key.lower()):
            field.showing(key).problems(problems)
        size += len(key) + len(value)
    if size > ANNOTATIONS_LIMIT // 4:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
        if size > ANNOTATIONS_LIMIT:
            field.too_long(ANNOTATIONS_LIMIT)


def _check_owners(references: Field) -> None:
    controller = ""
    for reference in references.value or ():
        owner = references.showing(reference)
        version, kind = reference.get("apiVersion") or "", reference.get("kind")
        group, _, number = version.rpartition("/")
        if not number:
            owner.at("apiVersion", version).invalid("version must not be empty")
        for key in ("kind", "name", "uid"):
            if not reference.get(key):
                owner.at(key, "").invalid("must not be empty")
        if kind == "Event" and group in ("", "events.k8s.io"):
            owner.invalid(f"{group}/{number}, Kind=Event is disallowed from being an owner")
        if reference.get("controller"):
            named = f"{kind or ''}/{reference.get('name')}"
            if controller:
                references.invalid(
                    "Only one reference can have Controller set to true. Found "
                    f'"true" in references for {controller} and {named}'
                )
            controller = named


def _check_finalizers(finalizers: Field) -> None:
    for finalizer in finalizers.value or ():
        finalizers.showing(finalizer).label_name()
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        finalizers.invalid("finalizer orphan and foregroundDeletion cannot be both set")


def is_standard(finalizer: str) -> bool:
    return "/" in finalizer or finalizer in STANDARD_FINALIZERS


def validate_standard_finalizers(metadata: Object) -> Errors:
    """What the kinds of Kubernetes itself ask of finalizers besides: to say whose they are."""
    finalizers = Field(metadata, step="metadata")["finalizers"]
    for finalizer in finalizers:
        if not is_standard(finalizer.value):
            finalizer.invalid(NOT_STANDARD)
    return finalizers.errors


def _check_managed_fields(entries: Field) -> None:
    for entry in entries:
        operation = entry.text("operation")
        if operation.value not in ("Apply", "Update"):
            operation.invalid("must be `Apply` or `Update`")
        if entry.get("fieldsType") not in (None, "", "FieldsV1"):
            entry["fieldsType"].invalid("must be `FieldsV1`")
        check_field_manager(entry.text("manager"))
        entry["subresource"].no_longer(256)


def check_field_manager(manager: Field) -> None:
    manager.showing(manager.value.encode(errors="surrogatepass")).no_longer(128)
    for position, character in enumerate(manager.value):
        if not character.isprintable():
            manager.invalid(f"invalid character U+{ord(character):04X} (at position {position})")
