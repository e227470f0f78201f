"""Defaults, statuses and generations that the strategies see to."""

from __future__ import annotations

import base64
import copy

import pytest
from tests.certificates import authority
from tests.unit.api.validation.samples import (
    CLAIM,
    KIND_OF,
    data,
    deployment,
    job,
    new,
    service,
    update,
)

from navarch.api.strategies.registry import strategy_for
from navarch.api.validation.service import validate_addresses_update


def test_generations() -> None:
    old = new("deployments", **deployment())
    assert old["metadata"]["generation"] == 1
    assert update("deployments", old, spec__replicas=3)[0]["metadata"]["generation"] == 2
    assert update("deployments", old, metadata__labels={"a": "b"})[0]["metadata"]["generation"] == 1
    status, _ = update("deployments", old, "status", status={"replicas": 1}, spec__replicas=9)
    assert (status["metadata"]["generation"], status["spec"]["replicas"]) == (1, 1)
    assert "generation" not in new("configmaps", metadata={"generation": 7})["metadata"]


def test_namespace() -> None:
    namespace = new("namespaces", "team")
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team"}
    assert namespace["spec"] == {"finalizers": ["kubernetes"]}
    assert namespace["status"] == {"phase": "Active"}
    kept, _ = update("namespaces", namespace, spec__finalizers=[])
    assert kept["spec"] == {"finalizers": ["kubernetes"]}
    freed, problems = update("namespaces", namespace, "finalize", spec__finalizers=[])
    assert (freed["spec"], problems) == ({"finalizers": []}, "")


def test_job_selector_and_labels() -> None:
    created = new("jobs", "pi", **job())
    expected = {
        "app": "web",
        "job-name": "pi",
        "batch.kubernetes.io/job-name": "pi",
        "controller-uid": "0e1c",
        "batch.kubernetes.io/controller-uid": "0e1c",
    }
    assert created["spec"]["template"]["metadata"]["labels"] == expected
    # Without labels of its own a Job shows its template's, to the last; else none of them.
    assert created["metadata"]["labels"] == expected
    assert created["metadata"]["labels"] is not created["spec"]["template"]["metadata"]["labels"]
    own = new("jobs", "pi", metadata={"labels": {"app": "web"}}, **job())
    assert own["metadata"]["labels"] == {"app": "web"}
    assert created["spec"]["selector"] == {
        "matchLabels": {"batch.kubernetes.io/controller-uid": "0e1c"}
    }
    defaults = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": 6,
        "completionMode": "NonIndexed",
        "suspend": False,
        "manualSelector": False,
        "podReplacementPolicy": "TerminatingOrFailed",
    }
    assert {key: created["spec"][key] for key in defaults} == defaults
    assert "completions" not in new("jobs", **job(parallelism=2))["spec"]


def test_job_status() -> None:
    old = new("jobs", **job())
    complete = [
        {"type": "SuccessCriteriaMet", "status": "True"},
        {"type": "Complete", "status": "True"},
    ]
    _, found = update("jobs", old, "status", status={"conditions": complete})
    assert "status.completionTime: Required value: completionTime is required" in found
    assert "status.startTime: Required value: startTime is required for finished job" in found
    times = {"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z"}
    done, found = update("jobs", old, "status", status={"conditions": complete, **times})
    assert found == ""
    _, found = update("jobs", done, "status", status=times)
    assert "cannot disable the terminal Complete=True condition" in found
    custom = [{"type": "Custom", "status": "True"}]
    assert update("jobs", old, "status", status={"conditions": custom})[1] == ""


def test_service_defaults() -> None:
    spec = new("services", **service())["spec"]
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (spec["type"], spec["sessionAffinity"]) == ("ClusterIP", "None")
    assert spec["internalTrafficPolicy"] == "Cluster"
    assert "externalTrafficPolicy" not in spec
    spec = new("services", **service(type="LoadBalancer", sessionAffinity="ClientIP"))["spec"]
    assert spec["externalTrafficPolicy"] == "Cluster"
    assert spec["allocateLoadBalancerNodePorts"] is True
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


ALLOCATED = {
    "clusterIP": "10.96.0.7",
    "clusterIPs": ["10.96.0.7"],
    "ipFamilies": ["IPv4"],
    "ipFamilyPolicy": "SingleStack",
}


def test_service_keeps_what_was_allocated() -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    old = new("services", **service(type="NodePort", ports=ports, **ALLOCATED))
    fresh = new("services", **service(type="NodePort"))["spec"]
    kept, found = update("services", old, spec=fresh)
    assert found == ""
    assert {**old["spec"], **kept["spec"]} == old["spec"]
    assert old["spec"].keys() - kept["spec"].keys() == {"ipFamilies", "ipFamilyPolicy"}
    changed, _ = update("services", old, spec__clusterIP="10.96.0.8")
    errors = validate_addresses_update(changed["spec"], old["spec"])
    assert [str(each) for each in errors] == [
        'spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set'
    ]


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("ClusterIP", ["nodePort", "externalTrafficPolicy"]),
        ("ExternalName", ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "nodePort"]),
    ],
)
def test_service_drops_what_a_new_type_has_no_use_for(kind: str, gone: list[str]) -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    old = new("services", **service(type="NodePort", ports=ports, **ALLOCATED))
    changed, found = update("services", old, spec__type=kind, spec__externalName="a.example.com")
    assert found == ""
    left = {*changed["spec"], *changed["spec"]["ports"][0]}
    assert not left & set(gone)


def test_service_from_external_name() -> None:
    old = new("services", **service(type="ExternalName", externalName="a.example.com"))
    changed, found = update("services", old, spec__type="ClusterIP", spec__externalName=None)
    assert found == ""
    assert "clusterIP" not in changed["spec"]


def test_secret_data() -> None:
    secret = new("secrets", data=data(a="1", b="1"), stringData={"a": "2"})
    assert secret["data"] == data(a="2", b="1")
    assert secret["type"] == "Opaque"
    assert "stringData" not in secret


def test_limit_range_defaults() -> None:
    item = {
        "type": "Container",
        "max": {"cpu": "2", "memory": "1Gi"},
        "min": {"cpu": "100m", "ephemeral-storage": "1Gi"},
        "default": {"memory": "512Mi"},
    }
    (limit,) = new("limitranges", spec={"limits": [item]})["spec"]["limits"]
    assert limit["default"] == {"cpu": "2", "memory": "512Mi"}
    assert limit["defaultRequest"] == {"cpu": "2", "memory": "512Mi", "ephemeral-storage": "1Gi"}


def test_signing_request_verdicts() -> None:
    old = new("certificatesigningrequests", spec={"username": "forged", "signerName": "a.b/c"})
    assert "username" not in old["spec"]
    strategy = strategy_for(KIND_OF["certificatesigningrequests"])
    strategy.stamp_user(old, {"username": "ann", "groups": ["g"]})
    assert (old["spec"]["username"], old["spec"]["groups"]) == ("ann", ["g"])
    verdict = [{"type": "Approved", "status": "True"}]
    _, found = update("certificatesigningrequests", old, "status", status={"conditions": verdict})
    assert 'updates may not add a condition of type "Approved"' in found
    approved, found = update(
        "certificatesigningrequests", old, "approval", status={"conditions": verdict}
    )
    assert found == ""
    assert approved["status"]["conditions"][0]["lastTransitionTime"]
    pem = base64.b64encode(authority()[0]).decode()
    issued, found = update(
        "certificatesigningrequests", approved, "status", status={"certificate": pem}
    )
    assert found == ""
    assert issued["status"]["conditions"][0]["type"] == "Approved"


def test_status_updates_of_some_kinds_keep_the_metadata() -> None:
    kind = KIND_OF["flowschemas"]
    old = new("flowschemas", spec={"priorityLevelConfiguration": {"name": "a"}})
    obj = copy.deepcopy(old)
    obj["metadata"]["labels"] = {"a": "b"}
    strategy_for(kind).prepare_update(obj, old, "status")
    assert "labels" not in obj["metadata"]


def test_fresh_statuses_have_what_go_always_prints() -> None:
    assert new("replicasets", **deployment())["status"] == {"replicas": 0}
    assert new("statefulsets", **deployment())["status"] == {
        "replicas": 0,
        "availableReplicas": 0,
    }
    assert new("persistentvolumeclaims", spec=CLAIM)["status"] == {"phase": "Pending"}
    assert new("customresourcedefinitions", spec={"names": {}})["status"]["conditions"] is None
