"""Volume sources: what pods and PersistentVolumes must say to the storage driver they name, from
host paths to the in-tree drivers of old, which nothing serves any more but manifests still name.

A holder (a volume of a pod, the spec of a PersistentVolume) has one source. The first one in
upstream's order of looking is checked, each further one is one too many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from navarch.api.validation.common import dns1123_label
from navarch.api.validation.fields import Field

Check = Callable[[Field], None]

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
_FORBIDDEN_AS = {"cephfs": "cephFS", "downwardAPI": "downwarAPI"}
_CHECKED_AS = {"gcePersistentDisk": "persistentDisk"}
"""Where upstream's errors spell a source otherwise than the manifest."""


def check_one_source(holder: Field, checks: Mapping[str, Check]) -> str:
    """Check that there is one source, and that one; returns its name."""
    given: list[str] = list(filter(checks.__contains__, holder.value or ()))
    if not given:
        holder.required("must specify a volume type")
        return ""
    first, *more = sorted(given, key=list(checks).index) if len(given) > 1 else given
    checks[first](holder.at(_CHECKED_AS.get(first, first), holder.value[first]))
    for name in more:
        holder[_FORBIDDEN_AS.get(name, name)].forbidden("may not specify more than 1 volume type")
    return first


def check_no_backsteps(path: Field) -> None:
    if ".." in path and ".." in path.value.split("/"):
        path.invalid("must not contain '..'")


def check_descending(path: Field) -> None:
    """A path that stays below where it starts."""
    if path and path.value.startswith("/"):
        path.invalid("must be a relative path")
    check_no_backsteps(path)


def needing(*fields: str, then: Check | None = None) -> Check:
    """A source with fields that its driver cannot do without."""

    def check(source: Field) -> None:
        for field in fields:
            source[field].present()
        if then is not None:
            then(source)

    return check


def _in_range(number: Field, low: int, high: int) -> None:
    if number.is_set and not low <= number.value <= high:
        number.invalid(f"must be between {low} and {high}, inclusive")


def _secret(*fields: str) -> Check:
    def check(source: Field) -> None:
        if (secret := source["secretRef"]).is_set:
            for field in fields:
                secret[field].present()

    return check


def _host_path(source: Field) -> None:
    path = source["path"]
    path.present()
    if path:
        check_no_backsteps(path)
        source["type"].optional_choice(HOST_PATH_TYPES)


def _local(source: Field) -> None:
    source["path"].present()
    check_no_backsteps(source["path"])


def _partition(source: Field) -> None:
    partition = source["partition"]
    if partition and not 0 < partition.value <= 255:
        partition.invalid("must be between 1 and 255, inclusive")


def _nfs(source: Field) -> None:
    path = source.text("path")
    if not path.value.startswith("/"):
        path.invalid("must be an absolute path")


_INITIATORS = {
    "iqn": re.compile(r"iqn\.\d{4}-\d{2}\.([A-Za-z0-9.-]+)(:[^,;*&$|\s]+)\Z"),
    "eui": re.compile(r"eui.[A-Za-z0-9]{16}\Z"),
    "naa": re.compile(r"naa.[A-Za-z0-9]{32}\Z"),
}


def _initiator(name: Field, unknown: str) -> None:
    form = _INITIATORS.get(name.value[:3])
    if form is None:
        name.invalid(unknown)
    elif not form.search(name.value):
        name.invalid("must be valid format")


_UNKNOWN_INITIATOR = "must be valid format starting with iqn, eui, or naa"
TOO_LONG_PORTAL = (
    "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if "
    "iscsi.initiatorName is specified."
)


def is_portal_too_long(source: Field, volume_name: str) -> bool:
    """The initiator's and the portal's names make up a directory's on the node."""
    portal = source.get("targetPortal") or ""
    return source["initiatorName"].is_set and len(f"{volume_name}:{portal}") > 64


def _iscsi(source: Field, unknown: str = _UNKNOWN_INITIATOR) -> None:
    if source["iqn"]:
        _initiator(source["iqn"], _UNKNOWN_INITIATOR)
    _in_range(source["lun"], 0, 255)
    if source.get("chapAuthDiscovery") or source.get("chapAuthSession"):
        source["secretRef"].must_be_set()
    if (name := source["initiatorName"]).is_set:
        _initiator(source.at("initiatorname", name.value), unknown)


def _lasting_iscsi(source: Field) -> None:
    _iscsi(source, "must be valid format")
    _secret("name")(source)


def _lasting_glusterfs(source: Field) -> None:
    namespace = source["endpointsNamespace"]
    if namespace.value == "":
        namespace.invalid("if the endpointnamespace is set, it must be a valid namespace name")
    namespace.check_unless_empty(dns1123_label)


def _flocker(source: Field) -> None:
    name, uuid = source.text("datasetName"), source.text("datasetUUID")
    if not name and not uuid:
        source.required("one of datasetName and datasetUUID is required")
    if name and uuid:
        detail = "datasetName and datasetUUID can not be specified simultaneously"
        source.showing("resource").invalid(detail)
    if "/" in name:
        name.invalid("must not contain '/'")


_HOST_AND_PORT = re.compile(r"(\[[^][]*\]|[^][:]*):[^][:]*\Z")


def _quobyte(source: Field) -> None:
    registry, hosts = source["registry"], "must be a host:port pair or multiple pairs"
    if not registry:
        registry.required(f"{hosts} separated by commas")
    elif len(source["tenant"]) >= 65:
        detail = "must be a UUID and may not exceed a length of 64 characters"
        source["tenant"].required(detail)
    else:
        for pair in registry.value.split(","):
            if not _HOST_AND_PORT.match(pair):
                registry.invalid(f"{hosts} separated by commas")
    source["volume"].present()


def _fibre_channel(source: Field) -> None:
    targets, lun = source["targetWWNs"], source["lun"]
    if not targets and not source["wwids"]:
        targets.required("must specify either targetWWNs or wwids, but not both")
    if targets and source["wwids"]:
        targets.invalid("targetWWNs and wwids can not be specified simultaneously")
    if targets:
        lun.must_be_set("lun is required if targetWWNs is specified")
        _in_range(lun, 0, 255)


def _flex_volume(source: Field) -> None:
    for key, option in source["options"].entries():
        domain = f".{key.partition('/')[0].lower()}"
        if domain.endswith((".kubernetes.io", ".k8s.io")):
            option.showing(key).invalid("kubernetes.io and k8s.io namespaces are reserved")


def _lasting_azure_file(source: Field) -> None:
    if (namespace := source["secretNamespace"]).is_set:
        namespace.present()


_MANAGED_DISK = (
    "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/"
    "{disk-id}"
)
_BLOB = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"


def _azure_disk(source: Field) -> None:
    source["cachingMode"].optional_choice(("None", "ReadOnly", "ReadWrite"))
    kind, uri = source["kind"], source.text("diskURI")
    kind.optional_choice(("Dedicated", "Managed", "Shared"))
    if kind.is_set:
        managed = kind.value == "Managed"
        if not uri.value.startswith("/subscriptions/" if managed else "https://"):
            uri.not_supported((_MANAGED_DISK if managed else _BLOB,))


def _storage_os(source: Field) -> None:
    source["volumeName"].check_unless_empty(dns1123_label)
    source["volumeNamespace"].check_unless_empty(dns1123_label)


def _storage_os_with(*secret: str) -> Check:
    def check(source: Field) -> None:
        _storage_os(source)
        _secret(*secret)(source)

    return needing("volumeName", then=check)


DRIVERS: dict[str, Check] = {
    "hostPath": _host_path,
    "gcePersistentDisk": needing("pdName", then=_partition),
    "awsElasticBlockStore": needing("volumeID", then=_partition),
    "nfs": needing("server", "path", then=_nfs),
    "flocker": _flocker,
    "rbd": needing("monitors", "image"),
    "quobyte": _quobyte,
    "cephfs": needing("monitors"),
    "fc": _fibre_channel,
    "flexVolume": needing("driver", then=_flex_volume),
    "vsphereVolume": needing("volumePath"),
    "photonPersistentDisk": needing("pdID"),
    "portworxVolume": needing("volumeID"),
    "azureDisk": needing("diskName", "diskURI", then=_azure_disk),
    "scaleIO": needing("gateway", "system", "volumeName"),
    # Pods and PersistentVolumes differ in these.
    "iscsi": needing("targetPortal", "iqn", then=_iscsi),
    "glusterfs": needing("endpoints", "path"),
    "cinder": needing("volumeID", then=_secret("name")),
    "azureFile": needing("secretName", "shareName"),
    "storageos": _storage_os_with("name"),
}
LASTING_DRIVERS: dict[str, Check] = {
    **DRIVERS,
    "iscsi": needing("targetPortal", "iqn", then=_lasting_iscsi),
    "glusterfs": needing("endpoints", "path", then=_lasting_glusterfs),
    "cinder": needing("volumeID", then=_secret("name", "namespace")),
    "azureFile": needing("secretName", "shareName", then=_lasting_azure_file),
    "storageos": _storage_os_with("name", "namespace"),
    "local": _local,
}
"""The drivers as PersistentVolumes name them."""
