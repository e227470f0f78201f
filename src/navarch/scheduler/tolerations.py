"""Whether tolerations cover a taint."""

from __future__ import annotations

from collections.abc import Iterable

from navarch.api.types.core_v1 import Toleration


def tolerates(tolerations: Iterable[Toleration], key: str, value: str, effect: str) -> bool:
    """Whether any toleration covers the taint. An empty effect or key stands for all of them."""
    return any(
        (not item.effect or item.effect == effect)
        and (not item.key or item.key == key)
        and (item.operator == "Exists" or (item.operator in ("", "Equal") and item.value == value))
        for item in tolerations
    )
