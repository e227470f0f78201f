"""Hostile use of subresources and of rights: what may be connected to, bound, evicted, granted,
signed, and what a node may reach."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tests.api.conftest import Api
from tests.api.hostile import NAMESPACE, PODS, ROOT, Object, Refusal, furnish, pod, refuse, row

pytestmark = pytest.mark.asyncio(loop_scope="module")

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES = f"{RBAC}/namespaces/default/roles"
BINDINGS = f"{RBAC}/namespaces/default/rolebindings"
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
NODE = {"user": "system:node:n1", "groups": "system:nodes"}
ADAM = {"user": "adam", "groups": ""}
MERGE_PATCH = "application/merge-patch+json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_api: Api) -> Api:
    """The usual objects; pods with addresses no proxy may reach; a disruption budget without
    disruptions left; adam, who administers the namespace; a node and its pod."""
    api = shared_api
    await furnish(api)
    for name in ("n1", "n2"):
        (await api.post("/api/v1/nodes", {"metadata": {"name": name}}, **ROOT)).ok(201)
    for name, address in (("loop", "127.0.0.1"), ("link", "169.254.169.254"), ("six", "::1")):
        made = (await api.post(PODS, pod(name, nodeName="n2"), **ROOT)).ok(201)
        made["status"] |= {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}
        (await api.put(f"{PODS}/{name}/status", made, **ROOT)).ok()
    guarded = pod("guarded", nodeName="n2")
    guarded["metadata"]["labels"] = {"app": "guarded"}
    made = (await api.post(PODS, guarded, **ROOT)).ok(201)
    made["status"] |= {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    (await api.put(f"{PODS}/guarded/status", made, **ROOT)).ok()
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}
    made = (await api.post(budgets, {"metadata": {"name": "b"}, "spec": spec}, **ROOT)).ok(201)
    made["status"] = {
        "disruptionsAllowed": 0,
        "currentHealthy": 1,
        "desiredHealthy": 1,
        "expectedPods": 1,
        "observedGeneration": made["metadata"]["generation"],
    }
    (await api.put(f"{budgets}/b/status", made, **ROOT)).ok()
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "adam"}
    (await api.post(BINDINGS, binding("admin", name="adam", subjects=[subject]), **ROOT)).ok(201)
    for name in ("mine", "other"):
        (await api.post(f"{NAMESPACE}/secrets", {"metadata": {"name": name}}, **ROOT)).ok(201)
    volume = {"name": "s", "secret": {"secretName": "mine"}}
    (await api.post(PODS, pod("own", nodeName="n1", volumes=[volume]), **ROOT)).ok(201)
    return api


def binding(role: str, kind: str = "ClusterRole", name: str = "new", **more: Any) -> Object:
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}
    return {"metadata": {"name": name}, "roleRef": ref, **more}


STREAMS = [
    row("exec without command", f"POST {PODS}/there/exec", 400, "at least 1 command", body=b""),
    row("exec in an unscheduled pod", f"POST {PODS}/there/exec?command=ls&stdout=1", 400,
        "does not have a host assigned", body=b""),
    row("exec in no container", f"POST {PODS}/there/exec?command=ls&stdout=1&container=x", 400,
        "container x is not valid for pod there", body=b""),
    row("exec without streams",
        f"POST {PODS}/there/exec?command=ls&stdin=0&stdout=0&stderr=0", 400, body=b""),
    row("attach to an unscheduled pod", f"POST {PODS}/there/attach?stdout=1", 400,
        "does not have a host assigned", body=b""),
    row("port-forward to an unscheduled pod", f"POST {PODS}/there/portforward", 400,
        "does not have a host assigned", body=b""),
    row("port-forward to port x", f"POST {PODS}/there/portforward?ports=x", 400, body=b""),
    row("port-forward to port 70000", f"POST {PODS}/there/portforward?ports=70000", 400, body=b""),
    row("exec in no pod", f"POST {PODS}/none/exec?command=ls", 404, body=b""),
    row("log tail", f"GET {PODS}/there/log?tailLines=-1", 422, "must be greater than or equal to 0",
        causes=("tailLines",)),
    row("log limit", f"GET {PODS}/there/log?limitBytes=0", 422, causes=("limitBytes",)),
    row("log since twice",
        f"GET {PODS}/there/log?sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z", 422,
        "at most one of `sinceTime` or `sinceSeconds`"),
    row("log tail x", f"GET {PODS}/there/log?tailLines=x", 400),
    row("log since x", f"GET {PODS}/there/log?sinceTime=x", 400),
    row("log of no container", f"GET {PODS}/there/log?container=x", 400,
        "container x is not valid for pod there"),
    row("log of no pod", f"GET {PODS}/none/log", 404),
    *(
        row(f"proxy to {name}", f"GET {PODS}/{name}/proxy/", 400, "address not allowed")
        for name in ("loop", "link", "six", "loop:80", "http:link:80")
    ),
    row("proxy to a bad name", f"GET {PODS}/ftp:loop:80/proxy/", 400, "invalid proxy request"),
    row("proxy to a bad port", f"GET {PODS}/loop:99999999/proxy/", 400),
    row("proxy to no pod", f"GET {PODS}/none/proxy/", 404),
]  # fmt: skip


def target(name: str = "n1", kind: str = "Node") -> Object:
    return {"metadata": {"name": "own"}, "target": {"kind": kind, "name": name}}


def csr(user: str, organization: str, signer: str, **spec: Any) -> Object:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user),
                         x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])  # fmt: skip
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    pem = request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return {
        "metadata": {"name": "new"},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": f"kubernetes.io/{signer}",
            "usages": ["client auth"],
            **spec,
        },
    }


EVICTION = {"metadata": {"name": "guarded"}, "apiVersion": "policy/v1", "kind": "Eviction"}
SUBRESOURCES = [
    row("bind twice", f"POST {PODS}/own/binding", 409, 'already assigned to node "n1"',
        body=target()),
    row("bind to a Foo", f"POST {PODS}/own/binding", 422, causes=("target.kind",),
        body=target(kind="Foo")),
    row("bind to nothing", f"POST {PODS}/own/binding", 422, causes=("target.name",),
        body=target("")),
    row("bind another", f"POST {PODS}/there/binding", 400, "name in URL does not match",
        body=target()),
    row("evict nobody", f"POST {PODS}/none/eviction", 404,
        body={**EVICTION, "metadata": {"name": "none"}}),
    row("evict the last one", f"POST {PODS}/guarded/eviction", 429,
        "would violate the pod's disruption budget", body=EVICTION),
    row("scale below zero", "PUT /apis/apps/v1/namespaces/default/deployments/there/scale", 422,
        "greater than or equal to 0", causes=("spec.replicas",),
        body={"metadata": {"name": "there"}, "spec": {"replicas": -1}}),
    row("scale of another kind",
        "PUT /apis/apps/v1/namespaces/default/deployments/there/scale", 400,
        body={"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "there"}}),
    row("status by an unknown name", f"PATCH {PODS}/none/status", 404, body={},
        content_type=MERGE_PATCH),
]  # fmt: skip


def rules(**rule: Any) -> Object:
    return {"metadata": {"name": "new"}, "rules": [rule]}


PODS_RULE: Object = {"apiGroups": [""], "resources": ["pods"]}
GRANTS = [
    row("role beyond own rights", f"POST {ROLES}", 403, "attempting to grant RBAC permissions",
        body=rules(verbs=["get"], apiGroups=[""], resources=["nodes"]), user=ADAM),
    row("role for every verb", f"POST {ROLES}", 403, body=rules(verbs=["*"], **PODS_RULE),
        user=ADAM),
    row("binding to cluster-admin", f"POST {BINDINGS}", 403, body=binding("cluster-admin"),
        user=ADAM),
    row("binding to nothing", f"POST {BINDINGS}", 404, body=binding("none", "Role"), user=ADAM),
    row("cluster role by an administrator of a namespace", f"POST {RBAC}/clusterroles", 403,
        body=rules(verbs=["get"], **PODS_RULE), user=ADAM),
    row("role without verbs", f"POST {ROLES}", 422, causes=("rules[0].verbs",),
        body=rules(verbs=[], **PODS_RULE)),
    row("paths in a role", f"POST {ROLES}", 422, "namespaced rules cannot apply",
        body=rules(verbs=["get"], nonResourceURLs=["/metrics"])),
    row("other role of a binding", f"PATCH {BINDINGS}/adam", 422, "cannot change roleRef",
        body={"roleRef": {"name": "view"}}, content_type=MERGE_PATCH),
    row("certificate for masters", f"POST {CSRS}", 403, "system:masters",
        body=csr("eve", "system:masters", "kube-apiserver-client")),
    row("certificate from nobody", f"POST {CSRS}", 422, causes=("spec.usages",),
        body=csr("eve", "devs", "kube-apiserver-client", usages=[])),
    row("request that is none", f"POST {CSRS}", 422, causes=("spec.request",),
        body=csr("eve", "devs", "kube-apiserver-client", request="YWJj")),
]  # fmt: skip

MIRROR = {"kubernetes.io/config.mirror": "x"}
NODES = [
    row("other node", "POST /api/v1/nodes", 403, body={"metadata": {"name": "n3"}}, user=NODE),
    row("status of another node", "PATCH /api/v1/nodes/n2/status", 403, body={}, user=NODE,
        content_type=MERGE_PATCH),
    row("delete another node", "DELETE /api/v1/nodes/n2", 403, user=NODE),
    row("labels of rank", "PATCH /api/v1/nodes/n1", 403, content_type=MERGE_PATCH, user=NODE,
        body={"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}}),
    row("own taints", "PATCH /api/v1/nodes/n1", 403, content_type=MERGE_PATCH, user=NODE,
        body={"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
    row("own owners", "PATCH /api/v1/nodes/n1", 403, content_type=MERGE_PATCH, user=NODE,
        body={"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1"}]}}),
    row("all secrets", f"GET {NAMESPACE}/secrets", 403, user=NODE),
    row("a secret of others", f"GET {NAMESPACE}/secrets/other", 403, user=NODE),
    row("its own secret, watched with others", f"GET {NAMESPACE}/secrets?watch=1", 403, user=NODE),
    row("a pod", f"POST {PODS}", 403, body=pod("new", nodeName="n1"), user=NODE),
    row("a mirror pod elsewhere", f"POST {PODS}", 403, user=NODE,
        body=pod("new", nodeName="n2") | {"metadata": {"name": "new", "annotations": MIRROR}}),
    row("a mirror pod with a secret", f"POST {PODS}", 403, user=NODE,
        body=pod("new", nodeName="n1", volumes=[{"name": "s", "secret": {"secretName": "other"}}])
        | {"metadata": {"name": "new", "annotations": MIRROR}}),
    row("status of another node's pod", f"PATCH {PODS}/loop/status", 403, body={}, user=NODE,
        content_type=MERGE_PATCH),
    row("evict another node's pod", f"POST {PODS}/loop/eviction", 403, user=NODE,
        body={**EVICTION, "metadata": {"name": "loop"}}),
    row("a token of nobody's", f"POST {NAMESPACE}/serviceaccounts/default/token", 403, user=NODE,
        body={"spec": {}}),
    row("a role", f"POST {ROLES}", 403, body=rules(verbs=["get"], **PODS_RULE), user=NODE),
]  # fmt: skip


@pytest.mark.parametrize("case", [*STREAMS, *SUBRESOURCES, *GRANTS, *NODES])
async def test_it_is_refused(api: Api, case: Refusal) -> None:
    await refuse(api, case)


async def test_a_log_that_cannot_be_yet_is_empty(api: Api) -> None:
    answer = await api.get(f"{PODS}/there/log", **ROOT)
    assert (answer.status, answer.body) == (204, b"")


async def test_the_budget_is_named(api: Api) -> None:
    answer = await api.post(f"{PODS}/guarded/eviction", EVICTION, **ROOT)
    [cause] = answer.json["details"]["causes"]
    assert cause["reason"] == "DisruptionBudget"
    assert "The disruption budget b needs 1 healthy pods and has 1 currently" in cause["message"]


async def test_who_requests_a_certificate_is_not_for_the_client_to_say(api: Api) -> None:
    body = csr("eve", "devs", "kube-apiserver-client", username="root", groups=["system:masters"])
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}
    resources = ["certificatesigningrequests", "certificatesigningrequests/approval"]
    verbs = ["create", "update"]
    rule = {"apiGroups": ["certificates.k8s.io"], "resources": resources, "verbs": verbs}
    role = {"metadata": {"name": "requests"}, "rules": [rule]}
    (await api.post(f"{RBAC}/clusterroles", role, **ROOT)).ok(201)
    given = binding("requests", name="eve", subjects=[subject])
    (await api.post(f"{RBAC}/clusterrolebindings", given, **ROOT)).ok(201)
    made = (await api.post(CSRS, body, user="eve")).ok(201)
    assert made["spec"]["username"] == "eve"
    assert "system:masters" not in made["spec"]["groups"]
    condition = {"type": "Approved", "status": "True", "reason": "r", "message": "m"}
    made["status"] = {"conditions": [condition]}
    answer = await api.put(f"{CSRS}/new/approval", made, user="eve")
    assert answer.status == 403, answer.body
    found = (await api.get(f"{CSRS}/new", **ROOT)).ok()
    assert not found["status"].get("conditions")


async def test_tokens_that_were_tampered_with(api: Api) -> None:
    url = f"{NAMESPACE}/serviceaccounts/default/token"
    good = (await api.post(url, {"spec": {}}, **ROOT)).ok(201)["status"]["token"]
    elsewhere = {"spec": {"audiences": ["elsewhere"]}}
    other = (await api.post(url, elsewhere, **ROOT)).ok(201)["status"]["token"]
    header, payload, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["sub"] = "system:serviceaccount:kube-system:admin"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    nothing = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    assert (await api.get(PODS, headers={"Authorization": f"Bearer {good}"})).status == 403
    for token in (
        other,
        f"{header}.{forged}.{signature}",
        f"{header}.{payload}.{flipped}",
        f"{header}.{payload}.",
        f"{nothing}.{payload}.",
        f"{nothing}.{forged}.{signature}",
        f"{header}.{payload}",
        "a.b.c",
        "." * 10_000,
        "x" * 100_000,
    ):
        answer = await api.get(PODS, headers={"Authorization": f"Bearer {token}"})
        assert answer.status == 401, token[:80]
        assert answer.json["reason"] == "Unauthorized"


async def test_a_node_reads_the_secret_of_its_pod(api: Api) -> None:
    (await api.get(f"{NAMESPACE}/secrets/mine", **NODE)).ok()


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1"])
async def test_nodes_at_addresses_of_our_own(api: Api, address: str) -> None:
    """Row 66: whoever may write a node's status gets no further than to the network's nodes."""
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    (await api.patch("/api/v1/nodes/n2/status", {"status": status}, **ROOT)).ok()
    for name in ("n2", "n2:22", "http:n2:80"):
        await refuse(api, Refusal("GET", f"/api/v1/nodes/{name}/proxy/x", 400, "not allowed"))


async def test_roles_that_gather_rights(api: Api) -> None:
    """Row 73: a role that takes the rights of others, or gives its own to them, is for those who
    have all of these rights."""
    names = ["create", "get", "update", "patch"]
    rule = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
            "verbs": names}  # fmt: skip
    role = {"metadata": {"name": "roles"}, "rules": [rule]}
    (await api.post(f"{RBAC}/clusterroles", role, **ROOT)).ok(201)
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "roland"}
    given = binding("roles", name="roland", subjects=[subject])
    (await api.post(f"{RBAC}/clusterrolebindings", given, **ROOT)).ok(201)
    selector = {"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}}
    label = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    for body in (
        {"metadata": {"name": "x"}, "aggregationRule": {"clusterRoleSelectors": [selector]}},
        {"metadata": {"name": "x", "labels": label}, "rules": [secrets]},
    ):
        roland = {"user": "roland"}
        await refuse(api, Refusal("POST", f"{RBAC}/clusterroles", 403, "", body=body, user=roland))
