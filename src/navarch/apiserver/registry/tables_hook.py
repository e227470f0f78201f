"""The columns of a resource for `kubectl get`: those of the kind, or name and age alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from navarch.apiserver.registry.resource import Resource

Object = dict[str, Any]
Rendered = tuple[list[Object], list[list[Any]]]

DEFAULT_COLUMNS: list[Object] = [
    {
        "name": "Name",
        "type": "string",
        "format": "name",
        "description": "Name must be unique within a namespace.",
        "priority": 0,
    },
    {
        "name": "Created At",
        "type": "date",
        "format": "",
        "description": "CreationTimestamp is the server time when this object was created.",
        "priority": 0,
    },
]


def default_table(resource: Resource, objects: Sequence[Object]) -> Rendered:
    """Name and creation time: what upstream shows for a kind without columns of its own."""
    rows = [
        [obj["metadata"].get("name", ""), obj["metadata"].get("creationTimestamp")]
        for obj in objects
    ]
    return DEFAULT_COLUMNS, rows


_renderer: list[Callable[[Resource, Sequence[Object]], Rendered]] = [default_table]


def render_table(resource: Resource, objects: Sequence[Object]) -> Rendered:
    """Column definitions, and one row of cells per object."""
    return _renderer[-1](resource, objects)
