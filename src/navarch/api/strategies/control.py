"""What steers scheduling, scaling and traffic: disruption budgets, autoscalers, classes, leases,
flow control and devices."""

from __future__ import annotations

from navarch.api.patch.common import copy_json
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules
from navarch.api.validation import control as validation
from navarch.api.validation import device_slices, migration
from navarch.api.validation import devices as device_rules


class PodDisruptionBudgetStrategy(GenericStrategy):
    has_generation = True
    allow_unconditional_update = False
    rules = Rules(
        validation.validate_disruption_budget,
        status=lambda obj, _: validation.validate_disruption_budget_status(obj),
    )


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
    rules = Rules(validation.validate_autoscaler, validation.validate_autoscaler_update)

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


class AutoscalerV1Strategy(GenericStrategy):
    """autoscaling/v1: one cpu target; the rest of v2 travels in annotations."""

    rules = Rules(validation.validate_autoscaler_v1, validation.validate_autoscaler_v1_update)

    def defaults(self, obj: Object) -> None:
        obj.setdefault("spec", {}).setdefault("minReplicas", 1)


class PriorityClassStrategy(GenericStrategy):
    has_generation = True
    rules = Rules(validation.validate_priority_class, validation.validate_priority_class_update)

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        # Nothing a generation would count can change.
        super().prepare_update(obj, old, subresource)
        obj["metadata"]["generation"] = old["metadata"].get("generation", 1)


class RuntimeClassStrategy(GenericStrategy):
    allow_create_on_update = True
    allow_unconditional_update = False
    rules = Rules(validation.validate_runtime_class, validation.validate_runtime_class_update)


class LeaseStrategy(GenericStrategy):
    """As upstream without the CoordinatedLeaderElection gate, which is off by default: who should
    lead is not kept."""

    allow_create_on_update = True
    allow_unconditional_update = False
    rules = Rules(validation.validate_lease)

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


class LeaseCandidateStrategy(GenericStrategy):
    allow_create_on_update = True
    allow_unconditional_update = False
    rules = Rules(validation.validate_lease_candidate)


class MigrationStrategy(GenericStrategy):
    allow_unconditional_update = False
    status_keeps_metadata = True
    rules = Rules(
        migration.validate_migration,
        migration.validate_migration_update,
        status=migration.validate_migration_status,
    )


class FlowSchemaStrategy(GenericStrategy):
    has_generation = True
    status_keeps_metadata = True
    rules = Rules(validation.validate_flow_schema)


class PriorityLevelStrategy(GenericStrategy):
    has_generation = True
    status_keeps_metadata = True
    rules = Rules(validation.validate_priority_level)

    def defaults(self, obj: Object) -> None:
        limited = (obj.get("spec") or {}).get("limited")
        if limited is not None:
            limited.setdefault("nominalConcurrencyShares", 30)
            limited.setdefault("lendablePercent", 0)


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
    rules = Rules(
        device_rules.validate_claim,
        device_rules.validate_spec_update,
        status=device_rules.validate_claim_status,
    )

    def defaults(self, obj: Object) -> None:
        _default_requests(obj.get("spec") or {})

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if subresource:
            device_rules.drop_deallocated(obj, old)


class ResourceClaimTemplateStrategy(GenericStrategy):
    rules = Rules(device_rules.validate_template, device_rules.validate_spec_update)

    def defaults(self, obj: Object) -> None:
        _default_requests((obj.get("spec") or {}).get("spec") or {})


class DeviceClassStrategy(GenericStrategy):
    has_generation = True
    rules = Rules(device_rules.validate_class, device_rules.validate_class_update)


class ResourceSliceStrategy(GenericStrategy):
    has_generation = True
    rules = Rules(device_slices.validate_slice, device_slices.validate_slice_update)

    def defaults(self, obj: Object) -> None:
        for device in (obj.get("spec") or {}).get("devices") or ():
            for taint in (device.get("basic") or device).get("taints") or ():
                if not taint.get("timeAdded"):
                    taint["timeAdded"] = self.timestamp()

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec = obj.get("spec") or {}
        return {
            "spec.nodeName": spec.get("nodeName") or "",
            "spec.driver": spec.get("driver") or "",
        }
