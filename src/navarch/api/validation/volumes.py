"""Volumes of a pod: exactly one source each, and no path that leads out of its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from navarch.api.validation.claims import check_claim_spec
from navarch.api.validation.common import (
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    indexed,
    qualified_name,
    quantity,
)
from navarch.api.validation.meta import validate_template_meta

BAD_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
HOST_PATH_TYPES = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
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
_UNITS = ("1", *(f"1{unit}" for unit in "kMGTPE"), *(f"1{unit}i" for unit in "KMGTPE"))

Check = Callable[[Errors, str, Object], None]


def check_volumes(errors: Errors, path: str, spec: Object, pod_name: str) -> dict[str, Object]:
    """Check the volumes of a pod spec; returns the valid ones by name."""
    result: dict[str, Object] = {}
    volumes = spec.get("volumes") or ()
    created = {
        f"{pod_name}-{volume.get('name')}"
        for volume in volumes
        if pod_name and "ephemeral" in volume
    }
    for here, volume in indexed(path, volumes):
        name = volume.get("name") or ""
        before = len(errors)
        _check_source(errors, here, volume, pod_name)
        errors.name(f"{here}.name", name, dns1123_label)
        if name in result:
            errors.duplicate(f"{here}.name", name)
        if len(errors) == before:
            result[name] = volume
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim in created:
            detail = "must not reference a PVC that gets created for an ephemeral volume"
            errors.invalid(f"{here}.persistentVolumeClaim.claimName", claim, detail)
    return result


def _check_source(errors: Errors, path: str, volume: Object, pod_name: str) -> None:
    found = False
    for field in volume:
        if field == "name":
            continue
        if found:
            errors.forbidden(f"{path}.{field}", "may not specify more than 1 volume type")
            continue
        found = True
        source = volume[field] or {}
        checker = _SOURCES.get(field)
        if checker is not None:
            checker(errors, f"{path}.{field}", source)
        for key in _REQUIRED.get(field, ()):
            errors.present(f"{path}.{field}.{key}", source.get(key))
    errors.present(path, found, "must specify a volume type")
    if "ephemeral" in volume and pod_name and volume.get("name"):
        claim = f"{pod_name}-{volume['name']}"
        problems = (f'PVC name "{claim}": {text}' for text in dns1123_subdomain(claim))
        errors.problems(f"{path}.name", volume["name"], problems)


def check_mode(errors: Errors, path: str, mode: Any) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        errors.invalid(path, mode, BAD_MODE)


def check_no_backsteps(errors: Errors, path: str, target: str) -> None:
    if ".." in target and ".." in target.split("/"):
        errors.invalid(path, target, "must not contain '..'")


def check_descending(errors: Errors, path: str, target: str) -> None:
    """A path that stays below where it starts."""
    if target.startswith("/"):
        errors.invalid(path, target, "must be a relative path")
    check_no_backsteps(errors, path, target)


def check_not_reserved(errors: Errors, path: str, target: str) -> None:
    """A descending path that is none of the atomic writer's own (`..data`)."""
    check_descending(errors, path, target)
    if target.startswith("..") and not target.startswith("../"):
        errors.invalid(path, target, "must not start with '..'")


def _check_items(errors: Errors, path: str, source: Object) -> None:
    for here, item in indexed(f"{path}.items", source.get("items")):
        for key in ("key", "path"):
            errors.present(f"{here}.{key}", item.get(key))
        check_not_reserved(errors, f"{here}.path", item.get("path") or "")
        check_mode(errors, f"{here}.mode", item.get("mode"))


def _empty_dir(errors: Errors, path: str, source: Object) -> None:
    limit = quantity(source["sizeLimit"]) if source.get("sizeLimit") is not None else None
    if limit is not None and limit.sign() < 0:
        errors.forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")


def _host_path(errors: Errors, path: str, source: Object) -> None:
    target = source.get("path")
    if not target:
        errors.required(f"{path}.path")
        return
    check_no_backsteps(errors, f"{path}.path", target)
    errors.optional_choice(f"{path}.type", source.get("type"), HOST_PATH_TYPES)


def _files(errors: Errors, path: str, source: Object) -> None:
    check_mode(errors, f"{path}.defaultMode", source.get("defaultMode"))
    _check_items(errors, path, source)


def _downward_api(errors: Errors, path: str, source: Object) -> None:
    check_mode(errors, f"{path}.defaultMode", source.get("defaultMode"))
    for item in source.get("items") or ():
        _check_downward_file(errors, path, item)


def _check_downward_file(errors: Errors, path: str, item: Object) -> None:
    errors.present(f"{path}.path", item.get("path"))
    check_not_reserved(errors, f"{path}.path", item.get("path") or "")
    field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
    if field is not None:
        check_field_reference(errors, f"{path}.fieldRef", field, VOLUME_FIELD_PATHS)
        if resource is not None:
            detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
            errors.invalid(path, "resource", detail)
    elif resource is not None:
        check_resource_reference(errors, f"{path}.resourceFieldRef", resource, volume=True)
    else:
        errors.required(path, "one of fieldRef and resourceFieldRef is required")
    check_mode(errors, f"{path}.mode", item.get("mode"))


def check_field_reference(
    errors: Errors, path: str, reference: Object, known: tuple[str, ...]
) -> None:
    """A fieldRef of the downward API: one of the known paths, or one label or annotation."""
    for key in ("apiVersion", "fieldPath"):
        if not reference.get(key):
            errors.required(f"{path}.{key}")
            return
    field = reference["fieldPath"]
    base, bracket, rest = field.partition("['")
    if bracket and rest.endswith("']"):
        key = rest[:-2]
        if base == "metadata.annotations":
            errors.check(path, key.lower(), qualified_name)
        elif base == "metadata.labels":
            errors.check(path, key, qualified_name)
        elif base in CONVERTIBLE_PATHS:
            errors.invalid(path, base, "does not support subscript")
        else:
            _not_convertible(errors, path, field)
    elif field not in CONVERTIBLE_PATHS:
        _not_convertible(errors, path, field)
    elif field not in known:
        errors.not_supported(f"{path}.fieldPath", field, known)


def _not_convertible(errors: Errors, path: str, field: str) -> None:
    detail = f"error converting fieldPath: field label not supported: {field}"
    errors.invalid(f"{path}.fieldPath", field, detail)


def check_resource_reference(errors: Errors, path: str, reference: Object, volume: bool) -> None:
    resource = reference.get("resource") or ""
    huge_page = resource.startswith(("requests.hugepages-", "limits.hugepages-"))
    if volume and not reference.get("containerName"):
        errors.required(f"{path}.containerName")
    elif not resource:
        errors.required(f"{path}.resource")
    elif resource not in RESOURCE_FIELDS and not huge_page:
        errors.not_supported(f"{path}.resource", resource, RESOURCE_FIELDS)
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
        errors.invalid(f"{path}.divisor", resource, detail)


def _projected(errors: Errors, path: str, source: Object) -> None:
    check_mode(errors, f"{path}.defaultMode", source.get("defaultMode"))
    paths: set[str] = set()

    def claim(target: str, named: str) -> None:
        if target and target in paths:
            errors.invalid(path, named, "conflicting duplicate paths")
        paths.add(target)

    for here, each in indexed(f"{path}.sources", source.get("sources")):
        for field in ("secret", "configMap"):
            part = each.get(field)
            if part is None:
                continue
            errors.present(f"{here}.{field}.name", part.get("name"))
            _check_items(errors, f"{here}.{field}", part)
            for item in part.get("items") or ():
                claim(item.get("path") or "", part.get("name") or "")
        for item in (each.get("downwardAPI") or {}).get("items") or ():
            _check_downward_file(errors, f"{here}.downwardAPI", item)
            claim(item.get("path") or "", item.get("path") or "")
        if (token := each.get("serviceAccountToken")) is not None:
            _check_token(errors, path, here, token)
        if (bundle := each.get("clusterTrustBundle")) is not None:
            _check_bundle(errors, f"{here}.clusterTrustBundle", bundle)
            claim(bundle.get("path") or "", bundle.get("path") or "")
        if len(each) > 1:
            errors.forbidden(here, "may not specify more than 1 volume type per source")


def _check_token(errors: Errors, path: str, source_path: str, token: Object) -> None:
    seconds = token.get("expirationSeconds")
    here = f"{source_path}.serviceAccountToken.expirationSeconds"
    if seconds is not None and seconds < 600:
        errors.invalid(here, seconds, "may not specify a duration less than 10 minutes")
    if seconds is not None and seconds > 1 << 32:
        errors.invalid(here, seconds, "may not specify a duration larger than 2^32 seconds")
    if not token.get("path"):
        errors.required(f"{path}.path")
    else:
        check_not_reserved(errors, f"{path}.path", token["path"])


def _check_bundle(errors: Errors, path: str, bundle: Object) -> None:
    name, signer = bundle.get("name"), bundle.get("signerName")
    if name is not None and signer is not None:
        errors.invalid(path, bundle, "only one of name and signerName may be used")
    elif name is not None:
        errors.present(f"{path}.name", name, "must be a valid object name")
        if bundle.get("labelSelector") is not None:
            detail = "labelSelector must be unset if name is specified"
            errors.invalid(f"{path}.labelSelector", bundle["labelSelector"], detail)
    elif signer is not None:
        errors.present(f"{path}.signerName", signer, "must be a valid signer name")
        errors.label_selector(f"{path}.labelSelector", bundle.get("labelSelector"))
    else:
        errors.required(path, "either name or signerName must be specified")
    errors.present(f"{path}.path", bundle.get("path"))
    check_not_reserved(errors, f"{path}.path", bundle.get("path") or "")


def _nfs(errors: Errors, path: str, source: Object) -> None:
    target = source.get("path")
    if target and not target.startswith("/"):
        errors.invalid(f"{path}.path", target, "must be an absolute path")


def check_driver_name(errors: Errors, path: str, name: str) -> None:
    """The name of a CSI driver."""
    if not name:
        errors.required(path)
        return
    errors.no_longer(path, name, 63)
    errors.problems(path, name, dns1123_subdomain(name.lower()))


def _csi(errors: Errors, path: str, source: Object) -> None:
    check_driver_name(errors, f"{path}.driver", source.get("driver") or "")
    secret = source.get("nodePublishSecretRef")
    if secret is not None:
        errors.name(f"{path}.nodePublishSecretRef.name", secret.get("name"), dns1123_subdomain)


def _ephemeral(errors: Errors, path: str, source: Object) -> None:
    template = source.get("volumeClaimTemplate")
    if template is None:
        errors.required(f"{path}.volumeClaimTemplate")
        return
    here = f"{path}.volumeClaimTemplate"
    validate_template_meta(errors, f"{here}.metadata", template.get("metadata") or {})
    check_claim_spec(errors, f"{here}.spec", template.get("spec") or {})


def _image(errors: Errors, path: str, source: Object) -> None:
    policy = source.get("pullPolicy")
    errors.present(f"{path}.pullPolicy", policy)
    errors.optional_choice(
        f"{path}.pullPolicy", policy or None, ("Always", "IfNotPresent", "Never")
    )


_SOURCES: dict[str, Check] = {
    "emptyDir": _empty_dir,
    "hostPath": _host_path,
    "secret": _files,
    "configMap": _files,
    "downwardAPI": _downward_api,
    "projected": _projected,
    "nfs": _nfs,
    "csi": _csi,
    "ephemeral": _ephemeral,
    "image": _image,
}

_REQUIRED: dict[str, tuple[str, ...]] = {
    "secret": ("secretName",),
    "configMap": ("name",),
    "persistentVolumeClaim": ("claimName",),
    "image": ("reference",),
    "nfs": ("server", "path"),
    "gitRepo": ("repository",),
    "gcePersistentDisk": ("pdName",),
    "awsElasticBlockStore": ("volumeID",),
    "iscsi": ("targetPortal", "iqn"),
    "glusterfs": ("endpoints", "path"),
    "rbd": ("monitors", "image"),
    "cinder": ("volumeID",),
    "cephfs": ("monitors",),
    "quobyte": ("registry", "volume"),
    "flexVolume": ("driver",),
    "azureFile": ("secretName", "shareName"),
    "azureDisk": ("diskName", "diskURI"),
    "vsphereVolume": ("volumePath",),
    "photonPersistentDisk": ("pdID",),
    "portworxVolume": ("volumeID",),
    "storageos": ("volumeName",),
    "scaleIO": ("gateway", "system", "volumeName"),
}
"""Fields that the drivers of old cannot do without."""
