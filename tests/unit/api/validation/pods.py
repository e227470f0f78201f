"""Sample pods, and what validation says of them."""

from __future__ import annotations

import copy
from typing import Any

from navarch.api.kinds import Kind, kind_by_name
from navarch.api.schema.decode import normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.api.strategies.registry import strategy_for

Object = dict[str, Any]
kind = kind_by_name("", "v1", "Pod")
assert kind is not None
POD: Kind = kind
STRATEGY = strategy_for(POD)


def container(**fields: Any) -> Object:
    return {"name": "c", "image": "web:1", **fields}


def pod(**spec: Any) -> Object:
    """A pod as it is stored."""
    obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [container()], **spec},
    }
    obj, _ = normalise_object(POD, copy.deepcopy(obj))
    apply_defaults(POD, obj)
    STRATEGY.defaults(obj)
    STRATEGY.prepare_create(obj)
    return obj


def errors_of(obj: Object) -> list[str]:
    return [str(error) for error in STRATEGY.validate(obj)]
