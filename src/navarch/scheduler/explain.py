"""The message for a pod that no node can take, in upstream's words.

It counts the nodes behind each reason. What follows is why removing other pods (preemption) would
do nothing about it; that is counted in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping

NO_NODES = "no nodes available to schedule pods"
NO_CLAIMS = "no new claims to deallocate"
NO_STATE = "not found"


def available(count: int, body: str) -> str:
    return f"0/{count} nodes are available: {body}."


def histogram(counts: Mapping[str, int]) -> str:
    """`2 Insufficient cpu, 1 Too many pods`, sorted as text."""
    return ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items() if count))
