"""What discovery and OpenAPI say of `metrics.k8s.io/v1beta1`: as metrics-server says it."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import msgspec

from navarch.api.kinds import Kind
from navarch.api.schema.facts import schema_for
from navarch.apiserver.openapi.definitions import GVK, META, QUANTITY, Definitions
from navarch.apiserver.openapi.documents import Extension
from navarch.apiserver.openapi.paths import Names, render_path, resource_paths

Object = dict[str, Any]

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
BASE = f"/apis/{API_VERSION}"
PRIORITY = (100, 100)
"""Of the group and the version: behind all others, so that `pods` means pods."""
KINDS = {
    plural: Kind(GROUP, VERSION, kind, plural, "", namespaced, f"{kind}List", verbs=("get", "list"))
    for plural, kind, namespaced in (("nodes", "NodeMetrics", False), ("pods", "PodMetrics", True))
}
RESOURCES: Object = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": API_VERSION,
    "resources": [
        {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": list(kind.verbs),
        }
        for kind in KINDS.values()
    ],
}
ROOT = "io.k8s.metrics.pkg.apis.metrics.v1beta1"
DURATION = f"{META}.Duration"


def extension() -> Extension:
    """The group version's part of the documents."""
    swagger = _definitions("#/definitions/")
    schemas = _definitions("#/components/schemas/")
    pod = schema_for("", "v1", "Pod").fields["metadata"].type
    pods = schema_for("", "v1", "PodList").fields["metadata"].type
    shared = Definitions(True, {}, (GROUP, VERSION))
    shared.want([pod, pods], [QUANTITY, f"{META}.Time"])
    document = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": _paths(is_v3=True),
        "components": {"schemas": dict(shared.definitions()) | schemas},
    }
    body = msgspec.json.encode(document)
    return Extension(
        hash=hashlib.sha512(body).hexdigest().upper(),
        v3=zlib.compress(body, wbits=31),
        paths=_paths(is_v3=False),
        definitions=swagger,
    )


def _paths(*, is_v3: bool) -> Object:
    found = {}
    for kind in KINDS.values():
        names = Names(f"{ROOT}.{kind.kind}", f"{ROOT}.{kind.list_kind}")
        for path in resource_paths(kind, names, {}):
            found[path.path] = render_path(path, "metrics_v1beta1", is_v3)
    return found


def _definitions(prefix: str) -> Object:
    is_v3 = prefix.startswith("#/components")

    def ref(name: str) -> Object:
        found: Object = {"$ref": prefix + name}
        return {"allOf": [found]} if is_v3 else found

    def described(text: str, schema: Object) -> Object:
        return {"description": text, **schema}

    head = {
        "apiVersion": described("The version of the object's schema.", {"type": "string"}),
        "kind": described("The object's type.", {"type": "string"}),
    }
    usage = described(
        "Processor time in cores, and the working set of the memory.",
        {"type": "object", "additionalProperties": {"$ref": prefix + QUANTITY}},
    )
    span = {
        "timestamp": described("The end of what was measured.", ref(f"{META}.Time")),
        "window": described("How long was measured.", ref(DURATION)),
    }
    containers = {"type": "array", "items": {"$ref": f"{prefix}{ROOT}.ContainerMetrics"}}
    container = {"name": described("As in the pod.", {"type": "string"}), "usage": usage}
    own = {"NodeMetrics": {"usage": usage}, "PodMetrics": {"containers": containers}}
    result: Object = {
        DURATION: {"description": "A duration as Go writes it: 1m30s.", "type": "string"},
        f"{ROOT}.ContainerMetrics": {
            "description": "What one container uses.",
            "type": "object",
            "required": ["name", "usage"],
            "properties": container,
        },
    }
    for kind in KINDS.values():
        fields = {**span, **own[kind.kind]}
        result[f"{ROOT}.{kind.kind}"] = {
            "description": f"What {kind.plural} use.",
            "type": "object",
            "required": sorted(fields),
            "properties": {
                **head,
                "metadata": described("Standard object's metadata.", ref(f"{META}.ObjectMeta")),
                **fields,
            },
            GVK: [{"group": GROUP, "version": VERSION, "kind": kind.kind}],
        }
        items = {"type": "array", "items": {"$ref": f"{prefix}{ROOT}.{kind.kind}"}}
        result[f"{ROOT}.{kind.list_kind}"] = {
            "description": f"A list of {kind.kind}.",
            "type": "object",
            "required": ["items"],
            "properties": {
                **head,
                "metadata": described("Standard list's metadata.", ref(f"{META}.ListMeta")),
                "items": items,
            },
            GVK: [{"group": GROUP, "version": VERSION, "kind": kind.list_kind}],
        }
    return result
