"""The node authorizer: a kubelet reaches its own objects, and those its pods refer to."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.apiserver.authorization import build_authorizer
from navarch.apiserver.contracts import Attributes, Decision, RequestInfo, UserInfo

NODE = UserInfo("system:node:n1", groups=("system:nodes", "system:authenticated"))
GROUPS = {
    "leases": "coordination.k8s.io",
    "csinodes": "storage.k8s.io",
    "volumeattachments": "storage.k8s.io",
    "resourceslices": "resource.k8s.io",
    "resourceclaims": "resource.k8s.io",
    "runtimeclasses": "node.k8s.io",
    "endpointslices": "discovery.k8s.io",
}


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "uid": f"uid-{name}"}
    return {"metadata": metadata, "spec": {"nodeName": node, **spec}}


@pytest.fixture
def lookup() -> MemoryLookup:
    lookup = MemoryLookup()
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env-secret", "key": "k"}}}]
    volumes = [
        {"name": "v", "persistentVolumeClaim": {"claimName": "claim"}},
        {"name": "e", "ephemeral": {}},
        {"name": "p", "projected": {"sources": [{"secret": {"name": "projected-secret"}}]}},
    ]
    lookup.put(
        "pods",
        pod(
            "mine",
            "n1",
            serviceAccountName="robot",
            containers=[{"name": "c", "env": env, "envFrom": [{"configMapRef": {"name": "cm"}}]}],
            initContainers=[{"name": "i", "envFrom": [{"secretRef": {"name": "init-secret"}}]}],
            imagePullSecrets=[{"name": "pull"}],
            volumes=volumes,
        ),
    )
    lookup.put(
        "pods", pod("theirs", "n2", volumes=[{"name": "s", "secret": {"secretName": "far"}}])
    )
    mirror = pod("mirror", "n1", volumes=[{"name": "s", "secret": {"secretName": "grabbed"}}])
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    lookup.put("pods", mirror)
    lookup.put(
        "persistentvolumes",
        {
            "metadata": {"name": "pv"},
            "spec": {
                "claimRef": {"namespace": "ns", "name": "claim"},
                "csi": {"nodePublishSecretRef": {"namespace": "other", "name": "csi-secret"}},
            },
        },
    )
    attachment = {"metadata": {"name": "att"}, "spec": {"nodeName": "n1"}}
    lookup.put("volumeattachments.storage.k8s.io", attachment)
    return lookup


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("get", "ns/secrets/env-secret", True),
        ("get", "ns/secrets/init-secret", True),
        ("get", "ns/secrets/projected-secret", True),
        ("watch", "ns/secrets/pull", True),
        ("get", "other/secrets/csi-secret", True),
        ("get", "ns/secrets/far", False),
        ("get", "ns/secrets/grabbed", False),
        ("get", "ns2/secrets/pull", False),
        ("list", "ns/secrets/", False),
        ("list", "/secrets/", False),
        ("delete", "ns/secrets/pull", False),
        ("get", "ns/configmaps/cm", True),
        ("get", "ns/configmaps/else", False),
        ("get", "ns/persistentvolumeclaims/claim", True),
        ("get", "ns/persistentvolumeclaims/mine-e", True),
        ("watch", "ns/persistentvolumeclaims/claim", True),
        ("watch", "ns/persistentvolumeclaims/else", False),
        ("list", "ns/persistentvolumeclaims/", False),
        ("patch", "ns/persistentvolumeclaims/claim/status", True),
        ("patch", "ns/persistentvolumeclaims/claim", False),
        ("get", "/persistentvolumes/pv", True),
        ("get", "/persistentvolumes/else", False),
        ("get", "/volumeattachments/att", True),
        ("create", "ns/serviceaccounts/robot/token", True),
        ("create", "ns/serviceaccounts/default/token", False),
        ("get", "ns/serviceaccounts/robot", True),
        ("get", "/nodes/n1", True),
        ("get", "/nodes/n2", False),
        ("list", "/nodes/", False),
        ("patch", "/nodes/n1/status", True),
        ("delete", "/nodes/n1", False),
        ("get", "ns/pods/mine", True),
        ("get", "ns/pods/theirs", False),
        ("create", "ns/pods/", True),
        ("patch", "ns/pods/mine/status", True),
        ("create", "ns/pods/mine/eviction", True),
        ("create", "ns/pods/mine/exec", False),
        ("update", "kube-node-lease/leases/n1", True),
        ("update", "kube-node-lease/leases/n2", False),
        ("create", "kube-node-lease/leases/", True),
        ("get", "kube-system/leases/n1", False),
        ("update", "/csinodes/n1", True),
        ("update", "/csinodes/n2", False),
        ("watch", "/runtimeclasses/", True),
        ("list", "/services/", True),
        ("list", "/endpointslices/", False),
    ],
)
def test_what_a_node_may(lookup: MemoryLookup, verb: str, path: str, allowed: bool) -> None:
    namespace, plural, name, *rest = path.split("/")
    group = GROUPS.get(plural, "")
    info = RequestInfo(True, "", verb, group, "v1", plural, "".join(rest), namespace, name)
    decision, _ = build_authorizer(lookup).authorize(Attributes(NODE, info))
    assert (decision is Decision.ALLOW) is allowed


@pytest.mark.parametrize(
    ("selector", "allowed"),
    [
        ("spec.nodeName=n1", True),
        ("spec.nodeName==n1,status.phase!=Failed", True),
        ("", False),
        ("spec.nodeName=n2", False),
        ("spec.nodeName!=n1", False),
        ("metadata.name=x\\,spec.nodeName\\=n1", False),
        ("spec.nodeName=n1,a=\\x", False),
    ],
)
def test_lists_of_pods_need_the_selector(
    lookup: MemoryLookup, selector: str, allowed: bool
) -> None:
    info = RequestInfo(True, "", "list", "", "v1", "pods")
    decision, reason = build_authorizer(lookup).authorize(Attributes(NODE, info, selector))
    assert (decision is Decision.ALLOW) is allowed
    if not allowed:
        assert reason == "can only list/watch pods with spec.nodeName field selector"


def test_the_graph_follows_pods_and_volumes(lookup: MemoryLookup) -> None:
    authorizer = build_authorizer(lookup)

    def may_get(secret: str) -> bool:
        info = RequestInfo(True, "", "get", "", "v1", "secrets", "", "ns", secret)
        return authorizer.authorize(Attributes(NODE, info))[0] is Decision.ALLOW

    waiting = pod("late", "", imagePullSecrets=[{"name": "late-secret"}])
    lookup.put("pods", waiting)
    assert not may_get("late-secret")
    lookup.put("pods", {**waiting, "spec": {**waiting["spec"], "nodeName": "n1"}})
    assert may_get("late-secret")
    lookup.put("pods", pod("other", "n1", imagePullSecrets=[{"name": "late-secret"}]))
    lookup.remove("pods", "ns", "late")
    assert may_get("late-secret")
    debugged = pod("other", "n1", imagePullSecrets=[{"name": "late-secret"}])
    container = {"name": "d", "envFrom": [{"secretRef": {"name": "debug-secret"}}]}
    debugged["spec"]["ephemeralContainers"] = [container]
    lookup.put("pods", debugged)
    assert may_get("debug-secret")
    lookup.remove("pods", "ns", "other")
    assert not may_get("late-secret")
    assert not may_get("debug-secret")


def test_users_who_only_look_like_nodes(lookup: MemoryLookup) -> None:
    authorizer = build_authorizer(lookup)
    info = RequestInfo(True, "", "get", "", "v1", "secrets", "", "ns", "pull")
    for user in (UserInfo("system:node:n1"), UserInfo("n1", groups=("system:nodes",))):
        assert authorizer.authorize(Attributes(user, info)) == (Decision.NO_OPINION, "")
    nameless = UserInfo("system:node:", groups=("system:nodes",))
    decision, reason = authorizer.authorize(Attributes(nameless, info))
    assert decision is Decision.NO_OPINION
    assert reason == 'unknown node for user "system:node:"'
