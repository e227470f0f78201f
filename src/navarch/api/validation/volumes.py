"""Volumes of a pod: exactly one source each, and no path that leads out of its place."""

from __future__ import annotations

from navarch.api.validation.claims import check_claim_spec
from navarch.api.validation.common import (
    Object,
    dns1123_label,
    dns1123_subdomain,
    quantity,
)
from navarch.api.validation.fields import Field
from navarch.api.validation.meta import validate_template_meta
from navarch.api.validation.volume_sources import (
    DRIVERS,
    TOO_LONG_PORTAL,
    Check,
    check_descending,
    check_one_source,
    is_portal_too_long,
    needing,
)

BAD_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
VOLUME_FIELD_PATHS = (
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
)
ENV_FIELD_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
CONVERTIBLE_PATHS = frozenset(
    {*VOLUME_FIELD_PATHS, *ENV_FIELD_PATHS, "spec.restartPolicy", "spec.schedulerName"}
    | {"status.phase", "spec.host", "status.nominatedNodeName"}
)
RESOURCE_FIELDS = (
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
)
NOT_CONVERTIBLE = "error converting fieldPath: field label not supported"
_UNITS = ("1", *(f"1{unit}" for unit in "kMGTPE"), *(f"1{unit}i" for unit in "KMGTPE"))


def check_volumes(volumes: Field, pod_name: str) -> dict[str, Object]:
    """Check the volumes of a pod spec; returns the valid ones by name."""
    result: dict[str, Object] = {}
    created = {
        f"{pod_name}-{volume.get('name')}"
        for volume in volumes.value or ()
        if pod_name and "ephemeral" in volume
    }
    for volume in volumes:
        name, before = volume.text("name"), len(volumes.errors)
        _check_source(volume, pod_name)
        name.name(dns1123_label)
        if name.value in result:
            name.duplicate()
        if len(volumes.errors) == before:
            result[name.value] = volume.value
        claim = volume["persistentVolumeClaim"]["claimName"]
        if claim.value in created:
            claim.invalid("must not reference a PVC that gets created for an ephemeral volume")
    return result


def _check_source(volume: Field, pod_name: str) -> None:
    name, first = volume.text("name"), check_one_source(volume, _SOURCES)
    if (iscsi := volume["iscsi"]).is_set and is_portal_too_long(iscsi, name.value):
        name.invalid(TOO_LONG_PORTAL)
    if first == "ephemeral" and pod_name and name:
        claim = f"{pod_name}-{name.value}"
        problems = (f'PVC name "{claim}": {text}' for text in dns1123_subdomain(claim))
        name.problems(problems)


def check_mode(mode: Field) -> None:
    if mode.is_set and not 0 <= mode.value <= 0o777:
        mode.invalid(BAD_MODE)


def check_not_reserved(path: Field) -> None:
    """A descending path that is none of the atomic writer's own (`..data`)."""
    check_descending(path)
    if path and path.value.startswith("..") and not path.value.startswith("../"):
        path.invalid("must not start with '..'")


def _check_items(source: Field) -> None:
    for item in source["items"]:
        item["key"].present()
        item["path"].present()
        check_not_reserved(item["path"])
        check_mode(item["mode"])


def _empty_dir(source: Field) -> None:
    limit = source["sizeLimit"]
    amount = quantity(limit.value) if limit.is_set else None
    if amount is not None and amount.sign() < 0:
        limit.forbidden("SizeLimit field must be a valid resource quantity")


def _files(source: Field) -> None:
    check_mode(source["defaultMode"])
    _check_items(source)


def _downward_api(source: Field) -> None:
    check_mode(source["defaultMode"])
    for item in source.get("items") or ():
        _check_downward_file(source.showing(item))


def _check_downward_file(item: Field) -> None:
    item["path"].present()
    check_not_reserved(item["path"])
    field, resource = item["fieldRef"], item["resourceFieldRef"]
    if field.is_set:
        check_field_reference(field, VOLUME_FIELD_PATHS)
        if resource.is_set:
            detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
            item.showing("resource").invalid(detail)
    elif resource.is_set:
        check_resource_reference(resource, volume=True)
    else:
        item.required("one of fieldRef and resourceFieldRef is required")
    check_mode(item["mode"])


def check_field_reference(reference: Field, known: tuple[str, ...]) -> None:
    """A fieldRef of the downward API: one of the known paths, or one label or annotation."""
    for part in reference.each("apiVersion", "fieldPath"):
        if not part:
            part.required()
            return
    field = reference["fieldPath"]
    base, bracket, rest = field.value.partition("['")
    if bracket and rest.endswith("']"):
        key = reference.showing(rest[:-2])
        if base == "metadata.annotations":
            key.showing(key.value.lower()).label_name()
        elif base == "metadata.labels":
            key.label_name()
        elif base in CONVERTIBLE_PATHS:
            reference.showing(base).invalid("does not support subscript")
        else:
            field.invalid(f"{NOT_CONVERTIBLE}: {field.value}")
    elif field.value not in CONVERTIBLE_PATHS:
        field.invalid(f"{NOT_CONVERTIBLE}: {field.value}")
    else:
        field.optional_choice(known)


def check_resource_reference(reference: Field, volume: bool) -> None:
    name = reference.text("resource")
    resource = name.value
    huge_page = resource.startswith(("requests.hugepages-", "limits.hugepages-"))
    if volume and not reference.get("containerName"):
        reference["containerName"].required()
    elif not resource:
        name.required()
    elif resource not in RESOURCE_FIELDS and not huge_page:
        name.not_supported(RESOURCE_FIELDS)
    divisor = quantity(reference.get("divisor") or "0")
    if divisor is None or divisor.is_zero():
        return
    allowed, kind = _UNITS, "memory"
    if resource.endswith(".cpu"):
        allowed, kind = ("1m", "1"), "cpu"
    elif resource.endswith(".ephemeral-storage"):
        kind = "local ephemeral storage"
    elif huge_page:
        kind = "hugepages"
    if str(divisor) not in allowed and (resource in RESOURCE_FIELDS or huge_page):
        values = "values 1m and 1" if kind == "cpu" else f"values {', '.join(_UNITS)}"
        detail = f"only divisor's {values} are supported with the {kind} resource"
        reference.at("divisor", resource).invalid(detail)


def _projected(source: Field) -> None:
    check_mode(source["defaultMode"])
    paths: set[str] = set()

    def claim(target: str, named: str) -> None:
        if target and target in paths:
            source.showing(named).invalid("conflicting duplicate paths")
        paths.add(target)

    for projection in source["sources"]:
        for part in projection.each("secret", "configMap"):
            if not part.is_set:
                continue
            part["name"].present()
            _check_items(part)
            for item in part.get("items") or ():
                claim(item.get("path") or "", part.get("name") or "")
        files = projection["downwardAPI"]
        for item in files.get("items") or ():
            _check_downward_file(files.showing(item))
            claim(item.get("path") or "", item.get("path") or "")
        if projection.get("serviceAccountToken") is not None:
            _check_token(projection["serviceAccountToken"], source)
        if (bundle := projection["clusterTrustBundle"]).is_set:
            _check_bundle(bundle)
            claim(bundle.get("path") or "", bundle.get("path") or "")
        if len(projection) > 1:
            projection.forbidden("may not specify more than 1 volume type per source")


def check_token_lifetime(seconds: Field) -> None:
    if seconds.is_set and seconds.value < 600:
        seconds.invalid("may not specify a duration less than 10 minutes")
    if seconds.is_set and seconds.value > 1 << 32:
        seconds.invalid("may not specify a duration larger than 2^32 seconds")


def _check_token(token: Field, volume: Field) -> None:
    check_token_lifetime(token["expirationSeconds"])
    path = volume.at("path", token.get("path"))
    path.present()
    check_not_reserved(path)


def _check_bundle(bundle: Field) -> None:
    name, signer, selector = bundle.each("name", "signerName", "labelSelector")
    if name.is_set and signer.is_set:
        bundle.invalid("only one of name and signerName may be used")
    elif name.is_set:
        name.present("must be a valid object name")
        if selector.is_set:
            selector.invalid("labelSelector must be unset if name is specified")
    elif signer.is_set:
        signer.present("must be a valid signer name")
        selector.label_selector()
    else:
        bundle.required("either name or signerName must be specified")
    bundle["path"].present()
    check_not_reserved(bundle["path"])


def check_driver_name(name: Field) -> None:
    """The name of a CSI driver."""
    name.present()
    name.no_longer(63)
    if name:
        name.problems(dns1123_subdomain(name.value.lower()))


def _csi(source: Field) -> None:
    check_driver_name(source["driver"])
    if (secret := source["nodePublishSecretRef"]).is_set:
        secret["name"].name(dns1123_subdomain)


def _ephemeral(source: Field) -> None:
    template = source["volumeClaimTemplate"]
    if not template.is_set:
        template.required()
        return
    validate_template_meta(template["metadata"])
    check_claim_spec(template["spec"])


def _image(source: Field) -> None:
    source["pullPolicy"].choice(("Always", "IfNotPresent", "Never"))


_OTHERS: dict[str, Check] = {
    "emptyDir": _empty_dir,
    "gitRepo": needing("repository", then=lambda source: check_descending(source["directory"])),
    "secret": needing("secretName", then=_files),
    "persistentVolumeClaim": needing("claimName"),
    "downwardAPI": _downward_api,
    "configMap": needing("name", then=_files),
    "projected": _projected,
    "csi": _csi,
    "ephemeral": _ephemeral,
    "image": needing("reference", then=_image),
}
_ORDER = (
    "emptyDir hostPath gitRepo gcePersistentDisk awsElasticBlockStore secret nfs iscsi glusterfs "
    "flocker persistentVolumeClaim rbd cinder cephfs quobyte downwardAPI fc flexVolume configMap "
    "azureFile vsphereVolume photonPersistentDisk portworxVolume azureDisk storageos projected "
    "scaleIO csi ephemeral image"
)
_SOURCES = {name: (_OTHERS | DRIVERS)[name] for name in _ORDER.split()}
"""In the order in which upstream looks for them."""
