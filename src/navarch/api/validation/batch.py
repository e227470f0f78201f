"""Jobs and CronJobs."""

from __future__ import annotations

import re
import zoneinfo
from typing import Any

from navarch.api.cron import CronError, parse_schedule
from navarch.api.errors import invalid
from navarch.api.patch.common import copy_json
from navarch.api.validation.common import (
    Errors,
    Object,
    dns1123_label,
    indexed,
    qualified_name,
    selector_matches,
)
from navarch.api.validation.meta import check_annotations
from navarch.api.validation.podspec import check_template

MAX_PARALLELISM = 100_000
MAX_FAILED_INDEXES = 100_000
MANY_COMPLETIONS = 100_000
MAX_OF_MANY = 10_000
GENERATED_LABELS = (
    ("controller-uid", "uid"),
    ("batch.kubernetes.io/controller-uid", "uid"),
    ("job-name", "name"),
    ("batch.kubernetes.io/job-name", "name"),
)
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_ZONE = re.compile(r"[A-Za-z\._\-0-9+]{1,14}")


def validate_job(errors: Errors, obj: Object) -> None:
    spec, metadata = obj["spec"], obj["metadata"]
    _check_generated_selector(errors, obj)
    selector = spec.get("selector")
    if selector is None:
        errors.required("spec.selector")
    else:
        before = len(errors)
        errors.label_selector("spec.selector", selector)
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
        if len(errors) == before and not selector_matches(selector, labels):
            detail = "`selector` does not match template `labels`"
            errors.invalid("spec.template.metadata.labels", labels, detail)
    check_job_spec(errors, "spec", spec)
    completions = spec.get("completions")
    if spec.get("completionMode") == "Indexed" and completions:
        hostname = f"{metadata.get('name')}-{completions - 1}"
        if dns1123_label(hostname):
            detail = f"will not able to create pod with invalid DNS label: {hostname}"
            errors.invalid("metadata.name", metadata.get("name"), detail)


def _check_generated_selector(errors: Errors, obj: Object) -> None:
    """The labels of a generated selector are the server's own and cannot be chosen."""
    spec, metadata = obj["spec"], obj["metadata"]
    if spec.get("manualSelector") or spec.get("selector") is None:
        return
    errors.present("metadata.uid", metadata.get("uid"))
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    expected: dict[str, str] = {}
    for key, field in GENERATED_LABELS:
        value = expected[key] = metadata.get(field) or ""
        if key not in labels:
            errors.required(f"spec.template.metadata.labels[{key}]", f"must be '{value}'")
        elif labels[key] != value:
            errors.invalid(f"spec.template.metadata.labels[{key}]", labels, f"must be '{value}'")
    if not selector_matches(spec["selector"], expected):
        errors.invalid("spec.selector", spec["selector"], "`selector` not auto-generated")


def check_job_spec(errors: Errors, path: str, spec: Object) -> None:
    """The spec of a Job, alone or in a CronJob."""
    for field in (
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ):
        errors.not_negative(f"{path}.{field}", spec.get(field))
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        errors.required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    manager = spec.get("managedBy")
    if manager is not None:
        if "/" not in manager:
            detail = 'must be a domain-prefixed path (such as "acme.io/foo")'
            errors.invalid(f"{path}.managedBy", manager, detail)
        else:
            errors.check(f"{path}.managedBy", manager, qualified_name)
        errors.no_longer(f"{path}.managedBy", manager, 63)
    mode = spec.get("completionMode")
    errors.optional_choice(f"{path}.completionMode", mode, ("NonIndexed", "Indexed"))
    if mode == "Indexed":
        _check_indexed(errors, path, spec)
    elif mode in (None, "NonIndexed"):
        _only_indexed(errors, path, spec, ("backoffLimitPerIndex", "maxFailedIndexes"))
    _check_failure_policy(errors, f"{path}.podFailurePolicy", spec)
    if mode != "Indexed":
        _only_indexed(errors, path, spec, ("successPolicy",))
    elif spec.get("successPolicy") is not None:
        _check_success_policy(errors, f"{path}.successPolicy", spec)
    replacement = spec.get("podReplacementPolicy")
    if replacement is not None:
        failed = spec.get("podFailurePolicy") is not None
        choices = ("Failed",) if failed else ("Failed", "TerminatingOrFailed")
        errors.optional_choice(f"{path}.podReplacementPolicy", replacement, choices)
    check_template(errors, f"{path}.template", spec.get("template") or {})
    _check_job_restart(errors, f"{path}.template.spec.restartPolicy", spec)


def _only_indexed(errors: Errors, path: str, spec: Object, fields: tuple[str, ...]) -> None:
    for field in fields:
        if spec.get(field) is not None:
            errors.invalid(f"{path}.{field}", spec[field], "requires indexed completion mode")


def _check_job_restart(errors: Errors, path: str, spec: Object) -> None:
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy") or ""
    if policy in ("", "Always"):
        errors.required(path, 'valid values: "OnFailure", "Never"')
    elif policy not in ("OnFailure", "Never"):
        errors.not_supported(path, policy, ("OnFailure", "Never"))
    elif spec.get("podFailurePolicy") is not None and policy != "Never":
        errors.invalid(path, policy, 'only "Never" is supported when podFailurePolicy is specified')


def _check_indexed(errors: Errors, path: str, spec: Object) -> None:
    completions, parallelism = spec.get("completions"), spec.get("parallelism") or 0
    failed = spec.get("maxFailedIndexes")
    if completions is None:
        errors.required(f"{path}.completions", "when completion mode is Indexed")
    if parallelism > MAX_PARALLELISM:
        detail = f"must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed"
        errors.invalid(f"{path}.parallelism", parallelism, detail)
    if failed is not None and completions is not None and failed > completions:
        detail = "must be less than or equal to completions"
        errors.invalid(f"{path}.maxFailedIndexes", failed, detail)
    if failed is not None and failed > MAX_FAILED_INDEXES:
        detail = f"must be less than or equal to {MAX_FAILED_INDEXES}"
        errors.invalid(f"{path}.maxFailedIndexes", failed, detail)
    if (completions or 0) > MANY_COMPLETIONS and spec.get("backoffLimitPerIndex") is not None:
        detail = (
            f"must be less than or equal to {MAX_OF_MANY} when completions are above "
            f"{MANY_COMPLETIONS} and used with backoff limit per index"
        )
        if failed is None:
            missing = f"must be specified when completions is above {MANY_COMPLETIONS}"
            errors.required(f"{path}.maxFailedIndexes", missing)
        elif failed > MAX_OF_MANY:
            errors.invalid(f"{path}.maxFailedIndexes", failed, detail)
        if parallelism > MAX_OF_MANY:
            errors.invalid(f"{path}.parallelism", parallelism, detail)


def _check_failure_policy(errors: Errors, path: str, spec: Object) -> None:
    policy = spec.get("podFailurePolicy")
    if policy is None:
        return
    rules = policy.get("rules") or ()
    errors.at_most(f"{path}.rules", rules, 20)
    pod = (spec.get("template") or {}).get("spec") or {}
    containers = {
        each.get("name")
        for field in ("containers", "initContainers")
        for each in pod.get(field) or ()
    }
    for here, rule in indexed(f"{path}.rules", rules):
        action = rule.get("action") or ""
        if not action:
            listed = " ".join(f'"{each}"' for each in _ACTIONS)
            errors.required(f"{here}.action", f"valid values: [{listed}]")
        elif action == "FailIndex":
            if spec.get("backoffLimitPerIndex") is None:
                detail = "requires the backoffLimitPerIndex to be set"
                errors.invalid(f"{here}.action", action, detail)
        elif action not in _ACTIONS:
            errors.not_supported(f"{here}.action", action, _ACTIONS)
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or ()
        if codes is not None:
            _check_exit_codes(errors, f"{here}.onExitCodes", codes, containers)
        errors.at_most(f"{here}.onPodConditions", conditions, 20)
        for each, pattern in indexed(f"{here}.onPodConditions", conditions):
            errors.label_name(f"{each}.type", pattern.get("type") or "")
            errors.choice(f"{each}.status", pattern.get("status"), ("False", "True", "Unknown"))
        if codes is not None and conditions:
            detail = "specifying both OnExitCodes and OnPodConditions is not supported"
            errors.invalid_state(here, detail)
        if codes is None and not conditions:
            detail = "specifying one of OnExitCodes and OnPodConditions is required"
            errors.invalid_state(here, detail)


def _check_exit_codes(errors: Errors, path: str, codes: Object, containers: set[Any]) -> None:
    operator, values = codes.get("operator"), codes.get("values") or []
    errors.choice(f"{path}.operator", operator, ("In", "NotIn"))
    name = codes.get("containerName")
    if name is not None and name not in containers:
        detail = "must be one of the container or initContainer names in the pod template"
        errors.invalid(f"{path}.containerName", name, detail)
    if not values:
        errors.invalid(f"{path}.values", values, "at least one value is required")
    elif len(values) > 255:
        errors.too_many(f"{path}.values", len(values), 255)
    seen: set[int] = set()
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            errors.invalid(f"{path}.values[{index}]", value, "must not be 0 for the In operator")
        errors.once(seen, f"{path}.values[{index}]", value)
    if values != sorted(values):
        errors.invalid(f"{path}.values", values, "must be ordered")


def _check_success_policy(errors: Errors, path: str, spec: Object) -> None:
    rules, completions = spec["successPolicy"].get("rules") or (), spec.get("completions") or 0
    if not rules:
        detail = "at least one rules must be specified when the successPolicy is specified"
        errors.required(f"{path}.rules", detail)
    errors.at_most(f"{path}.rules", rules, 20)
    for here, rule in indexed(f"{path}.rules", rules):
        indexes, count = rule.get("succeededIndexes"), rule.get("succeededCount")
        if indexes is None and count is None:
            detail = "at least one of succeededCount or succeededIndexes must be specified"
            errors.required(here, detail)
        total = 0
        if indexes is not None:
            errors.no_longer(f"{here}.succeededIndexes", indexes, 64 * 1024)
            try:
                total = sum(last - first + 1 for first, last in intervals(indexes, completions))
            except ValueError as error:
                detail = f"error parsing succeededIndexes: {error}"
                errors.invalid(f"{here}.succeededIndexes", indexes, detail)
                continue
        if count is not None:
            errors.not_negative(f"{here}.succeededCount", count)
            for most, what in (
                (completions, "the number of specified completions"),
                (total, "the number of indexes in the specified succeededIndexes field"),
            ):
                if count > most and (most is completions or indexes is not None):
                    detail = f"must be less than or equal to {most} ({what})"
                    errors.invalid(f"{here}.succeededCount", count, detail)


def intervals(text: str, completions: int) -> list[tuple[int, int]]:
    """The index ranges in `0,2-4`; raises ValueError with upstream's text."""
    result: list[tuple[int, int]] = []
    for part in text.split(",") if text else ():
        bounds = part.split("-")
        if len(bounds) > 2:
            raise ValueError(
                f'the fragment "{part}" violates the requirement that an index '
                "interval can have at most two parts separated by '-'"
            )
        numbers = []
        for bound in bounds:
            if not (bound.isascii() and bound.isdigit() and len(bound) < 12):
                raise ValueError(f'cannot convert string to integer for index: "{bound}"')
            number = int(bound)
            if number >= completions:
                raise ValueError(f'too large index: "{bound}"')
            numbers.append(number)
        first, last = numbers[0], numbers[-1]
        if len(numbers) == 2 and first >= last:
            raise ValueError(f"non-increasing order, previous: {first}, current: {last}")
        if result and result[-1][1] >= first:
            raise ValueError(f"non-increasing order, previous: {result[-1][1]}, current: {first}")
        result.append((first, last))
    return result


def validate_job_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_job(errors, obj)
    new, before = obj["spec"], old["spec"]
    for field in (
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ):
        errors.immutable(f"spec.{field}", new.get(field), before.get(field))
    if new.get("completions") != before.get("completions"):
        # Only an indexed Job can be made larger or smaller, and only as a whole.
        if new.get("completionMode") != "Indexed" or new.get("completions") is None:
            errors.immutable("spec.completions", new.get("completions"), before)
            errors[-1] = invalid("spec.completions", new.get("completions"), "field is immutable")
        elif new["completions"] != new.get("parallelism"):
            detail = "can only be modified in tandem with spec.parallelism"
            errors.invalid("spec.completions", new["completions"], detail)
    _check_job_template_update(errors, new, old)


def _check_job_template_update(errors: Errors, new: Object, old: Object) -> None:
    """The template of a suspended Job whose pods are gone may still be scheduled differently, and
    ask for other resources."""
    template, before = copy_json(new.get("template")), old["spec"].get("template")
    status = old.get("status") or {}
    is_at_rest = not status.get("startTime") or _is_true(status, "Suspended")
    if old["spec"].get("suspend") and is_at_rest and not status.get("active"):
        known = before or {}
        spec = template.setdefault("spec", {})
        _take(spec, known.get("spec"), "nodeSelector", "tolerations", "schedulingGates")
        _take(template.setdefault("metadata", {}), known.get("metadata"), "labels", "annotations")
        if not template["metadata"] and "metadata" not in known:
            del template["metadata"]
        affinity = spec.setdefault("affinity", {})
        _take(affinity, (known.get("spec") or {}).get("affinity"), "nodeAffinity")
        if not affinity and not (known.get("spec") or {}).get("affinity"):
            _take(spec, known.get("spec"), "affinity")
        for kind in ("containers", "initContainers"):
            sources = {each.get("name"): each for each in before["spec"].get(kind) or ()}
            for container in spec.get(kind) or []:
                if container.get("name") in sources:
                    _take(container, sources[container["name"]], "resources")
    if template != before:
        errors.invalid("spec.template", new.get("template"), "field is immutable")


def _take(target: Object, source: Object | None, *fields: str) -> None:
    """Make fields what they are in the source, which may lack them."""
    for field in fields:
        if source and field in source:
            target[field] = source[field]
        else:
            target.pop(field, None)


def _is_true(status: Object, kind: str) -> bool:
    return any(
        each.get("type") == kind and each.get("status") == "True"
        for each in status.get("conditions") or ()
    )


def validate_job_status_update(errors: Errors, obj: Object, old: Object) -> None:
    """What was wrong before is not held against a change of something else: the controller mends
    it, which may take more than one step."""
    spec, status, before = obj["spec"], obj.get("status") or {}, old.get("status") or {}
    known, found = Errors(), Errors()
    _check_job_status(known, spec, before)
    _check_job_status(found, spec, status)
    errors += [each for each in found if each not in known]
    for kind in ("Failed", "Complete", "FailureTarget"):
        if _is_true(before, kind) and not _is_true(status, kind):
            detail = f"cannot disable the terminal {kind}=True condition"
            errors.invalid_state("status.conditions", detail)
    if _is_true(before, "SuccessCriteriaMet") and not _is_true(status, "SuccessCriteriaMet"):
        detail = "cannot disable the SuccessCriteriaMet=True condition"
        errors.invalid_state("status.conditions", detail)
    is_elastic = spec.get("completionMode") == "Indexed" and (
        spec.get("completions") == spec.get("parallelism")
    )
    for field in ("failed", "succeeded"):
        if field == "succeeded" and is_elastic:
            continue  # a Job that is made smaller may lose indexes that had succeeded
        if (status.get(field) or 0) < (before.get(field) or 0):
            detail = f"cannot decrease the {field} counter"
            errors.invalid(f"status.{field}", status.get(field) or 0, detail)
    if before.get("completionTime") and status.get("completionTime"):
        new = status["completionTime"]
        errors.immutable("status.completionTime", new, before["completionTime"])
    started, since = status.get("startTime"), before.get("startTime")
    is_resuming = _is_true(before, "Suspended") and any(
        each.get("type") == "Suspended" and each.get("status") == "False"
        for each in status.get("conditions") or ()
    )
    if since and started != since and not spec.get("suspend") and not is_resuming:
        detail = "field is immutable for unsuspended job once set"
        errors.invalid("status.startTime", started, detail)


def _check_job_status(errors: Errors, spec: Object, status: Object) -> None:
    """What is wrong with a status by itself."""
    for field in ("active", "succeeded", "failed", "ready", "terminating"):
        errors.not_negative(f"status.{field}", status.get(field))
    uncounted, seen = status.get("uncountedTerminatedPods") or {}, set[str]()
    for field in ("succeeded", "failed"):
        for here, uid in indexed(f"status.uncountedTerminatedPods.{field}", uncounted.get(field)):
            if not uid:
                errors.invalid(here, uid, "must not be empty")
            elif uid in seen:
                errors.duplicate(here, uid)
            seen.add(uid)
    _check_job_conditions(errors, spec, status)
    _check_job_indexes(errors, spec, status)
    ready, active = status.get("ready"), status.get("active") or 0
    if ready is not None and ready > active:
        errors.invalid("status.ready", ready, "cannot set more ready pods than active")


def _check_job_conditions(errors: Errors, spec: Object, status: Object) -> None:
    here = "status.conditions"
    complete, failed = _is_true(status, "Complete"), _is_true(status, "Failed")
    target, success = _is_true(status, "FailureTarget"), _is_true(status, "SuccessCriteriaMet")
    for both, what in (
        (complete and failed, "Complete=True and Failed=true conditions"),
        (complete and target, "Complete=True and FailureTarget=true conditions"),
        (failed and not target, "Failed=True condition without the FailureTarget=true condition"),
        (
            complete and not success,
            "Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (success and failed, "SuccessCriteriaMet=True and Failed=true conditions"),
        (success and target, "SuccessCriteriaMet=True and FailureTarget=true conditions"),
    ):
        if both:
            errors.invalid_state(here, f"cannot set {what}")
    finished, ended = complete or failed, status.get("completionTime")
    if ended and not complete:
        detail = "cannot set completionTime when there is no Complete=True condition"
        errors.invalid("status.completionTime", ended, detail)
    if complete and not ended:
        errors.required("status.completionTime", "completionTime is required for Complete jobs")
    if ended and status.get("startTime") and ended < status["startTime"]:
        errors.invalid("status.completionTime", ended, "must be equal to or after `startTime`")
    if not finished:
        return
    for field in ("active", "terminating"):
        if status.get(field):
            detail = f"{field}>0 is invalid for finished job"
            errors.invalid(f"status.{field}", status[field], detail)
    never_began = spec.get("suspend") and spec.get("completions") == 0
    if not status.get("startTime") and not never_began:
        errors.required("status.startTime", "startTime is required for finished job")
    uncounted = status.get("uncountedTerminatedPods") or {}
    if uncounted.get("failed") or uncounted.get("succeeded"):
        detail = "must be empty for finished job"
        errors.invalid("status.uncountedTerminatedPods", uncounted, detail)


def _check_job_indexes(errors: Errors, spec: Object, status: Object) -> None:
    completions, ranges = spec.get("completions"), {}
    for field in ("completedIndexes", "failedIndexes"):
        text = status.get(field)
        if text and completions is not None:
            try:
                ranges[field] = intervals(text, completions)
            except ValueError as error:
                errors.invalid(f"status.{field}", text, f"error parsing {field}: {error}")
    if status.get("completedIndexes") and spec.get("completionMode") != "Indexed":
        detail = "cannot set non-empty completedIndexes when non-indexed completion mode"
        errors.invalid("status.completedIndexes", status["completedIndexes"], detail)
    if status.get("failedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null"
        errors.invalid("status.failedIndexes", status["failedIndexes"], detail)
    if len(ranges) == 2:
        for first, last in ranges["failedIndexes"]:
            for low, high in ranges["completedIndexes"]:
                if first <= high and low <= last:
                    detail = (
                        f"failedIndexes and completedIndexes overlap at index: {max(first, low)}"
                    )
                    errors.invalid("status.failedIndexes", status["failedIndexes"], detail)
                    return


def validate_cron_job(errors: Errors, obj: Object) -> None:
    _cron_job(errors, obj, None)
    name = obj["metadata"].get("name") or ""
    if len(name) > 52:
        errors.insert(0, invalid("metadata.name", name, "must be no more than 52 characters"))


def validate_cron_job_update(errors: Errors, obj: Object, old: Object) -> None:
    _cron_job(errors, obj, old)


def _cron_job(errors: Errors, obj: Object, old: Object | None) -> None:
    spec, before = obj["spec"], (old or {}).get("spec") or {}
    _check_schedule(errors, spec, before)
    errors.not_negative("spec.startingDeadlineSeconds", spec.get("startingDeadlineSeconds"))
    if old is None or spec.get("timeZone") != before.get("timeZone"):
        _check_zone(errors, spec.get("timeZone"))
    choices = ("Allow", "Forbid", "Replace")
    errors.choice("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), choices)
    for field in ("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        errors.not_negative(f"spec.{field}", spec.get(field))
    template = spec.get("jobTemplate") or {}
    here, job, metadata = "spec.jobTemplate", template.get("spec") or {}, template.get("metadata")
    errors.labels(f"{here}.labels", (metadata or {}).get("labels"))
    check_annotations(errors, f"{here}.annotations", (metadata or {}).get("annotations") or {})
    check_job_spec(errors, f"{here}.spec", job)
    if job.get("selector") is not None:
        detail = "`selector` will be auto-generated"
        errors.invalid(f"{here}.spec.selector", job["selector"], detail)
    if job.get("manualSelector"):
        errors.not_supported(f"{here}.spec.manualSelector", True, ("nil", "false"))


def _check_schedule(errors: Errors, spec: Object, before: Object) -> None:
    schedule = spec.get("schedule") or ""
    if not schedule:
        errors.required("spec.schedule")
        return
    if "TZ" in schedule:
        if "TZ" not in (before.get("schedule") or ""):
            detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            errors.invalid("spec.schedule", schedule, detail)
        return
    try:
        parse_schedule(schedule)
    except CronError as error:
        errors.invalid("spec.schedule", schedule, str(error))


def _check_zone(errors: Errors, zone: str | None) -> None:
    if zone is None:
        return
    here = "spec.timeZone"
    if not zone:
        errors.invalid(here, zone, "timeZone must be nil or non-empty string")
        return
    for part in zone.split("/"):
        if part in (".", "..") or part.startswith("-") or not _ZONE.fullmatch(part):
            errors.invalid(here, zone, f"unknown time zone {zone}")
            return
    if zone.lower() == "local":
        detail = (
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        )
        errors.invalid(here, zone, detail)
        return
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        errors.invalid(here, zone, f"unknown time zone {zone}")
