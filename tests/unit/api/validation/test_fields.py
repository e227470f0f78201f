"""The cursor that rules walk objects with."""

from __future__ import annotations

import pytest

from navarch.api.validation.fields import Field

OBJ = {"spec": {"ports": [{"port": 0}, {"name": "b"}], "limits": {"cpu": "1"}, "none": None}}


@pytest.mark.parametrize(
    ("field", "path", "value"),
    [
        (Field(OBJ), "", OBJ),
        (Field(OBJ)["spec"]["limits"], "spec.limits", {"cpu": "1"}),
        (Field(OBJ)["status"]["conditions"], "status.conditions", None),
        (next(iter(Field(OBJ)["spec"]["ports"])), "spec.ports[0]", {"port": 0}),
        (next(iter(Field(OBJ)["spec"]["ports"]))["port"], "spec.ports[0].port", 0),
        (dict(Field(OBJ)["spec"]["limits"].entries())["cpu"], "spec.limits[cpu]", "1"),
        (Field(OBJ)["spec"].text("name"), "spec.name", ""),
        (Field(OBJ)["spec"].number("none"), "spec.none", 0),
        (Field(OBJ)["spec"].at("other.place", 1), "spec.other.place", 1),
        (Field(OBJ)["spec"]["limits"].at("[memory]", 1), "spec.limits[memory]", 1),
        (Field(OBJ)["spec"]["limits"].showing("x"), "spec.limits", "x"),
        (Field({"name": "x"}, step="metadata")["name"], "metadata.name", "x"),
    ],
)
def test_places_and_values(field: Field, path: str, value: object) -> None:
    assert (field.path, field.value) == (path, value)


def test_all_fields_of_an_object_tell_one_list() -> None:
    obj = Field(OBJ)
    for port in obj["spec"]["ports"]:
        port["name"].present()
        port["port"].port()
    assert [error.field for error in obj.errors] == [
        "spec.ports[0].name",
        "spec.ports[0].port",
        "spec.ports[1].port",
    ]


def test_emptiness() -> None:
    spec = Field(OBJ)["spec"]
    assert spec["ports"] and len(spec["ports"]) == 2 and "cpu" in spec["limits"]
    assert not spec["none"] and not spec["none"].is_set
    assert not spec["missing"]["deeper"] and [*spec["missing"]["deeper"]] == []
