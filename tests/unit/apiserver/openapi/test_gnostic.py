"""The protobuf form, read back with descriptors written down from gnostic's published messages."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from navarch.apiserver.openapi import gnostic

# message: {field: (number, type, is repeated)}; a type that is no scalar is a message.
MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Document": {
        "swagger": (1, "string", False),
        "info": (2, "Info", False),
        "paths": (8, "Paths", False),
        "definitions": (9, "Definitions", False),
    },
    "Info": {"title": (1, "string", False), "version": (2, "string", False)},
    "Paths": {"path": (2, "NamedPathItem", True)},
    "NamedPathItem": {"name": (1, "string", False), "value": (2, "PathItem", False)},
    "PathItem": {
        "get": (2, "Operation", False),
        "patch": (8, "Operation", False),
        "parameters": (9, "ParametersItem", True),
    },
    "Operation": {
        "tags": (1, "string", True),
        "operation_id": (5, "string", False),
        "produces": (6, "string", True),
        "consumes": (7, "string", True),
        "parameters": (8, "ParametersItem", True),
        "responses": (9, "Responses", False),
        "vendor_extension": (13, "NamedAny", True),
    },
    "ParametersItem": {"parameter": (1, "Parameter", False)},
    "Parameter": {
        "body_parameter": (1, "BodyParameter", False),
        "non_body_parameter": (2, "NonBodyParameter", False),
    },
    "BodyParameter": {
        "name": (2, "string", False),
        "in": (3, "string", False),
        "required": (4, "bool", False),
        "schema": (5, "Schema", False),
    },
    "NonBodyParameter": {
        "query_parameter_sub_schema": (3, "Query", False),
        "path_parameter_sub_schema": (4, "Path", False),
    },
    "Query": {"name": (4, "string", False), "type": (6, "string", False)},
    "Path": {
        "required": (1, "bool", False),
        "name": (4, "string", False),
        "type": (5, "string", False),
    },
    "Responses": {"response_code": (1, "NamedResponseValue", True)},
    "NamedResponseValue": {"name": (1, "string", False), "value": (2, "ResponseValue", False)},
    "ResponseValue": {"response": (1, "Response", False)},
    "Response": {"description": (1, "string", False), "schema": (2, "SchemaItem", False)},
    "SchemaItem": {"schema": (1, "Schema", False)},
    "Definitions": {"additional_properties": (1, "NamedSchema", True)},
    "NamedSchema": {"name": (1, "string", False), "value": (2, "Schema", False)},
    "NamedAny": {"name": (1, "string", False), "value": (2, "Any", False)},
    "Any": {"yaml": (2, "string", False)},
    "Schema": {
        "ref": (1, "string", False),
        "format": (2, "string", False),
        "description": (4, "string", False),
        "maximum": (7, "double", False),
        "max_length": (11, "int64", False),
        "unique_items": (16, "bool", False),
        "required": (19, "string", True),
        "enum": (20, "Any", True),
        "additional_properties": (21, "AdditionalPropertiesItem", False),
        "type": (22, "TypeItem", False),
        "items": (23, "ItemsItem", False),
        "properties": (25, "Definitions", False),
        "vendor_extension": (31, "NamedAny", True),
    },
    "AdditionalPropertiesItem": {
        "schema": (1, "Schema", False),
        "boolean": (2, "bool", False),
    },
    "TypeItem": {"value": (1, "string", True)},
    "ItemsItem": {"schema": (1, "Schema", True)},
}
SCALARS = {"string": 9, "bool": 8, "int64": 3, "double": 1}


@pytest.fixture(scope="module")
def document_type() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="gnostic.proto", syntax="proto3")
    file.package = "openapi.v2"
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, of_type, is_repeated) in fields.items():
            added = message.field.add(name=field, number=number, label=3 if is_repeated else 1)
            added.type = SCALARS.get(of_type, 11)  # type: ignore[assignment]
            if of_type not in SCALARS:
                added.type_name = f".openapi.v2.{of_type}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("openapi.v2.Document"))


def test_the_pieces_make_one_document(document_type: Any) -> None:
    schema = {
        "type": "object",
        "description": "d",
        "required": ["a"],
        "properties": {
            "a": {"$ref": "#/definitions/B"},
            "b": {"type": "array", "items": {"type": "string", "maxLength": 3}},
            "c": {"type": "object", "additionalProperties": {"type": "number", "maximum": 1.5}},
            "d": {"type": "object", "additionalProperties": False},
            "e": {"type": "string", "enum": ["x", "y"]},
        },
        "x-kubernetes-group-version-kind": [{"kind": "A"}],
    }
    operation = {
        "operationId": "patchA",
        "tags": ["t"],
        "produces": ["application/json"],
        "consumes": ["application/yaml"],
        "parameters": [
            {"name": "body", "in": "body", "required": True, "schema": {"$ref": "#/d/A"}},
            {"name": "dryRun", "in": "query", "type": "string"},
        ],
        "responses": {"200": {"description": "OK", "schema": {"type": "string"}}},
        "x-kubernetes-action": "patch",
    }
    path = {
        "patch": operation,
        "parameters": [{"name": "name", "in": "path", "required": True, "type": "string"}],
    }
    text = gnostic.encode_header("K", "v1") + gnostic.encode_path("/a", path)
    text += gnostic.encode_definition("A", schema) + gnostic.encode_definition("B", {})
    document = document_type.FromString(text)
    assert (document.swagger, document.info.title) == ("2.0", "K")
    a, b = document.definitions.additional_properties
    assert (a.name, b.name) == ("A", "B")
    assert a.value.description == "d"
    assert list(a.value.required) == ["a"]
    assert list(a.value.type.value) == ["object"]
    (extension,) = a.value.vendor_extension
    assert extension.name == "x-kubernetes-group-version-kind"
    assert extension.value.yaml == '[{"kind": "A"}]'
    fields = {each.name: each.value for each in a.value.properties.additional_properties}
    assert fields["a"].ref == "#/definitions/B"
    assert fields["b"].items.schema[0].max_length == 3
    assert fields["c"].additional_properties.schema.maximum == 1.5
    assert fields["d"].HasField("additional_properties")
    assert [each.yaml for each in fields["e"].enum] == ['"x"', '"y"']
    (item,) = document.paths.path
    assert item.name == "/a"
    (in_path,) = item.value.parameters
    assert in_path.parameter.non_body_parameter.path_parameter_sub_schema.name == "name"
    patch = item.value.patch
    assert patch.operation_id == "patchA"
    body, query = (each.parameter for each in patch.parameters)
    assert body.body_parameter.required
    assert body.body_parameter.schema.ref == "#/d/A"
    assert query.non_body_parameter.query_parameter_sub_schema.name == "dryRun"
    assert patch.responses.response_code[0].value.response.description == "OK"
    assert patch.vendor_extension[0].value.yaml == '"patch"'
