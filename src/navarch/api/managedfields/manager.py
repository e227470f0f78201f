"""Who manages which fields of an object, write by write (`metadata.managedFields`).

An update takes over the fields it changes from whoever had them. An apply claims all fields of its
configuration: it conflicts where another manager has one of them with another value (unless
forced), shares those with the same value, and removes the fields that this manager applied before,
applies no more, and nobody else owns.

Entries of other API versions of the kind are compared by path, as they stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from navarch.api.errors import ApiError, bad_request
from navarch.api.managedfields.applied import check_applied
from navarch.api.managedfields.compare import Comparison, compare
from navarch.api.managedfields.fieldtypes import FieldType, KeyMissing
from navarch.api.managedfields.merge import merge, remove, with_named_fields
from navarch.api.managedfields.sets import (
    LEAF,
    Node,
    difference,
    intersection,
    is_valid,
    paths,
    recursive_difference,
    union,
)
from navarch.api.patch.common import copy_json, too_deep

Object = dict[str, Any]

MAX_UPDATE_MANAGERS = 10
ANCIENT = "ancient-changes"
BEFORE_FIRST_APPLY = "before-first-apply"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

encode_json = msgspec.json.Encoder().encode

UNOWNED_FIELDS = frozenset({"apiVersion", "kind"})
UNOWNED_METADATA = frozenset(
    {
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    }
)
UNOWNED: Node = {
    **{f"f:{name}": LEAF for name in sorted(UNOWNED_FIELDS)},
    "f:metadata": {".": LEAF, **{f"f:{name}": LEAF for name in sorted(UNOWNED_METADATA)}},
}
"""Fields that identify an object or are the server's own: nobody manages them."""


class Writer(msgspec.Struct, frozen=True):
    """Who writes, through which version and subresource, and when. `ignored` are top-level fields
    that this write cannot change (`status` through the main resource): they are never claimed."""

    manager: str
    api_version: str
    time: str
    subresource: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def ignored_set(self) -> Node:
        return {f"f:{name}": LEAF for name in self.ignored}


class Entry(msgspec.Struct, frozen=True):
    """One manager's fields."""

    manager: str
    operation: str
    api_version: str
    fields: Node
    time: str = ""
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        """Appliers are one manager in all versions, updaters one in each."""
        version = "" if self.operation == "Apply" else self.api_version
        return self.operation, self.manager, version, self.subresource

    @property
    def is_applied(self) -> bool:
        return self.operation == "Apply"

    @property
    def title(self) -> str:
        """As conflict messages name it."""
        name = json.dumps(self.manager, ensure_ascii=False)
        if self.subresource:
            name += f" with subresource {json.dumps(self.subresource)}"
        return name if self.is_applied else f"{name} using {self.api_version}"

    def encode(self) -> Object:
        result: Object = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
        }
        if self.time:
            result["time"] = self.time
        result["fieldsType"] = "FieldsV1"
        result["fieldsV1"] = self.fields
        if self.subresource:
            result["subresource"] = self.subresource
        return result


Managers = dict[tuple[str, ...], Entry]


def _decode(entries: Any, trusted: bool = False) -> Managers | None:
    """The managers in a `managedFields` list; None if it is malformed. What was stored is trusted
    to be well formed."""
    result: Managers = {}
    for each in entries or ():
        fields = each.get("fieldsV1") or {}
        if (
            each.get("operation") not in ("Apply", "Update")
            or not each.get("apiVersion")
            or each.get("fieldsType") != "FieldsV1"
            or not (trusted or is_valid(fields))
        ):
            return None
        entry = Entry(
            each.get("manager") or "",
            each["operation"],
            each["apiVersion"],
            fields,
            each.get("time") or "",
            each.get("subresource") or "",
        )
        result[entry.identity] = entry
    return result


def is_readable(entries: Any) -> bool:
    """Whether a `managedFields` list is well formed."""
    return _decode(entries) is not None


def _encode(obj: Object, managers: Managers) -> None:
    if not managers:
        obj["metadata"].pop("managedFields", None)
        return
    ordered = sorted(
        managers.values(),
        key=lambda each: (
            each.operation,
            each.time,
            each.manager,
            each.api_version,
            each.subresource,
        ),
    )
    obj["metadata"]["managedFields"] = [each.encode() for each in ordered]


def track_create(obj: Object, kind: FieldType, writer: Writer, empty: Object | None = None) -> None:
    """Book the fields of a new object. `empty` is the kind's object with nothing set: what it has
    already is not the writer's doing."""
    metadata = obj["metadata"]
    metadata.pop("managedFields", None)
    empty = empty or {"metadata": {}}
    claimed = {name: value for name, value in obj.items() if name not in UNOWNED_FIELDS}
    claimed["metadata"] = {
        name: value for name, value in metadata.items() if name not in UNOWNED_METADATA
    }
    spec = claimed.pop("spec", None)
    known = {name: value for name, value in empty.items() if name != "spec"}
    if spec is None:
        fields = compare(known, claimed, kind).without(writer.ignored_set).written
    else:
        fields = _written(kind, known, claimed, writer.ignored)
        if "spec" not in writer.ignored:
            before = {"spec": empty["spec"]} if empty.get("spec") is not None else {}
            fields = union(fields, _written(kind, before, {"spec": spec}))
    if fields:
        entry = _entry(writer, "Update", fields)
        _encode(obj, {entry.identity: entry})


_sets: dict[tuple[FieldType, tuple[str, ...], bytes], Node] = {}
MAX_SETS = 512
MAX_SET_BYTES = 16 * 1024


def _written(kind: FieldType, before: Any, part: Any, ignored: tuple[str, ...] = ()) -> Node:
    """The fields that part of a new object sets; never to be changed. A workload makes many objects
    that have their spec and their labels in common, so the last sets are kept: to encode a part
    costs a tenth of walking through it."""
    key = (kind, ignored, encode_json((before, part)))
    fields = _sets.pop(key, None)
    if fields is None:
        fields = compare(before, part, kind).written
        if ignored:
            fields = recursive_difference(fields, {f"f:{name}": LEAF for name in ignored})
        if len(_sets) >= MAX_SETS:
            del _sets[next(iter(_sets))]
    if len(key[2]) <= MAX_SET_BYTES:
        _sets[key] = fields
    return fields


def _entry(writer: Writer, operation: str, fields: Node) -> Entry:
    return Entry(
        writer.manager or "unknown",
        operation,
        writer.api_version,
        fields,
        writer.time,
        writer.subresource,
    )


def track_update(obj: Object, live: Object, kind: FieldType, writer: Writer) -> None:
    """Book what an update changes. A client may reset the tracking (`managedFields: [{}]` or `[]`);
    an object that is not tracked stays so until somebody applies to it."""
    before = live["metadata"].get("managedFields")
    managers = _managers_of(obj, before, writer.subresource)
    obj["metadata"].pop("managedFields", None)
    if managers:
        managers = _updated(managers, live, obj, kind, writer)
        _cap(managers)
    _encode(obj, managers)
    _keep_times(obj, live, before)


def _managers_of(obj: Object, before: Any, subresource: str) -> Managers:
    """What the client sent, if that is sound and it may; else what there is."""
    given = obj["metadata"].get("managedFields")
    if not subresource and given is not None and given != before:
        if given in ([], [{}]):
            return {}
        sent = _decode(given)
        if sent:
            return sent
    return _decode(before, trusted=True) or {}


def _updated(
    managers: Managers, live: Object, obj: Object, kind: FieldType, writer: Writer
) -> Managers:
    changes = _compare_objects(live, obj, kind).without(writer.ignored_set)
    result = _yield_fields(managers, changes, changes.written)
    fields = difference(changes.written, UNOWNED)
    if fields:
        entry = _entry(writer, "Update", fields)
        known = result.get(entry.identity)
        if known is not None:
            entry = replace(entry, fields=union(known.fields, fields))
        result[entry.identity] = entry
    return result


def _compare_objects(old: Object, new: Object, kind: FieldType) -> Comparison:
    """Without the fields nobody manages; `managedFields` alone would cost most of the time."""
    first, second = (
        {
            **each,
            "metadata": {
                key: value for key, value in each["metadata"].items() if key != "managedFields"
            },
        }
        for each in (old, new)
    )
    return compare(first, second, kind)


def _yield_fields(managers: Managers, changes: Comparison, taken: Node) -> Managers:
    """The managers without the fields that are gone or that somebody else took."""
    lost = union(changes.removed, taken)
    result: Managers = {}
    for identity, entry in managers.items():
        fields = difference(entry.fields, lost) if lost else entry.fields
        if fields:
            result[identity] = entry if fields is entry.fields else replace(entry, fields=fields)
    return result


def _cap(managers: Managers) -> None:
    """Merge the oldest updaters of each version into one, when there are too many."""
    if len(managers) <= MAX_UPDATE_MANAGERS:
        return
    updaters = sorted(
        (entry for entry in managers.values() if not entry.is_applied),
        key=lambda each: (each.time, json.dumps(each.identity)),
    )
    excess = len(updaters) - MAX_UPDATE_MANAGERS
    first: dict[str, Entry] = {}
    for entry in updaters:
        if excess <= 0:
            return
        version = entry.api_version
        bucket = Entry(ANCIENT, "Update", version, {}, entry.time)
        if version not in first:
            first[version] = entry
            continue
        known = managers.get(bucket.identity)
        if known is None:
            known = managers.pop(first[version].identity)
        managers.pop(entry.identity, None)
        fields = union(entry.fields, known.fields)
        managers[bucket.identity] = replace(bucket, fields=fields)
        excess -= 1


def _keep_times(obj: Object, live: Object, before: Any) -> None:
    """A write that changes nothing but times is none: keep the times that were."""
    after = obj["metadata"].get("managedFields")
    if not before or not after or len(before) != len(after):
        return
    for new, old in zip(after, before, strict=True):
        if any(new.get(key) != old.get(key) for key in {*new, *old} if key != "time"):
            return
    if _same_but_managed_fields(obj, live):
        obj["metadata"]["managedFields"] = before


def _same_but_managed_fields(obj: Object, live: Object) -> bool:
    if obj.keys() != live.keys():
        return False
    if any(obj[key] != live[key] for key in obj if key != "metadata"):
        return False
    first, second = obj["metadata"], live["metadata"]
    return all(
        first.get(key) == second.get(key) for key in {*first, *second} if key != "managedFields"
    )


@dataclass(slots=True)
class _Apply:
    """One apply under way."""

    live: Object
    applied: Object
    kind: FieldType
    writer: Writer
    managers: Managers
    conflicts: list[tuple[Entry, str]] = field(default_factory=list)


def apply(
    live: Object, applied: Object, kind: FieldType, writer: Writer, force: bool = False
) -> Object:
    """The object after `applied` was applied to `live`, with its new managedFields. For a new
    object `live` is the kind's empty one. Raises 409 with one cause per conflict, 400 for a
    configuration that does not fit the schema."""
    try:
        return _apply(live, applied, kind, writer, force)
    except RecursionError:
        raise too_deep() from None


def _apply(live: Object, applied: Object, kind: FieldType, writer: Writer, force: bool) -> Object:
    if "managedFields" in (applied.get("metadata") or {}):
        raise bad_request("metadata.managedFields must be nil")
    check_applied(applied, kind, writer.api_version)
    managers = _decode(live["metadata"].get("managedFields"), trusted=True) or {}
    if not managers:
        managers = _before_first_apply(live, kind, writer)
    work = _Apply(live, applied, kind, writer, managers)
    result, after = _merged(work)
    if work.conflicts and not force:
        work.conflicts = _without_last_applied(work)
        if work.conflicts:
            raise _conflict_error(work.conflicts)
    return _finished(work, result, after)


def _before_first_apply(live: Object, kind: FieldType, writer: Writer) -> Managers:
    """An object nobody tracked: all it has belongs to one manager that stands for the past."""
    if not live["metadata"].get("uid"):
        return {}
    past = replace(writer, manager=BEFORE_FIRST_APPLY, subresource="")
    everything = compare({"metadata": {}}, live, kind).without(writer.ignored_set).written
    fields = difference(everything, UNOWNED)
    entry = _entry(past, "Update", fields)
    return {entry.identity: entry} if fields else {}


def _merged(work: _Apply) -> tuple[Object, Managers]:
    """The new object and its managers; conflicts are noted in `work`."""
    writer, kind = work.writer, work.kind
    claimed = kind.applied(work.applied) or {}
    claimed = recursive_difference(claimed, writer.ignored_set)
    mine = _entry(writer, "Apply", claimed)
    last = work.managers.get(mine.identity)
    others = {key: each for key, each in work.managers.items() if key != mine.identity}
    merged = merge(work.live, work.applied, kind)
    if last is not None and difference(last.fields, claimed):
        owned: Node = claimed
        for entry in others.values():
            owned = union(owned, entry.fields)
        merged = _pruned(merged, last.fields, owned, kind)
    changes = _compare_objects(work.live, merged, kind).without(writer.ignored_set)
    written = changes.written
    for entry in sorted(others.values(), key=lambda each: each.identity):
        clash = intersection(entry.fields, written)
        work.conflicts += [(entry, path) for path in paths(clash)]
    after = _yield_fields(others, changes, written)
    fields = difference(claimed, UNOWNED)
    if fields:
        unchanged = last is not None and last.fields == fields
        if unchanged and last is not None and _same_but_managed_fields(merged, work.live):
            mine = replace(mine, time=last.time)
        after[mine.identity] = replace(mine, fields=fields)
    return merged, after


def _pruned(merged: Object, last: Node, owned: Node, kind: FieldType) -> Object:
    """Remove what this manager applied before and nobody owns now. An item whose parent goes is
    kept back when somebody else owns something in it."""
    before = with_named_fields(last, kind)
    present = with_named_fields(kind.applied(merged) or {}, kind)
    rest = remove(merged, before, kind)
    kept = union(with_named_fields(kind.applied(rest) or {}, kind), with_named_fields(owned, kind))
    owned_only = remove(merged, difference(present, kept), kind)
    remaining = with_named_fields(kind.applied(owned_only) or {}, kind)
    gone = intersection(difference(present, remaining), before)
    return remove(merged, gone, kind)  # type: ignore[no-any-return]


def _finished(work: _Apply, result: Object, after: Managers) -> Object:
    result = {**result, "metadata": dict(result["metadata"])}
    annotations = result["metadata"].get("annotations") or {}
    if work.writer.manager == "kubectl" and annotations.get(LAST_APPLIED):
        # kubectl still compares with its annotation when somebody applies without --server-side.
        annotations = {**annotations, LAST_APPLIED: _last_applied(work.applied)}
        result["metadata"]["annotations"] = annotations
    before = work.live["metadata"].get("managedFields")
    _encode(result, after)
    _keep_times(result, work.live, before)
    return result


def _last_applied(applied: Object) -> str:
    shown = copy_json(applied)
    ((shown.get("metadata") or {}).get("annotations") or {}).pop(LAST_APPLIED, None)
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n"


def _without_last_applied(work: _Apply) -> list[tuple[Entry, str]]:
    """kubectl takes over what it applied in the old way and nobody changed since."""
    text = (work.live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if work.writer.manager != "kubectl" or not text:
        return work.conflicts
    try:
        last = json.loads(text)
    except (ValueError, RecursionError):
        return work.conflicts
    if not isinstance(last, dict) or last.get("apiVersion") != work.writer.api_version:
        return work.conflicts
    try:
        changes = compare(last, work.live, work.kind)
        fields = work.kind.applied(last) or {}
    except KeyMissing:
        return work.conflicts
    for each in (changes.modified, changes.added, changes.removed):
        fields = difference(fields, each)
    allowed = set(paths(fields))
    return [(entry, path) for entry, path in work.conflicts if path not in allowed]


def _conflict_error(conflicts: Iterable[tuple[Entry, str]]) -> ApiError:
    found = list(conflicts)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {entry.title}", "field": path}
        for entry, path in found
    ]
    if len(found) == 1:
        entry, path = found[0]
        message = f"Apply failed with 1 conflict: conflict with {entry.title}: {path}"
    else:
        lines: list[str] = []
        titles = dict.fromkeys(entry.title for entry, _ in found)
        for title in titles:
            lines.append(f"conflicts with {title}:")
            lines += [f"- {path}" for entry, path in found if entry.title == title]
        message = f"Apply failed with {len(found)} conflicts: " + "\n".join(lines)
    return ApiError(409, "Conflict", message, {"causes": causes})
