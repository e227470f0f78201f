"""The spec of a claim for storage, alone or as a template in a pod."""

from __future__ import annotations

from navarch.api.validation.common import dns1123_subdomain, quantity
from navarch.api.validation.fields import Field

ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
VOLUME_MODES = ("Block", "Filesystem")


def check_access_modes(modes: Field) -> None:
    modes.present("at least 1 access mode is required")
    for mode in modes:
        modes.showing(mode.value).optional_choice(ACCESS_MODES)
    if "ReadWriteOncePod" in modes and len(set(modes.value)) > 1:
        modes.forbidden("may not use ReadWriteOncePod with other access modes")


def check_claim_spec(spec: Field) -> None:
    check_access_modes(spec["accessModes"])
    spec["selector"].label_selector()
    wanted = spec["resources"]["requests"].get("storage")
    size = spec["resources"].at("[storage]", wanted)
    if wanted is None:
        size.required()
    elif (amount := quantity(wanted)) is None or amount.sign() <= 0:
        size.invalid("must be greater than zero")
    spec["storageClassName"].check_unless_empty(dns1123_subdomain)
    spec["volumeMode"].optional_choice(VOLUME_MODES)
    source, reference = spec["dataSource"], spec["dataSourceRef"]
    _check_source(source)
    _check_source(reference)
    if source.is_set and reference.is_set and source.value != reference.value:
        spec.showing({}).invalid("must match dataSourceRef")
    spec["volumeAttributesClassName"].check_unless_empty(dns1123_subdomain)


def _check_source(source: Field) -> None:
    if not source.is_set:
        return
    for field in source.each("name", "kind"):
        field.present()
    source["apiGroup"].check_unless_empty(dns1123_subdomain)
    if not source.get("apiGroup") and source.get("kind") != "PersistentVolumeClaim":
        detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
        source.showing(source.get("kind") or "").invalid(detail)
