"""Storage: volumes, claims, classes and what CSI drivers publish."""

from __future__ import annotations

from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules
from navarch.api.validation import storage as validation


class PersistentVolumeStrategy(GenericStrategy):
    rules = Rules(validation.validate_volume, validation.validate_volume_update)

    def empty_status(self, obj: Object) -> Object:
        return {"phase": "Pending", "lastPhaseTransitionTime": self.timestamp()}

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if not subresource:
            return
        status, before = obj.setdefault("status", {}), old.get("status") or {}
        given = status.get("lastPhaseTransitionTime")
        known = before.get("lastPhaseTransitionTime")
        if status.get("phase") == before.get("phase"):
            if not given and known:
                status["lastPhaseTransitionTime"] = known
        elif not given or given == known:
            status["lastPhaseTransitionTime"] = self.timestamp()


class PersistentVolumeClaimStrategy(GenericStrategy):
    rules = Rules(
        validation.validate_claim,
        validation.validate_claim_update,
        status=validation.validate_claim_status_update,
    )

    def empty_status(self, obj: Object) -> Object:
        return {"phase": "Pending"}

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        _normalize_data_sources(obj["spec"])

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if not subresource:
            _normalize_data_sources(obj["spec"])


def _normalize_data_sources(spec: Object) -> None:
    """The two ways to name a data source show the same, where both can."""
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    if source and not reference:
        if (source.get("kind"), source.get("apiGroup") or "") in (
            ("PersistentVolumeClaim", ""),
            ("VolumeSnapshot", "snapshot.storage.k8s.io"),
        ):
            spec["dataSourceRef"] = dict(source)
        else:
            # A source of any other kind was never looked at under the old name.
            del spec["dataSource"]
    elif reference and not source and not reference.get("namespace"):
        spec["dataSource"] = {key: value for key, value in reference.items() if key != "namespace"}


class StorageClassStrategy(GenericStrategy):
    rules = Rules(validation.validate_class, validation.validate_class_update)


class VolumeAttributesClassStrategy(GenericStrategy):
    rules = Rules(validation.validate_attributes_class, validation.validate_attributes_class_update)


class CSIDriverStrategy(GenericStrategy):
    allow_unconditional_update = False
    rules = Rules(validation.validate_driver, validation.validate_driver_update)


class CSINodeStrategy(GenericStrategy):
    allow_unconditional_update = False
    rules = Rules(validation.validate_csi_node, validation.validate_csi_node_update)


class CSIStorageCapacityStrategy(GenericStrategy):
    allow_unconditional_update = False
    rules = Rules(validation.validate_capacity, validation.validate_capacity_update)


class VolumeAttachmentStrategy(GenericStrategy):
    allow_unconditional_update = False
    status_keeps_metadata = True
    rules = Rules(
        validation.validate_attachment,
        validation.validate_attachment_update,
        status=validation.validate_attachment_update,
    )
