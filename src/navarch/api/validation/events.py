"""Events, in the core group and in events.k8s.io."""

from __future__ import annotations

from navarch.api import names
from navarch.api.errors import invalid, required
from navarch.api.validation.common import Errors, Object, check, check_immutable

MISMATCH = "does not match event.namespace"
_NOTE_LIMIT = 1024
_NAME_LIMIT = 128


def _check_namespace(errors: Errors, obj: Object, field: str) -> None:
    """An event lies in the namespace of what it is about; cluster-scoped objects' in default."""
    involved = (obj.get(field) or {}).get("namespace") or ""
    own = obj["metadata"].get("namespace") or ""
    if involved:
        if involved != own:
            errors.append(invalid(f"{field}.namespace", involved, MISMATCH))
    elif own not in ("", "default", "kube-system"):
        errors.append(invalid(f"{field}.namespace", involved, MISMATCH))


def validate_event(obj: Object) -> Errors:
    """core/v1: an event with an eventTime follows the new rules, others the lenient old ones."""
    errors: Errors = []
    _check_namespace(errors, obj, "involvedObject")
    if obj.get("eventTime"):
        _check_new_fields(errors, obj, "reportingComponent")
    return errors


def validate_event_update(obj: Object, old: Object) -> Errors:
    return validate_event(obj)


def validate_new_event(obj: Object) -> Errors:
    """events.k8s.io/v1."""
    errors: Errors = []
    _check_namespace(errors, obj, "regarding")
    if not obj.get("eventTime"):
        errors.append(required("eventTime"))
    _check_new_fields(errors, obj, "reportingController")
    if obj.get("type") not in ("Normal", "Warning"):
        errors.append(invalid("type", obj.get("type") or "", "has invalid value"))
    for field in ("deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"):
        if obj.get(field):
            errors.append(invalid(_core_name(field), obj[field], "needs to be unset"))
    source = obj.get("deprecatedSource") or {}
    if source.get("component") or source.get("host"):
        errors.append(invalid("source", source, "needs to be unset"))
    return errors


def _core_name(field: str) -> str:
    name = field.removeprefix("deprecated")
    return name[0].lower() + name[1:]


def _check_new_fields(errors: Errors, obj: Object, controller: str) -> None:
    name = obj.get(controller) or ""
    if not name:
        errors.append(required("reportingController"))
    check(errors, "reportingController", name, names.qualified_name(name))
    for field, value in (
        ("reportingInstance", obj.get("reportingInstance") or ""),
        ("action", obj.get("action") or ""),
        ("reason", obj.get("reason") or ""),
    ):
        if not value:
            errors.append(required(field))
        if len(value) > _NAME_LIMIT:
            errors.append(invalid(field, "", f"can have at most {_NAME_LIMIT} characters"))
    note = obj.get("note") or obj.get("message") or ""
    if len(note) > _NOTE_LIMIT:
        errors.append(invalid("message", "", f"can have at most {_NOTE_LIMIT} characters"))


def validate_new_event_update(obj: Object, old: Object) -> Errors:
    """Only the series of an event may go on."""
    errors: Errors = []
    for field, shown in (
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ):
        check_immutable(errors, shown, obj.get(field), old.get(field))
    series = obj.get("series")
    if series is not None and (series.get("count") or 0) < 2:
        errors.append(invalid("series.count", series.get("count") or 0, "should be at least 2"))
    return errors
