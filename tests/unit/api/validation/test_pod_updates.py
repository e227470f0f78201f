"""Which changes of a pod, its status and its subresources are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.api.validation.pods import POD, STRATEGY, Object, container, pod

from navarch.api.schema.defaults import apply_defaults

Change = Callable[[Object], None]


def set_at(*path: Any) -> Change:
    """A change that sets the value at the end of a path."""

    def change(obj: Object) -> None:
        target: Any = obj
        for key in path[:-2]:
            target = target[key]
        target[path[-2]] = path[-1]

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(set_at("spec", "containers", 0, "image", "web:2"), "", id="image"),
        pytest.param(set_at("metadata", "labels", {"a": "b"}), "", id="labels"),
        pytest.param(set_at("spec", "tolerations", [{"operator": "Exists"}]), "", id="toleration"),
        pytest.param(set_at("spec", "activeDeadlineSeconds", 5), "", id="deadline"),
        pytest.param(
            set_at("spec", "nodeName", "n"),
            "spec: Forbidden: pod updates may not change fields other than "
            "`spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations`",
            id="node name",
        ),
        pytest.param(
            set_at("spec", "containers", 0, "command", ["x"]),
            "spec: Forbidden: pod updates may not change fields other than",
            id="command",
        ),
        pytest.param(
            lambda obj: obj["spec"]["containers"].append(container(name="d")),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
            id="another container",
        ),
        pytest.param(
            set_at("spec", "schedulingGates", [{"name": "g"}]),
            "only deletion is allowed, but found new scheduling gate 'g'",
            id="gate",
        ),
        pytest.param(
            set_at("metadata", "annotations", {"kubernetes.io/config.mirror": "x"}),
            "may not add mirror pod annotation",
            id="mirror",
        ),
    ],
)
def test_updates(change: Change, expected: str) -> None:
    old = pod()
    new = copy.deepcopy(old)
    change(new)
    apply_defaults(POD, new)
    STRATEGY.defaults(new)
    STRATEGY.prepare_update(new, old, "")
    errors = [str(error) for error in STRATEGY.validate_update(new, old, "")]
    if expected:
        assert any(expected in error for error in errors), errors
    else:
        assert errors == []
    assert new["metadata"]["generation"] == 1 + (new["spec"] != old["spec"])


def test_gated_pods_may_be_narrowed_and_released() -> None:
    old = pod(schedulingGates=[{"name": "g"}], nodeSelector={"a": "1"})
    new = copy.deepcopy(old)
    del new["spec"]["schedulingGates"]
    new["spec"]["nodeSelector"]["b"] = "2"
    assert STRATEGY.validate_update(new, old, "") == []
    new["spec"]["nodeSelector"] = {"b": "2"}
    (error,) = STRATEGY.validate_update(new, old, "")
    assert "only additions to spec.nodeSelector are allowed" in str(error)


def test_ephemeral_containers_are_only_added() -> None:
    old = pod()
    new = copy.deepcopy(old)
    new["spec"]["ephemeralContainers"] = [container(name="e", terminationMessagePolicy="File")]
    new["spec"]["nodeName"] = "elsewhere"
    new["metadata"]["labels"] = {"a": "b"}
    STRATEGY.defaults(new)
    STRATEGY.prepare_update(new, old, "ephemeralcontainers")
    assert "nodeName" not in new["spec"]
    assert "labels" not in new["metadata"]
    assert new["metadata"]["generation"] == 2
    assert STRATEGY.validate_update(new, old, "ephemeralcontainers") == []
    gone = copy.deepcopy(old)
    errors = STRATEGY.validate_update(gone, new, "ephemeralcontainers")
    assert 'existing ephemeral containers "e" may not be removed' in str(errors[0])
    new["spec"]["ephemeralContainers"][0]["ports"] = [{"containerPort": 1, "protocol": "TCP"}]
    errors = STRATEGY.validate_update(new, old, "ephemeralcontainers")
    assert "ports: Forbidden: cannot be set for an Ephemeral Container" in str(errors[0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            set_at("spec", "containers", 0, "resources", "requests", {"cpu": "200m"}), "", id="more"
        ),
        pytest.param(
            set_at("spec", "containers", 0, "resources", {}),
            'spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of',
            id="class",
        ),
        pytest.param(
            set_at("spec", "containers", 0, "resources", "limits", {"example.com/gpu": "1"}),
            "spec: Forbidden: only cpu and memory resources are mutable",
            id="device",
        ),
        pytest.param(
            lambda obj: obj["spec"]["containers"].append(container(name="d")),
            "spec.containers: Forbidden: containers may not be added or removed on resize",
            id="container",
        ),
        pytest.param(
            set_at("spec", "initContainers", 0, "name", "other"),
            "spec.initContainers[0].name: Forbidden: initContainers may not be renamed",
            id="name",
        ),
        pytest.param(
            set_at("spec", "initContainers", 0, "resources", {"requests": {"cpu": "2"}}),
            "",
            id="init container",
        ),
        pytest.param(
            set_at("spec", "initContainers", 0, "resources", {"limits": {"example.com/gpu": "1"}}),
            "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar",
            id="init container's device",
        ),
    ],
)
def test_resize(change: Change, expected: str) -> None:
    old = pod(
        containers=[container(resources={"requests": {"cpu": "100m"}})],
        initContainers=[container(name="first")],
    )
    new = copy.deepcopy(old)
    change(new)
    new["spec"]["nodeName"] = "elsewhere"
    apply_defaults(POD, new)
    STRATEGY.defaults(new)
    STRATEGY.prepare_update(new, old, "resize")
    errors = [str(error) for error in STRATEGY.validate_update(new, old, "resize")]
    if expected:
        assert any(expected in error for error in errors), errors
    else:
        assert errors == []
        assert new["metadata"]["generation"] == 2
        assert "nodeName" not in new["spec"]


def test_status_updates() -> None:
    old = pod()
    old["metadata"]["ownerReferences"] = [{"uid": "1"}]
    new = copy.deepcopy(old)
    del new["metadata"]["ownerReferences"]
    new["spec"]["nodeName"] = "elsewhere"
    new["metadata"]["labels"] = {"a": "b"}
    new["status"] = {"phase": "Running", "podIPs": [{"ip": "10.0.0.300"}]}
    STRATEGY.prepare_update(new, old, "status")
    assert new["metadata"]["ownerReferences"] == [{"uid": "1"}]
    assert new["metadata"]["labels"] == {"a": "b"}
    assert "nodeName" not in new["spec"]
    assert new["status"]["qosClass"] == "BestEffort"
    (error,) = STRATEGY.validate_update(new, old, "status")
    assert str(error).startswith('status.podIPs[0]: Invalid value: "10.0.0.300"')
    new["status"] = {**old["status"], "qosClass": "Guaranteed"}
    (error,) = STRATEGY.validate_update(new, old, "status")
    assert str(error) == 'status.qosClass: Invalid value: "Guaranteed": field is immutable'


def test_ended_containers_do_not_come_back() -> None:
    ended = {"name": "c", "state": {"terminated": {"exitCode": 0}}}
    old = pod(restartPolicy="OnFailure")
    old["status"]["containerStatuses"] = [ended]
    new = copy.deepcopy(old)
    new["status"]["containerStatuses"] = [{"name": "c", "state": {"running": {}}}]
    (error,) = STRATEGY.validate_update(new, old, "status")
    assert "may not be transitioned to non-terminated state" in str(error)
    old["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] = 1
    assert STRATEGY.validate_update(new, old, "status") == []


@pytest.mark.parametrize(
    ("rules", "code", "allowed"),
    [
        pytest.param([("Restart", "In", 7)], 7, True, id="a rule"),
        pytest.param([("Restart", "In", 7)], 8, False, id="another code"),
        pytest.param([("Restart", "NotIn", 7)], 8, True, id="all but one"),
        pytest.param([("RestartAllContainers", "In", 7)], 8, True, id="whoever may restart all"),
    ],
)
def test_rules_bring_ended_containers_back(
    rules: list[tuple[str, str, int]], code: int, allowed: bool
) -> None:
    old = pod(restartPolicy="Never")
    (container,) = old["spec"]["containers"]
    container["restartPolicy"] = "Never"
    container["restartPolicyRules"] = [
        {"action": action, "exitCodes": {"operator": operator, "values": [value]}}
        for action, operator, value in rules
    ]
    ended = {"name": container["name"], "state": {"terminated": {"exitCode": code}}}
    old["status"]["containerStatuses"] = [ended]
    new = copy.deepcopy(old)
    new["status"]["containerStatuses"] = [{"name": container["name"], "state": {"running": {}}}]
    assert (STRATEGY.validate_update(new, old, "status") == []) is allowed
