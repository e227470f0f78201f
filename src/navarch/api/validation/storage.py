"""Volumes, claims, classes, and what CSI drivers publish."""

from __future__ import annotations

from posixpath import normpath

from navarch.api import names
from navarch.api.patch.common import copy_json
from navarch.api.validation.claims import (
    ACCESS_MODES,
    VOLUME_MODES,
    check_access_modes,
    check_claim_spec,
)
from navarch.api.validation.common import (
    IMMUTABLE,
    MAX_INT32,
    dns1123_label,
    dns1123_subdomain,
    qualified_name,
    quantity,
)
from navarch.api.validation.fields import Field
from navarch.api.validation.pod import difference
from navarch.api.validation.scheduling import check_node_selector
from navarch.api.validation.volume_sources import (
    LASTING_DRIVERS,
    TOO_LONG_PORTAL,
    check_one_source,
    is_portal_too_long,
)
from navarch.api.validation.volumes import check_driver_name, check_token_lifetime

RECLAIM_POLICIES = ("Delete", "Recycle", "Retain")
CLAIM_IMMUTABLE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName "
    "for bound claims\n"
)
_CSI_SECRETS = (
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
)
MAX_PARAMETERS = 512
MAX_PARAMETERS_SIZE = 256 * 1024


def _csi(source: Field) -> None:
    check_driver_name(source["driver"])
    source["volumeHandle"].present()
    for reference in source.each(*_CSI_SECRETS):
        if reference.is_set:
            reference["name"].name(dns1123_subdomain)
            reference["namespace"].name(dns1123_label)


_ORDER = (
    "hostPath gcePersistentDisk awsElasticBlockStore glusterfs flocker nfs rbd quobyte cephfs "
    "iscsi cinder fc flexVolume azureFile vsphereVolume photonPersistentDisk portworxVolume "
    "azureDisk scaleIO local storageos csi"
)
_SOURCES = {name: (LASTING_DRIVERS | {"csi": _csi})[name] for name in _ORDER.split()}
"""In the order in which upstream looks for them."""


def _sources(spec: Field) -> list[str]:
    return [field for field in spec.value if field in _SOURCES and spec[field].is_set]


def validate_volume(obj: Field) -> None:
    spec = obj["spec"]
    modes, capacity, affinity = spec["accessModes"], spec["capacity"], spec["nodeAffinity"]
    if modes:
        check_access_modes(modes)
    else:
        modes.required()
    capacity.present()
    if set(capacity.value or ()) != {"storage"}:
        capacity.not_supported(("storage",))
    for _, amount in capacity.entries():
        size = quantity(amount.value)
        if size is None or size.value() < 0:
            shown = amount if size is None else amount.showing(size.value())
            shown.invalid("must be a valid resource quantity")
        if size is None or size.sign() <= 0:
            amount.invalid("must be greater than zero")
    if policy := spec["persistentVolumeReclaimPolicy"]:
        policy.optional_choice(RECLAIM_POLICIES)
    if affinity["required"].is_set:
        check_node_selector(affinity["required"])
    elif affinity.is_set:
        affinity["required"].required("must specify required node constraints")
    _check_volume_source(spec, obj["metadata"].get("name") or "")
    spec["storageClassName"].check_unless_empty(dns1123_subdomain)
    spec["volumeMode"].optional_choice(VOLUME_MODES)
    attributes = spec["volumeAttributesClassName"]
    if attributes.is_set:
        attributes.name(dns1123_subdomain, "an empty string is disallowed")
        spec["csi"].must_be_set("has to be specified when using volumeAttributesClassName")


def _check_volume_source(spec: Field, name: str) -> None:
    first = check_one_source(spec, _SOURCES)
    if first == "iscsi" and is_portal_too_long(spec["iscsi"], name):
        portal = spec["iscsi"].text("targetPortal")
        spec["iscsi"].at("targetportal", portal.value).invalid(TOO_LONG_PORTAL)
    if first == "local" and spec.get("nodeAffinity") is None:
        spec["nodeAffinity"].required("Local volume requires node affinity")
    policy, path = spec["persistentVolumeReclaimPolicy"], spec["hostPath"]["path"]
    if policy.value == "Recycle" and path and normpath(path.value) == "/":
        policy.forbidden("may not be 'recycle' for a hostPath mount of '/'")


def validate_volume_update(obj: Field, old: Field) -> None:
    validate_volume(obj)
    spec, before = obj["spec"], old["spec"]
    new_source, old_source = (
        {field: copy_json(each.get(field)) for field in _sources(each)} for each in (spec, before)
    )
    if "csi" in new_source and "csi" in old_source:
        # The secret for expansion may be added or changed later.
        for source in (new_source, old_source):
            source["csi"].pop("controllerExpandSecretRef", None)
    if new_source != old_source:
        detail = "spec.persistentvolumesource is immutable after creation\n"
        spec["persistentvolumesource"].forbidden(detail + difference(old_source, new_source))
    root = Field(spec.value, obj.errors)  # upstream's paths of these lack the `spec`
    root.keeps(before, "volumeMode")
    if before.get("nodeAffinity") is not None:
        root.keeps(before, "nodeAffinity")
    if before.get("volumeAttributesClassName") and not spec.get("volumeAttributesClassName"):
        detail = "update from non-nil value to nil is forbidden"
        spec["volumeAttributesClassName"].forbidden(detail)


def validate_claim(obj: Field) -> None:
    check_claim_spec(obj["spec"])


def validate_claim_update(obj: Field, old: Field) -> None:
    validate_claim(obj)
    new, before = copy_json(obj["spec"].value), copy_json(old["spec"].value)
    if not before.get("volumeName") and new.get("volumeName"):
        before["volumeName"] = new["volumeName"]
    if before.get("storageClassName") is None and "storageClassName" in new:
        # A default class may be given to a claim that was made without one.
        before["storageClassName"] = new["storageClassName"]
    wanted = obj["spec"]["resources"]["requests"]["storage"]
    old_size = old["spec"]["resources"]["requests"].get("storage")
    if obj["status"].get("phase") == "Bound":
        if wanted.is_set and old_size is not None:
            new["resources"]["requests"]["storage"] = old_size
        for spec in (new, before):
            spec.pop("volumeAttributesClassName", None)
    for spec in (new, before):
        # Both ways to name a source are kept alike on every write.
        if spec.get("dataSource") and not spec.get("dataSourceRef"):
            spec["dataSourceRef"] = dict(spec["dataSource"])
    if new != before:
        obj["spec"].forbidden(CLAIM_IMMUTABLE + difference(before, new))
    Field(obj["spec"].value, obj.errors).keeps(old["spec"], "volumeMode")
    has = quantity(old["status"]["capacity"].get("storage") or "0")
    size, known = quantity(wanted.value or "0"), quantity(old_size or "0")
    if size is not None and known is not None and has is not None and size < known and size <= has:
        wanted.forbidden("field can not be less than status.capacity")
    current, attributes = old["status"], obj["spec"]["volumeAttributesClassName"]
    if current.get("currentVolumeAttributesClassName") is not None and not attributes:
        attributes.forbidden(
            "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"
        )


def validate_claim_status_update(obj: Field, old: Field) -> None:
    status = obj["status"]
    for amounts in status.each("capacity", "allocatedResources"):
        for _, amount in amounts.entries():
            amount.quantity_not_negative()
    for mode in status.get("accessModes") or ():
        status.at("accessModes", mode).optional_choice(ACCESS_MODES)


def validate_class(obj: Field) -> None:
    _check_provisioner(obj.text("provisioner"))
    _check_parameters(obj["parameters"])
    if policy := obj["reclaimPolicy"]:
        policy.optional_choice(("Delete", "Retain"))
    mode = obj["volumeBindingMode"]
    mode.must_be_set()
    mode.optional_choice(("Immediate", "WaitForFirstConsumer"))
    terms: list[dict[str, set[str]]] = []
    for term in obj["allowedTopologies"]:
        seen: set[str] = set()
        requirements: dict[str, set[str]] = {}
        for expression in term["matchLabelExpressions"]:
            key = expression.text("key")
            values: set[str] = set()
            expression["values"].present()
            for value in expression["values"]:
                value.once(values)
            key.label_name()
            key.once(seen)
            requirements[key.value] = values
        if requirements in (terms or [{}]):
            term["matchLabelExpressions"].showing("").duplicate()
        terms.append(requirements)


def _check_parameters(field: Field) -> None:
    parameters = field.value or {}
    if len(parameters) > MAX_PARAMETERS:
        field.too_long(MAX_PARAMETERS)
        return
    if "" in parameters:
        field.showing("").invalid("field can not be empty.")
    if sum(len(key) + len(value) for key, value in parameters.items()) > MAX_PARAMETERS_SIZE:
        field.too_long(MAX_PARAMETERS_SIZE)


def _check_provisioner(name: Field) -> None:
    name.showing(name.value.lower()).name(qualified_name)


def validate_class_update(obj: Field, old: Field) -> None:
    if (obj.get("parameters") or None) != (old.get("parameters") or None):
        obj["parameters"].invalid(IMMUTABLE)
    obj.keeps(old, "provisioner", "reclaimPolicy", "volumeBindingMode")


def _forbid_updates(obj: Field, old: Field, *fields: str) -> None:
    for field in fields:
        if (obj.get(field) or None) != (old.get(field) or None):
            obj[field].forbidden(f"updates to {field} are forbidden.")


def validate_attributes_class(obj: Field) -> None:
    _check_provisioner(obj.text("driverName"))
    _check_parameters(obj["parameters"])
    obj["parameters"].present("must contain at least one key/value pair")


def validate_attributes_class_update(obj: Field, old: Field) -> None:
    _forbid_updates(obj, old, "driverName", "parameters")


def validate_driver(obj: Field) -> None:
    spec = obj["spec"]
    check_driver_name(obj["metadata"]["name"])
    spec["fsGroupPolicy"].optional_choice(("File", "None", "ReadWriteOnceWithFSType"))
    seen: set[str] = set()
    for request in spec["tokenRequests"]:
        request.text("audience").once(seen)
        check_token_lifetime(request["expirationSeconds"])
    for mode in spec.get("volumeLifecycleModes") or ():
        spec.at("volumeLifecycleModes", mode).optional_choice(("Persistent", "Ephemeral"))
    period = spec["nodeAllocatableUpdatePeriodSeconds"]
    if period.is_set and period.value < 10:
        period.invalid("must be greater than or equal to 10 seconds")


def validate_driver_update(obj: Field, old: Field) -> None:
    validate_driver(obj)
    obj["spec"].keeps(old["spec"], "attachRequired", "volumeLifecycleModes")


def validate_csi_node(obj: Field) -> None:
    seen: set[str] = set()
    for driver in obj["spec"]["drivers"]:
        name, identity = driver.text("name"), driver.text("nodeID")
        check_driver_name(name)
        name.once(seen)
        identity.present()
        if len(identity) > 256:
            identity.invalid("must be 256 characters or less")
        driver["allocatable"]["count"].not_negative()
        keys: set[str] = set()
        for topology_key in driver.get("topologyKeys") or ():
            key = driver.showing(topology_key)
            key.present()
            key.once(keys)
            key.label_name()


def validate_csi_node_update(obj: Field, old: Field) -> None:
    validate_csi_node(obj)
    known = {each.get("name"): each.value for each in old["spec"]["drivers"]}
    for driver in obj["spec"]["drivers"]:
        before = known.get(driver.get("name"))
        if before is not None:
            new, old_driver = (
                {key: value for key, value in each.items() if key != "allocatable"}
                for each in (driver.value, before)
            )
            driver.showing(new).immutable(old_driver)


def validate_capacity(obj: Field) -> None:
    obj["nodeTopology"].label_selector()
    obj["storageClassName"].check(dns1123_subdomain)
    if obj["capacity"].is_set:
        obj["capacity"].quantity_not_negative()


def validate_capacity_update(obj: Field, old: Field) -> None:
    validate_capacity(obj)
    obj.keeps(old, "nodeTopology", "storageClassName")


def validate_attachment(obj: Field) -> None:
    spec = obj["spec"]
    check_driver_name(spec["attacher"])
    source = spec["source"]
    volume, inline = source["persistentVolumeName"], source["inlineVolumeSpec"]
    detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
    if not volume.is_set and not inline.is_set:
        source.required(detail)
    elif volume.is_set and inline.is_set:
        source.forbidden(detail)
    elif volume.is_set:
        volume.present("must specify non empty persistentVolumeName")
        volume.check(dns1123_subdomain)
    spec["nodeName"].check(dns1123_subdomain)
    for error in obj["status"].each("attachError", "detachError"):
        if (error.get("errorCode") or 0) < 0:
            error["errorCode"].invalid(names.in_range(0, MAX_INT32))


def validate_attachment_update(obj: Field, old: Field) -> None:
    validate_attachment(obj)
    obj.keeps(old, "spec")
