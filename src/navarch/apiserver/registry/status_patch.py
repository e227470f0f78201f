"""What makes patches of a status cheap: they are most of what a busy cluster writes.

Of an object only metadata and status can change by them. The rest, which is most of it, is shared
between the old state and the new one instead of being decoded, walked through and compared again.
"""

from __future__ import annotations

from typing import Any

from navarch.api.patch.common import copy_json
from navarch.apiserver.registry.resource import Resource

Object = dict[str, Any]


def beside(old: Object) -> Object:
    """What a patch of the status is applied to: a copy of the parts that it may change, beside the
    others of the old state. Patches change nothing in place, and `prepare_update` puts back what
    they replace. Managed fields are made anew by every write and never changed, so they, too, are
    shared."""
    metadata, status = dict(old["metadata"]), old.get("status")
    fields = metadata.pop("managedFields", None)
    metadata = copy_json(metadata)
    if fields is not None:
        metadata["managedFields"] = fields
    beside = {**old, "metadata": metadata}
    if status is not None:
        beside["status"] = copy_json(status)
    return beside


def default_unshared(resource: Resource, obj: Object, old: Object) -> None:
    """Fill in defaults where an object differs from the old state."""
    parts = {key: value for key, value in obj.items() if value is not old.get(key)}
    resource.shape.default(parts)
    obj |= parts
