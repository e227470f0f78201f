"""Where the catalog finds what is particular to a kind: its conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from navarch.api.kinds import Kind

Object = dict[str, Any]
Conversion = Callable[[Object], Object]


def conversions(stored: Kind, kind: Kind) -> tuple[Conversion | None, Conversion | None]:
    """From and to the stored version; None when the two differ in apiVersion alone."""
    return None, None
