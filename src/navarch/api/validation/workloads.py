"""Kinds that make pods: their selector must match their template, which must run forever."""

from __future__ import annotations

from typing import Any

from navarch.api import names
from navarch.api.validation.claims import check_claim_spec
from navarch.api.validation.common import (
    IMMUTABLE,
    Errors,
    Object,
    indexed,
    relative_amount,
    selector_matches,
    selects_everything,
)
from navarch.api.validation.podspec import check_template

MISMATCH = "`selector` does not match template `labels`"
STATEFUL_SET_UPDATE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
    "'minReadySeconds' are forbidden"
)
_REPLICA_COUNTS = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")


def _check_selected_template(errors: Errors, spec: Object, kind: str, selector_name: str) -> None:
    """Selector and template of a controller with a LabelSelector."""
    selector = spec.get("selector")
    if selector is None:
        if kind != "DaemonSet":
            errors.required("spec.selector")
        _check_match(errors, spec, None)
    else:
        before = len(errors)
        errors.label_selector("spec.selector", selector)
        if selects_everything(selector):
            detail = f"empty selector is invalid for {selector_name}"
            errors.invalid("spec.selector", selector, detail)
        elif len(errors) == before:
            _check_match(errors, spec, selector)
        elif kind != "DaemonSet":
            # What a selector that means nothing selects is not asked.
            detail = "" if kind == "StatefulSet" else "invalid label selector"
            errors.invalid("spec.selector", selector, detail)
            return
    _check_endless_template(errors, spec, kind)


def _check_match(errors: Errors, spec: Object, selector: Object | None) -> None:
    """The selector, which selects nothing when it is missing, has to match the template."""
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if selector is None or not selector_matches(selector, labels or {}):
        errors.invalid("spec.template.metadata.labels", labels, MISMATCH)


def _check_endless_template(errors: Errors, spec: Object, kind: str) -> None:
    template = spec.get("template") or {}
    pod = template.get("spec") or {}
    check_template(errors, "spec.template", template)
    policy = pod.get("restartPolicy") or ""
    if policy != "Always":
        errors.not_supported("spec.template.spec.restartPolicy", policy, ("Always",))
    if pod.get("activeDeadlineSeconds") is not None:
        detail = f"activeDeadlineSeconds in {kind} is not Supported"
        errors.forbidden("spec.template.spec.activeDeadlineSeconds", detail)


def validate_deployment(errors: Errors, obj: Object) -> None:
    spec = obj["spec"]
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
        errors.not_negative(f"spec.{field}", spec.get(field))
    _check_selected_template(errors, spec, "ReplicaSet", "deployment")
    _check_deployment_strategy(errors, spec.get("strategy") or {})
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None:
        errors.not_negative("spec.progressDeadlineSeconds", deadline)
        if deadline <= (spec.get("minReadySeconds") or 0):
            detail = "must be greater than minReadySeconds"
            errors.invalid("spec.progressDeadlineSeconds", deadline, detail)


def _check_deployment_strategy(errors: Errors, strategy: Object) -> None:
    here, kind, rolling = "spec.strategy", strategy.get("type"), strategy.get("rollingUpdate")
    if kind == "Recreate":
        if rolling is not None:
            detail = "may not be specified when strategy `type` is 'Recreate'"
            errors.forbidden(f"{here}.rollingUpdate", detail)
    elif kind != "RollingUpdate":
        errors.not_supported(here, strategy, ("Recreate", "RollingUpdate"))
    elif rolling is None:
        errors.required(f"{here}.rollingUpdate", "this should be defaulted and never be nil")
    else:
        unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
        errors.int_or_percent(f"{here}.rollingUpdate.maxUnavailable", unavailable)
        errors.int_or_percent(f"{here}.rollingUpdate.maxSurge", surge)
        if not relative_amount(unavailable) and not relative_amount(surge):
            detail = "may not be 0 when `maxSurge` is 0"
            errors.invalid(f"{here}.rollingUpdate.maxUnavailable", unavailable, detail)
        errors.not_more_than_all(f"{here}.rollingUpdate.maxUnavailable", unavailable)


def validate_deployment_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_deployment(errors, obj)
    errors.immutable("spec.selector", obj["spec"].get("selector"), old["spec"]["selector"])


def validate_deployment_status(errors: Errors, obj: Object, old: Object) -> None:
    status, before = obj.get("status") or {}, old.get("status") or {}
    below = ("updatedReplicas", "readyReplicas", "availableReplicas")
    counts = ("observedGeneration", "replicas", "unavailableReplicas", "terminatingReplicas")
    errors.status_counts(status, (*counts, *below, "collisionCount"), below)
    _check_collisions(errors, status, before)


def _check_collisions(errors: Errors, status: Object, before: Object) -> None:
    known = before.get("collisionCount")
    if known is not None and (status.get("collisionCount") or 0) < known:
        value = status.get("collisionCount") or 0
        errors.invalid("status.collisionCount", value, "cannot be decremented")


def validate_replica_set(errors: Errors, obj: Object) -> None:
    for field in ("replicas", "minReadySeconds"):
        errors.not_negative(f"spec.{field}", obj["spec"].get(field))
    _check_selected_template(errors, obj["spec"], "ReplicaSet", "deployment")


def validate_replica_set_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_replica_set(errors, obj)
    errors.immutable("spec.selector", obj["spec"].get("selector"), old["spec"]["selector"])


def validate_replica_status(errors: Errors, obj: Object) -> None:
    """The status of a ReplicaSet or ReplicationController."""
    counts = (*_REPLICA_COUNTS, "terminatingReplicas", "observedGeneration")
    errors.status_counts(obj.get("status") or {}, counts, _REPLICA_COUNTS[1:])


def validate_replication_controller(errors: Errors, obj: Object) -> None:
    spec = obj["spec"]
    for field in ("minReadySeconds", "replicas"):
        errors.not_negative(f"spec.{field}", spec.get(field))
    selector = spec.get("selector")
    errors.present("spec.selector", selector)
    if spec.get("template") is None:
        errors.required("spec.template")
        return
    if selector:
        _check_match(errors, spec, {"matchLabels": selector})
    _check_endless_template(errors, spec, "ReplicationController")


def validate_stateful_set(errors: Errors, obj: Object) -> None:
    spec = obj["spec"]
    policy = spec.get("podManagementPolicy") or ""
    if not policy:
        errors.required("spec.podManagementPolicy")
    elif policy not in ("OrderedReady", "Parallel"):
        errors.invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'")
    _check_stateful_strategy(errors, spec.get("updateStrategy") or {})
    retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for field in ("whenDeleted", "whenScaled"):
        if retention.get(field) not in (None, "Retain", "Delete"):
            here = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
            errors.not_supported(here, retention[field], ("Retain", "Delete"))
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
        if field != "revisionHistoryLimit":
            errors.not_negative(f"spec.{field}", spec.get(field))
    errors.not_negative("spec.ordinals.start", (spec.get("ordinals") or {}).get("start"))
    if spec.get("serviceName"):
        errors.check("spec.serviceName", spec["serviceName"], names.dns1123_label)
    claims = spec.get("volumeClaimTemplates") or ()
    for here, claim in indexed("spec.volumeClaimTemplates", claims):
        check_claim_spec(errors, f"{here}.spec", claim.get("spec") or {})
    _check_selected_template(errors, _as_pods_get_it(spec), "StatefulSet", "statefulset")


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


def _check_stateful_strategy(errors: Errors, strategy: Object) -> None:
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    here = "spec.updateStrategy"
    if not kind:
        errors.required(here)
    elif kind == "OnDelete":
        if rolling is not None:
            detail = "only allowed for updateStrategy 'RollingUpdate'"
            errors.invalid(f"{here}.rollingUpdate", rolling, detail)
    elif kind == "RollingUpdate":
        if rolling is not None:
            errors.not_negative(f"{here}.rollingUpdate.partition", rolling.get("partition"))
    else:
        errors.invalid(here, strategy, "must be 'RollingUpdate' or 'OnDelete'")


def validate_stateful_set_update(errors: Errors, obj: Object, old: Object) -> None:
    mutable = (
        "replicas",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
        "ordinals",
    )
    validate_stateful_set(errors, obj)
    new, before = (
        {key: value for key, value in each["spec"].items() if key not in mutable}
        for each in (obj, old)
    )
    if new != before:
        errors.forbidden("spec", STATEFUL_SET_UPDATE)


def validate_stateful_set_status(errors: Errors, obj: Object) -> None:
    below = ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")
    counts = ("replicas", *below, "observedGeneration", "collisionCount")
    errors.status_counts(obj.get("status") or {}, counts, below)


def validate_daemon_set(errors: Errors, obj: Object) -> None:
    spec = obj["spec"]
    _check_selected_template(errors, spec, "DaemonSet", "daemonset")
    for field in ("minReadySeconds", "revisionHistoryLimit"):
        errors.not_negative(f"spec.{field}", spec.get(field))
    strategy = spec.get("updateStrategy") or {}
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    here = "spec.updateStrategy"
    if kind == "RollingUpdate":
        if rolling is None:
            errors.required(f"{here}.rollingUpdate")
            return
        unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
        for field, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
            errors.int_or_percent(f"{here}.rollingUpdate.{field}", value)
            errors.not_more_than_all(f"{here}.rollingUpdate.{field}", value)
        both = relative_amount(unavailable), relative_amount(surge)
        if all(both):
            detail = "may not be set when maxUnavailable is non-zero"
            errors.invalid(f"{here}.rollingUpdate.maxSurge", surge, detail)
        elif not any(both):
            detail = "cannot be 0 when maxSurge is 0"
            errors.required(f"{here}.rollingUpdate.maxUnavailable", detail)
    elif kind != "OnDelete":
        errors.not_supported(here, strategy, ("RollingUpdate", "OnDelete"))


def validate_daemon_set_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_daemon_set(errors, obj)
    errors.immutable("spec.selector", obj["spec"].get("selector"), old["spec"]["selector"])


def validate_daemon_set_status(errors: Errors, obj: Object) -> None:
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
    errors.status_counts(obj.get("status") or {}, fields)


def validate_pod_template(errors: Errors, obj: Object) -> None:
    check_template(errors, "template", obj.get("template") or {})


def validate_controller_revision(errors: Errors, obj: Object) -> None:
    errors.not_negative("revision", obj.get("revision"))
    data = obj.get("data")
    if data is None:
        errors.required("data", "data is mandatory")
    elif not isinstance(data, dict):
        errors.required("data", "data must be a valid JSON object")


def validate_controller_revision_update(errors: Errors, obj: Object, old: Object) -> None:
    errors.not_negative("revision", obj.get("revision"))
    if obj.get("data") != old.get("data"):
        errors.invalid("data", obj.get("data"), IMMUTABLE)
