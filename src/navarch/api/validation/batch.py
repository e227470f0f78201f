"""Jobs and CronJobs."""

from __future__ import annotations

import re
import zoneinfo
from typing import Any

from navarch.api.cron import CronError, parse_schedule
from navarch.api.patch.common import copy_json
from navarch.api.validation.common import (
    Object,
    dns1123_label,
    selector_matches,
)
from navarch.api.validation.fields import Errors, Field
from navarch.api.validation.go_values import shown_as
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
_COUNTS = (
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)
_IMMUTABLE = (
    "selector",
    "completionMode",
    "podFailurePolicy",
    "backoffLimitPerIndex",
    "managedBy",
    "successPolicy",
)
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_ZONE = re.compile(r"[A-Za-z\._\-0-9+]{1,14}")
_LEADING_ZONE = re.compile(r"\A(CRON_)?TZ=([^ ]*) *")


def validate_job(obj: Field) -> None:
    spec, name = obj["spec"], obj["metadata"]["name"]
    _check_generated_selector(obj)
    selector, before = spec["selector"], len(obj.errors)
    if not selector.is_set:
        selector.required()
    else:
        selector.label_selector()
        before -= len(obj.errors)
    labels = spec["template"]["metadata"]["labels"]
    # Without a selector nothing is selected.
    matches = selector.is_set and selector_matches(selector.value, labels.value or {})
    if not matches and before >= 0:
        labels.invalid("`selector` does not match template `labels`")
    check_job_spec(spec)
    completions = spec.get("completions")
    if spec.get("completionMode") == "Indexed" and completions:
        hostname = f"{name.value}-{completions - 1}"
        if dns1123_label(hostname):
            name.invalid(f"will not able to create pod with invalid DNS label: {hostname}")


def _check_generated_selector(obj: Field) -> None:
    """The labels of a generated selector are the server's own and cannot be chosen."""
    spec, metadata = obj["spec"], obj["metadata"]
    selector, labels = spec["selector"], spec["template"]["metadata"]["labels"]
    if spec.get("manualSelector") or not selector.is_set:
        return
    metadata["uid"].present()
    expected: dict[str, str] = {}
    for key, field in GENERATED_LABELS:
        value = expected[key] = metadata.get(field) or ""
        label = labels.at(f"[{key}]", labels.value)
        if key not in labels:
            label.required(f"must be '{value}'")
        elif labels.value[key] != value:
            label.invalid(f"must be '{value}'")
    if not selector_matches(selector.value, expected):
        selector.invalid("`selector` not auto-generated")


def check_job_spec(spec: Field) -> None:
    """The spec of a Job, alone or in a CronJob."""
    for field in spec.each(*_COUNTS):
        field.not_negative()
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        spec["backoffLimitPerIndex"].required("when maxFailedIndexes is specified")
    manager = spec["managedBy"]
    if manager.is_set:
        if not manager:
            manager.required()
        elif "/" not in manager:
            manager.invalid('must be a domain-prefixed path (such as "acme.io/foo")')
        else:
            manager.label_name()
        manager.no_longer(63)
    mode = spec["completionMode"]
    mode.optional_choice(("NonIndexed", "Indexed"))
    if mode.value == "Indexed":
        _check_indexed(spec)
    elif mode.value in (None, "NonIndexed"):
        _only_indexed(spec, "backoffLimitPerIndex", "maxFailedIndexes")
    _check_failure_policy(spec)
    if mode.value == "Indexed":
        _check_success_policy(spec)
    else:
        _only_indexed(spec, "successPolicy")
    has_policy = spec.get("podFailurePolicy") is not None
    replacements = ("Failed",) if has_policy else ("Failed", "TerminatingOrFailed")
    spec["podReplacementPolicy"].optional_choice(replacements)
    check_template(spec["template"])
    restart = spec["template"]["spec"]["restartPolicy"]
    if restart.value in (None, "", "Always"):
        restart.required('valid values: "OnFailure", "Never"')
    else:
        restart.optional_choice(("OnFailure", "Never"))
        if has_policy and restart.value == "OnFailure":
            restart.invalid('only "Never" is supported when podFailurePolicy is specified')


def _only_indexed(spec: Field, *fields: str) -> None:
    for field in spec.each(*fields):
        if field.is_set:
            policy = field.step == "successPolicy"
            shown = shown_as(field, "batch_v1.SuccessPolicy") if policy else field
            shown.invalid("requires indexed completion mode")


def _check_indexed(spec: Field) -> None:
    completions, parallelism = spec["completions"], spec.number("parallelism")
    failed = spec["maxFailedIndexes"]
    completions.must_be_set("when completion mode is Indexed")
    if parallelism.value > MAX_PARALLELISM:
        detail = f"must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed"
        parallelism.invalid(detail)
    if failed.is_set and completions.is_set and failed.value > completions.value:
        failed.invalid("must be less than or equal to completions")
    if failed.is_set and failed.value > MAX_FAILED_INDEXES:
        failed.invalid(f"must be less than or equal to {MAX_FAILED_INDEXES}")
    is_per_index = spec.get("backoffLimitPerIndex") is not None
    if (completions.value or 0) > MANY_COMPLETIONS and is_per_index:
        detail = (
            f"must be less than or equal to {MAX_OF_MANY} when completions are above "
            f"{MANY_COMPLETIONS} and used with backoff limit per index"
        )
        if not failed.is_set:
            failed.required(f"must be specified when completions is above {MANY_COMPLETIONS}")
        elif failed.value > MAX_OF_MANY:
            failed.invalid(detail)
        if parallelism.value > MAX_OF_MANY:
            parallelism.invalid(detail)


def _check_failure_policy(spec: Field) -> None:
    rules, pod = spec["podFailurePolicy"]["rules"], spec["template"]["spec"]
    rules.at_most(20)
    containers = {
        each.get("name")
        for field in ("containers", "initContainers")
        for each in pod.get(field) or ()
    }
    for rule in rules:
        action = rule["action"]
        if not action:
            listed = " ".join(f'"{each}"' for each in _ACTIONS)
            action.required(f"valid values: [{listed}]")
        elif action.value == "FailIndex":
            if spec.get("backoffLimitPerIndex") is None:
                action.invalid("requires the backoffLimitPerIndex to be set")
        else:
            action.optional_choice(_ACTIONS)
        codes, conditions = rule["onExitCodes"], rule["onPodConditions"]
        if codes.is_set:
            _check_exit_codes(codes, containers)
        conditions.at_most(20)
        for pattern in conditions:
            pattern["type"].label_name()
            pattern["status"].choice(("False", "True", "Unknown"))
        if codes.is_set and conditions:
            detail = "specifying both OnExitCodes and OnPodConditions is not supported"
            rule.invalid_state(detail)
        if not codes.is_set and not conditions:
            rule.invalid_state("specifying one of OnExitCodes and OnPodConditions is required")


def _check_exit_codes(codes: Field, containers: set[Any]) -> None:
    operator, name = codes["operator"], codes["containerName"]
    values = codes["values"]
    if not operator:
        operator.required('valid values: ["In" "NotIn"]')
    else:
        operator.optional_choice(("In", "NotIn"))
    if name.is_set and name.value not in containers:
        name.invalid("must be one of the container or initContainer names in the pod template")
    if not values:
        values.showing(None).invalid("at least one value is required")
    values.at_most(255)
    seen: set[int] = set()
    for value in values:
        if operator.value == "In" and value.value == 0:
            value.invalid("must not be 0 for the In operator")
        value.once(seen)
    if values and values.value != sorted(values.value):
        values.invalid("must be ordered")


def _check_success_policy(spec: Field) -> None:
    policy, completions = spec["successPolicy"], spec.get("completions") or 0
    if not policy.is_set:
        return
    rules = policy["rules"]
    rules.present("at least one rules must be specified when the successPolicy is specified")
    rules.at_most(20)
    for rule in rules:
        indexes, count = rule["succeededIndexes"], rule["succeededCount"]
        if not indexes.is_set and not count.is_set:
            rule.required("at least one of succeededCount or succeededIndexes must be specified")
        total = 0
        if indexes.is_set:
            indexes.no_longer(64 * 1024)
            try:
                found = intervals(indexes.value, completions)
            except ValueError as error:
                indexes.invalid(f"error parsing succeededIndexes: {error}")
                found = []
            total = sum(last - first + 1 for first, last in found)
        if not count.is_set:
            continue
        count.not_negative()
        if count.value > completions:
            what = "the number of specified completions"
            count.invalid(f"must be less than or equal to {completions} ({what})")
        if indexes.is_set and count.value > total:
            what = "the number of indexes in the specified succeededIndexes field"
            count.invalid(f"must be less than or equal to {total} ({what})")


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


def validate_job_update(obj: Field, old: Field) -> None:
    validate_job(obj)
    spec, before = obj["spec"], old["spec"]
    spec.keeps(before, *_IMMUTABLE)
    completions = spec["completions"]
    if completions.value != before.get("completions"):
        # Only an indexed Job can be made larger or smaller, and only as a whole.
        if spec.get("completionMode") != "Indexed" or not completions.is_set:
            completions.invalid("field is immutable")
        elif completions.value != spec.get("parallelism"):
            completions.invalid("can only be modified in tandem with spec.parallelism")
    _check_job_template_update(spec["template"], old)


def _check_job_template_update(field: Field, old: Field) -> None:
    """The template of a suspended Job whose pods are gone may still be scheduled differently, and
    ask for other resources."""
    status, known = old["status"], old["spec"]["template"]
    template = copy_json(field.value)
    is_at_rest = not status.get("startTime") or _is_true(status, "Suspended")
    if old["spec"].get("suspend") and is_at_rest and not status.get("active"):
        before = known["spec"]
        spec = template.setdefault("spec", {})
        _take(spec, before, "nodeSelector", "tolerations", "schedulingGates")
        _take(template.setdefault("metadata", {}), known["metadata"], "labels", "annotations")
        if not template["metadata"] and "metadata" not in known:
            del template["metadata"]
        affinity = spec.setdefault("affinity", {})
        _take(affinity, before["affinity"], "nodeAffinity")
        if not affinity and not before.get("affinity"):
            _take(spec, before, "affinity")
        for kind in ("containers", "initContainers"):
            sources = {each.get("name"): each for each in before[kind]}
            for container in spec.get(kind) or []:
                if container.get("name") in sources:
                    _take(container, sources[container["name"]], "resources")
    if template != known.value:
        field.invalid("field is immutable")


def _take(target: Object, source: Field, *fields: str) -> None:
    """Make fields what they are in the source, which may lack them."""
    for field in fields:
        if field in source:
            target[field] = source.get(field)
        else:
            target.pop(field, None)


def _has(status: Field, kind: str, value: str) -> bool:
    return any(
        each.get("type") == kind and each.get("status") == value
        for each in status.get("conditions") or ()
    )


def _is_true(status: Field, kind: str) -> bool:
    return _has(status, kind, "True")


def validate_job_status_update(obj: Field, old: Field) -> None:
    """What was wrong before is not held against a change of something else: the controller mends
    it, which may take more than one step."""
    spec, status, before = obj["spec"], obj["status"], old["status"]
    known, found = (_status_errors(spec, each.value) for each in (before, status))
    obj.errors += [each for each in found if each not in known]
    for kind in ("Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"):
        if _is_true(before, kind) and not _is_true(status, kind):
            terminal = "" if kind == "SuccessCriteriaMet" else "terminal "
            detail = f"cannot disable the {terminal}{kind}=True condition"
            status["conditions"].invalid_state(detail)
    is_elastic = spec.get("completionMode") == "Indexed" and (
        spec.get("completions") == spec.get("parallelism")
    )
    for field in ("failed", "succeeded"):
        if field == "succeeded" and is_elastic:
            continue  # a Job that is made smaller may lose indexes that had succeeded
        count = status.number(field)
        if count.value < (before.get(field) or 0):
            count.invalid(f"cannot decrease the {field} counter")
    if before.get("completionTime") and status.get("completionTime"):
        status.keeps(before, "completionTime")
    started, since = status["startTime"], before.get("startTime")
    is_resuming = _is_true(before, "Suspended") and _has(status, "Suspended", "False")
    if since and started.value != since and not spec.get("suspend") and not is_resuming:
        started.invalid("field is immutable for unsuspended job once set")


def _status_errors(spec: Field, value: Object) -> Errors:
    """What is wrong with a status by itself."""
    status = Field(value, step="status")
    for field in status.each("active", "succeeded", "failed", "ready", "terminating"):
        field.not_negative()
    seen: set[str] = set()
    for uids in status["uncountedTerminatedPods"].each("succeeded", "failed"):
        for uid in uids:
            if uid:
                uid.once(seen)
            else:
                uid.invalid("must not be empty")
    _check_job_conditions(spec, status)
    _check_job_indexes(spec, status)
    ready = status["ready"]
    if ready.is_set and ready.value > (status.get("active") or 0):
        ready.invalid("cannot set more ready pods than active")
    return status.errors


def _check_job_conditions(spec: Field, status: Field) -> None:
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
            status["conditions"].invalid_state(f"cannot set {what}")
    started, ended = status["startTime"], status["completionTime"]
    if ended and not complete:
        ended.invalid("cannot set completionTime when there is no Complete=True condition")
    if complete and not ended:
        ended.required("completionTime is required for Complete jobs")
    if ended and started and ended.value < started.value:
        ended.invalid("must be equal to or after `startTime`")
    if not complete and not failed:
        return
    for field in ("active", "terminating"):
        if status.get(field):
            status[field].invalid(f"{field}>0 is invalid for finished job")
    never_began = spec.get("suspend") and spec.get("completions") == 0
    if not started and not never_began:
        started.required("startTime is required for finished job")
    uncounted = status["uncountedTerminatedPods"]
    if uncounted.get("failed") or uncounted.get("succeeded"):
        uncounted.invalid("must be empty for finished job")


def _check_job_indexes(spec: Field, status: Field) -> None:
    completions, ranges = spec.get("completions"), {}
    completed, failed = status["completedIndexes"], status["failedIndexes"]
    for field in ("completedIndexes", "failedIndexes"):
        text = status[field]
        if text and completions is not None:
            try:
                ranges[field] = intervals(text.value, completions)
            except ValueError as error:
                text.invalid(f"error parsing {field}: {error}")
    if completed and spec.get("completionMode") != "Indexed":
        completed.invalid("cannot set non-empty completedIndexes when non-indexed completion mode")
    if failed.is_set and spec.get("backoffLimitPerIndex") is None:
        failed.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null")
    for first, last in ranges.get("failedIndexes", ()):
        for low, high in ranges.get("completedIndexes", ()):
            if first <= high and low <= last:
                at = max(first, low)
                failed.invalid(f"failedIndexes and completedIndexes overlap at index: {at}")
                return


def validate_cron_job(obj: Field) -> None:
    name = obj["metadata"].text("name")
    if len(name) > 52:
        name.invalid("must be no more than 52 characters")
    validate_cron_job_update(obj, Field(None))


def validate_cron_job_update(obj: Field, old: Field) -> None:
    spec, before = obj["spec"], old["spec"]
    _check_schedule(spec["schedule"], before.get("schedule") or "")
    spec["startingDeadlineSeconds"].not_negative()
    if spec.get("timeZone") != before.get("timeZone"):
        _check_zone(spec["timeZone"])
    spec["concurrencyPolicy"].choice(("Allow", "Forbid", "Replace"))
    for field in spec.each("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        field.not_negative()
    job = spec["jobTemplate"]["spec"]
    check_job_spec(job)
    if job["selector"].is_set:
        job["selector"].invalid("`selector` will be auto-generated")
    if job.get("manualSelector"):
        job["manualSelector"].not_supported(("nil", "false"))


def _check_schedule(schedule: Field, before: str) -> None:
    schedule.present()
    if not schedule:
        return
    try:
        zone = _LEADING_ZONE.match(schedule.value)
        if zone is not None and not _is_zone(zone[2]):
            raise CronError(f"provided bad location {zone[2]}: unknown time zone {zone[2]}")
        parse_schedule(_LEADING_ZONE.sub("", schedule.value))
    except CronError as error:
        schedule.invalid(str(error))
    if "TZ" in schedule and "TZ" not in before:
        schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")


def _check_zone(zone: Field) -> None:
    if not zone.is_set:
        return
    if not zone:
        zone.invalid("timeZone must be nil or non-empty string")
        return
    for part in zone.value.split("/"):
        if part in (".", "..") or part.startswith("-") or not _ZONE.fullmatch(part):
            zone.invalid(f"unknown time zone {zone.value}")
            return
    if zone.value.lower() == "local":
        zone.invalid(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        )
        return
    if not _is_zone(zone.value):
        zone.invalid(f"unknown time zone {zone.value}")


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return name in ("", "Local")
    return True
