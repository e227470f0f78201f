"""What makes a pod invalid, and what may not change in one: paths and messages are upstream's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from navarch.api.kinds import Kind, kind_by_name
from navarch.api.schema.decode import normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.api.strategies.registry import strategy_for

Object = dict[str, Any]
Change = Callable[[Object], None]
kind = kind_by_name("", "v1", "Pod")
assert kind is not None
POD: Kind = kind
STRATEGY = strategy_for(POD)


def container(**fields: Any) -> Object:
    return {"name": "c", "image": "web:1", **fields}


def pod(**spec: Any) -> Object:
    """A pod as it is stored."""
    obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [container()], **spec},
    }
    obj, _ = normalise_object(POD, copy.deepcopy(obj))
    apply_defaults(POD, obj)
    STRATEGY.defaults(obj)
    STRATEGY.prepare_create(obj)
    return obj


def errors_of(obj: Object) -> list[str]:
    return [str(error) for error in STRATEGY.validate(obj)]


LONG = "a" * 64


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"containers": []}, "spec.containers: Required value", id="no container"),
        pytest.param(
            {"containers": [container(name="A_b")]},
            'spec.containers[0].name: Invalid value: "A_b": a lowercase RFC 1123 label must',
            id="name",
        ),
        pytest.param(
            {"containers": [container(), container()]},
            'spec.containers[1].name: Duplicate value: "c"',
            id="name twice",
        ),
        pytest.param(
            {"containers": [container(image="")]},
            "spec.containers[0].image: Required value",
            id="no image",
        ),
        pytest.param(
            {"containers": [container(image=" web")]},
            'spec.containers[0].image: Invalid value: " web": must not have leading or trailing',
            id="image with a space",
        ),
        pytest.param(
            {"containers": [container(imagePullPolicy="Sometimes")]},
            'imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", ',
            id="pull policy",
        ),
        pytest.param(
            {"containers": [container(ports=[{"containerPort": 70000}])]},
            "ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            id="port",
        ),
        pytest.param(
            {"containers": [container(ports=[{"containerPort": 1, "hostPort": 80}] * 2)]},
            'ports[1].hostPort: Duplicate value: "TCP//80"',
            id="host port twice",
        ),
        pytest.param(
            {"containers": [container(ports=[{"containerPort": 1, "name": "a--b"}])]},
            'ports[0].name: Invalid value: "a--b": must not contain consecutive hyphens',
            id="port name",
        ),
        pytest.param(
            {"containers": [container(env=[{"name": "A=B"}])]},
            'env[0].name: Invalid value: "A=B": a valid environment variable name must consist',
            id="environment name",
        ),
        pytest.param(
            {
                "containers": [
                    container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}])
                ]
            },
            'fieldRef.fieldPath: Invalid value: "x": error converting fieldPath: field label not',
            id="field path",
        ),
        pytest.param(
            {"containers": [container(env=[{"name": "A", "valueFrom": {}}])]},
            'env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`',
            id="value from nowhere",
        ),
        pytest.param(
            {"containers": [container(volumeMounts=[{"name": "v", "mountPath": "/v"}])]},
            'volumeMounts[0].name: Not found: "v"',
            id="mount of no volume",
        ),
        pytest.param(
            {
                "volumes": [{"name": "v"}],
                "containers": [container(volumeMounts=[{"name": "v", "mountPath": "/v"}] * 2)],
            },
            'volumeMounts[1].mountPath: Invalid value: "/v": must be unique',
            id="mounted twice",
        ),
        pytest.param(
            {
                "volumes": [{"name": "v"}],
                "containers": [
                    container(volumeMounts=[{"name": "v", "mountPath": "/v", "subPath": "../x"}])
                ],
            },
            "must not contain '..'",
            id="subPath upwards",
        ),
        pytest.param(
            {
                "volumes": [{"name": "v"}],
                "containers": [
                    container(volumeMounts=[{"name": "v", "mountPath": "/v", "subPath": "/x"}])
                ],
            },
            "must be a relative path",
            id="absolute subPath",
        ),
        pytest.param(
            {"volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}]},
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            id="host path upwards",
        ),
        pytest.param(
            {"volumes": [{"name": "v", "emptyDir": {}, "configMap": {"name": "c"}}]},
            "spec.volumes[0].configMap: Forbidden: may not specify more than 1 volume type",
            id="two sources",
        ),
        pytest.param(
            {"volumes": [{"name": "v"}, {"name": "v"}]},
            'spec.volumes[1].name: Duplicate value: "v"',
            id="volume twice",
        ),
        pytest.param(
            {
                "volumes": [
                    {
                        "name": "v",
                        "configMap": {"name": "c", "items": [{"key": "k", "path": "../x"}]},
                    }
                ]
            },
            "items[0].path: Invalid value: \"../x\": must not contain '..'",
            id="item upwards",
        ),
        pytest.param(
            {"volumes": [{"name": "v", "configMap": {"name": "c", "defaultMode": 512}}]},
            "defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal)",
            id="mode",
        ),
        pytest.param(
            {"containers": [container(livenessProbe={})]},
            "livenessProbe: Required value: must specify a handler type",
            id="probe without handler",
        ),
        pytest.param(
            {
                "containers": [
                    container(livenessProbe={"tcpSocket": {"port": 1}, "successThreshold": 2})
                ]
            },
            "livenessProbe.successThreshold: Invalid value: 2: must be 1",
            id="liveness threshold",
        ),
        pytest.param(
            {"initContainers": [container(name="i", readinessProbe={"tcpSocket": {"port": 1}})]},
            "initContainers[0].readinessProbe: Forbidden: may not be set for init containers",
            id="probe of an init container",
        ),
        pytest.param(
            {
                "containers": [
                    container(
                        resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
                    )
                ]
            },
            'resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
            id="requests above limits",
        ),
        pytest.param(
            {"containers": [container(resources={"limits": {"pods": "1"}})]},
            'resources.limits[pods]: Invalid value: "pods": must be a standard resource for',
            id="resource name",
        ),
        pytest.param(
            {"containers": [container(resources={"limits": {"example.com/gpu": "1500m"}})]},
            'limits[example.com/gpu]: Invalid value: "1500m": must be an integer',
            id="half a device",
        ),
        pytest.param(
            {"containers": [container(resources={"limits": {"memory": "-1"}})]},
            'resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0',
            id="negative memory",
        ),
        pytest.param(
            {"restartPolicy": "Maybe"},
            'spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", ',
            id="restart policy",
        ),
        pytest.param(
            {"dnsPolicy": "None"},
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            id="no DNS",
        ),
        pytest.param(
            {"tolerations": [{"operator": "Equal", "key": "k", "value": "a b"}]},
            'spec.tolerations[0].operator: Invalid value: "a b": a valid label must be',
            id="toleration value",
        ),
        pytest.param(
            {
                "tolerations": [
                    {"tolerationSeconds": 1, "operator": "Exists", "effect": "NoSchedule"}
                ]
            },
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
            id="toleration seconds",
        ),
        pytest.param(
            {
                "topologySpreadConstraints": [
                    {"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}
                ]
            },
            "topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than 0",
            id="skew",
        ),
        pytest.param(
            {
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}
                    }
                }
            },
            "nodeSelectorTerms: Required value: must have at least one node selector term",
            id="no terms",
        ),
        pytest.param(
            {"hostAliases": [{"ip": "010.0.0.1"}]},
            'spec.hostAliases[0].ip: Invalid value: "010.0.0.1": must not have leading 0s',
            id="host alias",
        ),
        pytest.param(
            {"securityContext": {"sysctls": [{"name": "a"}, {"name": "a"}]}},
            'spec.securityContext.sysctls[1].name: Duplicate value: "a"',
            id="sysctl twice",
        ),
        pytest.param(
            {
                "securityContext": {
                    "seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}
                }
            },
            "seccompProfile.localhostProfile: Invalid value: \"../x\": must not contain '..'",
            id="profile upwards",
        ),
        pytest.param(
            {
                "containers": [
                    container(
                        securityContext={"privileged": True, "allowPrivilegeEscalation": False}
                    )
                ]
            },
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            id="privileged without escalation",
        ),
        pytest.param(
            {"activeDeadlineSeconds": 0},
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647",
            id="deadline",
        ),
        pytest.param(
            {"ephemeralContainers": [container(name="e")]},
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
            id="ephemeral container",
        ),
        pytest.param(
            {"nodeName": "n", "schedulingGates": [{"name": "g"}]},
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            id="gated and bound",
        ),
        pytest.param(
            {"nodeSelector": {"a b": "c"}},
            'spec.nodeSelector: Invalid value: "a b": name part must consist of',
            id="node selector",
        ),
        pytest.param({"hostname": LONG}, "must be no more than 63 characters", id="hostname"),
    ],
)
def test_invalid(spec: Object, expected: str) -> None:
    errors = errors_of(pod(**spec))
    assert any(expected in error for error in errors), errors


def test_valid_pods() -> None:
    assert errors_of(pod()) == []
    assert errors_of(pod(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")) == []
    sidecar = container(name="s", restartPolicy="Always", startupProbe={"grpc": {"port": 1}})
    assert errors_of(pod(initContainers=[sidecar])) == []


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("web", "Always"),
        ("web:latest", "Always"),
        ("host:5000/web", "Always"),
        ("web:1", "IfNotPresent"),
        ("host:5000/web:1", "IfNotPresent"),
        ("web@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_pull_policy(image: str, policy: str) -> None:
    assert (
        pod(containers=[container(image=image)])["spec"]["containers"][0]["imagePullPolicy"]
        == policy
    )


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1"}}], "Burstable"),
        ([{"requests": {"cpu": "1", "memory": "1Gi"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
        ([{"limits": {"cpu": "0"}}], "BestEffort"),
    ],
)
def test_quality_of_service(resources: list[Object], expected: str) -> None:
    containers = [
        container(name=f"c{index}", resources=each) for index, each in enumerate(resources)
    ]
    obj = pod(containers=containers)
    assert obj["status"] == {"phase": "Pending", "qosClass": expected}


def test_defaults() -> None:
    obj = pod(
        containers=[
            container(
                ports=[{"containerPort": 80}],
                resources={"limits": {"cpu": "1"}},
                env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                readinessProbe={"httpGet": {"port": 80}},
            )
        ],
        volumes=[{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}],
        hostNetwork=True,
        serviceAccount="robot",
    )
    spec = obj["spec"]
    (only,) = spec["containers"]
    assert only["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]
    assert only["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}
    assert only["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert only["readinessProbe"] == {
        "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert only["terminationMessagePath"] == "/dev/termination-log"
    assert spec["volumes"][0] == {"name": "v", "emptyDir": {}}
    assert spec["volumes"][1]["configMap"]["defaultMode"] == 420
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "robot"
    expected = {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": True,
    }
    assert {key: spec[key] for key in expected} == expected
    assert obj["metadata"]["generation"] == 1


@pytest.mark.parametrize(("given", "kept"), [(-1, 1), (0, 0), (7, 7)])
def test_a_negative_grace_period_is_a_second(given: int, kept: int) -> None:
    assert pod(terminationGracePeriodSeconds=given)["spec"]["terminationGracePeriodSeconds"] == kept


def test_gates_and_label_keys() -> None:
    constraint = {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {},
        "matchLabelKeys": ["app"],
    }
    obj = pod(schedulingGates=[{"name": "g"}], topologySpreadConstraints=[constraint])
    (condition,) = obj["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("PodScheduled", "SchedulingGated")
    obj["metadata"]["labels"] = {"app": "web"}
    for _ in ("as it was sent", "as a webhook changed it"):
        STRATEGY.prepare_create(obj)
    assert obj["spec"]["topologySpreadConstraints"][0]["labelSelector"] == {
        "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]
    }
    assert errors_of(obj) == []


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


def test_selectable_fields() -> None:
    obj = pod(nodeName="n", hostNetwork=True)
    obj["status"]["podIPs"] = [{"ip": "10.0.0.1"}]
    fields = STRATEGY.selectable_fields(obj)
    assert fields["spec.nodeName"] == "n"
    assert fields["spec.hostNetwork"] == "true"
    assert fields["status.podIP"] == "10.0.0.1"
    assert fields["status.phase"] == "Pending"
    assert fields["spec.restartPolicy"] == "Always"
