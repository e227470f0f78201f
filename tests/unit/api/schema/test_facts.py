"""The lookup of schema facts: shapes, merge keys, list types and defaults of well-known fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from navarch.api.schema import facts as facts_module
from navarch.api.schema.facts import Shape, TypeFacts, load_module, schema_for, type_facts


@pytest.mark.parametrize(
    ("module", "name", "path", "shape", "list_type", "keys"),
    [
        pytest.param(
            "core_v1", "PodSpec", ("containers",), Shape.LIST, "map", ("name",), id="containers"
        ),
        pytest.param(
            "core_v1",
            "Container",
            ("ports",),
            Shape.LIST,
            "map",
            ("containerPort", "protocol"),
            id="two-keys",
        ),
        pytest.param("core_v1", "Container", ("args",), Shape.LIST, "atomic", (), id="atomic"),
        pytest.param("meta_v1", "ObjectMeta", ("finalizers",), Shape.LIST, "set", (), id="set"),
        pytest.param("meta_v1", "ObjectMeta", ("labels",), Shape.MAP, "atomic", (), id="map"),
        pytest.param(
            "apps_v1",
            "Deployment",
            ("spec", "template", "spec", "volumes", "secret"),
            Shape.STRUCT,
            "atomic",
            (),
            id="through-a-list",
        ),
        pytest.param("core_v1", "Event", ("eventTime",), Shape.SCALAR, "atomic", (), id="scalar"),
        pytest.param(
            "meta_v1",
            "ManagedFieldsEntry",
            ("fieldsV1",),
            Shape.ANY,
            "atomic",
            (),
            id="free",
        ),
    ],
)
def test_types(
    module: str,
    name: str,
    path: tuple[str, ...],
    shape: Shape,
    list_type: str,
    keys: tuple[str, ...],
) -> None:
    facts = type_facts(module, name).at(*path)
    assert (facts.shape, facts.list_type, facts.list_map_keys) == (shape, list_type, keys)


def test_fields_tell_how_go_holds_them() -> None:
    spec = schema_for("apps", "v1", "Deployment").at("spec")
    assert spec.fields["replicas"].pointer
    assert spec.fields["replicas"].default == 1
    assert not spec.fields["template"].omit_empty
    assert spec.fields["strategy"].patch_strategies == ("retainKeys",)
    pod = schema_for("", "v1", "Pod").at("spec")
    assert pod.fields["volumes"].patch_strategies == ("merge", "retainKeys")
    assert pod.fields["volumes"].patch_merge_key == "name"
    assert pod.fields["restartPolicy"].type.go_type == "v1.RestartPolicy"


def test_a_field_may_override_how_its_type_is_owned() -> None:
    assert type_facts("core_v1", "ObjectReference").map_type == "atomic"
    claim = type_facts("core_v1", "PersistentVolumeSpec").fields["claimRef"].type
    assert claim.map_type == "granular"
    assert claim.fields["name"].type.scalar == "string"
    assert type_facts("core_v1", "PodSpec").fields["nodeSelector"].type.map_type == "atomic"


def test_struct_types_are_shared_and_may_recurse() -> None:
    props = type_facts("apiextensions_v1", "JSONSchemaProps")
    assert props.at("properties").item is props
    assert props.at("items").item is props


def test_every_type_resolves() -> None:
    def visit(facts: TypeFacts, seen: set[int]) -> None:
        if id(facts) not in seen:
            seen.add(id(facts))
            for field in facts.fields.values():
                visit(field.type, seen)
            if facts.item is not None:
                visit(facts.item, seen)

    seen: set[int] = set()
    for path in Path(facts_module.__file__).parent.glob("data/*_v*.json"):
        module = load_module(path.stem)
        for name in module.raw:
            visit(module.struct(name), seen)
    assert len(seen) > 700


def test_shared_kinds_are_found_under_any_group() -> None:
    assert schema_for("apps", "v1", "DeleteOptions").name == "meta_v1.DeleteOptions"
    with pytest.raises(KeyError):
        schema_for("apps", "v9", "Deployment")
