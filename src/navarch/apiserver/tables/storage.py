"""The tables of volumes, claims, and the drivers that make them."""

from __future__ import annotations

from datetime import datetime

from navarch.apiserver.tables.table import Cells, Object, Table, column, columns
from navarch.apiserver.tables.text import NONE, UNSET, age, at, is_default_class, name, word

_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
_DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)


def _access_modes(modes: list[str] | None) -> str:
    return ",".join(short for mode, short in _MODES.items() if mode in (modes or ()))


def _class(obj: Object) -> str:
    """The storage class; the annotation that came before the field wins, as it always has."""
    annotated = (at(obj, "metadata", "annotations") or {}).get(_CLASS_ANNOTATION)
    return word(obj, "spec", "storageClassName") if annotated is None else str(annotated)


def _phase(obj: Object) -> str:
    if at(obj, "metadata", "deletionTimestamp"):
        return "Terminating"
    return word(obj, "status", "phase")


def _attributes_class(obj: Object) -> str:
    found = at(obj, "spec", "volumeAttributesClassName")
    return UNSET if found is None else str(found)


def _volume(obj: Object, now: datetime) -> Cells:
    claim = at(obj, "spec", "claimRef")
    return [
        name(obj),
        word(obj, "spec", "capacity", "storage", otherwise="0"),
        _access_modes(at(obj, "spec", "accessModes")),
        word(obj, "spec", "persistentVolumeReclaimPolicy"),
        _phase(obj),
        f"{word(claim, 'namespace')}/{word(claim, 'name')}" if claim is not None else "",
        _class(obj),
        _attributes_class(obj),
        word(obj, "status", "reason"),
        age(obj, now),
        word(obj, "spec", "volumeMode", otherwise=UNSET),
    ]


def _claim(obj: Object, now: datetime) -> Cells:
    volume = word(obj, "spec", "volumeName")
    return [
        name(obj),
        _phase(obj),
        volume,
        word(obj, "status", "capacity", "storage", otherwise="0") if volume else "",
        _access_modes(at(obj, "status", "accessModes")) if volume else "",
        _class(obj),
        _attributes_class(obj),
        age(obj, now),
        word(obj, "spec", "volumeMode", otherwise=UNSET),
    ]


def _storage_class(obj: Object, now: datetime) -> Cells:
    mark = " (default)" if is_default_class(obj, _DEFAULT_CLASS) else ""
    return [
        name(obj) + mark,
        word(obj, "provisioner"),
        word(obj, "reclaimPolicy", otherwise="Delete"),
        word(obj, "volumeBindingMode", otherwise="Immediate"),
        bool(obj.get("allowVolumeExpansion")),
        age(obj, now),
    ]


def _attributes(obj: Object, now: datetime) -> Cells:
    return [name(obj), word(obj, "driverName"), age(obj, now)]


def _attachment(obj: Object, now: datetime) -> Cells:
    return [
        name(obj),
        word(obj, "spec", "attacher"),
        word(obj, "spec", "source", "persistentVolumeName"),
        word(obj, "spec", "nodeName"),
        bool(at(obj, "status", "attached")),
        age(obj, now),
    ]


def _csi_node(obj: Object, now: datetime) -> Cells:
    return [name(obj), len(at(obj, "spec", "drivers") or ()), age(obj, now)]


def _csi_driver(obj: Object, now: datetime) -> Cells:
    spec = obj.get("spec") or {}
    requests = spec.get("tokenRequests")
    audiences = UNSET if requests is None else ",".join(each["audience"] for each in requests)
    return [
        name(obj),
        spec.get("attachRequired") is not False,
        bool(spec.get("podInfoOnMount")),
        bool(spec.get("storageCapacity")),
        audiences,
        bool(spec.get("requiresRepublish")),
        ",".join(spec.get("volumeLifecycleModes") or ()) or NONE,
        age(obj, now),
    ]


_ATTACHMENT = columns("Name|Attacher|PV|Node|Attached:boolean|Age")
_ATTACHMENT[1] = column("Attacher", format_="name")
TABLES = {
    "persistentvolumes": Table(
        columns(
            "Name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|"
            "VolumeAttributesClass|Reason|Age|VolumeMode*"
        ),
        _volume,
    ),
    "persistentvolumeclaims": Table(
        columns(
            "Name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|"
            "VolumeMode*"
        ),
        _claim,
    ),
    "storageclasses.storage.k8s.io": Table(
        columns("Name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age"),
        _storage_class,
    ),
    "volumeattributesclasses.storage.k8s.io": Table(columns("Name|DriverName|Age"), _attributes),
    "volumeattachments.storage.k8s.io": Table(_ATTACHMENT, _attachment),
    "csinodes.storage.k8s.io": Table(columns("Name|Drivers:integer|Age"), _csi_node),
    "csidrivers.storage.k8s.io": Table(
        columns(
            "Name|AttachRequired:boolean|PodInfoOnMount:boolean|StorageCapacity:boolean|"
            "TokenRequests|RequiresRepublish:boolean|Modes|Age"
        ),
        _csi_driver,
    ),
}
