"""Server-side apply and the tracking of who set which field (KEP-555).

kind = field_type(schema_for("apps", "v1", "Deployment"))   # or custom_field_type(schema)
track_create(obj, kind, writer, empty)                      # every create
track_update(obj, live, kind, writer)                       # every update and patch
obj = apply(live, applied, kind, writer, force)             # PATCH application/apply-patch+yaml
"""

from navarch.api.managedfields.customtypes import custom_field_type
from navarch.api.managedfields.fieldtypes import FieldType, field_type
from navarch.api.managedfields.manager import Writer, apply, is_readable, track_create, track_update

__all__ = [
    "FieldType",
    "Writer",
    "apply",
    "custom_field_type",
    "field_type",
    "is_readable",
    "track_create",
    "track_update",
]
