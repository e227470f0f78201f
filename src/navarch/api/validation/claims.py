"""The spec of a claim for storage, alone or as a template in a pod."""

from __future__ import annotations

from navarch.api.validation.common import Errors, Object, dns1123_subdomain, quantity

ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
VOLUME_MODES = ("Block", "Filesystem")


def check_access_modes(errors: Errors, path: str, modes: list[str]) -> None:
    errors.present(path, modes, "at least 1 access mode is required")
    for mode in modes:
        if mode not in ACCESS_MODES:
            errors.not_supported(path, mode, ACCESS_MODES)
    if "ReadWriteOncePod" in modes and len(set(modes)) > 1:
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes")


def check_claim_spec(errors: Errors, path: str, spec: Object) -> None:
    modes = spec.get("accessModes") or []
    check_access_modes(errors, f"{path}.accessModes", modes)
    errors.label_selector(f"{path}.selector", spec.get("selector"))
    requests = (spec.get("resources") or {}).get("requests") or {}
    if "storage" not in requests:
        errors.required(f"{path}.resources[storage]")
    else:
        size = quantity(requests["storage"])
        if size is None or size.sign() <= 0:
            detail = "must be greater than zero"
            errors.invalid(f"{path}.resources[storage]", requests["storage"], detail)
    class_name = spec.get("storageClassName")
    if class_name:
        errors.check(f"{path}.storageClassName", class_name, dns1123_subdomain)
    errors.optional_choice(f"{path}.volumeMode", spec.get("volumeMode"), VOLUME_MODES)
    _check_source(errors, f"{path}.dataSource", spec.get("dataSource"))
    _check_source(errors, f"{path}.dataSourceRef", spec.get("dataSourceRef"))
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    if (
        source is not None
        and reference is not None
        and not reference.get("namespace")
        and (source != {key: value for key, value in reference.items() if key != "namespace"})
    ):
        errors.invalid(path, spec.get("dataSource"), "must match dataSourceRef")
    attributes = spec.get("volumeAttributesClassName")
    if attributes:
        errors.check(f"{path}.volumeAttributesClassName", attributes, dns1123_subdomain)


def _check_source(errors: Errors, path: str, source: Object | None) -> None:
    if source is None:
        return
    for key in ("name", "kind"):
        errors.present(f"{path}.{key}", source.get(key))
    group = source.get("apiGroup") or ""
    if not group and source.get("kind") != "PersistentVolumeClaim":
        detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
        errors.invalid(path, source.get("kind") or "", detail)
    if group:
        errors.check(f"{path}.apiGroup", group, dns1123_subdomain)
