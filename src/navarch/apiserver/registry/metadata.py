"""ObjectMeta on its way through a write: what the server sets and what a client cannot change.

Pure. The same for every kind, built in or custom (upstream's `registry/rest`). What is valid
metadata is said in `api.validation.meta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]
_SERVER_FIELDS = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "generation",
)


def clear_server_fields(metadata: Object) -> None:
    """Drop what a client may not choose for a new object."""
    for field in _SERVER_FIELDS:
        metadata.pop(field, None)


def carry_over(metadata: Object, old: Mapping[str, Any]) -> None:
    """Before an update: fill what the client left out, keep what it cannot unset."""
    if not metadata.get("uid") and "uid" in old:
        metadata["uid"] = old["uid"]
    if old.get("creationTimestamp"):
        metadata["creationTimestamp"] = old["creationTimestamp"]
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"):
        if field in old:
            if field != "generateName" or not metadata.get(field):
                metadata[field] = old[field]
        elif field != "generateName":
            metadata.pop(field, None)
    metadata.pop("selfLink", None)


def dedup_owner_references(metadata: Object) -> list[str]:
    """Drop doubled owner references; returns the warnings to give."""
    references = metadata.get("ownerReferences")
    if not references or len(references) < 2:
        return []
    seen: list[Any] = []
    uids: set[Any] = set()
    doubled: set[Any] = set()
    for reference in references:
        uid = reference.get("uid")
        if reference in seen:
            doubled.add(uid)
            continue
        if uid in uids:
            doubled.add(uid)
        uids.add(uid)
        seen.append(reference)
    metadata["ownerReferences"] = seen
    if not doubled:
        return []
    return [
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references "
        f"in 1.20+, and may reject such requests as early as 1.24; please fix your requests; "
        f"duplicate UID(s) observed: {', '.join(sorted(map(str, doubled)))}"
    ]
