"""What the published documents say, and that they are only built when they must be."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from navarch.api.kinds import KINDS, Kind
from navarch.apiserver.openapi import descriptions, documents
from navarch.apiserver.openapi.custom import custom_definitions
from navarch.apiserver.openapi.documents import OpenApi
from navarch.apiserver.registry.resource import Catalog, Resource

Object = dict[str, Any]


class FakeCatalog:
    """What the documents know of the catalog: its generation and its custom resources."""

    def __init__(self) -> None:
        self.generation = 0
        self.resources: list[Resource] = []

    def custom(self) -> list[Resource]:
        return self.resources

    def set(self, *resources: Resource) -> None:
        self.resources = list(resources)
        self.generation += 1


def custom_resource(schema: Object | None, version: str = "v1") -> Resource:
    kind = Kind(
        group="example.io",
        version=version,
        kind="Foo",
        plural="foos",
        singular="foo",
        namespaced=True,
        list_kind="FooList",
    )
    versions = [{"name": version, "schema": {"openAPIV3Schema": schema} if schema else None}]
    definition = {"spec": {"group": "example.io", "versions": versions}}
    return cast(Resource, SimpleNamespace(kind=kind, definition=definition))


def open_api(catalog: FakeCatalog) -> OpenApi:
    return OpenApi(cast(Catalog, catalog))


async def v3(api: OpenApi, path: str) -> Object:
    document = await api.v3(path)
    assert document is not None
    return cast(Object, json.loads(zlib.decompress(document.compressed, 31)))


async def v2(api: OpenApi) -> Object:
    document = await api.v2(is_protobuf=False)
    return cast(Object, json.loads(zlib.decompress(document.compressed, 31)))


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(each) for each in value.values()))
    return set().union(*(references(each) for each in value)) if isinstance(value, list) else set()


async def test_the_index_names_every_group_version() -> None:
    paths = open_api(FakeCatalog()).index()["paths"]
    assert "api/v1" in paths
    expected = {f"apis/{k.api_version}" if k.group else f"api/{k.version}" for k in KINDS}
    assert set(paths) == expected
    url = paths["apis/apps/v1"]["serverRelativeURL"]
    assert url.startswith("/openapi/v3/apis/apps/v1?hash=")


@pytest.mark.parametrize("path", ["api/v1", "apis/apps/v1", "apis/apiextensions.k8s.io/v1"])
async def test_every_reference_of_a_v3_document_is_defined(path: str) -> None:
    document = await v3(open_api(FakeCatalog()), path)
    schemas = document["components"]["schemas"]
    assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}


async def test_every_reference_of_the_v2_document_is_defined() -> None:
    document = await v2(open_api(FakeCatalog()))
    assert references(document) <= {f"#/definitions/{name}" for name in document["definitions"]}


async def test_a_schema_tells_how_lists_merge() -> None:
    schemas = (await v3(open_api(FakeCatalog()), "api/v1"))["components"]["schemas"]
    containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-list-type"] == "map"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    assert containers["x-kubernetes-patch-strategy"] == "merge"
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    pod = schemas["io.k8s.api.core.v1.Pod"]
    assert pod["x-kubernetes-group-version-kind"] == [{"group": "", "version": "v1", "kind": "Pod"}]


async def test_patch_operations_take_what_kubectl_looks_for() -> None:
    paths = (await v3(open_api(FakeCatalog()), "apis/apps/v1"))["paths"]
    patch = paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-action"] == "patch"
    assert patch["x-kubernetes-group-version-kind"]["kind"] == "Deployment"
    names = {each["name"] for each in patch["parameters"]}
    assert {"dryRun", "fieldManager", "fieldValidation", "force"} <= names


async def test_only_built_in_kinds_take_strategic_patches() -> None:
    catalog = FakeCatalog()
    catalog.set(custom_resource({"type": "object"}))
    api = open_api(catalog)
    strategic = "application/strategic-merge-patch+json"
    for path, expected in (("apis/apps/v1", True), ("apis/example.io/v1", False)):
        for name, item in (await v3(api, path))["paths"].items():
            if "patch" in item:
                assert (strategic in item["patch"]["requestBody"]["content"]) == expected, name


@pytest.mark.parametrize("is_v3", [True, False])
async def test_operations_have_names_of_their_own(is_v3: bool) -> None:
    api = open_api(FakeCatalog())
    paths = (await v3(api, "api/v1") if is_v3 else await v2(api))["paths"]
    ids = [
        operation["operationId"]
        for item in paths.values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(ids) == len(set(ids))
    assert "listCoreV1NamespacedPod" in ids
    assert "readCoreV1NamespacedPodLog" in ids


async def test_custom_resources_come_and_go() -> None:
    catalog = FakeCatalog()
    api = open_api(catalog)
    before = await v2(api)
    core = api.v3_hash("api/v1")
    schema = {"type": "object", "properties": {"spec": {"type": "object"}}}
    catalog.set(custom_resource(schema))
    first = api.v3_hash("apis/example.io/v1")
    document = await v3(api, "apis/example.io/v1")
    assert "spec" in document["components"]["schemas"]["io.example.v1.Foo"]["properties"]
    assert references(document) <= {
        f"#/components/schemas/{name}" for name in document["components"]["schemas"]
    }
    assert "io.example.v1.FooList" in (await v2(api))["definitions"]
    catalog.set(custom_resource({**schema, "description": "changed"}))
    assert api.v3_hash("apis/example.io/v1") not in (None, first)
    changed = await v3(api, "apis/example.io/v1")
    assert changed["components"]["schemas"]["io.example.v1.Foo"]["description"] == "changed"
    assert api.v3_hash("api/v1") == core
    catalog.set()
    assert await api.v3("apis/example.io/v1") is None
    assert await v2(api) == before


async def test_documents_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    pieces = documents.v3_pieces

    def counted(*arguments: Any) -> Any:
        built.append(arguments[0])
        return pieces(*arguments)

    monkeypatch.setattr(documents, "v3_pieces", counted)
    catalog = FakeCatalog()
    api = open_api(catalog)
    api.index()
    assert built == []
    await v3(api, "apis/apps/v1")
    await v3(api, "apis/apps/v1")
    catalog.set(custom_resource(None))
    await v3(api, "apis/apps/v1")
    assert built == [("apps", "v1")]


async def test_without_the_package_there_is_no_prose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "descriptions_path", lambda: None)
    schemas = (await v3(open_api(FakeCatalog()), "api/v1"))["components"]["schemas"]
    assert "description" not in schemas["io.k8s.api.core.v1.PodSpec"]
    kind = schemas["io.k8s.api.core.v1.Pod"]["properties"]["apiVersion"]
    assert kind["description"].startswith("APIVersion defines")


# ---- custom schemas

NULLABLE = {"type": "string", "nullable": True}


@pytest.mark.parametrize(
    ("schema", "in_v2"),
    [
        pytest.param({"type": "string", "default": "a"}, {"type": "string"}, id="default"),
        pytest.param(NULLABLE, {}, id="nullable"),
        pytest.param(
            {"type": "integer", "anyOf": [{"minimum": 1}], "minimum": 0},
            {"type": "integer", "minimum": 0},
            id="junctors",
        ),
        pytest.param(
            {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "properties": {"a": {"type": "string"}},
            },
            {"x-kubernetes-preserve-unknown-fields": True},
            id="unknown fields",
        ),
        pytest.param(
            {"type": "object", "properties": {"a": NULLABLE}, "required": ["a"]},
            {"type": "object", "properties": {"a": {}}},
            id="required but nullable",
        ),
        pytest.param(
            {"type": "array", "items": {"type": "string", "enum": ["a"]}},
            {"type": "array", "items": {"type": "string", "enum": ["a"]}},
            id="array",
        ),
    ],
)
def test_what_the_versions_can_say(schema: Object, in_v2: Object) -> None:
    root = {"type": "object", "properties": {"spec": schema}}
    resource = custom_resource(root)
    for is_v3, prefix, expected in (
        (False, "#/definitions/", in_v2),
        (True, "#/components/schemas/", schema),
    ):
        own = custom_definitions(resource, prefix, is_v3)["io.example.v1.Foo"]
        assert own["properties"]["spec"] == expected
        assert {"apiVersion", "kind", "metadata"} < set(own["properties"])


def test_a_kind_that_keeps_everything_has_no_fields_in_v2() -> None:
    root = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    own = custom_definitions(custom_resource(root), "#/definitions/", False)["io.example.v1.Foo"]
    assert own.keys() == {"type", "x-kubernetes-group-version-kind"}


def test_a_kind_without_a_schema_is_any_object() -> None:
    for prefix, is_v3 in (("#/definitions/", False), ("#/components/schemas/", True)):
        own = custom_definitions(custom_resource(None), prefix, is_v3)["io.example.v1.Foo"]
        assert own["type"] == "object"
        assert "properties" not in own


def test_embedded_objects_have_metadata() -> None:
    embedded = {"type": "object", "x-kubernetes-embedded-resource": True}
    root = {"type": "object", "properties": {"template": embedded}}
    found = custom_definitions(custom_resource(root), "#/components/schemas/", True)
    template = found["io.example.v1.Foo"]["properties"]["template"]
    assert set(template["properties"]) == {"apiVersion", "kind", "metadata"}
    assert set(template["required"]) == {"apiVersion", "kind"}


def test_another_plural_is_another_document() -> None:
    resource = custom_resource({"type": "object"})
    other = cast(
        Resource,
        SimpleNamespace(kind=replace(resource.kind, plural="bars"), definition=resource.definition),
    )
    catalog = FakeCatalog()
    catalog.set(resource)
    api = open_api(catalog)
    before = api.v3_hash("apis/example.io/v1")
    catalog.set(other)
    assert api.v3_hash("apis/example.io/v1") != before
