"""Events, in the core group and in events.k8s.io."""

from __future__ import annotations

from navarch.api import names
from navarch.api.validation.common import Errors, Object

MISMATCH = "does not match event.namespace"
_NOTE_LIMIT = 1024
_NAME_LIMIT = 128


def _check_content(errors: Errors, obj: Object, field: str, controller: str) -> None:
    """What both groups ask. An event lies in the namespace of what it is about, that of a
    cluster-scoped object in `default`; one with an eventTime says more, and is only asked where it
    lies when it does not say what it is about."""
    involved = (obj.get(field) or {}).get("namespace") or ""
    own = obj["metadata"].get("namespace") or ""
    if obj.get("eventTime"):
        is_misplaced = not involved and own not in ("default", "kube-system")
    else:
        is_misplaced = involved != own if involved else own not in ("", "default")
    if is_misplaced:
        errors.invalid("involvedObject.namespace", involved, MISMATCH)
    if obj.get("eventTime"):
        _check_new_fields(errors, obj, controller)


def validate_event(errors: Errors, obj: Object) -> None:
    """core/v1: an event with an eventTime follows the new rules, others the lenient old ones."""
    _check_content(errors, obj, "involvedObject", "reportingComponent")


def validate_event_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_event(errors, obj)


def validate_new_event(errors: Errors, obj: Object) -> None:
    """events.k8s.io/v1."""
    _check_content(errors, obj, "regarding", "reportingController")
    _check_series(errors, obj)
    errors.present("eventTime", obj.get("eventTime"))
    if obj.get("type") not in ("Normal", "Warning"):
        errors.invalid("type", "", f"has invalid value: {obj.get('type') or ''}")
    for field in ("deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"):
        if obj.get(field):
            errors.invalid(_core_name(field), "", "needs to be unset")
    source = obj.get("deprecatedSource") or {}
    if source.get("component") or source.get("host"):
        errors.invalid("source", "", "needs to be unset")


def _check_series(errors: Errors, obj: Object) -> None:
    series = obj.get("series")
    if series is not None:
        if (series.get("count") or 0) < 2:
            errors.invalid("series.count", "", "should be at least 2")
        errors.present("series.lastObservedTime", series.get("lastObservedTime"))


def _core_name(field: str) -> str:
    name = field.removeprefix("deprecated")
    return name[0].lower() + name[1:]


def _check_new_fields(errors: Errors, obj: Object, controller: str) -> None:
    name = obj.get(controller) or ""
    errors.present(controller, name)
    errors.check(controller, name, names.qualified_name)
    for field, value in (
        ("reportingInstance", obj.get("reportingInstance") or ""),
        ("action", obj.get("action") or ""),
        ("reason", obj.get("reason") or ""),
    ):
        errors.present(field, value)
        if len(value) > _NAME_LIMIT:
            errors.invalid(field, "", f"can have at most {_NAME_LIMIT} characters")
    note = obj.get("note") or obj.get("message") or ""
    if len(note) > _NOTE_LIMIT:
        errors.invalid("message", "", f"can have at most {_NOTE_LIMIT} characters")


def validate_new_event_update(errors: Errors, obj: Object, old: Object) -> None:
    """Only the series of an event may go on."""
    _check_content(errors, obj, "regarding", "reportingController")
    if obj.get("series") != old.get("series"):
        _check_series(errors, obj)
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
        errors.immutable(shown, obj.get(field), old.get(field))
