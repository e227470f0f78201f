"""The rules of ObjectMeta: what the server sets, what a client may change, what is valid.

Pure. The same for every kind, built in or custom (upstream's `registry/rest` and
`apimachinery/pkg/api/validation/objectmeta.go`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from navarch.api import names
from navarch.api.errors import (
    FieldError,
    forbidden_field,
    invalid,
    required,
    too_long,
)

Object = dict[str, Any]
NameRule = Callable[[str], list[str]]

ANNOTATIONS_LIMIT = 256 * 1024

_SERVER_FIELDS = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "generation",
)
_FIELDS = frozenset(
    (
        *_SERVER_FIELDS,
        "name",
        "generateName",
        "namespace",
        "resourceVersion",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    )
)


def clear_server_fields(metadata: Object) -> None:
    """Drop what a client may not choose for a new object."""
    for field in _SERVER_FIELDS:
        metadata.pop(field, None)


def carry_over(metadata: Object, old: Mapping[str, Any]) -> None:
    """Before an update: fill what the client left out, keep what it cannot unset."""
    for field in ("uid", "creationTimestamp"):
        if not metadata.get(field) and field in old:
            metadata[field] = old[field]
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"):
        if field in old:
            if field != "generateName" or not metadata.get(field):
                metadata[field] = old[field]
        elif field != "generateName":
            metadata.pop(field, None)
    metadata.pop("selfLink", None)


def dedup_owner_references(metadata: Object) -> list[str]:
    """Drop doubled owner references; returns the warnings to give."""
    references = metadata.get("ownerReferences")
    if not references or len(references) < 2:
        return []
    seen: list[Any] = []
    uids: set[Any] = set()
    doubled: set[Any] = set()
    for reference in references:
        uid = reference.get("uid")
        if reference in seen:
            doubled.add(uid)
            continue
        if uid in uids:
            doubled.add(uid)
        uids.add(uid)
        seen.append(reference)
    metadata["ownerReferences"] = seen
    if not doubled:
        return []
    return [
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references "
        f"in 1.20+, and may reject such requests as early as 1.24; please fix your requests; "
        f"duplicate UID(s) observed: {', '.join(sorted(map(str, doubled)))}"
    ]


# ---- validation


def validate_metadata(
    metadata: Mapping[str, Any], namespaced: bool, rule: NameRule
) -> list[FieldError]:
    """Complaints about the metadata of a new object or the result of an update."""
    errors: list[FieldError] = []
    generate = metadata.get("generateName")
    if generate:
        prefix_rule = names.as_prefix(rule)
        errors += [
            invalid("metadata.generateName", generate, text) for text in prefix_rule(generate)
        ]
    name = metadata.get("name", "")
    if not name:
        errors.append(required("metadata.name", "name or generateName is required"))
    else:
        errors += [invalid("metadata.name", name, text) for text in rule(name)]
    namespace = metadata.get("namespace", "")
    if namespaced and namespace:
        problems = names.dns1123_label(namespace)
        errors += [invalid("metadata.namespace", namespace, text) for text in problems]
    elif namespaced:
        errors.append(required("metadata.namespace"))
    elif namespace:
        errors.append(forbidden_field("metadata.namespace", "not allowed on this type"))
    labels = metadata.get("labels")
    if labels:
        errors += validate_labels(labels, "metadata.labels")
    annotations = metadata.get("annotations")
    if annotations:
        errors += validate_annotations(annotations, "metadata.annotations")
    if metadata.get("ownerReferences"):
        errors += _owner_errors(metadata["ownerReferences"])
    if metadata.get("finalizers"):
        errors += _finalizer_errors(metadata["finalizers"])
    return errors


def validate_labels(labels: Mapping[str, str], path: str) -> list[FieldError]:
    errors = []
    for key, value in labels.items():
        if not _plain_label(key, value):
            errors += [invalid(path, key, text) for text in names.qualified_name(key)]
            errors += [invalid(path, value, text) for text in names.label_value(value)]
    return errors


_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def _plain_label(key: str, value: str) -> bool:
    """The common case, decided by one pattern."""
    full = _PLAIN.fullmatch
    return full(key) is not None and (not value or full(value) is not None)


def validate_annotations(annotations: Mapping[str, str], path: str) -> list[FieldError]:
    errors = []
    size = 0
    for key, value in annotations.items():
        if _PLAIN.fullmatch(key) is None:
            errors += [invalid(path, key, text) for text in names.qualified_name(key.lower())]
        size += len(key) + len(value)
    if size > ANNOTATIONS_LIMIT // 4:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
        if size > ANNOTATIONS_LIMIT:
            errors.append(too_long(path, ANNOTATIONS_LIMIT))
    return errors


def _owner_errors(references: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    errors = []
    controller = ""
    for index, reference in enumerate(references):
        path = f"metadata.ownerReferences[{index}]"
        if not reference.get("apiVersion"):
            errors.append(invalid(f"{path}.apiVersion", "", "version must not be empty"))
        for field, text in (
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ):
            if not reference.get(field):
                errors.append(invalid(f"{path}.{field}", "", text))
        if reference.get("apiVersion") == "v1" and reference.get("kind") == "Event":
            errors.append(
                invalid(
                    path, "/v1, Kind=Event", "/v1, Kind=Event is disallowed from being an owner"
                )
            )
        if reference.get("controller"):
            owner = f"{reference.get('kind')}/{reference.get('name')}"
            if controller:
                errors.append(
                    invalid(
                        "metadata.ownerReferences",
                        owner,
                        "Only one reference can have Controller set to true. Found "
                        f'"true" in references for {controller} and {owner}',
                    )
                )
            controller = owner
    return errors


def _finalizer_errors(finalizers: Sequence[str]) -> list[FieldError]:
    errors = []
    for finalizer in finalizers:
        errors += [
            invalid("metadata.finalizers", finalizer, text)
            for text in names.qualified_name(finalizer)
        ]
        if "/" not in finalizer and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
            errors.append(
                invalid(
                    "metadata.finalizers",
                    finalizer,
                    "name is neither a standard finalizer name nor is it fully qualified",
                )
            )
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        errors.append(
            invalid(
                "metadata.finalizers",
                list(finalizers),
                "finalizer orphan and foregroundDeletion cannot be both set",
            )
        )
    return errors


def validate_metadata_update(metadata: Object, old: Mapping[str, Any]) -> list[FieldError]:
    """Complaints about changed system fields (after `carry_over`)."""
    errors = []
    if old.get("deletionTimestamp"):
        before = old.get("finalizers") or []
        added = sorted(set(metadata.get("finalizers") or []) - set(before))
        if added:
            listed = ", ".join(f'"{each}"' for each in added)
            errors.append(
                forbidden_field(
                    "metadata.finalizers",
                    "no new finalizers can be added if the object is being deleted, found new "
                    f"finalizers []string{{{listed}}}",
                )
            )
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        if metadata.get(field) != old.get(field):
            errors.append(invalid(f"metadata.{field}", metadata.get(field), "field is immutable"))
    return errors


def unknown_metadata_fields(metadata: Mapping[str, Any]) -> list[str]:
    return [f"metadata.{field}" for field in metadata if field not in _FIELDS]
