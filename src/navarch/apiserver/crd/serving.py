"""From a CustomResourceDefinition to the resources it makes the server serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from navarch.api.kinds import Kind, Subresource
from navarch.api.schema import structural
from navarch.apiserver.crd.shape import CustomShape, CustomStrategy
from navarch.apiserver.hub.cache import Cache
from navarch.apiserver.hub.entry import StoredKind
from navarch.apiserver.hub.hub import Hub
from navarch.apiserver.registry.resource import Converter, Resource
from navarch.apiserver.webhooks.client import WebhookClient
from navarch.apiserver.webhooks.conversion import WebhookConverter

Object = dict[str, Any]

_GPU = ("get", "patch", "update")


def selectable_paths(crd: Object) -> tuple[str, ...]:
    """The fields that any version can be selected by."""
    return tuple({path: None for version in crd["spec"]["versions"] for path in _paths_of(version)})


def _paths_of(version: Object) -> list[str]:
    return [each["jsonPath"].lstrip(".") for each in version.get("selectableFields") or ()]


def storage_version(crd: Object) -> str:
    for version in crd["spec"]["versions"]:
        if version.get("storage"):
            return str(version["name"])
    return str(crd["spec"]["versions"][0]["name"])


def kind_rows(crd: Object) -> list[tuple[Kind, Object]]:
    """A row of the kinds table for every served version, with the version itself."""
    spec = crd["spec"]
    names = (crd.get("status") or {}).get("acceptedNames") or spec["names"]
    group = spec["group"]
    rows = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        own = (group, version["name"], names["kind"])
        subresources = []
        declared = version.get("subresources") or {}
        if declared.get("status") is not None:
            subresources.append(Subresource("status", _GPU, *own))
        if declared.get("scale") is not None:
            subresources.append(Subresource("scale", _GPU, "autoscaling", "v1", "Scale"))
        kind = Kind(
            group=group,
            version=version["name"],
            kind=names["kind"],
            plural=names["plural"],
            singular=names.get("singular") or names["kind"].lower(),
            namespaced=spec["scope"] == "Namespaced",
            list_kind=names.get("listKind") or names["kind"] + "List",
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            subresources=tuple(subresources),
            storage_prefix=f"{group}/{names['plural']}",
            stored_as=(group, storage_version(crd)),
        )
        rows.append((kind, version))
    return rows


def stored_kind(crd: Object, plural: str) -> StoredKind:
    """How the objects lie in the store."""
    spec = crd["spec"]
    paths = selectable_paths(crd)
    return StoredKind(
        prefix=f"/registry/{spec['group']}/{plural}/",
        api_version=f"{spec['group']}/{storage_version(crd)}",
        kind=spec["names"]["kind"],
        namespaced=spec["scope"] == "Namespaced",
        field_names=paths,
        selectable_fields=CustomStrategy(False, paths).selectable_fields,
    )


def cache_for(hub: Hub, stored: StoredKind) -> Cache:
    """The cache of a custom resource; made anew when what is kept of the objects has changed."""
    cache = hub.register(stored)
    before = cache.stored
    if before.field_names != stored.field_names or before.namespaced != stored.namespaced:
        hub.unregister(stored.prefix)
        cache = hub.register(stored)
    cache.stored = stored
    return cache


def defaulting(crd: Object) -> Callable[[Object], Object] | None:
    """What reading from the store adds: the defaults of the stored version, for objects that were
    written before there was a default. Nothing where the schema has none."""
    stored = storage_version(crd)
    version = next(each for each in crd["spec"]["versions"] if each["name"] == stored)
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    if not structural.has_defaults(schema):
        return None

    def fill(obj: Object) -> Object:
        structural.default(obj, schema)
        structural.drop_nulls(obj, schema)
        return obj

    return fill


def converts_by_webhook(crd: Object) -> bool:
    return (crd["spec"].get("conversion") or {}).get("strategy") == "Webhook"


def converter_of(crd: Object, client: WebhookClient, stored: StoredKind) -> WebhookConverter:
    """The converter of a definition whose versions a webhook converts."""
    rows = kind_rows({**crd, "spec": {**crd["spec"], "versions": _all_served(crd)}})
    schemas = {
        kind.api_version: (kind, (version.get("schema") or {}).get("openAPIV3Schema"))
        for kind, version in rows
    }
    shapes = {name: CustomShape(kind, schema) for name, (kind, schema) in schemas.items()}
    defaulted = [
        name for name, (_, schema) in schemas.items() if structural.has_defaults(schema or {})
    ]
    return WebhookConverter(client, crd, stored, shapes, defaulted)


def _all_served(crd: Object) -> list[Object]:
    """The versions as if all were served: objects may lie in the store in one that no longer is."""
    return [{**version, "served": True} for version in crd["spec"]["versions"]]


def _deprecation(kind: Kind, version: Object) -> str:
    if not version.get("deprecated"):
        return ""
    return version.get("deprecationWarning") or f"{kind.api_version} {kind.kind} is deprecated"


def custom_resources(
    crd: Object, cache: Cache, converter: Converter | None = None
) -> list[Resource]:
    """The resources of all served versions. Without a converter (strategy None) converting between
    versions renames apiVersion alone."""
    rows = kind_rows(crd)
    stored_version = storage_version(crd)
    paths = selectable_paths(crd)
    stored = next((kind for kind, _ in rows if kind.version == stored_version), None)
    fill = defaulting(crd)
    return [
        Resource(
            kind=kind,
            stored=stored or kind,
            cache=cache,
            strategy=CustomStrategy(kind.subresource("status") is not None, paths),
            shape=CustomShape(kind, (version.get("schema") or {}).get("openAPIV3Schema")),
            is_custom=True,
            convert_out=fill if converter is None else None,
            definition=crd,
            converter=converter,
            selectable=frozenset(_paths_of(version)),
            deprecation=_deprecation(kind, version),
        )
        for kind, version in rows
    ]
