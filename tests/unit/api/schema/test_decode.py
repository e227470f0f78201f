"""Decoding request bodies: normalisation, strictness, type errors, hostile input."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.api.errors import ApiError
from navarch.api.kinds import Kind, kind_by_name
from navarch.api.schema.decode import (
    FieldValidation,
    decode_object,
    normalise_object,
    parse_document,
)


def kind(name: str, group: str = "", version: str = "v1") -> Kind:
    found = kind_by_name(group, version, name)
    assert found is not None
    return found


POD = kind("Pod")
CONFIG_MAP = kind("ConfigMap")
DEPLOYMENT = kind("Deployment", "apps")
CRD = kind("CustomResourceDefinition", "apiextensions.k8s.io")
YAML = "application/yaml"


def decode(of: Kind, body: object, mode: FieldValidation = FieldValidation.STRICT) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_object(of, data, "application/json", mode)[0]


def complaint(of: Kind, data: bytes, content_type: str = "application/json") -> str:
    with pytest.raises(ApiError) as error:
        decode_object(of, data, content_type, FieldValidation.STRICT)
    assert (error.value.status, error.value.reason) == (400, "BadRequest")
    return error.value.message


def container(**fields: object) -> dict[str, object]:
    return {"spec": {"containers": [{"name": "c", **fields}]}}


@pytest.mark.parametrize(
    ("given_fields", "expected"),
    [
        pytest.param({}, {}, id="a struct held by value is always there"),
        pytest.param({"args": [], "command": None, "image": ""}, {}, id="empty values go"),
        pytest.param({"stdin": False, "tty": True}, {"tty": True}, id="false goes where optional"),
        pytest.param({"livenessProbe": {}}, {"livenessProbe": {}}, id="pointers to structs stay"),
        pytest.param(
            {"restartPolicy": ""}, {"restartPolicy": ""}, id="zero behind a pointer stays"
        ),
        pytest.param(
            {"resources": {"limits": {"cpu": "1000m", "memory": "1024Mi", "x": 1.5, "y": None}}},
            {"resources": {"limits": {"cpu": "1", "memory": "1Gi", "x": "1500m", "y": "0"}}},
            id="quantities are canonical",
        ),
        pytest.param(
            {"resources": {"limits": {"cpu": 2, "memory": " 1Ki "}}},
            {"resources": {"limits": {"cpu": "2", "memory": "1Ki"}}},
            id="quantities may be numbers",
        ),
        pytest.param(
            {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]},
            {
                "env": [
                    {
                        "name": "A",
                        "valueFrom": {
                            "resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}
                        },
                    }
                ]
            },
            id="a quantity held by value is always there",
        ),
        pytest.param({"args": [None, "x"]}, {"args": ["", "x"]}, id="null in a list is zero"),
        pytest.param({"ports": [{}]}, {"ports": [{"containerPort": 0}]}, id="required zero"),
        pytest.param(
            {"readinessProbe": {"tcpSocket": {}}},
            {"readinessProbe": {"tcpSocket": {"port": 0}}},
            id="int-or-string zero",
        ),
    ],
)
def test_containers_are_normalised(
    given_fields: dict[str, object], expected: dict[str, object]
) -> None:
    result = decode(POD, container(**given_fields))
    assert result["spec"]["containers"] == [{"name": "c", "resources": {}, **expected}]


@pytest.mark.parametrize(
    ("of", "body", "expected"),
    [
        pytest.param(
            POD, b"null", {"metadata": {}, "spec": {"containers": []}, "status": {}}, id="null"
        ),
        pytest.param(
            DEPLOYMENT,
            b"{}",
            {
                "metadata": {},
                "spec": {
                    "template": {"metadata": {}, "spec": {"containers": []}},
                    "strategy": {},
                },
                "status": {},
            },
            id="nested structs",
        ),
        pytest.param(
            kind("Event"),
            b'{"firstTimestamp": "2026-01-01T01:00:00+01:00", "eventTime": "2026-01-01T00:00:00Z"}',
            {
                "metadata": {},
                "involvedObject": {},
                "source": {},
                "firstTimestamp": "2026-01-01T00:00:00Z",
                "lastTimestamp": None,
                "eventTime": "2026-01-01T00:00:00.000000Z",
                "reportingComponent": "",
                "reportingInstance": "",
            },
            id="times",
        ),
        pytest.param(
            CONFIG_MAP,
            b'{"data": {"a": null}, "binaryData": {"b": "aGk="}, "immutable": false}',
            {"metadata": {}, "data": {"a": ""}, "binaryData": {"b": "aGk="}, "immutable": False},
            id="maps",
        ),
    ],
)
def test_objects_look_as_upstream_prints_them(of: Kind, body: bytes, expected: Any) -> None:
    result = decode(of, body)
    assert result == {**expected, "kind": of.kind, "apiVersion": of.api_version}


def test_free_json_stays_as_it_is() -> None:
    data: dict[str, Any] = {"b": None, "a": [{"x": []}], "n": 1.0}
    result = decode(kind("ControllerRevision", "apps"), {"data": data, "revision": 3})
    assert result["data"] == data


def test_json_schemas_are_walked_without_strictness_where_go_is_lenient() -> None:
    schema = {
        "type": "array",
        "items": {"type": "string", "unheard": 1, "nullable": False},
        "additionalProperties": True,
    }
    version = {"name": "v1", "schema": {"openAPIV3Schema": {"properties": {"a": schema}}}}
    result = decode(CRD, {"spec": {"versions": [version]}})
    stored = result["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"]
    assert stored == {"type": "array", "items": {"type": "string"}, "additionalProperties": True}


def test_fields_of_features_that_are_off_are_dropped() -> None:
    pod = decode(kind("Pod"), {"spec": {"schedulingGroup": {}, "containers": []}})
    assert "schedulingGroup" not in pod["spec"]
    driver = {"spec": {"preventPodSchedulingIfMissing": True}}
    assert decode(kind("CSIDriver", "storage.k8s.io"), driver)["spec"] == {}


def test_an_empty_list_of_scaling_policies_is_told_from_none() -> None:
    rules: dict[str, Any] = {"behavior": {"scaleUp": {"policies": []}, "scaleDown": {}}}
    scaler = decode(kind("HorizontalPodAutoscaler", "autoscaling", "v2"), {"spec": rules})
    assert scaler["spec"]["behavior"] == {"scaleUp": {"policies": []}, "scaleDown": {}}


PREFIX = 'Deployment in version "v1" cannot be handled as a Deployment: '
POD_PREFIX = 'Pod in version "v1" cannot be handled as a Pod: '


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"replicas": "3"},
            "json: cannot unmarshal string into Go struct field "
            "DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"replicas": 80.5},
            "json: cannot unmarshal number 80.5 into Go struct field "
            "DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"replicas": 4294967376},
            "json: cannot unmarshal number 4294967376 into Go struct field "
            "DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"paused": 1},
            "json: cannot unmarshal number into Go struct field "
            "DeploymentSpec.spec.paused of type bool",
        ),
        (
            "x",
            "json: cannot unmarshal string into Go struct field "
            "Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            {"template": {"spec": {"containers": {}}}},
            "json: cannot unmarshal object into Go struct field "
            "PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            {"template": {"spec": {"containers": [1]}}},
            "json: cannot unmarshal number into Go struct field "
            "PodSpec.spec.template.spec.containers of type v1.Container",
        ),
        (
            {"template": {"spec": {"containers": [{"command": [True]}]}}},
            "json: cannot unmarshal bool into Go struct field "
            "Container.spec.template.spec.containers.command of type string",
        ),
        (
            {"template": {"spec": {"restartPolicy": []}}},
            "json: cannot unmarshal array into Go struct field "
            "PodSpec.spec.template.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            {"template": {"metadata": {"labels": {"a": 1}}}},
            "json: cannot unmarshal number into Go struct field "
            "ObjectMeta.spec.template.metadata.labels of type string",
        ),
        (
            {"template": {"metadata": {"labels": "a"}}},
            "json: cannot unmarshal string into Go struct field "
            "ObjectMeta.spec.template.metadata.labels of type map[string]string",
        ),
        (
            {"template": {"metadata": {"creationTimestamp": "x"}}},
            'parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"',
        ),
        (
            {"template": {"metadata": {"creationTimestamp": 5}}},
            "json: cannot unmarshal number into Go struct field "
            "ObjectMeta.spec.template.metadata.creationTimestamp of type string",
        ),
        (
            {"strategy": {"rollingUpdate": {"maxSurge": 1.5}}},
            "json: cannot unmarshal number 1.5 into Go struct field "
            "RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
        ),
        (
            {"template": {"spec": {"volumes": [{"hostPath": {"path": 5}}]}}},
            "json: cannot unmarshal number into Go struct field HostPathVolumeSource."
            "spec.template.spec.volumes.VolumeSource.hostPath.path of type string",
        ),
    ],
)
def test_wrong_types(spec: object, message: str) -> None:
    assert complaint(DEPLOYMENT, json.dumps({"spec": spec}).encode()) == PREFIX + message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1zz", "quantities must match the regular expression"),
        (True, "quantities must match the regular expression"),
        ({}, "quantities must match the regular expression"),
        ("1Q", "quantities must match the regular expression"),
        ("1i", "unable to parse quantity's suffix"),
        ("1e999999999", "unable to parse quantity's suffix"),
    ],
)
def test_wrong_quantities(value: object, message: str) -> None:
    body = container(resources={"limits": {"cpu": value}})
    assert complaint(POD, json.dumps(body).encode()).startswith(POD_PREFIX + message)


@pytest.mark.parametrize(
    ("value", "at"), [("%%", 0), ("aGk", 0), ("aGk=aGk=", 4), ("a===", 1), ("aGk\u00e9", 3)]
)
def test_wrong_base64(value: str, at: int) -> None:
    body = json.dumps({"binaryData": {"a": value}}).encode()
    assert complaint(CONFIG_MAP, body) == (
        'ConfigMap in version "v1" cannot be handled as a ConfigMap: '
        f"illegal base64 data at input byte {at}"
    )


STRICT_BODY = b"""{"spec": {"unknown1": 1, "unknownDupe": 1, "unknownDupe": 2, "paused": true,
 "paused": false, "template": {"metadata": {"labels": {"a": "1", "a": "2"}, "unknownMeta": {}},
 "spec": {"containers": [{"name": "c", "unknownNested": "x", "imagePullPolicy": "Always",
 "imagePullPolicy": "Never"}]}}}}"""
STRICT_PROBLEMS = [
    'unknown field "spec.unknown1"',
    'unknown field "spec.unknownDupe"',
    'duplicate field "spec.paused"',
    'duplicate field "spec.template.metadata.labels.a"',
    'unknown field "spec.template.metadata.unknownMeta"',
    'unknown field "spec.template.spec.containers[0].unknownNested"',
    'duplicate field "spec.template.spec.containers[0].imagePullPolicy"',
]


def test_strictness_lists_all_problems_in_order() -> None:
    expected = f"{PREFIX}strict decoding error: {', '.join(STRICT_PROBLEMS)}"
    assert complaint(DEPLOYMENT, STRICT_BODY) == expected


@pytest.mark.parametrize(
    ("mode", "warnings"), [(FieldValidation.WARN, STRICT_PROBLEMS), (FieldValidation.IGNORE, [])]
)
def test_otherwise_the_last_value_stands_and_the_rest_is_dropped(
    mode: FieldValidation, warnings: list[str]
) -> None:
    obj, found = decode_object(DEPLOYMENT, STRICT_BODY, "application/json", mode)
    assert found == warnings
    assert obj["spec"] == {
        "template": {
            "metadata": {"labels": {"a": "2"}},
            "spec": {"containers": [{"name": "c", "imagePullPolicy": "Never", "resources": {}}]},
        },
        "strategy": {},
    }


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"data":{"a":"1","a":"2"}}', id="compact"),
        pytest.param(b'{"data" : {"a" : "1", "a" : "2"}}', id="spaces before the colon"),
        pytest.param(b'{"data":{"a":"1","x\\\\":"y","a":"2"}}', id="a key ending in a backslash"),
        pytest.param(b'{"data":{"a":"1","x":"{\\"k\\":1}","a":"2"}}', id="JSON in a string"),
        pytest.param(b'{"data":{"a":"1","\\u0061":"2"}}', id="the same key, escaped"),
        pytest.param(b'{"data":{"a":"1","a":"2","c":"\xff"}}', id="broken UTF-8 as well"),
    ],
)
def test_repeated_keys_are_found(body: bytes) -> None:
    assert complaint(CONFIG_MAP, body).endswith('duplicate field "data.a"')


@pytest.mark.parametrize(
    "body",
    [
        b'{ "data" : { "a" : "1" } }',
        b'{"data":{"a":"{\\"k\\":\\"v\\",\\"k\\":1}"}}',
        b'{"data":{"x\\\\":"y","\\u00e4":"\\u003c"}}',
        b'{"data":{"a\\":":"\\\\"}}',
    ],
)
def test_lookalikes_are_not_repeats(body: bytes) -> None:
    assert decode(CONFIG_MAP, body)["data"] == json.loads(body)["data"]


def test_field_names_are_case_sensitive() -> None:
    assert complaint(CONFIG_MAP, b'{"Data": {}}').endswith('unknown field "Data"')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "unexpected end of JSON input (<empty>)"),
        (b"{", "unexpected end of JSON input ({)"),
        (b"{}{}", "invalid character '{' after top-level value ({}{})"),
        (
            b'{"a":1,}',
            "invalid character '}' looking for beginning of object key string ({\"a\":1,})",
        ),
        (b"x" * 40, f"invalid character 'x' looking for beginning of value ({'78' * 30} ...)"),
        (b"1", "json: cannot unmarshal number into Go value of type struct"),
        (b"[]", "json: cannot unmarshal array into Go value of type struct"),
        (b'{"kind": 5}', "json: cannot unmarshal number into Go struct field .kind of type string"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
    ],
)
def test_what_is_no_object(body: bytes, message: str) -> None:
    prefix = (
        "the object provided is unrecognized (must be of type ConfigMap): "
        "couldn't get version/kind; json parse error: "
    )
    assert complaint(CONFIG_MAP, body).startswith(prefix + message)


@pytest.mark.parametrize(
    ("of", "body", "message"),
    [
        (
            CONFIG_MAP,
            b'{"kind":"Foo"}',
            'Foo in version "v1" cannot be handled as a ConfigMap: no kind "Foo" is registered for '
            'version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30"',
        ),
        (
            CONFIG_MAP,
            b'{"kind":"Pod"}',
            'Pod in version "v1" cannot be handled as a ConfigMap: converting (v1.Pod) to '
            "(core.ConfigMap): unknown conversion",
        ),
        (
            CONFIG_MAP,
            b'{"apiVersion":"v2"}',
            'ConfigMap in version "v2" cannot be handled as a ConfigMap: no kind "ConfigMap" is '
            'registered for version "v2" in scheme "pkg/api/legacyscheme/scheme.go:30"',
        ),
        (
            kind("HorizontalPodAutoscaler", "autoscaling"),
            b'{"apiVersion":"autoscaling/v2"}',
            "the API version in the data (autoscaling/v2) does not match the expected API version "
            "(autoscaling/v1)",
        ),
    ],
)
def test_other_kinds_are_refused(of: Kind, body: bytes, message: str) -> None:
    assert complaint(of, body) == message


def test_yaml() -> None:
    body = b"# a comment\nkind: ConfigMap\ndata:\n  a: 'yes'\n  b: |\n    line\n"
    obj, warnings = decode_object(CONFIG_MAP, body, YAML, FieldValidation.STRICT)
    assert obj["data"] == {"a": "yes", "b": "line\n"}
    assert warnings == []
    assert complaint(CONFIG_MAP, b"data: {a: 1}", YAML).endswith(
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"
    )
    assert complaint(CONFIG_MAP, b"data:\n  a: b\n  a: c\n", YAML).endswith(
        'strict decoding error: yaml: unmarshal errors:\n  line 3: key "a" already set in map'
    )
    assert complaint(CONFIG_MAP, b"data: [", YAML).startswith(
        "error converting YAML to JSON: yaml:"
    )


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(b"[" * 100_000, "application/json", id="json-lists"),
        pytest.param(b'{"a":' * 100_000, "application/json", id="json-objects"),
        pytest.param(
            b'{"spec":{"versions":[{"schema":{"openAPIV3Schema":'
            + b'{"not":' * 990
            + b"{}"
            + b"}" * 990
            + b"}}]}}",
            "application/json",
            id="a schema deeper than the walk goes",
        ),
        pytest.param(b"[" * 100_000, YAML, id="yaml-lists"),
        pytest.param(b"- " * 100_000, YAML, id="yaml-dashes"),
        pytest.param(b"? " * 100_000, YAML, id="yaml-keys"),
    ],
)
def test_deep_nesting_is_refused_at_once(body: bytes, content_type: str) -> None:
    started = time.process_time()
    assert "exceeded max depth" in complaint(CRD, body, content_type)
    assert time.process_time() - started < 5


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    started = time.process_time()
    assert "excessive aliasing" in complaint(CONFIG_MAP, "\n".join(lines).encode(), YAML)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(
            b'{"data":{' + b",".join(b'"%d":"","%d":""' % (n, n) for n in range(50_000)) + b"}}",
            "application/json",
            id="repeated keys",
        ),
        pytest.param(
            b"{" + b",".join(b'"%d":{}' % n for n in range(100_000)) + b"}",
            "application/json",
            id="unknown fields",
        ),
        pytest.param(
            b"".join(b"a%d: b\na%d: c\n" % (n, n) for n in range(20_000)),
            YAML,
            id="repeated in yaml",
        ),
    ],
)
def test_many_problems_cost_little_and_are_told_in_part(body: bytes, content_type: str) -> None:
    started = time.process_time()
    assert len(complaint(CONFIG_MAP, body, content_type)) < 10_000
    assert time.process_time() - started < 3
    assert len(parse_document(body, content_type)[1]) <= 100
    assert time.process_time() - started < 6


def test_a_document_of_too_many_values_is_refused() -> None:
    assert "more than 500000 values" in complaint(CONFIG_MAP, b"[" + b"a," * 500_001 + b"]", YAML)


def test_broken_text_is_repaired() -> None:
    data = decode(CONFIG_MAP, b'{"data":{"a":"x\xffy","b":"\\ud800","c":"\\u0000"}}')["data"]
    assert data == {"a": "x\ufffdy", "b": "\ufffd", "c": "\x00"}


def test_patched_objects_take_the_same_way() -> None:
    obj = decode(DEPLOYMENT, {"spec": {"replicas": 1}})
    obj["spec"]["foo"] = 1
    obj["spec"]["template"]["spec"] = None
    result, warnings = normalise_object(DEPLOYMENT, obj)
    assert warnings == ['unknown field "spec.foo"']
    assert result["spec"]["template"] == {"metadata": {}, "spec": {"containers": []}}


@pytest.mark.parametrize(
    ("body", "content_type", "value", "problems"),
    [
        (b'{"a": [{"b": 1, "b": 2}]}', "application/json", {"a": [{"b": 2}]}, ["a[0].b"]),
        (b'{"a": [{"b": 1}]}', "application/json", {"a": [{"b": 1}]}, []),
        (b"a: {b: 1}", YAML, {"a": {"b": 1}}, []),
    ],
)
def test_documents_without_a_schema(
    body: bytes, content_type: str, value: object, problems: list[str]
) -> None:
    found, repeats = parse_document(body, content_type)
    assert found == value
    assert repeats == [f'duplicate field "{path}"' for path in problems]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["spec", "metadata", "name", "containers", "labels", "template", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["spec", "metadata", "status", "x"]), json_values))
def test_any_object_is_decoded_or_refused_and_decoding_is_stable(body: dict[str, object]) -> None:
    data = json.dumps(body).encode()
    try:
        obj, _ = decode_object(DEPLOYMENT, data)
    except ApiError as error:
        assert error.status == 400
        return
    again, warnings = decode_object(DEPLOYMENT, json.dumps(obj).encode())
    assert (again, warnings) == (obj, [])
