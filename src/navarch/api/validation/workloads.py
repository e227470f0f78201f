"""Kinds that make pods: their selector must match their template, which must run forever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from navarch.api.validation.claims import check_claim_spec
from navarch.api.validation.common import (
    Object,
    dns1123_label,
    relative_amount,
    selector_matches,
    selects_everything,
)
from navarch.api.validation.fields import Field
from navarch.api.validation.go_values import shown_as
from navarch.api.validation.podspec import check_template

MISMATCH = "`selector` does not match template `labels`"
STATEFUL_SET_UPDATE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
    "'minReadySeconds' are forbidden"
)
_REPLICA_COUNTS = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")


def _check_selected_template(spec: Field, kind: str, selector_name: str) -> None:
    """Selector and template of a controller with a LabelSelector."""
    selector, before = spec["selector"], len(spec.errors)
    if not selector.is_set:
        if kind != "DaemonSet":
            selector.required()
        _check_match(spec, None)
    else:
        selector.label_selector()
        if selects_everything(selector.value):
            selector.invalid(f"empty selector is invalid for {selector_name}")
        elif len(spec.errors) == before:
            _check_match(spec, selector.value)
        elif kind != "DaemonSet":
            # What a selector that means nothing selects is not asked.
            selector.invalid("" if kind == "StatefulSet" else "invalid label selector")
            return
    _check_endless_template(spec["template"], kind)


def _check_match(spec: Field, selector: Object | None) -> None:
    """The selector, which selects nothing when it is missing, has to match the template."""
    labels = spec["template"]["metadata"]["labels"]
    if selector is None or not selector_matches(selector, labels.value or {}):
        labels.invalid(MISMATCH)


def _check_endless_template(template: Field, kind: str) -> None:
    check_template(template)
    template["spec"].text("restartPolicy").optional_choice(("Always",))
    deadline = template["spec"]["activeDeadlineSeconds"]
    if deadline.is_set:
        deadline.forbidden(f"activeDeadlineSeconds in {kind} is not Supported")


def validate_deployment(obj: Field) -> None:
    spec = obj["spec"]
    for field in spec.each("replicas", "minReadySeconds", "revisionHistoryLimit"):
        field.not_negative()
    _check_selected_template(spec, "ReplicaSet", "deployment")
    _check_deployment_strategy(spec["strategy"])
    deadline = spec["progressDeadlineSeconds"]
    deadline.not_negative()
    if deadline.is_set and deadline.value <= (spec.get("minReadySeconds") or 0):
        deadline.invalid("must be greater than minReadySeconds")


def _check_deployment_strategy(strategy: Field) -> None:
    kind, rolling = strategy.get("type"), strategy["rollingUpdate"]
    if kind == "Recreate":
        if rolling.is_set:
            rolling.forbidden("may not be specified when strategy `type` is 'Recreate'")
    elif kind != "RollingUpdate":
        shown = shown_as(strategy, "apps_v1.DeploymentStrategy")
        shown.not_supported(("Recreate", "RollingUpdate"))
    elif not rolling.is_set:
        rolling.required("this should be defaulted and never be nil")
    else:
        unavailable, surge = rolling.number("maxUnavailable"), rolling.number("maxSurge")
        unavailable.int_or_percent()
        surge.int_or_percent()
        if not relative_amount(unavailable.value) and not relative_amount(surge.value):
            unavailable.invalid("may not be 0 when `maxSurge` is 0")
        unavailable.not_more_than_all()


def validate_deployment_update(obj: Field, old: Field) -> None:
    validate_deployment(obj)
    obj["spec"].keeps(old["spec"], "selector")


def _check_counts(status: Field, fields: Sequence[str], most: Sequence[str] = ()) -> None:
    """Counters of a replica status: not negative, and those in `most` not above `replicas`."""
    for count in status.each(*fields):
        count.not_negative()
    replicas, available = status.get("replicas") or 0, status.number("availableReplicas")
    for count in map(status.number, most):
        if count.value > replicas:
            count.invalid("cannot be greater than status.replicas")
    if "availableReplicas" in most and available.value > (status.get("readyReplicas") or 0):
        available.invalid("cannot be greater than readyReplicas")


def validate_deployment_status(obj: Field, old: Field) -> None:
    below = ("updatedReplicas", "readyReplicas", "availableReplicas")
    counts = ("observedGeneration", "replicas", "unavailableReplicas", "terminatingReplicas")
    _check_counts(obj["status"], (*counts, *below, "collisionCount"), below)
    known, collisions = old["status"].get("collisionCount"), obj["status"].number("collisionCount")
    if known is not None and collisions.value < known:
        collisions.invalid("cannot be decremented")


def validate_replica_set(obj: Field) -> None:
    for field in obj["spec"].each("replicas", "minReadySeconds"):
        field.not_negative()
    _check_selected_template(obj["spec"], "ReplicaSet", "deployment")


def validate_replica_set_update(obj: Field, old: Field) -> None:
    validate_replica_set(obj)
    obj["spec"].keeps(old["spec"], "selector")


def validate_replica_status(obj: Field) -> None:
    """The status of a ReplicaSet or ReplicationController."""
    counts = (*_REPLICA_COUNTS, "terminatingReplicas", "observedGeneration")
    _check_counts(obj["status"], counts, _REPLICA_COUNTS[1:])


def validate_replication_controller(obj: Field) -> None:
    spec = obj["spec"]
    for field in spec.each("minReadySeconds", "replicas"):
        field.not_negative()
    selector = spec["selector"]
    selector.present()
    if not spec["template"].is_set:
        spec["template"].required()
        return
    if selector:
        _check_match(spec, {"matchLabels": selector.value})
    _check_endless_template(spec["template"], "ReplicationController")


def validate_stateful_set(obj: Field) -> None:
    spec = obj["spec"]
    policy = spec["podManagementPolicy"]
    policy.present()
    if policy and policy.value not in ("OrderedReady", "Parallel"):
        policy.invalid("must be 'OrderedReady' or 'Parallel'")
    _check_stateful_strategy(spec["updateStrategy"])
    for field in spec["persistentVolumeClaimRetentionPolicy"].each("whenDeleted", "whenScaled"):
        field.optional_choice(("Retain", "Delete"))
    for field in spec.each("replicas", "minReadySeconds"):
        field.not_negative()
    spec["ordinals"]["start"].not_negative()
    spec["serviceName"].check_unless_empty(dns1123_label)
    for claim in spec["volumeClaimTemplates"]:
        check_claim_spec(claim["spec"])
    _check_selected_template(
        spec.showing(_as_pods_get_it(spec.value)), "StatefulSet", "statefulset"
    )


def _as_pods_get_it(spec: Object) -> Object:
    """The spec as its pods will have it: each claim template is a volume of the same name, and
    whatever names the template gives the host, each pod gets its own."""
    pod = (spec.get("template") or {}).get("spec")
    if pod is None:
        return spec
    pod = {key: value for key, value in pod.items() if key not in ("hostname", "subdomain")}
    templated: dict[str, Any] = {}
    for claim in spec.get("volumeClaimTemplates") or ():
        name = (claim.get("metadata") or {}).get("name") or ""
        templated[name] = {"name": name, "persistentVolumeClaim": {"claimName": name}}
    if templated:
        own = [each for each in pod.get("volumes") or () if each.get("name") not in templated]
        pod["volumes"] = [*own, *templated.values()]
    return {**spec, "template": {**spec["template"], "spec": pod}}


def _check_stateful_strategy(strategy: Field) -> None:
    kind, rolling = strategy.get("type"), strategy["rollingUpdate"]
    if not kind:
        strategy.required()
    elif kind == "OnDelete":
        if rolling.is_set:
            rolling.invalid("only allowed for updateStrategy 'RollingUpdate'")
    elif kind == "RollingUpdate":
        rolling["partition"].not_negative()
    else:
        strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")


def validate_stateful_set_update(obj: Field, old: Field) -> None:
    mutable = (
        "replicas",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
        "ordinals",
    )
    validate_stateful_set(obj)
    new, before = (
        {key: value for key, value in each["spec"].value.items() if key not in mutable}
        for each in (obj, old)
    )
    if new != before:
        obj["spec"].forbidden(STATEFUL_SET_UPDATE)


def validate_stateful_set_status(obj: Field) -> None:
    below = ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")
    counts = ("replicas", *below, "observedGeneration", "collisionCount")
    _check_counts(obj["status"], counts, below)


def validate_daemon_set(obj: Field) -> None:
    spec = obj["spec"]
    _check_selected_template(spec, "DaemonSet", "daemonset")
    for field in spec.each("minReadySeconds", "revisionHistoryLimit"):
        field.not_negative()
    strategy = spec["updateStrategy"]
    kind, rolling = strategy.get("type"), strategy["rollingUpdate"]
    if kind == "RollingUpdate":
        if not rolling.is_set:
            rolling.required()
            return
        unavailable, surge = rolling.number("maxUnavailable"), rolling.number("maxSurge")
        for field in (unavailable, surge):
            field.int_or_percent()
            field.not_more_than_all()
        both = relative_amount(unavailable.value), relative_amount(surge.value)
        if all(both):
            surge.invalid("may not be set when maxUnavailable is non-zero")
        elif not any(both):
            unavailable.required("cannot be 0 when maxSurge is 0")
    elif kind != "OnDelete":
        strategy.not_supported(("RollingUpdate", "OnDelete"))


def validate_daemon_set_update(obj: Field, old: Field) -> None:
    validate_daemon_set(obj)
    obj["spec"].keeps(old["spec"], "selector")


def validate_daemon_set_status(obj: Field) -> None:
    fields = (
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    )
    _check_counts(obj["status"], fields)


def validate_pod_template(obj: Field) -> None:
    check_template(obj["template"])


def validate_controller_revision(obj: Field) -> None:
    obj["revision"].not_negative()
    data = obj["data"]
    if not data.is_set:
        data.required("data is mandatory")
    elif not isinstance(data.value, dict):
        data.required("data must be a valid JSON object")


def validate_controller_revision_update(obj: Field, old: Field) -> None:
    obj["revision"].not_negative()
    obj.keeps(old, "data")
