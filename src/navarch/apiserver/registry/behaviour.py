"""Where the catalog finds what is particular to a kind: its conversions."""

from __future__ import annotations

from navarch.api.conversion import conversions

__all__ = ["conversions"]
