"""MutatingAdmissionPolicies in force."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Admin, Answer, Api, config_map
from tests.api.test_validating_policies import DEPLOYMENTS, GROUP, MAPS, admin, deployment

Object = dict[str, Any]
POLICIES = f"{GROUP}/mutatingadmissionpolicies"
BINDINGS = f"{GROUP}/mutatingadmissionpolicybindings"
TITLE = "MutatingAdmissionPolicy [Privileged:ClusterAdmin] should"

__all__ = ["admin"]


def apply(expression: str) -> Object:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def patch(expression: str) -> Object:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


def policy(
    *mutations: Object, group: str = "", resource: str = "configmaps", **spec: Any
) -> Object:
    rule = {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": [resource],
    }
    body = {
        "matchConstraints": {"resourceRules": [rule]},
        "mutations": [*mutations],
        "reinvocationPolicy": "Never",
        **spec,
    }
    return {"metadata": {"name": "p"}, "spec": body}


async def put_in_force(api: Api, made: Object, name: str = "p", **spec: Any) -> None:
    made["metadata"]["name"] = name
    (await api.post(POLICIES, made)).ok(201)
    bound = {"metadata": {"name": f"{name}-b"}, "spec": {"policyName": name, **spec}}
    (await api.post(BINDINGS, bound)).ok(201)


async def attempt(api: Api, name: str = "m", **data: str) -> Answer:
    return await api.post(MAPS, config_map(name, **data))


@pytest.mark.conformance(f"{TITLE} mutate a Deployment")
async def test_deployments(admin: Admin) -> None:
    mutation = apply("Object{spec: Object.spec{replicas: 1337}}")
    await put_in_force(admin, policy(mutation, group="apps", resource="deployments"))
    made = (await admin.post(DEPLOYMENTS, deployment("d", 1))).ok(201)
    assert made["spec"]["replicas"] == 1337
    assert (
        made["spec"]["template"] == (await admin.get(f"{DEPLOYMENTS}/d")).json["spec"]["template"]
    )


@pytest.mark.conformance(f"{TITLE} mutate a Deployment with annotations")
async def test_annotations(admin: Admin) -> None:
    mutation = apply("Object{metadata: Object.metadata{annotations: {'my.example/was': 'here'}}}")
    await put_in_force(admin, policy(mutation, group="apps", resource="deployments"))
    body = deployment("d", 1)
    body["metadata"]["annotations"] = {"other": "kept"}
    made = (await admin.post(DEPLOYMENTS, body)).ok(201)
    assert made["metadata"]["annotations"] == {"other": "kept", "my.example/was": "here"}


@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        pytest.param(
            apply("Object{data: {'a': 'changed', 'n': string(size(object.data))}}"),
            {"a": "changed", "b": "y", "n": "2"},
            id="merged",
        ),
        pytest.param(
            patch("[JSONPatch{op: 'replace', path: '/data/a', value: 'z'}]"),
            {"a": "z", "b": "y"},
            id="replaced",
        ),
        pytest.param(
            patch("[JSONPatch{op: 'move', from: '/data/a', path: '/data/c'}]"),
            {"b": "y", "c": "x"},
            id="moved",
        ),
        pytest.param(
            patch(
                "[JSONPatch{op: 'test', path: '/metadata/name', value: 'zz'},"
                " JSONPatch{op: 'remove', path: '/data/a'}]"
            ),
            {"a": "x", "b": "y"},
            id="a failing test changes nothing",
        ),
        pytest.param(
            patch("object.data.a == 'x' ? [] : [JSONPatch{op: 'remove', path: '/data/a'}]"),
            {"a": "x", "b": "y"},
            id="an empty patch",
        ),
    ],
)
async def test_mutations(admin: Admin, mutation: Object, expected: Object) -> None:
    await put_in_force(admin, policy(mutation))
    made = config_map("m", a="x", b="y")
    assert (await admin.post(MAPS, made)).ok(201)["data"] == expected


async def test_keys_in_paths(admin: Admin) -> None:
    path = "'/metadata/labels/' + jsonpatch.escapeKey('my.example/a')"
    await put_in_force(admin, policy(patch(f"[JSONPatch{{op: 'remove', path: {path}}}]")))
    labelled = config_map("m")
    labelled["metadata"]["labels"] = {"my.example/a": "x", "b": "y"}
    assert (await admin.post(MAPS, labelled)).ok(201)["metadata"]["labels"] == {"b": "y"}


async def test_each_mutation_sees_the_one_before(admin: Admin) -> None:
    variables = [{"name": "count", "expression": "size(object.data)"}]
    mutation = apply("Object{data: {'n' + string(variables.count): 'x'}}")
    await put_in_force(admin, policy(mutation, mutation, variables=variables))
    assert (await attempt(admin, a="x")).ok(201)["data"] == {"a": "x", "n1": "x", "n2": "x"}


async def test_lists_merge_by_their_keys(admin: Admin) -> None:
    mutation = apply(
        "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{"
        "containers: [Object.spec.template.spec.containers{name: 'c', env: ["
        "Object.spec.template.spec.containers.env{name: 'A', value: 'a'}]},"
        " Object.spec.template.spec.containers{name: 'side', image: 'registry.example/side'}]}}}}"
    )
    await put_in_force(admin, policy(mutation, group="apps", resource="deployments"))
    made = (await admin.post(DEPLOYMENTS, deployment("d", 1))).ok(201)
    first, second = made["spec"]["template"]["spec"]["containers"]
    assert (first["image"], first["env"]) == ("registry.example/app", [{"name": "A", "value": "a"}])
    assert (second["name"], second["imagePullPolicy"]) == ("side", "Always")


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        pytest.param(
            apply("Object{data: Object.wrong{}}"),
            'type mismatch: unexpected type name "Object.wrong", expected "Object.data", which '
            "matches field name path from root Object type",
            id="a type in the wrong place",
        ),
        pytest.param(
            apply("Object{nothing: 1}"),
            "error applying patch: failed to convert patch object to typed object: .nothing: field "
            "not declared in schema",
            id="a field that is not there",
        ),
        pytest.param(
            patch("[JSONPatch{op: 'remove', path: '/data/zz'}]"), "JSON Patch: ", id="a bad path"
        ),
        pytest.param(
            apply("Object{data: {'a': 1}}"),
            "error applying patch: failed to convert patch object to typed object: ",
            id="a value of the wrong type",
        ),
        pytest.param(apply("Object{data: {'a': null}}"), ".data.a: expected", id="a null"),
        pytest.param(
            apply("Object{data: {'a': object.data.zz}}"),
            "resulted in error: no such key: zz",
            id="an error",
        ),
        pytest.param(
            patch("[JSONPatch{op: 'add', path: '/a', value: 1, other: dyn(2)}]"),
            "unexpected JSONPatchType field: other",
            id="a field no patch has",
        ),
    ],
)
async def test_what_fails_is_refused(admin: Admin, mutation: Object, message: str) -> None:
    await put_in_force(admin, policy(mutation))
    refused = await attempt(admin, a="x")
    assert refused.status == 403
    assert refused.json["reason"] == "Invalid"
    text = refused.json["message"]
    assert text.startswith("policy 'p' with binding 'p-b' denied request: ")
    assert message in text
    assert refused.json["details"]["causes"] == [{"message": text}]


async def test_a_patch_that_makes_no_object_is_an_error_of_the_policy(admin: Admin) -> None:
    mutation = patch("[JSONPatch{op: 'add', path: '/nothing', value: 1}]")
    await put_in_force(admin, policy(mutation, failurePolicy="Ignore"))
    refused = await attempt(admin, a="x")
    assert refused.status == 500
    assert 'strict decoding error: unknown field "nothing"' in refused.json["message"]


async def test_or_ignored_where_that_is_the_policy(admin: Admin) -> None:
    await put_in_force(admin, policy(apply("Object{nothing: 1}"), failurePolicy="Ignore"))
    (await attempt(admin, a="x")).ok(201)


async def test_atomic_parts_cannot_be_set(admin: Admin) -> None:
    mutation = apply(
        "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}"
    )
    await put_in_force(admin, policy(mutation, group="apps", resource="deployments"))
    refused = await admin.post(DEPLOYMENTS, deployment("d", 1))
    assert refused.json["message"].endswith(
        "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or "
        "structs: .spec.selector"
    )


@pytest.mark.parametrize(("when", "expected"), [("Never", "1"), ("IfNeeded", "2")])
async def test_reinvocation(admin: Admin, when: str, expected: str) -> None:
    counting = apply("Object{data: {'n': string(int(object.data.?n.orValue('0')) + 1)}}")
    await put_in_force(admin, policy(counting, reinvocationPolicy=when), "first")
    await put_in_force(admin, policy(apply("Object{data: {'later': 'yes'}}")), "second")
    assert (await attempt(admin, a="x")).ok(201)["data"]["n"] == expected


async def test_match_conditions_and_parameters(admin: Admin) -> None:
    (await admin.post(MAPS, config_map("values", color="blue"))).ok(201)
    made = policy(
        apply("Object{data: {'color': params.data.color}}"),
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
        matchConditions=[{"name": "c", "expression": "object.metadata.name != 'plain'"}],
    )
    reference = {"name": "values", "parameterNotFoundAction": "Deny"}
    await put_in_force(admin, made, paramRef=reference)
    assert (await attempt(admin, a="x")).ok(201)["data"] == {"a": "x", "color": "blue"}
    assert (await attempt(admin, "plain", a="x")).ok(201)["data"] == {"a": "x"}


async def test_what_a_policy_makes_is_validated(admin: Admin) -> None:
    await put_in_force(admin, policy(apply("Object{data: {'not a key': 'x'}}")))
    refused = await attempt(admin, a="x")
    assert refused.status == 422
    assert "data[not a key]: Invalid value" in refused.json["message"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mutations": []}, "spec.mutations: Required value: mutations must contain"),
        ({"reinvocationPolicy": None}, "spec.reinvocationPolicy: Required value"),
        ({"mutations": [apply("[]")]}, "must evaluate to Object but got list(dyn)"),
        ({"mutations": [patch("Object{}")]}, "must evaluate to list(JSONPatch) but got Object"),
        ({"mutations": [apply("Object{a: }")]}, "compilation failed: ERROR: <input>:1:"),
        (
            {"mutations": [{**apply("Object{}"), "patchType": "JSONPatch"}]},
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is "
            "JSONPatch",
        ),
    ],
    ids=["none", "reinvocation", "no object", "no patch", "syntax", "the wrong field"],
)
async def test_policies_that_are_refused(api: Api, change: Object, expected: str) -> None:
    made = policy(apply("Object{}"))
    made["spec"] |= change
    refused = await api.post(POLICIES, made)
    assert refused.status == 422
    assert expected in refused.json["message"]


async def test_deletions_are_not_for_mutating_policies(api: Api) -> None:
    made = policy(apply("Object{}"))
    made["spec"]["matchConstraints"]["resourceRules"][0]["operations"] = ["DELETE"]
    refused = await api.post(POLICIES, made)
    assert 'Unsupported value: "DELETE"' in refused.json["message"]


async def test_metrics_count_the_mutations(admin: Admin) -> None:
    failing = apply("Object{data: {'n': string(1 / int(object.data.zero))}}")
    made = policy(apply("Object{data: {'b': 'y'}}"), failing, failurePolicy="Ignore")
    await put_in_force(admin, made)
    (await attempt(admin, zero="0")).ok(201)
    text = (await admin.get("/metrics")).body.decode()
    name, of = "apiserver_mutating_admission_policy_check_total", 'policy="p",policy_binding="p-b"'
    assert f'{name}{{{of},error_type="no_error"}} 1' in text
    assert f'{name}{{{of},error_type="invalid_error"}} 1' in text
