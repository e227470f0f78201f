"""Authentication, authorization and admission as a client meets them: over HTTP, all plug-ins on.

`api` is anonymous; a request with `user=...` is made as that user. Service-account tokens and
everything else go through the real authenticator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from navarch.apiserver.bootstrap import plan
from navarch.apiserver.server import Server

pytestmark = pytest.mark.secured

Object = dict[str, Any]

ROOT = {"user": "root", "groups": "system:masters"}
NODE = {"user": "system:node:n1", "groups": "system:nodes"}
PODS = "/api/v1/namespaces/default/pods"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
async def ready(api: Any) -> Any:
    """The default account is there, as the controller would have made it."""
    await account(api, "default")
    return api


async def account(api: Any, name: str) -> Object:
    body = {"metadata": {"name": name}}
    made = await api.post("/api/v1/namespaces/default/serviceaccounts", body, **ROOT)
    found: Object = made.ok(201)
    return found


def pod(name: str, **spec: Any) -> Object:
    containers = [{"name": "c", "image": "busybox"}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, **spec}}


async def bind(api: Any, role: str, subject: Object, name: str = "given") -> None:
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    body = {"metadata": {"name": name}, "roleRef": ref, "subjects": [subject]}
    url = f"{RBAC}/namespaces/default/rolebindings"
    (await api.post(url, body, **ROOT)).ok(201)


def user_subject(name: str) -> Object:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (PODS, 403),
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/metrics", 403),
        ("/api", 403),
        ("/nowhere", 403),
    ],
)
async def test_without_credentials(api: Any, path: str, status: int) -> None:
    assert (await api.get(path)).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer unknown"}, 401),
        ({"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0."}, 401),
        ({"Authorization": "Bearer "}, 403),
        ({"Authorization": "Basic cm9vdDpyb290"}, 403),
        ({"X-Remote-User": "root", "X-Remote-Group": "system:masters"}, 403),
    ],
)
async def test_bad_and_missing_credentials(
    api: Any, headers: Mapping[str, str], status: int
) -> None:
    answer = await api.get(PODS, headers=headers)
    assert answer.status == status
    if status == 401:
        assert answer.json["message"] == "Unauthorized"
    else:
        assert answer.json["message"] == (
            'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group '
            '"" in the namespace "default"'
        )
        assert answer.json["details"] == {"kind": "pods"}


async def test_unknown_paths_tell_nothing_to_those_without_rights(api: Any) -> None:
    answer = await api.get("/nowhere", **ROOT)
    assert (answer.status, answer.body) == (404, b"404 page not found\n")
    answer = await api.get("/nowhere", user="eve")
    assert answer.json["message"] == 'forbidden: User "eve" cannot get path "/nowhere"'


async def test_impersonation(ready: Any) -> None:
    as_eve = {"Impersonate-User": "eve"}
    assert (await ready.get(PODS, headers=as_eve, user="ann")).status == 403
    for header in ("Impersonate-Group", "Impersonate-Uid"):
        answer = await ready.get(PODS, headers={header: "x"}, **ROOT)
        assert answer.status == 400
    url = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    headers = {**as_eve, "Impersonate-Group": "devs", "Impersonate-Extra-a.b%2fc": "d"}
    answer = (await ready.post(url, {}, headers=headers, **ROOT)).ok(201)
    assert answer["status"]["userInfo"] == {
        "username": "eve",
        "groups": ["devs", "system:authenticated"],
        "extra": {"a.b/c": ["d"]},
    }
    answer = await ready.get(PODS, headers=as_eve, **ROOT)
    assert 'User "eve" cannot list' in answer.json["message"]


async def test_the_life_of_a_token(ready: Any) -> None:
    robot = await account(ready, "robot")
    url = "/api/v1/namespaces/default/serviceaccounts/robot/token"
    issued = (await ready.post(url, {"spec": {}}, **ROOT)).ok(201)
    assert issued["spec"]["expirationSeconds"] == 3600
    token = issued["status"]["token"]
    bearer = {"Authorization": f"Bearer {token}"}

    review = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1"}
    reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
    answer = (await ready.post(reviews, {**review, "spec": {"token": token}}, **ROOT)).ok(201)
    assert answer["status"]["user"]["uid"] == robot["metadata"]["uid"]

    assert (await ready.get(PODS, headers=bearer)).status == 403
    subject = {"kind": "ServiceAccount", "name": "robot", "namespace": "default"}
    await bind(ready, "view", subject)
    (await ready.get(PODS, headers=bearer)).ok(200)
    assert (await ready.get("/api/v1/pods", headers=bearer)).status == 403
    assert (await ready.get("/openid/v1/jwks", headers=bearer)).ok(200)["keys"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"spec": {"expirationSeconds": 5}}, 422),
        ({"spec": {"expirationSeconds": 2**33}}, 422),
        ({"metadata": {"name": "other"}, "spec": {}}, 422),
        ({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "no"}}}, 404),
        (
            {
                "spec": {
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": "web",
                        "uid": "other",
                    }
                }
            },
            409,
        ),
        ({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}}}, 400),
    ],
)
async def test_token_requests_that_are_refused(ready: Any, body: Object, status: int) -> None:
    (await ready.post(PODS, pod("web"), **ROOT)).ok(201)
    url = "/api/v1/namespaces/default/serviceaccounts/default/token"
    assert (await ready.post(url, body, **ROOT)).status == status


async def test_reviews_that_make_no_sense(ready: Any) -> None:
    access = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    resource = {"verb": "get", "resource": "pods"}
    for spec in (
        {"user": "eve"},
        {
            "user": "eve",
            "resourceAttributes": resource,
            "nonResourceAttributes": {"path": "/", "verb": "get"},
        },
    ):
        assert (await ready.post(access, {"spec": spec}, **ROOT)).status == 422
    url = "/apis/authentication.k8s.io/v1/tokenreviews"
    assert (await ready.post(url, {"spec": {}}, **ROOT)).status == 400


async def test_access_reviews_agree_with_access(ready: Any) -> None:
    await bind(ready, "edit", user_subject("ed"))
    own = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    for verb, allowed in (("create", True), ("escalate", False)):
        resource = {"verb": verb, "resource": "pods", "namespace": "default"}
        body = {"spec": {"resourceAttributes": resource}}
        answer = (await ready.post(own, body, user="ed")).ok(201)
        assert answer["status"]["allowed"] is allowed
    rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    question: Object = {"spec": {"namespace": "default"}}
    answer = (await ready.post(rules, question, user="ed")).ok(201)
    assert any("deployments" in rule["resources"] for rule in answer["status"]["resourceRules"])


@pytest.mark.parametrize(
    ("resource", "body", "status"),
    [
        (
            "roles",
            {"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}]},
            403,
        ),
        ("roles", {"rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}]}, 403),
        ("roles", {"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}, 201),
        ("rolebindings", {"roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}}, 403),
        ("rolebindings", {"roleRef": {"kind": "Role", "name": "none"}}, 404),
        ("rolebindings", {"roleRef": {"kind": "ClusterRole", "name": "view"}}, 201),
    ],
)
async def test_rights_cannot_be_raised(
    ready: Any, resource: str, body: Object, status: int
) -> None:
    await bind(ready, "admin", user_subject("adam"))
    if "roleRef" in body:
        ref = {"apiGroup": "rbac.authorization.k8s.io", **body["roleRef"]}
        body = {"roleRef": ref, "subjects": [user_subject("adam")]}
    url = f"{RBAC}/namespaces/default/{resource}"
    answer = await ready.post(url, {"metadata": {"name": "new"}, **body}, user="adam")
    assert answer.status == status
    found = await ready.get(f"{url}/new", **ROOT)
    assert found.status == (200 if status == 201 else 404)


async def test_a_missing_and_an_ending_namespace(ready: Any) -> None:
    body = {"metadata": {"name": "x"}}
    answer = await ready.post("/api/v1/namespaces/none/configmaps", body, **ROOT)
    assert (answer.status, answer.json["message"]) == (404, 'namespaces "none" not found')
    (await ready.post("/api/v1/namespaces", {"metadata": {"name": "ends"}}, **ROOT)).ok(201)
    (await ready.delete("/api/v1/namespaces/ends", **ROOT)).ok()
    answer = await ready.post("/api/v1/namespaces/ends/configmaps", body, **ROOT)
    assert answer.status == 403
    assert answer.json["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    for name in ("default", "kube-system"):
        assert (await ready.delete(f"/api/v1/namespaces/{name}", **ROOT)).status == 403


async def test_a_pod_is_filled_in(ready: Any) -> None:
    made = (await ready.post(PODS, pod("web"), **ROOT)).ok(201)
    spec = made["spec"]
    assert spec["serviceAccountName"] == "default"
    assert spec["priority"] == 0
    assert [t["key"] for t in spec["tolerations"]] == [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ]
    [volume] = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert spec["containers"][0]["volumeMounts"][0]["name"] == volume["name"]
    answer = await ready.post(PODS, pod("x", priorityClassName="system-node-critical"), **ROOT)
    assert answer.ok(201)["spec"]["priority"] == 2000001000
    answer = await ready.post(PODS, pod("y", serviceAccountName="none"), **ROOT)
    assert answer.json["message"] == (
        'pods "y" is forbidden: error looking up service account default/none: '
        'serviceaccount "none" not found'
    )


async def test_quota_over_http(ready: Any) -> None:
    quotas = "/api/v1/namespaces/default/resourcequotas"
    hard = {"configmaps": "1"}
    body = {"metadata": {"name": "q"}, "spec": {"hard": hard}}
    made = (await ready.post(quotas, body, **ROOT)).ok(201)
    made["status"] = {"hard": hard, "used": {"configmaps": "0"}}
    (await ready.put(f"{quotas}/q/status", made, **ROOT)).ok()
    url = "/api/v1/namespaces/default/configmaps"
    (await ready.post(url, {"metadata": {"name": "a"}}, **ROOT)).ok(201)
    answer = await ready.post(url, {"metadata": {"name": "b"}}, **ROOT)
    assert answer.status == 403
    assert answer.json["message"] == (
        'configmaps "b" is forbidden: exceeded quota: q, requested: configmaps=1, '
        "used: configmaps=1, limited: configmaps=1"
    )
    held = (await ready.get(f"{quotas}/q", **ROOT)).ok()
    assert held["status"]["used"] == {"configmaps": "1"}


async def test_a_restricted_namespace(ready: Any) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"metadata": {"name": "default", "labels": labels}}
    (await ready.patch("/api/v1/namespaces/default", body, **ROOT)).ok()
    answer = await ready.post(PODS, pod("web", hostNetwork=True), **ROOT)
    assert answer.status == 403
    assert answer.json["message"].startswith(
        'pods "web" is forbidden: violates PodSecurity "restricted:latest": '
        "host namespaces (hostNetwork=true)"
    )
    for reason in ("allowPrivilegeEscalation != false", "runAsNonRoot != true", "seccompProfile"):
        assert reason in answer.json["message"]


async def test_what_a_node_gets(ready: Any) -> None:
    nodes = "/api/v1/nodes"
    (await ready.post(nodes, {"metadata": {"name": "n1"}}, **NODE)).ok(201)
    assert (await ready.post(nodes, {"metadata": {"name": "n2"}}, **NODE)).status == 403
    labels = {"labels": {"node-role.kubernetes.io/x": ""}}
    assert (await ready.patch(f"{nodes}/n1", {"metadata": labels}, **NODE)).status == 403
    assert (await ready.patch(f"{nodes}/n1", {"spec": {"taints": []}}, **NODE)).status == 403

    for name in ("mine", "other"):
        secret = {"metadata": {"name": name}}
        (await ready.post("/api/v1/namespaces/default/secrets", secret, **ROOT)).ok(201)
    volume = {"name": "s", "secret": {"secretName": "mine"}}
    made = await ready.post(PODS, pod("web", nodeName="n1", volumes=[volume]), **ROOT)
    uid = made.ok(201)["metadata"]["uid"]
    secrets = "/api/v1/namespaces/default/secrets"
    assert (await ready.get(f"{secrets}/mine", **NODE)).status == 200
    assert (await ready.get(f"{secrets}/other", **NODE)).status == 403
    assert (await ready.get(secrets, **NODE)).status == 403
    assert (await ready.post(PODS, pod("plain", nodeName="n1"), **NODE)).status == 403

    token = "/api/v1/namespaces/default/serviceaccounts/default/token"
    assert (await ready.post(token, {"spec": {}}, **NODE)).status == 403
    ref = {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid}
    issued = (await ready.post(token, {"spec": {"boundObjectRef": ref}}, **NODE)).ok(201)
    bearer = {"Authorization": f"Bearer {issued['status']['token']}"}
    assert (await ready.get(PODS, headers=bearer)).status == 403


async def test_a_second_start_finds_everything(api_server: Server) -> None:
    """The roles of the first start are there, and nothing is written again."""
    assert plan(api_server.core.lookup) == []
