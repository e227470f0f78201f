"""What validation refuses in a new pod."""

from __future__ import annotations

import pytest
from tests.unit.api.validation.pods import Object, container, errors_of, pod

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
            "topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
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
        pytest.param(
            {"os": {"name": "windows"}, "hostPID": True},
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
            id="settings of Linux",
        ),
        pytest.param(
            {
                "os": {"name": "windows"},
                "containers": [container(securityContext={"privileged": False})],
            },
            "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows",
            id="settings of Linux in a container",
        ),
        pytest.param(
            {"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}},
            "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a",
            id="settings of Windows",
        ),
        pytest.param(
            {
                "resources": {"limits": {"cpu": "500m"}},
                "containers": [container(resources={"limits": {"cpu": "1"}})],
            },
            'spec.resources.containers[0][cpu].limits: Invalid value: "1": must be less than or',
            id="more than the pod's limit",
        ),
        pytest.param(
            {
                "resources": {"requests": {"cpu": "500m"}},
                "containers": [
                    container(name=name, resources={"requests": {"cpu": "300m"}}) for name in "ab"
                ],
            },
            'spec.resources.requests[cpu]: Invalid value: "500m": must be greater than or equal to '
            "aggregate container requests of 600m",
            id="more than the pod asks for",
        ),
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


def test_app_armor_annotations_name_a_container_and_a_profile() -> None:
    prefix = "container.apparmor.security.beta.kubernetes.io/"
    obj = pod()
    obj["metadata"]["annotations"] = {f"{prefix}c": "localhost/a"}
    assert errors_of(obj) == []
    obj["metadata"]["annotations"] = {f"{prefix}c": "a", f"{prefix}d": "unconfined"}
    assert errors_of(obj) == [
        f'metadata.annotations[{prefix}c]: Invalid value: "a": invalid AppArmor profile name: "a"',
        f'metadata.annotations[{prefix}d]: Invalid value: "d": container not found',
    ]
