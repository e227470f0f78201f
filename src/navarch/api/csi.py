"""Names that the attach-detach controller and kubelets give to CSI volumes, so that each finds what
the other has made. Source: upstream's `pkg/volume/csi` (`getAttachmentName`, `GetVolumeName`)."""

from __future__ import annotations

import hashlib

CSI_PLUGIN_NAME = "kubernetes.io/csi"


def attachment_name(handle: str, driver: str, node: str) -> str:
    """What the VolumeAttachment of a volume and a node is called."""
    return f"csi-{hashlib.sha256(f'{handle}{driver}{node}'.encode()).hexdigest()}"


def unique_name(driver: str, handle: str) -> str:
    """What a node's volumesInUse and volumesAttached call a volume."""
    return f"{CSI_PLUGIN_NAME}/{driver}^{handle}"


def parse_unique_name(name: str) -> tuple[str, str] | None:
    """The driver and the handle; None for a volume that is not CSI's."""
    prefix, found, rest = name.partition(f"{CSI_PLUGIN_NAME}/")
    driver, separator, handle = rest.partition("^")
    return (driver, handle) if found and not prefix and separator else None
