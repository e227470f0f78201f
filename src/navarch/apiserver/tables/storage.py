"""The tables of volumes, claims, and the drivers that make them."""

from __future__ import annotations

from collections.abc import Sequence

from navarch.apiserver.tables.table import Object, table
from navarch.apiserver.tables.text import UNSET, at, default_marker, pair, word

_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"


def _access_modes(modes: Sequence[str] | None) -> str:
    return ",".join(short for mode, short in _MODES.items() if mode in (modes or ()))


def _class(obj: Object) -> str:
    """The storage class; the annotation that came before the field wins, as it always has."""
    annotated = (at(obj, "metadata", "annotations") or {}).get(_CLASS_ANNOTATION)
    return word(obj, "spec", "storageClassName") if annotated is None else str(annotated)


def _phase(obj: Object) -> str:
    if at(obj, "metadata", "deletionTimestamp"):
        return "Terminating"
    return word(obj, "status", "phase")


def _bound_capacity(obj: Object) -> str:
    is_bound = bool(word(obj, "spec", "volumeName"))
    return word(obj, "status", "capacity", "storage", otherwise="0") if is_bound else ""


def _bound_modes(obj: Object) -> str:
    is_bound = bool(word(obj, "spec", "volumeName"))
    return _access_modes(at(obj, "status", "accessModes")) if is_bound else ""


def _audiences(requests: Sequence[Object] | None) -> str:
    return UNSET if requests is None else ",".join(each["audience"] for each in requests)


_CLASSES = (
    "StorageClass=storage_class()|VolumeAttributesClass=unset(spec.volumeAttributesClassName)"
)
_ATTACHMENT = table(
    "Name|Attacher=spec.attacher|PV=spec.source.persistentVolumeName|Node=spec.nodeName|"
    "Attached:boolean=flag(status.attached)|Age"
)
_ATTACHMENT.columns[1]["format"] = "name"
TABLES = {
    "persistentvolumes": table(
        "Name|Capacity=spec.capacity.storage?0|Access Modes=modes(spec.accessModes)|"
        "Reclaim Policy=spec.persistentVolumeReclaimPolicy|Status=phase()|"
        f"Claim=claim(spec.claimRef)?|{_CLASSES}|Reason=status.reason|Age|"
        "VolumeMode*=spec.volumeMode?<unset>",
        modes=_access_modes,
        phase=_phase,
        claim=pair("namespace", "name"),
        storage_class=_class,
    ),
    "persistentvolumeclaims": table(
        "Name|Status=phase()|Volume=spec.volumeName|Capacity=capacity()|Access Modes=modes()|"
        f"{_CLASSES}|Age|VolumeMode*=spec.volumeMode?<unset>",
        phase=_phase,
        capacity=_bound_capacity,
        modes=_bound_modes,
        storage_class=_class,
    ),
    "storageclasses.storage.k8s.io": table(
        "Name=marked()|Provisioner=provisioner|ReclaimPolicy=reclaimPolicy?Delete|"
        "VolumeBindingMode=volumeBindingMode?Immediate|"
        "AllowVolumeExpansion=flag(allowVolumeExpansion)|Age",
        marked=default_marker(
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ),
    ),
    "volumeattributesclasses.storage.k8s.io": table("Name|DriverName=driverName|Age"),
    "volumeattachments.storage.k8s.io": _ATTACHMENT,
    "csinodes.storage.k8s.io": table("Name|Drivers:integer=count(spec.drivers)|Age"),
    "csidrivers.storage.k8s.io": table(
        "Name|AttachRequired:boolean=wanted(spec.attachRequired)|"
        "PodInfoOnMount:boolean=flag(spec.podInfoOnMount)|"
        "StorageCapacity:boolean=flag(spec.storageCapacity)|"
        "TokenRequests=audiences(spec.tokenRequests)|"
        "RequiresRepublish:boolean=flag(spec.requiresRepublish)|"
        "Modes=joined(spec.volumeLifecycleModes)?<none>|Age",
        wanted=lambda value: value is not False,
        audiences=_audiences,
    ),
}
