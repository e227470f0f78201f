"""Where the catalog finds what is particular to a kind: its strategy and its conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from navarch.api.kinds import Kind
from navarch.api.strategies.base import Strategy

Object = dict[str, Any]
Conversion = Callable[[Object], Object]


def strategy_for(kind: Kind) -> Strategy:
    return Strategy()


def conversions(stored: Kind, kind: Kind) -> tuple[Conversion | None, Conversion | None]:
    """From and to the stored version; None when the two differ in apiVersion alone."""
    return None, None
