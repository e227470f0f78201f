"""Who may do what, under the tricks of those who may not: forged identities, paths, scopes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from tests.api.conftest import Api

from navarch.apiserver.server import Server
from navarch.cluster import pki
from navarch.cluster.profile import Profile

pytestmark = pytest.mark.secured

Object = dict[str, Any]

ROOT = {"user": "root", "groups": "system:masters"}
CORE = "/api/v1/namespaces/default"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
PLANTED = "planted-secret-value"


@pytest.fixture
async def ready(api: Api) -> Api:
    """A secret; `ed` edits the default namespace; `imp` may take on users and service accounts."""
    secret = {"metadata": {"name": "s"}, "stringData": {"k": PLANTED}}
    (await api.post(f"{CORE}/secrets", secret, **ROOT)).ok(201)
    await grant(api, "ed", "edit")
    rules = [
        rule("impersonate", "", "users", "ann"),
        rule("impersonate", "", "groups", "devs"),
        rule("impersonate", "", "serviceaccounts", "robot"),
        rule("impersonate", "authentication.k8s.io", "userextras/scopes", "view"),
    ]
    role = {"metadata": {"name": "impersonator"}, "rules": rules}
    (await api.post(f"{RBAC}/clusterroles", role, **ROOT)).ok(201)
    await grant(api, "imp", "impersonator", cluster=True)
    await grant(api, "ann", "view")
    return api


def rule(verb: str, group: str, resource: str, *names: str) -> Object:
    found: Object = {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
    return {**found, "resourceNames": list(names)} if names else found


async def grant(api: Api, user: str, role: str, cluster: bool = False) -> None:
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    body = {"metadata": {"name": f"{user}-{role}"}, "roleRef": ref, "subjects": [subject]}
    url = f"{RBAC}/clusterrolebindings" if cluster else f"{RBAC}/namespaces/default/rolebindings"
    (await api.post(url, body, **ROOT)).ok(201)


# Forged identities


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Remote-User": "root", "X-Remote-Group": "system:masters"},
        {"x-remote-user": "root", "x-remote-group": "system:masters"},
        {"X_Remote_User": "root", "X_Remote_Group": "system:masters"},
        {"X-Remote-User": "root", "Connection": "X-Remote-User"},
        {"X-Forwarded-User": "root", "X-Real-User": "root", "Remote-User": "root"},
        {"Impersonate_User": "root", "Impersonate_Group": "system:masters"},
        {"X-Impersonate-User": "root"},
        {"Authorization": "Basic cm9vdDpyb290"},
        {"Authorization": "Negotiate YII="},
        {"Cookie": "token=root; user=system:masters"},
        {"X-SSL-Client-CN": "kubernetes-admin", "X-Client-Cert": "MII"},
    ],
)
async def test_headers_make_nobody_somebody(ready: Api, headers: Mapping[str, str]) -> None:
    answer = await ready.get(f"{CORE}/secrets/s", headers=headers)
    assert answer.status == 403
    assert 'User "system:anonymous" cannot get' in answer.json["message"]


async def test_of_two_credentials_the_first_counts_and_a_bad_one_is_not_passed_over(
    ready: Api,
) -> None:
    """What a proxy in front has looked at must be what we look at."""
    for first, second, status in (
        ("Basic eA==", "Bearer nonsense", b"403"),
        ("Bearer nonsense", "Basic eA==", b"401"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", ready.server.port)
        writer.write(
            f"GET {CORE}/pods HTTP/1.1\r\nHost: x\r\nAuthorization: {first}\r\n"
            f"Authorization: {second}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        assert answer.split(b" ")[1] in (status, b"400"), answer


def guise(user: str = "", *groups: str, **more: str) -> list[tuple[str, str]]:
    headers = [("Impersonate-Group", group) for group in groups]
    if user:
        headers.append(("Impersonate-User", user))
    return headers + [(f"Impersonate-{name.replace('_', '-')}", v) for name, v in more.items()]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param(guise("ann"), 200, id="a user that may be taken on"),
        pytest.param([("IMPERSONATE-USER", "ann")], 200, id="in any case"),
        pytest.param(guise("ann", "devs"), 200, id="with a group"),
        pytest.param(guise("ann", Extra_scopes="view"), 200, id="with an extra"),
        pytest.param(guise("bob"), 403, id="another user"),
        pytest.param(guise("ann", "system:masters"), 403, id="a group beyond it"),
        pytest.param(guise("ann", "devs", "system:masters"), 403, id="one group of two"),
        pytest.param(guise("ann", Extra_scopes="admin"), 403, id="another value of an extra"),
        pytest.param(guise("ann", **{"Extra_other": "view"}), 403, id="another extra"),
        pytest.param(guise("ann", Uid="7"), 403, id="a uid"),
        pytest.param(guise("system:serviceaccount:kube-system:admin"), 403, id="an account"),
        pytest.param(guise("system:node:n1"), 403, id="a node"),
        pytest.param(guise("", "system:masters"), 400, id="a group alone"),
        pytest.param(guise("", Extra_scopes="view"), 400, id="an extra alone"),
        pytest.param(guise("", Uid="7"), 400, id="a uid alone"),
    ],
)
async def test_guises(ready: Api, headers: list[tuple[str, str]], status: int) -> None:
    sent = [*headers, ("Test-User", "imp")]
    url = f"{ready.server.url}{CORE}/pods"
    async with ready.session.get(url, headers=sent) as response:
        assert response.status == status, await response.text()


async def test_nobody_acts_through_a_second_guise(ready: Api) -> None:
    """The one taken on has no right to take on others, whatever else the headers say."""
    headers = [("Impersonate-User", "ann"), ("Impersonate-User", "root"), ("Test-User", "imp")]
    async with ready.session.post(ready.server.url + REVIEW, json={}, headers=headers) as response:
        assert (await response.json())["status"]["userInfo"]["username"] == "ann"


# Paths and scopes


@pytest.mark.parametrize(
    "path",
    [
        "/healthz/../metrics",
        "/healthz/..%2fmetrics",
        "/healthz/%2e%2e/metrics",
        "/healthz//metrics",
        "/healthz;/metrics",
        "/healthz%00/metrics",
        "/livez/../api/v1/namespaces/default/secrets/s",
        "/livez/..%2fapi%2fv1%2fnamespaces%2fdefault%2fsecrets%2fs",
        "//api/v1/namespaces/default/secrets/s",
        "/api//v1/namespaces/default/secrets/s",
        "/API/v1/namespaces/default/secrets/s",
        "/api/v1/./namespaces/default/secrets/s",
        "/version/..;/metrics",
        "/version%3f/../metrics",
        "/debug/pprof/",
        "/debug/pprof/../../metrics",
        "/debug/api_priority_and_fairness/dump_requests",
        "/logs/",
        "/metrics/cadvisor",
        "/.well-known/../metrics",
    ],
)
async def test_paths_lead_nowhere_without_credentials(ready: Api, path: str) -> None:
    """What is open to everybody is no way to what is not."""
    answer = await ready.get(path)
    assert answer.status in (400, 401, 403, 404), answer.body[:200]
    assert PLANTED not in answer.body.decode(errors="replace")
    assert b"# HELP" not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/default/pods/../secrets/s",
        "/api/v1/namespaces/default/pods/..%2fsecrets%2fs",
        "/api/v1/namespaces/default%2f..%2fdefault/secrets/s",
        "/api/v1/namespaces/default/pods%2f..%2fsecrets/s",
        "/api/v1/namespaces/default/configmaps/%2e%2e%2fsecrets%2fs",
        "/api/v1/watch/namespaces/default/secrets/s",
        "/api/v1/namespaces/default/pods/s/../../secrets/s",
        "/api/v1/secrets?fieldSelector=metadata.name=s",
        "/api/v1/namespaces//secrets/s",
        "/api/v1/namespaces/default/secrets/s/",
        "/api/v1/namespaces/default/secrets/s?namespace=kube-public",
        "/api/v1/namespaces/default/SECRETS/s",
        "/api/v1/namespaces/default/secrets%00/s",
    ],
)
async def test_a_viewer_finds_no_way_to_a_secret(ready: Api, path: str) -> None:
    answer = await ready.get(path, user="ann")
    assert answer.status in (400, 403, 404, 405), answer.body[:200]
    assert PLANTED not in answer.body.decode(errors="replace")


@pytest.mark.parametrize(
    ("user", "groups", "path", "status"),
    [
        ("eve", "", "/metrics", 403),
        ("ed", "", "/metrics", 403),
        ("mon", "system:monitoring", "/metrics", 200),
        ("eve", "", "/debug/pprof/", 403),
        ("eve", "", "/debug/api_priority_and_fairness/dump_priority_levels", 403),
        ("eve", "", "/openapi/v2", 200),
        ("eve", "", "/apis", 200),
        ("eve", "", "/healthz", 200),
        ("eve", "", "/openid/v1/jwks", 403),
    ],
)
async def test_paths_have_their_rights(
    ready: Api, user: str, groups: str, path: str, status: int
) -> None:
    assert (await ready.get(path, user=user, groups=groups)).status == status


@pytest.mark.parametrize(
    ("verb", "group", "resource"),
    [
        ("create", "", "endpoints"),
        ("update", "", "endpoints"),
        ("create", "discovery.k8s.io", "endpointslices"),
        ("patch", "discovery.k8s.io", "endpointslices"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("impersonate", "", "users"),
        ("create", "", "nodes/proxy"),
        ("create", "", "namespaces"),
        ("update", "", "resourcequotas"),
        ("get", "", "nodes"),
    ],
)
async def test_what_editors_may_not(ready: Api, verb: str, group: str, resource: str) -> None:
    """Endpoints of one's own making reach into other namespaces (CVE-2021-25740)."""
    name, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": name, "subresource": subresource}
    attributes = {**asked, "namespace": "default"}
    body = {"spec": {"user": "ed", "resourceAttributes": attributes}}
    assert not (await ready.post(ACCESS, body, **ROOT)).ok(201)["status"]["allowed"]
    allowed = {"verb": "create", "resource": "pods", "namespace": "default"}
    body = {"spec": {"user": "ed", "resourceAttributes": allowed}}
    assert (await ready.post(ACCESS, body, **ROOT)).ok(201)["status"]["allowed"]


@pytest.mark.conformance("SubjectReview should support SubjectReview API operations")
async def test_reviews_agree_with_what_happens(ready: Api) -> None:
    """Of a service account, by its full name: asked about, asked about in one namespace, tried."""
    body = {"metadata": {"name": "robot"}}
    account = (await ready.post(f"{CORE}/serviceaccounts", body, **ROOT)).ok(201)
    name = f"system:serviceaccount:default:{account['metadata']['name']}"
    local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews"
    for is_granted in (False, True):
        if is_granted:
            await grant(ready, name, "view")
        for resource, expected in (("configmaps", is_granted), ("secrets", False)):
            asked = {"verb": "list", "resource": resource, "namespace": "default", "version": "v1"}
            question = {"spec": {"user": name, "resourceAttributes": asked}}
            wide = (await ready.post(ACCESS, question, **ROOT)).ok(201)["status"]
            question["metadata"] = {"namespace": "default"}
            narrow = (await ready.post(local, question, **ROOT)).ok(201)["status"]
            headers = {"Impersonate-User": name}
            tried = await ready.get(f"{CORE}/{resource}", headers=headers, **ROOT)
            assert wide["allowed"] is narrow["allowed"] is expected
            assert (tried.status == 200) is expected


async def test_rights_to_named_objects_hold_for_lists_of_them_alone(ready: Api) -> None:
    role = {"metadata": {"name": "one"}, "rules": [rule("list", "", "secrets", "s")]}
    (await ready.post(f"{RBAC}/clusterroles", role, **ROOT)).ok(201)
    await grant(ready, "nan", "one")
    for query, status in (
        ("", 403),
        ("?fieldSelector=metadata.name%3Ds", 200),
        ("?fieldSelector=metadata.name%3Dother", 403),
        ("?fieldSelector=metadata.name!%3Ds", 403),
        ("?fieldSelector=type%3DOpaque", 403),
        ("?labelSelector=metadata.name%3Ds", 403),
    ):
        assert (await ready.get(f"{CORE}/secrets{query}", user="nan")).status == status, query


def definition(plural: str, scope: str) -> Object:
    kind = plural.title()
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": plural, "singular": plural, "kind": kind, "listKind": f"{kind}List"}
    spec = {"group": "shop.example", "scope": scope, "names": names, "versions": [version]}
    return {"metadata": {"name": f"{plural}.shop.example"}, "spec": spec}


async def test_custom_resources_keep_to_their_scope_and_prefix(ready: Api) -> None:
    """A namespace in the URL makes no cluster-wide object the namespace's (CVE-2019-11247), and
    one resource's list shows none of another whose name begins like it (CVE-2022-3162)."""
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for plural, scope in (("foos", "Cluster"), ("foosbars", "Cluster"), ("bars", "Namespaced")):
        (await ready.post(crds, definition(plural, scope), **ROOT)).ok(201)
        async with asyncio.timeout(60):
            while True:
                served = await ready.get(f"/apis/shop.example/v1/{plural}", **ROOT)
                if served.status == 200:
                    break
                await asyncio.sleep(0.05)
    for plural in ("foos", "foosbars"):
        body = {
            "apiVersion": "shop.example/v1",
            "kind": plural.title(),
            "metadata": {"name": f"one-{plural}"},
        }
        (await ready.post(f"/apis/shop.example/v1/{plural}", body, **ROOT)).ok(201)
    for path in ("/namespaces/default/foos", "/namespaces/default/foos/one-foos"):
        answer = await ready.get(f"/apis/shop.example/v1{path}", **ROOT)
        assert answer.status == 404
    items = (await ready.get("/apis/shop.example/v1/foos", **ROOT)).ok()["items"]
    assert [each["metadata"]["name"] for each in items] == ["one-foos"]


@pytest.mark.parametrize(
    "text",
    [
        "'; DROP TABLE log; --",
        "%' OR '1'='1",
        'x" OR 1=1',
        "{{7*7}}",
        "$(id)",
        "`id`",
        "__import__('os')",
        "!!python/object/apply:os.system [id]",
        "../../../../etc/passwd",
    ],
)
async def test_names_and_selectors_are_only_data(ready: Api, text: str) -> None:
    from urllib.parse import quote

    raw = quote(text, safe="")
    before = (await ready.get(f"{CORE}/configmaps", **ROOT)).ok()["items"]
    for path in (
        f"{CORE}/configmaps/{raw}",
        f"{CORE}/configmaps?labelSelector={raw}",
        f"{CORE}/configmaps?fieldSelector=metadata.name%3D{raw}",
        f"/api/v1/namespaces/{raw}/configmaps",
    ):
        answer = await ready.get(path, **ROOT)
        assert answer.status in (200, 400, 404)
        assert answer.status != 200 or not answer.json["items"]
    made = {"metadata": {"name": "m", "annotations": {"a": text}}, "data": {"k": text}}
    (await ready.post(f"{CORE}/configmaps", made, **ROOT)).ok(201)
    found = (await ready.get(f"{CORE}/configmaps/m", **ROOT)).ok()
    assert found["data"] == {"k": text} and found["metadata"]["annotations"] == {"a": text}
    yaml_body = b"metadata: {name: y}\ndata:\n  k: !!python/object/apply:os.getcwd []\n"
    as_yaml = {"content_type": "application/yaml", **ROOT}
    answer = await ready.post(f"{CORE}/configmaps", yaml_body, **as_yaml)
    assert answer.status == 400
    after = (await ready.get(f"{CORE}/configmaps", **ROOT)).ok()["items"]
    assert len(after) == len(before) + 1


# What is on from the beginning


async def test_the_checks_that_are_on_by_default(api_server: Server) -> None:
    names = {plugin.name for plugin in api_server.core.secured.plugins}
    assert names >= {
        "NamespaceLifecycle",
        "LimitRanger",
        "ServiceAccount",
        "NodeRestriction",
        "PodSecurity",
        "Priority",
        "DefaultTolerationSeconds",
        "ResourceQuota",
        "RBACEscalation",
        "CertificateApproval",
        "CertificateSigning",
        "CertificateSubjectRestriction",
        "MutatingAdmissionWebhook",
        "ValidatingAdmissionWebhook",
    }


def test_nobody_but_the_administrator_has_all_rights_by_certificate() -> None:
    found = pki.requests(Profile("x", nodes=2))
    assert [each.path for each in found if "system:masters" in each.organizations] == ["pki/admin"]


@pytest.mark.parametrize(
    ("context", "status"),
    [
        ({"seccompProfile": {"type": "Localhost"}}, 422),
        ({"seccompProfile": {"type": "Localhost", "localhostProfile": ""}}, 201),
        ({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}, 422),
        ({"seccompProfile": {"type": ""}}, 422),
        ({"appArmorProfile": {"type": "Localhost"}}, 422),
        ({"seccompProfile": {"type": "RuntimeDefault"}}, 201),
    ],
)
async def test_an_empty_profile_is_not_no_profile(ready: Api, context: Object, status: int) -> None:
    """CVE-2023-2431: what names no profile is refused, and never runs unconfined. The empty name
    upstream's server takes; the node refuses it."""
    account = {"metadata": {"name": "default"}}
    await ready.post(f"{CORE}/serviceaccounts", account, **ROOT)
    for spec in (
        {"containers": [{"name": "c", "image": "i", "securityContext": context}]},
        {"containers": [{"name": "c", "image": "i"}], "securityContext": context},
        {
            "containers": [{"name": "c", "image": "i"}],
            "initContainers": [{"name": "d", "image": "i", "securityContext": context}],
        },
    ):
        body = {"metadata": {"generateName": "p-"}, "spec": spec}
        assert (await ready.post(f"{CORE}/pods", body, **ROOT)).status == status
