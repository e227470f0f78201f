"""Events, in the core group and in events.k8s.io."""

from __future__ import annotations

from navarch.api.validation.fields import Field

MISMATCH = "does not match event.namespace"
_FIXED = {
    "regarding": "involvedObject",
    "reason": "reason",
    "note": "message",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
    "type": "type",
    "eventTime": "eventTime",
    "action": "action",
    "related": "related",
    "reportingController": "reportingController",
    "reportingInstance": "reportingInstance",
}
"""What an event keeps for ever, and the names that errors know it by: those of the core group."""
_NOTE_LIMIT = 1024
_NAME_LIMIT = 128


def _check_content(obj: Field, field: str, controller: str) -> None:
    """What both groups ask. An event lies in the namespace of what it is about, that of a
    cluster-scoped object in `default`; one with an eventTime says more, and is only asked where it
    lies when it does not say what it is about."""
    involved, own = obj[field].get("namespace") or "", obj["metadata"].get("namespace") or ""
    if obj.get("eventTime"):
        is_misplaced = not involved and own not in ("default", "kube-system")
    else:
        is_misplaced = involved != own if involved else own not in ("", "default")
    if is_misplaced:
        obj.at("involvedObject.namespace", involved).invalid(MISMATCH)
    if obj.get("eventTime"):
        _check_new_fields(obj, controller)


def validate_event(obj: Field) -> None:
    """core/v1: an event with an eventTime follows the new rules, others the lenient old ones."""
    _check_content(obj, "involvedObject", "reportingComponent")


def validate_new_event(obj: Field) -> None:
    """events.k8s.io/v1."""
    _check_content(obj, "regarding", "reportingController")
    _check_series(obj)
    obj["eventTime"].present()
    if obj.get("type") not in ("Normal", "Warning"):
        obj.at("type", "").invalid(f"has invalid value: {obj.get('type') or ''}")
    source = obj["deprecatedSource"]
    for shown, value in (
        ("firstTimestamp", obj.get("deprecatedFirstTimestamp")),
        ("lastTimestamp", obj.get("deprecatedLastTimestamp")),
        ("count", obj.get("deprecatedCount")),
        ("source", source.get("component") or source.get("host")),
    ):
        if value:
            obj.at(shown, "").invalid("needs to be unset")


def _check_series(obj: Field) -> None:
    series = obj["series"]
    if series.is_set:
        if (series.get("count") or 0) < 2:
            series.at("count", "").invalid("should be at least 2")
        series["lastObservedTime"].present()


def _check_new_fields(obj: Field, controller: str) -> None:
    obj[controller].present()
    obj[controller].label_name()
    for field in obj.each("reportingInstance", "action", "reason"):
        field.present()
        if len(field) > _NAME_LIMIT:
            field.showing("").invalid(f"can have at most {_NAME_LIMIT} characters")
    note = obj.get("note") or obj.get("message") or ""
    if len(note) > _NOTE_LIMIT:
        obj.at("message", "").invalid(f"can have at most {_NOTE_LIMIT} characters")


def validate_new_event_update(obj: Field, old: Field) -> None:
    """Only the series of an event may go on."""
    _check_content(obj, "regarding", "reportingController")
    if obj.get("series") != old.get("series"):
        _check_series(obj)
    for field, shown in _FIXED.items():
        obj.at(shown, obj.get(field)).immutable(old.get(field))
