"""What a cluster's API holds because of the cluster itself: the manifests in `data/`, one file
for each purpose, with `$name` where a value depends on the profile."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

from navarch.cluster.kubeconfig import safe_loader

Placed = tuple[str, dict[str, Any]]
"""A collection and what belongs into it."""


def manifests(name: str, **values: Any) -> list[Placed]:
    """The objects of a file in their order. Values are put in as JSON, which YAML contains."""
    import yaml

    text = (Path(__file__).parent / "data" / f"{name}.yaml").read_text()
    filled = Template(text).substitute({key: json.dumps(each) for key, each in values.items()})
    return [(collection_of(each), each) for each in yaml.load_all(filled, safe_loader())]


def collection_of(value: dict[str, Any]) -> str:
    """The path under which objects of this kind are made. All our kinds have regular plurals."""
    import re

    version, kind, namespace = (
        value["apiVersion"],
        value["kind"],
        value["metadata"].get("namespace"),
    )
    within = f"namespaces/{namespace}/" if namespace else ""
    plural = re.sub("([^aeiou])ys$", r"\1ies", kind.lower() + ("es" if kind.endswith("s") else "s"))
    return f"/{'apis' if '/' in version else 'api'}/{version}/{within}{plural}"
