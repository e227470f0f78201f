"""Upstream's feature gates of v1.36: which there are, what they are by default, which are fixed.

Navarch has one behaviour, that of upstream's defaults; a gate is looked at where a node's
behaviour depends on it. What somebody sets is checked as upstream checks it, so that a misspelt
name is found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path


@cache
def _gates() -> dict[str, frozenset[str]]:
    """Their names, by what they are by default and whether that is fixed."""
    table = json.loads(Path(__file__).with_name("gates.json").read_bytes())
    return {state: frozenset(names) for state, names in table.items()}


def is_enabled(name: str, gates: Mapping[str, bool]) -> bool:
    """Whether a gate is on, with what somebody has set."""
    known = _gates()
    return gates.get(name, name in known["always on"] or name in known["on"])


def gate_problems(gates: Mapping[str, bool]) -> Iterator[str]:
    """What is wrong with the gates that somebody sets."""
    known = _gates()
    for name, value in gates.items():
        given, other = ("true", "false") if value else ("false", "true")
        if name not in frozenset().union(*known.values()):
            yield f"unrecognized feature gate: {name}"
        elif name in known["always off" if value else "always on"]:
            yield f"cannot set feature gate {name} to {given}, feature is locked to {other}"
