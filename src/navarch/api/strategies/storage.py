"""Storage: volumes, claims, classes and what CSI drivers publish."""

from __future__ import annotations

from navarch.api.errors import FieldError
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy
from navarch.api.validation import storage as validation


class PersistentVolumeStrategy(GenericStrategy):
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

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_volume(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return [] if subresource else validation.validate_volume_update(obj, old)


class PersistentVolumeClaimStrategy(GenericStrategy):
    def empty_status(self, obj: Object) -> Object:
        return {"phase": "Pending"}

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        _normalize_data_sources(obj["spec"])

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if not subresource:
            _normalize_data_sources(obj["spec"])

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_claim(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        if subresource:
            return validation.validate_claim_status_update(obj, old)
        return validation.validate_claim_update(obj, old)


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
    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_class(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return validation.validate_class_update(obj, old)


class VolumeAttributesClassStrategy(GenericStrategy):
    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_attributes_class(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return validation.validate_attributes_class_update(obj, old)


class CSIDriverStrategy(GenericStrategy):
    allow_unconditional_update = False

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_driver(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return validation.validate_driver_update(obj, old)


class CSINodeStrategy(GenericStrategy):
    allow_unconditional_update = False

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_csi_node(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return validation.validate_csi_node_update(obj, old)


class CSIStorageCapacityStrategy(GenericStrategy):
    allow_unconditional_update = False

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_capacity(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return validation.validate_capacity_update(obj, old)


class VolumeAttachmentStrategy(GenericStrategy):
    allow_unconditional_update = False
    status_keeps_metadata = True

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_attachment(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return validation.validate_attachment_update(obj, old)
