"""Sample objects of the kinds, and what validation says of them."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

from navarch.api.errors import FieldError
from navarch.api.kinds import KINDS, Kind
from navarch.api.schema.decode import normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.api.strategies.registry import strategy_for
from navarch.api.validation.fields import Field

Object = dict[str, Any]
KIND_OF = {f"{kind.plural}.{kind.version}": kind for kind in reversed(KINDS) if kind.is_stored}
KIND_OF |= {kind.plural: kind for kind in reversed(KINDS) if kind.is_stored}
KIND_OF |= {f"{kind.plural}.{kind.group}": kind for kind in KINDS if kind.is_stored}
SELECTOR = {"matchLabels": {"app": "web"}}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


def template(**spec: Any) -> Object:
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}], **spec},
    }


def new(plural: str, name: str = "sample", **content: Any) -> Object:
    """An object as it is stored after its creation."""
    kind = KIND_OF[plural]
    metadata = {"name": name, "uid": "0e1c", "resourceVersion": "1"}
    if kind.namespaced:
        metadata["namespace"] = "default"
    metadata |= content.pop("metadata", {})
    obj, _ = normalise_object(
        kind,
        copy.deepcopy(
            {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **content}
        ),
    )
    return prepared(kind, obj)


def prepared(kind: Kind, obj: Object) -> Object:
    strategy = strategy_for(kind)
    apply_defaults(kind, obj)
    strategy.defaults(obj)
    strategy.prepare_create(obj)
    return obj


def judged(rule: Callable[..., None], obj: Object, *old: Object) -> list[FieldError]:
    """What a rule says of an object, or of its change."""
    field = Field(obj)
    rule(field, *map(Field, old))
    return field.errors


def update(plural: str, old: Object, subresource: str = "", **changes: Any) -> tuple[Object, str]:
    """The object after an update, and the complaints about it; `None` removes a field."""
    kind = KIND_OF[plural]
    strategy = strategy_for(kind)
    obj = copy.deepcopy(old)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = obj
        for key in parents:
            target = target.setdefault(key, {})
        if value is None:
            target.pop(last, None)
        else:
            target[last] = value
    apply_defaults(kind, obj)
    strategy.defaults(obj)
    strategy.prepare_update(obj, old, subresource)
    return obj, "\n".join(str(each) for each in strategy.validate_update(obj, old, subresource))


def service(**spec: Any) -> Object:
    return {"spec": {"ports": [{"port": 80}], **spec}}


def deployment(**spec: Any) -> Object:
    return {"spec": {"selector": SELECTOR, "template": template(), **spec}}


def job(**spec: Any) -> Object:
    return {"spec": {"template": template(restartPolicy="Never"), **spec}}


def data(**values: str) -> Object:
    return {key: base64.b64encode(text.encode()).decode() for key, text in values.items()}


def complaints(plural: str, obj: Object) -> str:
    return "\n".join(str(error) for error in strategy_for(KIND_OF[plural]).validate(obj))
