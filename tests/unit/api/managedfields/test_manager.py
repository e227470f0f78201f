"""Server-side apply and the tracking of updates, on real kinds and on custom resources."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from msgspec.structs import replace

from navarch.api.errors import ApiError
from navarch.api.managedfields import (
    FieldType,
    Writer,
    apply,
    custom_field_type,
    field_type,
    track_create,
    track_update,
)
from navarch.api.managedfields.applied import applied_problems
from navarch.api.schema.facts import schema_for

Object = dict[str, Any]
DEPLOYMENT = field_type(schema_for("apps", "v1", "Deployment"))
CONFIG_MAP = field_type(schema_for("", "v1", "ConfigMap"))
SERVICE = field_type(schema_for("", "v1", "Service"))
DEDUCED = custom_field_type(None)
ANN = Writer("ann", "v1", "2026-01-01T00:00:01Z")
BOB = Writer("bob", "v1", "2026-01-01T00:00:02Z")
EMPTY: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}


def config_map(**data: Any) -> Object:
    obj: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    return {**obj, "data": data} if data else obj


def stored(obj: Object) -> Object:
    """As the object comes back from the store."""
    result: Object = json.loads(json.dumps(obj))
    result["metadata"]["uid"] = "1"
    return result


def created(obj: Object, kind: FieldType, writer: Writer) -> Object:
    return stored(apply({**EMPTY, "metadata": {}}, obj, kind, writer))


def owners(obj: Object) -> dict[str, Any]:
    return {
        f"{each['manager']} {each['operation']}": each["fieldsV1"]
        for each in obj["metadata"].get("managedFields", [])
    }


def test_apply_creates_and_owns() -> None:
    obj = created(config_map(a="1", b="2"), CONFIG_MAP, ANN)
    assert obj["data"] == {"a": "1", "b": "2"}
    assert obj["metadata"]["managedFields"] == [
        {
            "manager": "ann",
            "operation": "Apply",
            "apiVersion": "v1",
            "time": ANN.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:a": {}, "f:b": {}}},
        }
    ]


def test_applying_the_same_again_changes_nothing() -> None:
    obj = created(config_map(a="1"), CONFIG_MAP, ANN)
    later = replace(ANN, time="2026-01-01T00:10:00Z")
    assert apply(obj, config_map(a="1"), CONFIG_MAP, later) == obj


def test_a_field_no_longer_applied_is_removed() -> None:
    obj = created(config_map(a="1", b="2"), CONFIG_MAP, ANN)
    obj = apply(obj, config_map(b="2"), CONFIG_MAP, ANN)
    assert obj["data"] == {"b": "2"}
    assert owners(obj) == {"ann Apply": {"f:data": {"f:b": {}}}}


def test_a_field_somebody_else_owns_too_stays() -> None:
    obj = created(config_map(a="1", b="2"), CONFIG_MAP, ANN)
    obj = stored(apply(obj, config_map(a="1"), CONFIG_MAP, BOB))
    assert owners(obj)["bob Apply"] == {"f:data": {"f:a": {}}}
    obj = apply(obj, config_map(), CONFIG_MAP, ANN)
    assert obj["data"] == {"a": "1"}
    assert owners(obj) == {"bob Apply": {"f:data": {"f:a": {}}}}


def test_conflict_and_force() -> None:
    obj = created(config_map(a="1", b="1"), CONFIG_MAP, ANN)
    with pytest.raises(ApiError) as caught:
        apply(obj, config_map(a="2"), CONFIG_MAP, BOB)
    error = caught.value
    assert (error.status, error.reason) == (409, "Conflict")
    assert error.message == 'Apply failed with 1 conflict: conflict with "ann": .data.a'
    assert error.details == {
        "causes": [
            {
                "reason": "FieldManagerConflict",
                "message": 'conflict with "ann"',
                "field": ".data.a",
            }
        ]
    }
    with pytest.raises(ApiError) as caught:
        apply(obj, config_map(a="2", b="2"), CONFIG_MAP, BOB)
    assert caught.value.message == (
        'Apply failed with 2 conflicts: conflicts with "ann":\n- .data.a\n- .data.b'
    )
    forced = apply(obj, config_map(a="2"), CONFIG_MAP, BOB, force=True)
    assert forced["data"] == {"a": "2", "b": "1"}
    assert owners(forced) == {
        "ann Apply": {"f:data": {"f:b": {}}},
        "bob Apply": {"f:data": {"f:a": {}}},
    }


def test_updates_take_fields_over_silently() -> None:
    live = created(config_map(a="1", b="1"), CONFIG_MAP, ANN)
    obj = copy.deepcopy(live)
    obj["data"]["a"] = "2"
    track_update(obj, live, CONFIG_MAP, BOB)
    assert owners(obj) == {
        "ann Apply": {"f:data": {"f:b": {}}},
        "bob Update": {"f:data": {"f:a": {}}},
    }
    with pytest.raises(ApiError) as caught:
        apply(stored(obj), config_map(a="1", b="1"), CONFIG_MAP, ANN)
    assert 'conflict with "bob" using v1: .data.a' in caught.value.message


def test_removed_fields_are_nobodys() -> None:
    live = created(config_map(a="1", b="1"), CONFIG_MAP, ANN)
    obj = copy.deepcopy(live)
    del obj["data"]["a"]
    track_update(obj, live, CONFIG_MAP, BOB)
    assert owners(obj) == {"ann Apply": {"f:data": {"f:b": {}}}}


def deployment(*containers: Object, **spec: Any) -> Object:
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": list(containers)}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {"template": template, **spec},
    }


def containers_of(obj: Object) -> list[Object]:
    result: list[Object] = obj["spec"]["template"]["spec"]["containers"]
    return result


def test_items_of_a_list_are_owned_one_by_one() -> None:
    ann, bob = replace(ANN, api_version="apps/v1"), replace(BOB, api_version="apps/v1")
    first = {"name": "one", "image": "1", "env": [{"name": "A", "value": "a"}]}
    obj = created(deployment(first, replicas=3), DEPLOYMENT, ann)
    obj = stored(apply(obj, deployment({"name": "two", "image": "2"}), DEPLOYMENT, bob))
    assert [each["name"] for each in containers_of(obj)] == ["one", "two"]
    changed = {"name": "one", "env": [{"name": "B", "value": "b"}]}
    obj = stored(apply(obj, deployment(changed), DEPLOYMENT, ann))
    assert containers_of(obj) == [
        {"name": "one", "env": [{"name": "B", "value": "b"}]},
        {"name": "two", "image": "2"},
    ]
    assert "replicas" not in obj["spec"]
    obj = apply(obj, deployment(), DEPLOYMENT, ann)
    assert containers_of(obj) == [{"name": "two", "image": "2"}]
    assert list(owners(obj)) == ["ann Apply", "bob Apply"]


def test_an_item_that_somebody_else_applies_too_stays() -> None:
    ann, bob = replace(ANN, api_version="apps/v1"), replace(BOB, api_version="apps/v1")
    obj = created(deployment({"name": "one", "image": "1"}), DEPLOYMENT, ann)
    obj = stored(apply(obj, deployment({"name": "one", "tty": True}), DEPLOYMENT, bob))
    obj = apply(obj, deployment(), DEPLOYMENT, ann)
    assert containers_of(obj) == [{"name": "one", "tty": True}]


def test_missing_keys_are_defaulted() -> None:
    port = {"port": 80, "name": "http"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"ports": [port]},
    }
    obj = created(service, SERVICE, ANN)
    key = 'k:{"port":80,"protocol":"TCP"}'
    assert owners(obj)["ann Apply"]["f:spec"]["f:ports"] == {
        key: {".": {}, "f:name": {}, "f:port": {}}
    }


def test_sets_and_labels() -> None:
    first = config_map()
    first["metadata"] |= {"finalizers": ["a/x"], "labels": {"l": "1"}}
    second = config_map()
    second["metadata"] |= {"finalizers": ["a/y"], "labels": {"m": "1"}}
    obj = stored(apply(created(first, CONFIG_MAP, ANN), second, CONFIG_MAP, BOB))
    assert obj["metadata"]["finalizers"] == ["a/x", "a/y"]
    assert obj["metadata"]["labels"] == {"l": "1", "m": "1"}
    obj = apply(obj, config_map(), CONFIG_MAP, ANN)
    assert obj["metadata"]["finalizers"] == ["a/y"]
    assert obj["metadata"]["labels"] == {"m": "1"}


@pytest.mark.parametrize(
    ("live", "applied", "expected"),
    [
        ("ab", "ba", "ba"),
        ("abc", "c", "abc"),
        ("ab", "x", "abx"),
        ("axb", "ba", "bax"),
        ("ab", "axb", "axb"),
        ("lam", "a", "lam"),
        ("abcd", "dba", "dcba"),
    ],
)
def test_order_of_merged_items(live: str, applied: str, expected: str) -> None:
    ann = replace(ANN, api_version="apps/v1")
    before = created(deployment(*[{"name": name} for name in live]), DEPLOYMENT, ann)
    bob = replace(ann, manager="bob")
    obj = apply(before, deployment(*[{"name": name} for name in applied]), DEPLOYMENT, bob)
    result = "".join(each["name"] for each in containers_of(obj))
    assert sorted(result) == sorted(expected)
    order = [name for name in result if name in applied]
    assert "".join(order) == applied, "the applied order holds"
    assert "".join(n for n in result if n not in applied) == "".join(
        n for n in live if n not in applied
    ), "the live order holds among the others"


@pytest.mark.parametrize(
    ("applied", "expected"),
    [
        pytest.param(
            deployment(unknownField=1),
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): "
            ".spec.unknownField: field not declared in schema",
            id="unknown field",
        ),
        pytest.param(
            deployment({"name": "a"}, {"name": "a"}),
            '.spec.template.spec.containers: duplicate entries for key [name="a"]',
            id="doubled item",
        ),
        pytest.param(
            deployment({"image": "a"}, {"image": "b"}),
            '.spec.template.spec.containers: duplicate entries for key [name=""]',
            id="the empty name is a name",
        ),
        pytest.param(
            deployment(template="text"), ".spec.template: expected map, got string", id="wrong type"
        ),
        pytest.param(
            {**deployment(), "metadata": {"name": "d", "managedFields": []}},
            "metadata.managedFields must be nil",
            id="managed fields",
        ),
    ],
)
def test_configurations_that_do_not_fit(applied: Object, expected: str) -> None:
    with pytest.raises(ApiError) as caught:
        apply({**EMPTY, "metadata": {}}, applied, DEPLOYMENT, replace(ANN, api_version="apps/v1"))
    assert caught.value.status == 400
    assert expected in caught.value.message


def test_items_need_one_of_their_keys() -> None:
    kind = field_type(schema_for("", "v1", "ServiceAccount"))
    accepted = {"secrets": [{"name": "a"}], "imagePullSecrets": [{}]}
    assert applied_problems(accepted, kind) == []
    assert applied_problems({"secrets": [{"namespace": "a"}]}, kind) == [
        ".secrets: element 0: associative list with keys has an element that omits all key fields "
        '["name"] (and doesn\'t have default values for any key fields)'
    ]


def test_creates_are_tracked() -> None:
    obj = config_map(a="1")
    obj["metadata"] |= {"labels": {"l": "1"}, "uid": "1", "generation": 1, "managedFields": [{}]}
    track_create(obj, CONFIG_MAP, ANN)
    assert owners(obj) == {
        "ann Update": {
            "f:data": {".": {}, "f:a": {}},
            "f:metadata": {"f:labels": {".": {}, "f:l": {}}},
        }
    }


def test_objects_of_one_spec_are_tracked_alike_and_others_are_not() -> None:
    def fields_of(*containers: Object, **spec: Any) -> Any:
        obj = deployment(*containers, **spec)
        track_create(obj, DEPLOYMENT, ANN)
        return owners(obj)["ann Update"]["f:spec"]

    first = fields_of({"name": "a", "image": "x"}, replicas=1)
    assert fields_of({"name": "a", "image": "x"}, replicas=1) == first
    assert fields_of({"name": "b", "image": "x"}, replicas=1) != first
    assert fields_of({"name": "a", "image": "x"}) == {
        key: node for key, node in first.items() if key != "f:replicas"
    }


def test_objects_of_one_spec_own_labels_of_their_own() -> None:
    def labels_of(ignored: tuple[str, ...] = (), **labels: str) -> Any:
        obj = deployment(replicas=1)
        obj["metadata"]["labels"] = labels
        track_create(obj, DEPLOYMENT, replace(ANN, ignored=ignored))
        return owners(obj)["ann Update"].get("f:metadata", {}).get("f:labels")

    assert labels_of(a="1") == labels_of(a="1") == {".": {}, "f:a": {}}
    assert labels_of(b="1") == {".": {}, "f:b": {}}
    assert labels_of(("metadata",), a="1") is None
    assert labels_of(a="1") == {".": {}, "f:a": {}}


def test_a_create_owns_what_is_never_absent_once_it_is_set() -> None:
    empty: Object = {"metadata": {}, "spec": {"maxReplicas": 0, "scaleTargetRef": {"name": ""}}}
    kind = field_type(schema_for("autoscaling", "v2", "HorizontalPodAutoscaler"))
    obj: Object = {"metadata": {}, "spec": {"maxReplicas": 5, "scaleTargetRef": {"name": "d"}}}
    track_create(obj, kind, replace(ANN, api_version="autoscaling/v2"), empty)
    spec: Object = {"f:maxReplicas": {}, "f:scaleTargetRef": {"f:name": {}}}
    assert owners(obj)["ann Update"] == {"f:spec": spec}


def test_status_is_its_own_manager_and_not_claimed_through_the_object() -> None:
    empty: Object = {"metadata": {}, "spec": {}, "status": {}}
    obj = {**deployment(replicas=1), "status": {"replicas": 1}}
    writer = replace(ANN, api_version="apps/v1", ignored=("status",))
    track_create(obj, DEPLOYMENT, writer, empty)
    assert "f:status" not in owners(obj)["ann Update"]
    live = stored(obj)
    new = copy.deepcopy(live)
    new["status"]["readyReplicas"] = 1
    track_update(new, live, DEPLOYMENT, replace(writer, subresource="status", ignored=("spec",)))
    entry = new["metadata"]["managedFields"][-1]
    assert entry["subresource"] == "status"
    assert entry["fieldsV1"] == {"f:status": {"f:readyReplicas": {}}}


def test_the_same_manager_keeps_one_entry_and_renews_its_time() -> None:
    live = config_map(a="1")
    track_create(live, CONFIG_MAP, ANN)
    live = stored(live)
    obj = copy.deepcopy(live)
    obj["data"] |= {"a": "2", "b": "1"}
    later = replace(ANN, time="2026-01-01T01:00:00Z")
    track_update(obj, live, CONFIG_MAP, later)
    (entry,) = obj["metadata"]["managedFields"]
    assert entry["time"] == later.time
    assert entry["fieldsV1"] == {"f:data": {".": {}, "f:a": {}, "f:b": {}}}


def test_an_update_that_changes_nothing_keeps_the_entries() -> None:
    live = config_map(a="1")
    track_create(live, CONFIG_MAP, ANN)
    live = stored(live)
    obj = copy.deepcopy(live)
    track_update(obj, live, CONFIG_MAP, BOB)
    assert obj == live


def test_only_the_newest_updaters_have_entries_of_their_own() -> None:
    obj = config_map(start="0")
    track_create(obj, CONFIG_MAP, ANN)
    for number in range(12):
        live = stored(obj)
        obj = copy.deepcopy(live)
        obj["data"][f"k{number}"] = "1"
        time = f"2026-01-01T02:00:{number:02}Z"
        track_update(obj, live, CONFIG_MAP, Writer(f"m{number}", "v1", time))
    names = [each["manager"] for each in obj["metadata"]["managedFields"]]
    assert len(names) == 10
    assert names[0] == "ancient-changes"
    assert names[-1] == "m11"
    oldest = owners(obj)["ancient-changes Update"]["f:data"]
    assert {"f:start", "f:k0", "f:k1", "f:k2"} == set(oldest) - {"."}


@pytest.mark.parametrize("reset", [[{}], []])
def test_reset_and_the_past_at_the_first_apply(reset: list[Object]) -> None:
    live = config_map(a="1")
    track_create(live, CONFIG_MAP, ANN)
    live = stored(live)
    obj = copy.deepcopy(live)
    obj["metadata"]["managedFields"] = reset
    track_update(obj, live, CONFIG_MAP, BOB)
    assert "managedFields" not in obj["metadata"]
    live = stored(obj)
    obj = copy.deepcopy(live)
    obj["data"]["b"] = "2"
    track_update(obj, live, CONFIG_MAP, BOB)
    assert "managedFields" not in obj["metadata"], "what is not tracked stays so"
    with pytest.raises(ApiError) as caught:
        apply(stored(obj), config_map(a="2"), CONFIG_MAP, ANN)
    assert 'conflict with "before-first-apply" using v1: .data.a' in caught.value.message


@pytest.mark.parametrize(
    "sent",
    [
        None,
        [{"manager": "x"}],
        [{"operation": "Update", "apiVersion": "v1", "fieldsType": "Other"}],
    ],
)
def test_malformed_managed_fields_are_not_taken(sent: Any) -> None:
    live = config_map(a="1")
    track_create(live, CONFIG_MAP, ANN)
    live = stored(live)
    obj = copy.deepcopy(live)
    obj["metadata"]["managedFields"] = sent
    track_update(obj, live, CONFIG_MAP, BOB)
    assert owners(obj) == owners(live)


def test_kubectl_takes_over_from_its_client_side_apply() -> None:
    last = config_map(a="1")
    live = config_map(a="1")
    text = json.dumps(last)
    key = "kubectl.kubernetes.io/last-applied-configuration"
    live["metadata"]["annotations"] = {key: text}
    track_create(live, CONFIG_MAP, Writer("kubectl-client-side-apply", "v1", ANN.time))
    live = stored(live)
    kubectl = replace(ANN, manager="kubectl")
    with pytest.raises(ApiError):
        apply(live, config_map(a="2"), CONFIG_MAP, ANN)
    obj = apply(live, config_map(a="2"), CONFIG_MAP, kubectl)
    assert obj["data"] == {"a": "2"}
    assert json.loads(obj["metadata"]["annotations"][key])["data"] == {"a": "2"}


def custom(**spec: Any) -> Object:
    return {
        "apiVersion": "x.io/v1",
        "kind": "Foo",
        "metadata": {"name": "f", "namespace": "default"},
        "spec": spec,
    }


SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "items": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id"],
                    "items": {"type": "object", "properties": {"id": {"type": "string"}}},
                },
                "tags": {
                    "type": "array",
                    "x-kubernetes-list-type": "set",
                    "items": {"type": "string"},
                },
                "plain": {"type": "array", "items": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        }
    },
}


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        pytest.param(
            custom_field_type(SCHEMA),
            {"items": [{"id": "a"}], "tags": ["t"], "plain": ["p"], "free": {"x": {"y": [1]}}},
            {
                "f:items": {'k:{"id":"a"}': {".": {}, "f:id": {}}},
                "f:tags": {'v:"t"': {}},
                "f:plain": {},
                "f:free": {"f:x": {".": {}, "f:y": {}}},
            },
            id="schema",
        ),
        pytest.param(
            DEDUCED,
            {"items": [{"id": "a"}], "free": {"x": 1}},
            {"f:items": {}, "f:free": {".": {}, "f:x": {}}},
            id="deduced",
        ),
    ],
)
def test_custom_resources(kind: FieldType, spec: Object, expected: Object) -> None:
    obj = created(custom(**spec), kind, replace(ANN, api_version="x.io/v1"))
    fields = owners(obj)["ann Apply"]["f:spec"]
    fields.pop(".", None)
    assert fields == expected


def test_unknown_fields_of_a_custom_resource() -> None:
    writer = replace(ANN, api_version="x.io/v1")
    with pytest.raises(ApiError) as caught:
        created(custom(other=1), custom_field_type(SCHEMA), writer)
    assert ".spec.other: field not declared in schema" in caught.value.message
