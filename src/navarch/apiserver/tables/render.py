"""From objects to the rows of a table."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from navarch.api.kinds import Kind
from navarch.apiserver.tables import access, cluster, network, storage, workloads
from navarch.apiserver.tables.custom import custom_table
from navarch.apiserver.tables.pods import PODS
from navarch.apiserver.tables.table import Object, Table, table
from navarch.apiserver.tables.text import at

if TYPE_CHECKING:
    from navarch.apiserver.registry.resource import Resource

DEFAULT = table("Name|Created At:date=value(metadata.creationTimestamp)")
"""Of built-in kinds without columns of their own: roles, limit ranges."""

TABLES: dict[str, Table] = {
    "pods": PODS,
    **workloads.TABLES,
    **network.TABLES,
    **storage.TABLES,
    **cluster.TABLES,
    **access.TABLES,
}
"""By resource name. All versions of a kind look alike: cells are made from the stored form."""


def table_of(kind: Kind) -> Table:
    """The table of a built-in kind."""
    return TABLES.get(str(kind), DEFAULT)


def render_rows(
    resource: Resource, objects: Sequence[Object]
) -> tuple[Sequence[Object], list[Object]]:
    """Column definitions, and one row per object, which has cells but no object yet."""
    if resource.is_custom:
        table = custom_table(_printer_columns(resource))
    else:
        table = table_of(resource.kind)
        if resource.convert_in is not None:
            objects = [resource.to_stored(copy.deepcopy(obj)) for obj in objects]
    return table.columns, rows_of(table, objects, datetime.now(UTC))


def rows_of(table: Table, objects: Sequence[Object], now: datetime) -> list[Object]:
    rows = []
    for obj in objects:
        row: Object = {"cells": table.cells(obj, now)}
        if table.conditions is not None and (found := table.conditions(obj)):
            row["conditions"] = found
        rows.append(row)
    return rows


def _printer_columns(resource: Resource) -> list[Object] | None:
    for version in at(resource.definition, "spec", "versions") or ():
        if version.get("name") == resource.kind.version:
            found: list[Object] | None = version.get("additionalPrinterColumns")
            return found
    return None
