"""What steers scheduling, scaling and traffic: disruption budgets, autoscalers, classes, leases,
flow control and devices."""

from __future__ import annotations

from navarch.api.errors import FieldError
from navarch.api.patch.common import copy_json
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy
from navarch.api.validation import control as validation
from navarch.api.validation import device_slices, migration
from navarch.api.validation import devices as device_rules


class PodDisruptionBudgetStrategy(GenericStrategy):
    has_generation = True
    allow_unconditional_update = False

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_disruption_budget(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        if subresource:
            return validation.validate_disruption_budget_status(obj)
        return validation.validate_disruption_budget(obj)


_SCALE_UP: Object = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
_SCALE_DOWN: Object = {
    "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}


class AutoscalerStrategy(GenericStrategy):
    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("minReplicas", 1)
        if not spec.get("metrics"):
            target = {"type": "Utilization", "averageUtilization": 80}
            spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
        behavior = spec.get("behavior")
        if behavior is not None:
            for key, rules in (("scaleUp", _SCALE_UP), ("scaleDown", _SCALE_DOWN)):
                behavior[key] = {**copy_json(rules), **(behavior.get(key) or {})}

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_autoscaler(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return [] if subresource else validation.validate_autoscaler(obj, old)


class AutoscalerV1Strategy(GenericStrategy):
    """autoscaling/v1: one cpu target; the rest of v2 travels in annotations."""

    def defaults(self, obj: Object) -> None:
        obj.setdefault("spec", {}).setdefault("minReplicas", 1)

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_autoscaler_v1(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return [] if subresource else validation.validate_autoscaler_v1(obj, old)


class PriorityClassStrategy(GenericStrategy):
    has_generation = True

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        # Nothing a generation would count can change.
        super().prepare_update(obj, old, subresource)
        obj["metadata"]["generation"] = old["metadata"].get("generation", 1)

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_priority_class(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return validation.validate_priority_class_update(obj, old)


class RuntimeClassStrategy(GenericStrategy):
    allow_create_on_update = True
    allow_unconditional_update = False

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_runtime_class(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return validation.validate_runtime_class_update(obj, old)


class LeaseStrategy(GenericStrategy):
    """As upstream without the CoordinatedLeaderElection gate, which is off by default: who should
    lead is not kept."""

    allow_create_on_update = True
    allow_unconditional_update = False

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        self._forget_election(obj, {})

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        self._forget_election(obj, old.get("spec") or {})

    def _forget_election(self, obj: Object, kept: Object) -> None:
        spec = obj.get("spec") or {}
        for field in ("strategy", "preferredHolder"):
            if kept.get(field) is None:
                spec.pop(field, None)

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_lease(obj)


class LeaseCandidateStrategy(GenericStrategy):
    allow_create_on_update = True
    allow_unconditional_update = False

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_lease_candidate(obj)


class MigrationStrategy(GenericStrategy):
    allow_unconditional_update = False
    status_keeps_metadata = True

    def validate(self, obj: Object) -> list[FieldError]:
        return migration.validate_migration(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        if subresource:
            return migration.validate_migration_status(obj, old)
        return migration.validate_migration_update(obj, old)


class FlowSchemaStrategy(GenericStrategy):
    has_generation = True
    status_keeps_metadata = True

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_flow_schema(obj)


class PriorityLevelStrategy(GenericStrategy):
    has_generation = True
    status_keeps_metadata = True

    def defaults(self, obj: Object) -> None:
        limited = (obj.get("spec") or {}).get("limited")
        if limited is not None:
            limited.setdefault("nominalConcurrencyShares", 30)
            limited.setdefault("lendablePercent", 0)

    def validate(self, obj: Object) -> list[FieldError]:
        return validation.validate_priority_level(obj)


def _default_requests(spec: Object) -> None:
    for request in (spec.get("devices") or {}).get("requests") or ():
        exactly = request if request.get("deviceClassName") else request.get("exactly")
        for each in [exactly] if exactly is not None else request.get("firstAvailable") or []:
            if not each.get("allocationMode"):
                each["allocationMode"] = "ExactCount"
            if each["allocationMode"] == "ExactCount" and not each.get("count"):
                each["count"] = 1


class ResourceClaimStrategy(GenericStrategy):
    status_keeps_metadata = True

    def defaults(self, obj: Object) -> None:
        _default_requests(obj.get("spec") or {})

    def validate(self, obj: Object) -> list[FieldError]:
        return device_rules.validate_claim(obj)

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if subresource:
            device_rules.drop_deallocated(obj, old)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        if subresource:
            return device_rules.validate_claim_status(obj, old)
        return device_rules.validate_claim_update(obj, old)


class ResourceClaimTemplateStrategy(GenericStrategy):
    def defaults(self, obj: Object) -> None:
        _default_requests((obj.get("spec") or {}).get("spec") or {})

    def validate(self, obj: Object) -> list[FieldError]:
        return device_rules.validate_template(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return device_rules.validate_template_update(obj, old)


class DeviceClassStrategy(GenericStrategy):
    has_generation = True

    def validate(self, obj: Object) -> list[FieldError]:
        return device_rules.validate_class(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return device_rules.validate_class(obj, old)


class ResourceSliceStrategy(GenericStrategy):
    has_generation = True

    def defaults(self, obj: Object) -> None:
        for device in (obj.get("spec") or {}).get("devices") or ():
            for taint in (device.get("basic") or device).get("taints") or ():
                if not taint.get("timeAdded"):
                    taint["timeAdded"] = self.timestamp()

    def validate(self, obj: Object) -> list[FieldError]:
        return device_slices.validate_slice(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        return device_slices.validate_slice_update(obj, old)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec = obj.get("spec") or {}
        return {
            "spec.nodeName": spec.get("nodeName") or "",
            "spec.driver": spec.get("driver") or "",
        }
