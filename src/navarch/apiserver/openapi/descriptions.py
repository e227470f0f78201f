"""The prose of the built-in types, if the optional package that carries it is installed.

Navarch's own schema facts hold no descriptions. `pip install navarch[explain]` brings the
`kubernetes-validate` package, whose definitions do; `kubectl explain` then shows them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec


class _Property(msgspec.Struct):
    description: str = ""


class Described(msgspec.Struct):
    """A definition's description and those of its fields."""

    description: str = ""
    properties: dict[str, _Property] = {}

    def field(self, name: str) -> str:
        found = self.properties.get(name)
        return found.description if found else ""


class _File(msgspec.Struct):
    definitions: dict[str, Described] = msgspec.field(name="$defs", default_factory=dict)


Descriptions = dict[str, Described]
NOTHING = Described()


def descriptions_path() -> Path | None:
    """The definitions of the installed package that are nearest to v1.36; None without it."""
    spec = importlib.util.find_spec("kubernetes_validate")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        found = Path(place) / "kubernetes-json-schema" / "v1.36.0-local" / "_definitions.json"
        if found.is_file():
            return found
    return None


def load_descriptions() -> Descriptions:
    """By definition name. Nothing is kept: documents are built rarely, memory is held always."""
    path = descriptions_path()
    if path is None:
        return {}
    return msgspec.json.decode(path.read_bytes(), type=_File).definitions
