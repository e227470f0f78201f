"""What a kind does beyond its schema: the strategy (upstream's `registry/rest` strategies).

Pure: no I/O, no clock of its own. The generic write path calls, in this order: `defaults`,
`prepare_create` or `prepare_update`, (mutating admission, `defaults` again), `validate` or
`validate_update`, (validating admission). A kind without a class of its own uses `Strategy`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from navarch.api import names
from navarch.api.errors import FieldError

Object = dict[str, Any]


class Strategy:
    """The rules of a plain kind; subclasses override what differs."""

    allow_create_on_update = False
    """PUT on a missing object creates it (Lease, Service, ...)."""

    allow_unconditional_update = True
    """PUT without resourceVersion is taken as the newest version."""

    status_is_subresource = True
    """Writes to the main resource keep the old status; writes to /status keep all but status and
    metadata. Ignored for kinds that serve no status subresource."""

    default_grace_period_seconds = 0
    """A deletion with grace (pods: 30); 0 removes at once."""

    def defaults(self, obj: Object) -> None:
        """Fill in defaults that depend on other fields (constant ones are in the schema)."""

    def prepare_create(self, obj: Object) -> None:
        """Clear or set the fields the server owns in a new object (status, generation). Its name
        and uid are set by then."""

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        """Carry over what this update may not touch. `subresource` is "" or e.g. "status"."""

    def validate(self, obj: Object) -> list[FieldError]:
        """Complaints about a new object, beyond what the schema says. Metadata is checked by the
        generic path."""
        return []

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        """Complaints about a change (immutable fields and the like); calls `validate` itself where
        the whole object has to be valid again."""
        return self.validate(obj) if not subresource else []

    def validate_name(self, name: str) -> list[str]:
        """What is wrong with an object's name."""
        return names.dns1123_subdomain(name)

    def stamp_user(self, obj: Object, user: Object) -> None:
        """Write who creates the object into it, where the kind records that (signing requests).
        `user` has the fields of an authentication.k8s.io/v1 UserInfo. Called right after
        `prepare_create`."""

    def reset_fields(self, subresource: str) -> tuple[str, ...]:
        """Top-level fields that a write through the resource or its subresource cannot change, so
        that no field manager comes to own them by it."""
        if not subresource:
            return ("status",) if self.status_is_subresource else ()
        return ("spec",) if subresource == "status" else ()

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        """Field-selector values beyond metadata.name and metadata.namespace."""
        return {}

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        """Texts of `Warning` headers for this write."""
        return []
