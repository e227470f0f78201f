"""Volumes, claims, classes, and what CSI drivers publish."""

from __future__ import annotations

from typing import Any

from navarch.api import names
from navarch.api.patch.common import copy_json
from navarch.api.validation.claims import (
    ACCESS_MODES,
    VOLUME_MODES,
    check_access_modes,
    check_claim_spec,
)
from navarch.api.validation.common import (
    MAX_INT32,
    Errors,
    Object,
    dns1123_subdomain,
    indexed,
    quantity,
)
from navarch.api.validation.pod import difference
from navarch.api.validation.scheduling import check_node_selector
from navarch.api.validation.volumes import check_driver_name, check_no_backsteps

RECLAIM_POLICIES = ("Delete", "Recycle", "Retain")
_NO_SOURCE = frozenset(
    {
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    }
)
"""Fields of a volume's spec that are no volume source."""
CLAIM_IMMUTABLE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName "
    "for bound claims\n"
)
MAX_PARAMETERS = 512
MAX_PARAMETERS_SIZE = 256 * 1024


def _sources(spec: Object) -> list[str]:
    return [field for field in spec if field not in _NO_SOURCE and spec[field] is not None]


def validate_volume(errors: Errors, obj: Object) -> None:
    spec = obj["spec"]
    modes, capacity = spec.get("accessModes") or [], spec.get("capacity") or {}
    if not modes:
        errors.required("spec.accessModes")
    else:
        check_access_modes(errors, "spec.accessModes", modes)
    errors.present("spec.capacity", capacity)
    if set(capacity) != {"storage"}:
        errors.not_supported("spec.capacity", capacity or None, ("storage",))
    for name, amount in capacity.items():
        size = quantity(amount)
        if size is None or size.sign() <= 0:
            errors.invalid(f"spec.capacity[{name}]", amount, "must be greater than zero")
    policy = spec.get("persistentVolumeReclaimPolicy") or None
    errors.optional_choice("spec.persistentVolumeReclaimPolicy", policy, RECLAIM_POLICIES)
    affinity = spec.get("nodeAffinity")
    if affinity is not None:
        if affinity.get("required") is None:
            errors.required("spec.nodeAffinity.required", "must specify required node constraints")
        else:
            check_node_selector(errors, "spec.nodeAffinity.required", affinity["required"])
    _check_volume_source(errors, spec)
    class_name = spec.get("storageClassName")
    if class_name:
        errors.check("spec.storageClassName", class_name, dns1123_subdomain)
    errors.optional_choice("spec.volumeMode", spec.get("volumeMode"), VOLUME_MODES)
    attributes = spec.get("volumeAttributesClassName")
    if attributes is not None:
        detail = "an empty string is disallowed"
        errors.name("spec.volumeAttributesClassName", attributes, dns1123_subdomain, detail)
        if spec.get("csi") is None:
            errors.required("spec.csi", "has to be specified when using volumeAttributesClassName")


def _check_volume_source(errors: Errors, spec: Object) -> None:
    sources = _sources(spec)
    errors.present("spec", sources, "must specify a volume type")
    for field in sources[1:]:
        errors.forbidden(f"spec.{field}", "may not specify more than 1 volume type")
    for field in sources[:1]:
        source, here = spec[field], f"spec.{field}"
        if field in ("hostPath", "local"):
            errors.present(f"{here}.path", source.get("path"))
            check_no_backsteps(errors, f"{here}.path", source.get("path") or "")
        if field == "local" and spec.get("nodeAffinity") is None:
            errors.required("spec.nodeAffinity", "Local volume requires node affinity")
        if (
            field == "hostPath"
            and spec.get("persistentVolumeReclaimPolicy") == "Recycle"
            and source.get("path") == "/"
        ):
            detail = "may not be 'recycle' for a hostPath mount of '/'"
            errors.forbidden("spec.persistentVolumeReclaimPolicy", detail)
        if field == "nfs":
            for key in ("server", "path"):
                errors.present(f"{here}.{key}", source.get(key))
            if source.get("path") and not source["path"].startswith("/"):
                errors.invalid(f"{here}.path", source["path"], "must be an absolute path")
        if field == "csi":
            check_driver_name(errors, f"{here}.driver", source.get("driver") or "")
            errors.present(f"{here}.volumeHandle", source.get("volumeHandle"))


def validate_volume_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_volume(errors, obj)
    new, before = obj["spec"], old["spec"]
    new_source = {field: copy_json(new[field]) for field in _sources(new)}
    old_source = {field: before[field] for field in _sources(before)}
    if "csi" in new_source and "csi" in old_source:
        # The secret for expansion may be added or changed later.
        new_source["csi"].pop("controllerExpandSecretRef", None)
        csi = dict(old_source["csi"])
        csi.pop("controllerExpandSecretRef", None)
        old_source["csi"] = csi
    if new_source != old_source:
        detail = "spec.persistentvolumesource is immutable after creation\n"
        detail += difference(old_source, new_source)
        errors.forbidden("spec.persistentvolumesource", detail)
    errors.immutable("volumeMode", new.get("volumeMode"), before.get("volumeMode"))
    if before.get("nodeAffinity") is not None:
        errors.immutable("nodeAffinity", new.get("nodeAffinity"), before["nodeAffinity"])
    if before.get("volumeAttributesClassName") and not new.get("volumeAttributesClassName"):
        detail = "update from non-nil value to nil is forbidden"
        errors.forbidden("spec.volumeAttributesClassName", detail)


def validate_claim(errors: Errors, obj: Object) -> None:
    check_claim_spec(errors, "spec", obj["spec"])


def validate_claim_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_claim(errors, obj)
    new, before = copy_json(obj["spec"]), copy_json(old["spec"])
    bound = (obj.get("status") or {}).get("phase") == "Bound"
    if not before.get("volumeName") and new.get("volumeName"):
        before["volumeName"] = new["volumeName"]
    if before.get("storageClassName") is None and "storageClassName" in new:
        # A default class may be given to a claim that was made without one.
        before["storageClassName"] = new["storageClassName"]
    new_size = ((new.get("resources") or {}).get("requests") or {}).get("storage")
    old_size = ((before.get("resources") or {}).get("requests") or {}).get("storage")
    if bound:
        if new_size is not None and old_size is not None:
            new["resources"]["requests"]["storage"] = old_size
        for spec in (new, before):
            spec.pop("volumeAttributesClassName", None)
    for spec in (new, before):
        # Both ways to name a source are kept alike on every write.
        if spec.get("dataSource") and not spec.get("dataSourceRef"):
            spec["dataSourceRef"] = dict(spec["dataSource"])
    if new != before:
        errors.forbidden("spec", CLAIM_IMMUTABLE + difference(before, new))
    _check_shrink(errors, old, new_size, old_size)
    current = (old.get("status") or {}).get("currentVolumeAttributesClassName")
    if current is not None and not obj["spec"].get("volumeAttributesClassName"):
        detail = (
            "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"
        )
        errors.forbidden("spec.volumeAttributesClassName", detail)


def _check_shrink(errors: Errors, old: Object, new_size: Any, old_size: Any) -> None:
    wanted, before = quantity(new_size or "0"), quantity(old_size or "0")
    if wanted is None or before is None or wanted >= before:
        return
    has = quantity(((old.get("status") or {}).get("capacity") or {}).get("storage") or "0")
    if has is not None and wanted <= has:
        detail = "field can not be less than status.capacity"
        errors.forbidden("spec.resources.requests.storage", detail)


def validate_claim_status_update(errors: Errors, obj: Object, old: Object) -> None:
    status = obj.get("status") or {}
    for field in ("capacity", "allocatedResources"):
        for name, amount in (status.get(field) or {}).items():
            errors.quantity_not_negative(f"status.{field}[{name}]", amount)
    for mode in status.get("accessModes") or ():
        errors.optional_choice("status.accessModes", mode, ACCESS_MODES)


def validate_class(errors: Errors, obj: Object) -> None:
    provisioner = obj.get("provisioner") or ""
    errors.name("provisioner", provisioner.lower(), names.qualified_name)
    _check_parameters(errors, obj.get("parameters") or {})
    errors.optional_choice("reclaimPolicy", obj.get("reclaimPolicy") or None, ("Delete", "Retain"))
    mode = obj.get("volumeBindingMode")
    if mode is None:
        errors.required("volumeBindingMode")
    errors.optional_choice("volumeBindingMode", mode, ("Immediate", "WaitForFirstConsumer"))
    for index, term in enumerate(obj.get("allowedTopologies") or ()):
        seen: set[str] = set()
        for here, expression in indexed(
            f"allowedTopologies[{index}].matchLabelExpressions", term.get("matchLabelExpressions")
        ):
            key, values = expression.get("key") or "", expression.get("values") or ()
            errors.present(f"{here}.values", values)
            errors.label_name(f"{here}.key", key)
            errors.once(seen, f"{here}.key", key)


def _check_parameters(errors: Errors, parameters: Object, needed: bool = False) -> None:
    if len(parameters) > MAX_PARAMETERS:
        errors.too_long("parameters", MAX_PARAMETERS)
        return
    for key in parameters:
        if not key:
            errors.invalid("parameters", key, "field can not be empty.")
    if sum(len(key) + len(value) for key, value in parameters.items()) > MAX_PARAMETERS_SIZE:
        errors.too_long("parameters", MAX_PARAMETERS_SIZE)
    if needed and not parameters:
        errors.required("parameters", "must contain at least one key/value pair")


def validate_class_update(errors: Errors, obj: Object, old: Object) -> None:
    for field, detail in (
        ("parameters", "updates to parameters are forbidden."),
        ("provisioner", "updates to provisioner are forbidden."),
    ):
        if (obj.get(field) or None) != (old.get(field) or None):
            errors.forbidden(field, detail)
    for field in ("reclaimPolicy", "volumeBindingMode"):
        errors.immutable(field, obj.get(field), old.get(field))


def validate_attributes_class(errors: Errors, obj: Object) -> None:
    check_driver_name(errors, "driverName", obj.get("driverName") or "")
    _check_parameters(errors, obj.get("parameters") or {}, needed=True)


def validate_attributes_class_update(errors: Errors, obj: Object, old: Object) -> None:
    for field in ("driverName", "parameters"):
        if (obj.get(field) or None) != (old.get(field) or None):
            errors.forbidden(field, f"updates to {field} are forbidden.")


def validate_driver(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    check_driver_name(errors, "metadata.name", obj["metadata"].get("name") or "")
    choices = ("File", "None", "ReadWriteOnceWithFSType")
    errors.optional_choice("spec.fsGroupPolicy", spec.get("fsGroupPolicy"), choices)
    seen: set[str] = set()
    for here, request in indexed("spec.tokenRequests", spec.get("tokenRequests")):
        errors.once(seen, f"{here}.audience", request.get("audience") or "")
        seconds = request.get("expirationSeconds")
        if seconds is not None and seconds < 600:
            detail = "may not specify a duration less than 10 minutes"
            errors.invalid(f"{here}.expirationSeconds", seconds, detail)
        if seconds is not None and seconds > 1 << 32:
            detail = "may not specify a duration larger than 2^32 seconds"
            errors.invalid(f"{here}.expirationSeconds", seconds, detail)
    for mode in spec.get("volumeLifecycleModes") or ():
        errors.optional_choice("spec.volumeLifecycleModes", mode, ("Persistent", "Ephemeral"))
    period = spec.get("nodeAllocatableUpdatePeriodSeconds")
    if period is not None and period < 10:
        detail = "must be greater than or equal to 10 seconds"
        errors.invalid("spec.nodeAllocatableUpdatePeriodSeconds", period, detail)


def validate_driver_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_driver(errors, obj)
    for field in ("attachRequired", "volumeLifecycleModes"):
        new, before = (obj.get("spec") or {}).get(field), (old.get("spec") or {}).get(field)
        errors.immutable(f"spec.{field}", new, before)


def validate_csi_node(errors: Errors, obj: Object) -> None:
    seen: set[str] = set()
    for here, driver in indexed("spec.drivers", (obj.get("spec") or {}).get("drivers")):
        name = driver.get("name") or ""
        check_driver_name(errors, f"{here}.name", name)
        errors.once(seen, f"{here}.name", name)
        identity = driver.get("nodeID") or ""
        errors.present(f"{here}.nodeID", identity)
        if len(identity) > 192:
            errors.invalid(f"{here}.nodeID", identity, "must be 192 characters or less")
        count = (driver.get("allocatable") or {}).get("count")
        if count is not None and count < 0:
            errors.invalid(f"{here}.allocatable.count", count, "must be greater than or equal to 0")
        keys: set[str] = set()
        for key in driver.get("topologyKeys") or ():
            if not key:
                errors.required(f"{here}.topologyKeys")
            elif key in keys:
                errors.duplicate(f"{here}.topologyKeys", key)
            keys.add(key)
            errors.check(f"{here}.topologyKeys", key, names.qualified_name)


def validate_csi_node_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_csi_node(errors, obj)
    known = {each.get("name"): each for each in (old.get("spec") or {}).get("drivers") or ()}
    for index, driver in enumerate((obj.get("spec") or {}).get("drivers") or ()):
        before = known.get(driver.get("name"))
        if before is not None:
            new, old_driver = (
                {key: value for key, value in each.items() if key != "allocatable"}
                for each in (driver, before)
            )
            errors.immutable(f"spec.drivers[{index}]", new, old_driver)


def validate_capacity(errors: Errors, obj: Object) -> None:
    errors.label_selector("nodeTopology", obj.get("nodeTopology"))
    errors.check("storageClassName", obj.get("storageClassName") or "", dns1123_subdomain)
    if obj.get("capacity") is not None:
        errors.quantity_not_negative("capacity", obj["capacity"])


def validate_capacity_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_capacity(errors, obj)
    for field in ("nodeTopology", "storageClassName"):
        errors.immutable(field, obj.get(field), old.get(field))


def validate_attachment(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    check_driver_name(errors, "spec.attacher", spec.get("attacher") or "")
    source = spec.get("source") or {}
    volume, inline = source.get("persistentVolumeName"), source.get("inlineVolumeSpec")
    detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
    if volume is None and inline is None:
        errors.required("spec.source", detail)
    elif volume is not None and inline is not None:
        errors.forbidden("spec.source", detail)
    elif volume is not None:
        missing = "must specify non empty persistentVolumeName"
        errors.name("spec.source.persistentVolumeName", volume, dns1123_subdomain, missing)
    errors.check("spec.nodeName", spec.get("nodeName") or "", dns1123_subdomain)
    status = obj.get("status") or {}
    for field in ("attachError", "detachError"):
        code = (status.get(field) or {}).get("errorCode")
        if code is not None and code < 0:
            detail = names.in_range(0, MAX_INT32)
            errors.invalid(f"status.{field}.errorCode", code, detail)


def validate_attachment_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_attachment(errors, obj)
    if obj.get("spec") != old.get("spec"):
        errors.invalid("spec", obj.get("spec"), "field is immutable")
