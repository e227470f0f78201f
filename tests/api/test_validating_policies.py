"""ValidatingAdmissionPolicies in force."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.api.conftest import Admin, Answer, Api, config_map, secured_server

Object = dict[str, Any]
GROUP = "/apis/admissionregistration.k8s.io/v1"
POLICIES = f"{GROUP}/validatingadmissionpolicies"
BINDINGS = f"{GROUP}/validatingadmissionpolicybindings"
MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
TITLE = "ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should"


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    async with secured_server(tmp_path) as server, aiohttp.ClientSession() as session:
        yield Admin(server, session)


def policy(*validations: str | Object, **spec: Any) -> Object:
    """A policy named `p` on config maps."""
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["configmaps"],
    }
    listed = [{"expression": each} if isinstance(each, str) else each for each in validations]
    body = {"matchConstraints": {"resourceRules": [rule]}, "validations": listed, **spec}
    return {"metadata": {"name": "p"}, "spec": body}


def binding(**spec: Any) -> Object:
    body = {"policyName": "p", "validationActions": ["Deny"], **spec}
    return {"metadata": {"name": "b"}, "spec": body}


async def put_in_force(api: Api, made: Object, bound: Object | None = None) -> None:
    (await api.post(POLICIES, made)).ok(201)
    (await api.post(BINDINGS, bound or binding())).ok(201)


async def attempt(api: Api, name: str = "m", **data: str) -> Answer:
    return await api.post(MAPS, config_map(name, **data))


async def test_a_denial(admin: Admin) -> None:
    await put_in_force(admin, policy("object.data.color != 'red'"))
    refused = await attempt(admin, color="red")
    message = (
        "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
        "failed expression: object.data.color != 'red'"
    )
    assert refused.status == 422
    assert refused.json["reason"] == "Invalid"
    assert refused.json["message"] == f'configmaps "m" is forbidden: {message}'
    assert refused.json["details"]["causes"] == [{"message": message}]
    (await attempt(admin, color="blue")).ok(201)
    assert (await admin.patch(f"{MAPS}/m", {"data": {"color": "red"}})).status == 422
    (await admin.delete(f"{MAPS}/m")).ok()
    (await admin.delete(f"{BINDINGS}/b")).ok()
    (await attempt(admin, color="red")).ok(201)


def deployment(name: str, replicas: int) -> Object:
    labels = {"app": "a"}
    container = {"name": "c", "image": "registry.example/app"}
    return {
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def on_deployments(*versions: str) -> Object:
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": [*versions],
        "operations": ["CREATE"],
        "resources": ["deployments"],
    }
    return {"resourceRules": [rule]}


@pytest.mark.conformance(f"{TITLE} validate against a Deployment")
async def test_deployments(admin: Admin) -> None:
    await put_in_force(
        admin, policy("object.spec.replicas > 1", matchConstraints=on_deployments("v1"))
    )
    refused = await admin.post(DEPLOYMENTS, deployment("few", 1))
    assert refused.status == 422
    assert "failed expression: object.spec.replicas > 1" in refused.json["message"]
    (await admin.post(DEPLOYMENTS, deployment("more", 2))).ok(201)


@pytest.mark.conformance(f"{TITLE} allow expressions to refer variables.")
async def test_variables(admin: Admin) -> None:
    variables = [
        {"name": "replicas", "expression": "object.spec.replicas"},
        {"name": "odd", "expression": "variables.replicas % 2 == 1"},
        {"name": "broken", "expression": "object.spec.nowhere"},
    ]
    made = policy(
        "variables.replicas > 1",
        {"expression": "variables.odd", "messageExpression": "string(variables.replicas)"},
        matchConstraints=on_deployments("v1"),
        variables=variables,
    )
    await put_in_force(admin, made)
    refused = await admin.post(DEPLOYMENTS, deployment("even", 2))
    assert refused.json["message"].endswith("denied request: 2")
    (await admin.post(DEPLOYMENTS, deployment("odd", 3))).ok(201)


@pytest.mark.parametrize(
    ("validation", "status", "message"),
    [
        pytest.param(
            {"expression": "false", "reason": "Forbidden"},
            403,
            "failed expression: false",
            id="403",
        ),
        pytest.param(
            {"expression": "false", "reason": "RequestEntityTooLarge"}, 413, "false", id="413"
        ),
        pytest.param({"expression": "false", "message": " no "}, 422, ": no", id="message"),
        pytest.param(
            {"expression": "false", "message": "no", "messageExpression": "'not ' + request.name"},
            422,
            "not m",
            id="message expression",
        ),
        pytest.param(
            {"expression": "false", "message": "no", "messageExpression": "string(object.nowhere)"},
            422,
            ": no",
            id="message expression that fails",
        ),
        pytest.param(
            {"expression": "false", "message": "no", "messageExpression": "'a\\nb'"},
            422,
            ": no",
            id="message expression of two lines",
        ),
        pytest.param(
            {"expression": "object.data.a == 'b'"},
            422,
            "expression 'object.data.a == 'b'' resulted in error: no such key: data",
            id="an error",
        ),
        pytest.param(
            {"expression": "[1][size(request.name)] == 1"},
            422,
            "resulted in error: index out of bounds: 1",
            id="another error",
        ),
    ],
)
async def test_reasons_and_messages(
    admin: Admin, validation: Object, status: int, message: str
) -> None:
    await put_in_force(admin, policy(validation))
    refused = await attempt(admin)
    assert refused.status == status
    assert refused.json["message"].endswith(message)


async def test_errors_are_ignored_where_that_is_the_policy(admin: Admin) -> None:
    await put_in_force(admin, policy("object.data.nowhere == ''", failurePolicy="Ignore"))
    (await attempt(admin)).ok(201)


async def test_what_expressions_see(admin: Admin) -> None:
    expressions = [
        "object.data.a == 'b' && oldObject == null",
        "request.operation == 'CREATE' && request.kind.kind == 'ConfigMap'",
        "request.resource.resource == 'configmaps' && request.requestResource.version == 'v1'",
        "request.userInfo.username == 'admin' && 'system:masters' in request.userInfo.groups",
        "request.namespace == 'default' && !request.dryRun && !has(request.subResource)",
        "namespaceObject.metadata.name == 'default'",
        "namespaceObject.metadata.labels['kubernetes.io/metadata.name'] == 'default'",
        "timestamp(object.metadata.creationTimestamp) > timestamp('2020-01-01T00:00:00Z')",
        "authorizer.group('').resource('pods').namespace('x').check('create').allowed()",
        "authorizer.requestResource.check('delete').allowed()",
        "!authorizer.serviceAccount('default', 'nobody').path('/metrics').check('get').allowed()",
    ]
    await put_in_force(admin, policy(*expressions))
    (await attempt(admin, a="b")).ok(201)
    (await admin.patch(POLICIES + "/p", {"spec": policy("oldObject.data.a == 'b'")["spec"]})).ok()
    (await admin.patch(f"{MAPS}/m", {"data": {"a": "c"}})).ok()
    assert (await admin.patch(f"{MAPS}/m", {"data": {"a": "d"}})).status == 422


async def test_match_conditions(admin: Admin) -> None:
    conditions = [
        {"name": "one", "expression": "object.metadata.name.startsWith('x')"},
        {"name": "two", "expression": "object.data.k == 'v'"},
    ]
    await put_in_force(admin, policy("false", matchConditions=conditions))
    (await attempt(admin, "a")).ok(201)
    assert "no such key: data" in (await attempt(admin, "x")).json["message"]
    assert (await attempt(admin, "x", k="v")).status == 422
    (await attempt(admin, "x", k="w")).ok(201)


async def test_bindings_narrow_policies_down(admin: Admin) -> None:
    match = {"objectSelector": {"matchLabels": {"strict": "yes"}}}
    await put_in_force(admin, policy("false"), binding(matchResources=match))
    (await attempt(admin)).ok(201)
    labelled = config_map("labelled")
    labelled["metadata"]["labels"] = {"strict": "yes"}
    assert (await admin.post(MAPS, labelled)).status == 422


async def test_namespaces_and_exclusions(admin: Admin) -> None:
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["*"],
        "resources": ["configmaps"],
    }
    match = {
        "resourceRules": [rule],
        "excludeResourceRules": [{**rule, "resourceNames": ["free"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
    }
    await put_in_force(admin, policy("false", matchConstraints=match))
    assert (await attempt(admin)).status == 422
    (await attempt(admin, "free")).ok(201)
    other = "/api/v1/namespaces/kube-system/configmaps"
    (await admin.post(other, config_map("m", "kube-system"))).ok(201)


async def test_other_versions_of_a_kind(admin: Admin) -> None:
    made = policy("object.spec.behavior == null || true", "object.apiVersion == 'autoscaling/v1'")
    made["spec"]["matchConstraints"] = {
        "resourceRules": [
            {
                "apiGroups": ["autoscaling"],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["horizontalpodautoscalers"],
            }
        ]
    }
    made["spec"]["validations"] = [
        {"expression": "object.spec.targetCPUUtilizationPercentage < 50"},
        {"expression": "request.kind.version == 'v1' && request.requestKind.version == 'v2'"},
    ]
    await put_in_force(admin, made)
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
    }
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    scaler = {
        "metadata": {"name": "a"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 3, "metrics": [metric]},
    }
    path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
    refused = await admin.post(path, scaler)
    assert "targetCPUUtilizationPercentage < 50" in refused.json["message"]
    metric["resource"]["target"]["averageUtilization"] = 40  # type: ignore[index]
    (await admin.post(path, scaler)).ok(201)


PARAMETERS: Object = {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        pytest.param({"name": "limits"}, "", id="by name"),
        pytest.param({"selector": {"matchLabels": {"for": "p"}}}, "", id="by selector"),
        pytest.param({"name": "limits", "namespace": "default"}, "", id="by name and namespace"),
        pytest.param(
            {"name": "none"},
            "failed to configure binding: no params found for policy binding with `Deny` "
            "parameterNotFoundAction",
            id="missing",
        ),
    ],
)
async def test_parameters(admin: Admin, reference: Object, problem: str) -> None:
    limits = config_map("limits", most="2")
    limits["metadata"]["labels"] = {"for": "p"}
    (await admin.post(MAPS, limits)).ok(201)
    made = policy("size(object.data) <= int(params.data.most)", **PARAMETERS)
    bound = binding(paramRef={**reference, "parameterNotFoundAction": "Deny"})
    await put_in_force(admin, made, bound)
    answer = await attempt(admin, a="1", b="2")
    if problem:
        assert problem in answer.json["message"]
        return
    answer.ok(201)
    refused = await attempt(admin, "more", a="1", b="2", c="3")
    assert refused.status == 422
    assert "failed expression: size(object.data)" in refused.json["message"]


async def test_parameters_that_are_not_there(admin: Admin) -> None:
    made = policy("params == null", **PARAMETERS)
    await put_in_force(admin, made)
    (await attempt(admin)).ok(201)
    reference = {"name": "none", "parameterNotFoundAction": "Allow"}
    (await admin.patch(f"{BINDINGS}/b", {"spec": {"paramRef": reference}})).ok()
    (await admin.patch(f"{POLICIES}/p", {"spec": {"validations": [{"expression": "false"}]}})).ok()
    (await attempt(admin, "n")).ok(201)
    kind = {"apiVersion": "rules.example/v1", "kind": "Limit"}
    (await admin.patch(f"{POLICIES}/p", {"spec": {"paramKind": kind}})).ok()
    refused = await attempt(admin, "o")
    assert refused.json["message"].endswith(
        "ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find "
        "resource referenced by paramKind: 'rules.example/v1, Kind=Limit'"
    )


async def test_warnings(admin: Admin) -> None:
    await put_in_force(admin, policy("false"), binding(validationActions=["Warn", "Audit"]))
    answer = await attempt(admin)
    answer.ok(201)
    assert answer.headers["Warning"] == (
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed "
        'expression: false"'
    )


async def test_policies_do_not_apply_to_themselves(admin: Admin) -> None:
    rule = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}
    await put_in_force(admin, policy("false", matchConstraints={"resourceRules": [rule]}))
    assert (await attempt(admin)).status == 422
    (await admin.delete(f"{BINDINGS}/b")).ok()
    (await admin.delete(f"{POLICIES}/p")).ok()
    (await attempt(admin)).ok(201)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(
            policy("object.x >")["spec"],
            'spec.validations[0].expression: Invalid value: "object.x >": compilation failed: '
            "ERROR: <input>:1:11: Syntax error",
            id="syntax",
        ),
        pytest.param(
            policy("object.x")["spec"],
            'spec.validations[0].expression: Invalid value: "object.x": must evaluate to bool but '
            "got dyn",
            id="no bool",
        ),
        pytest.param(
            policy("request.nothing == ''")["spec"], "undefined field 'nothing'", id="a field"
        ),
        pytest.param(
            policy("params.x == 1")["spec"], "undeclared reference to 'params'", id="parameters"
        ),
        pytest.param(
            policy({"expression": "true", "messageExpression": "string(authorizer)"})["spec"],
            "spec.validations[0].messageExpression: Invalid value",
            id="no authorizer in messages",
        ),
        pytest.param(
            policy("true", variables=[{"name": "a-b", "expression": "1"}])["spec"],
            'spec.variables[0].name: Invalid value: "a-b": must be a valid CEL identifier',
            id="a variable's name",
        ),
        pytest.param(
            policy("variables.b", variables=[{"name": "a", "expression": "variables.b"}])["spec"],
            "undefined field 'b'",
            id="a variable that is not there",
        ),
        pytest.param(
            policy(auditAnnotations=[{"key": "k", "valueExpression": "1"}])["spec"],
            "must evaluate to one of [string null_type] but got int",
            id="an annotation",
        ),
        pytest.param(
            policy("true", matchConditions=[{"name": "x", "expression": "1 +"}])["spec"],
            "spec.matchConditions[0].expression: Invalid value",
            id="a condition",
        ),
        pytest.param(
            policy({"expression": "true", "reason": "Unauthorized"})["spec"],
            'spec.validations[0].reason: Unsupported value: "Unauthorized"',
            id="a reason",
        ),
    ],
)
async def test_policies_that_are_refused(api: Api, spec: Object, expected: str) -> None:
    refused = await api.post(POLICIES, {"metadata": {"name": "p"}, "spec": spec})
    assert refused.status == 422
    assert expected in refused.json["message"]


async def test_writers_must_be_allowed_to_read_parameters(admin: Admin) -> None:
    rule = {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
        "verbs": ["create", "get", "update"],
    }
    rbac = "/apis/rbac.authorization.k8s.io/v1/clusterrole"
    (await admin.post(f"{rbac}s", {"metadata": {"name": "author"}, "rules": [rule]})).ok(201)
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "author"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}
    bound = {"metadata": {"name": "author"}, "roleRef": role, "subjects": [subject]}
    (await admin.post(f"{rbac}bindings", bound)).ok(201)
    ann = {"user": "ann", "groups": ""}
    kind = {"apiVersion": "v1", "kind": "Secret"}
    (await admin.post(POLICIES, policy("true"), **ann)).ok(201)
    made = policy("params != null", paramKind=kind)
    made["metadata"]["name"] = "q"
    refused = await admin.post(POLICIES, made, **ann)
    assert refused.status == 422
    assert refused.json["details"]["causes"] == [
        {
            "reason": "FieldValueForbidden",
            "message": 'Forbidden: user &{ann  [system:authenticated] map[]} must have "get" '
            "permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)",
            "field": "spec.paramKind",
        }
    ]
    (await admin.post(POLICIES, made)).ok(201)
    reference = {"name": "s", "namespace": "default", "parameterNotFoundAction": "Deny"}
    refused = await admin.post(BINDINGS, binding(policyName="q", paramRef=reference), **ann)
    assert "permission on the object referenced by paramRef" in refused.json["message"]
    (await admin.post(BINDINGS, binding(policyName="q"), **ann)).ok(201)


async def test_metrics_count_what_was_done(admin: Admin) -> None:
    made = policy("object.data.color != 'red'", "object.data.size == '1'", failurePolicy="Ignore")
    await put_in_force(admin, made, binding(validationActions=["Warn", "Audit"]))
    (await attempt(admin, color="red")).ok(201)
    text = (await admin.get("/metrics")).body.decode()
    name, of = "apiserver_validating_admission_policy_check", 'policy="p",policy_binding="b"'
    for action in ("warn", "audit", "allow"):
        labels = f'{of},error_type="invalid_error",enforcement_action="{action}"'
        assert f"{name}_total{{{labels}}} 1" in text
        assert f'{name}_duration_seconds_bucket{{{labels},le="1.0"}} 1' in text
