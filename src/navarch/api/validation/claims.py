"""The spec of a claim for storage, alone or as a template in a pod."""

from __future__ import annotations

from navarch.api.errors import forbidden_field, invalid, not_supported, required
from navarch.api.validation.common import (
    Errors,
    Object,
    check,
    check_label_selector,
    check_optional_choice,
    dns1123_subdomain,
    quantity,
)

ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
VOLUME_MODES = ("Block", "Filesystem")


def check_access_modes(errors: Errors, path: str, modes: list[str]) -> None:
    if not modes:
        errors.append(required(path, "at least 1 access mode is required"))
    for mode in modes:
        if mode not in ACCESS_MODES:
            errors.append(not_supported(path, mode, ACCESS_MODES))
    if "ReadWriteOncePod" in modes and len(set(modes)) > 1:
        detail = "may not use ReadWriteOncePod with other access modes"
        errors.append(forbidden_field(path, detail))


def check_claim_spec(errors: Errors, path: str, spec: Object) -> None:
    modes = spec.get("accessModes") or []
    check_access_modes(errors, f"{path}.accessModes", modes)
    check_label_selector(errors, f"{path}.selector", spec.get("selector"))
    requests = (spec.get("resources") or {}).get("requests") or {}
    if "storage" not in requests:
        errors.append(required(f"{path}.resources[storage]"))
    else:
        size = quantity(requests["storage"])
        if size is None or size.sign() <= 0:
            detail = "must be greater than zero"
            errors.append(invalid(f"{path}.resources[storage]", requests["storage"], detail))
    class_name = spec.get("storageClassName")
    if class_name:
        check(errors, f"{path}.storageClassName", class_name, dns1123_subdomain(class_name))
    check_optional_choice(errors, f"{path}.volumeMode", spec.get("volumeMode"), VOLUME_MODES)
    _check_source(errors, f"{path}.dataSource", spec.get("dataSource"))
    _check_source(errors, f"{path}.dataSourceRef", spec.get("dataSourceRef"))
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    if (
        source is not None
        and reference is not None
        and not reference.get("namespace")
        and (source != {key: value for key, value in reference.items() if key != "namespace"})
    ):
        detail = "must match dataSourceRef"
        errors.append(invalid(path, spec.get("dataSource"), detail))
    attributes = spec.get("volumeAttributesClassName")
    if attributes:
        problems = dns1123_subdomain(attributes)
        check(errors, f"{path}.volumeAttributesClassName", attributes, problems)


def _check_source(errors: Errors, path: str, source: Object | None) -> None:
    if source is None:
        return
    for key in ("name", "kind"):
        if not source.get(key):
            errors.append(required(f"{path}.{key}"))
    group = source.get("apiGroup") or ""
    if not group and source.get("kind") != "PersistentVolumeClaim":
        detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
        errors.append(invalid(path, source.get("kind") or "", detail))
    if group:
        check(errors, f"{path}.apiGroup", group, dns1123_subdomain(group))
