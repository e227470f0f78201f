"""What a pod, and the template of pods in another object, is warned of."""

from __future__ import annotations

import pytest
from tests.unit.api.validation.samples import KIND_OF, Object, new, template

from navarch.api.strategies.registry import strategy_for
from navarch.api.validation.pod_warnings import pod_warnings

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
NO_POD = "a null labelSelector results in matching no pod"


def port(number: int = 80, **fields: object) -> Object:
    return {"containerPort": number, "protocol": "TCP", **fields}


def in_container(**fields: object) -> Object:
    return {"containers": [{"name": "c", **fields}]}


@pytest.mark.parametrize(
    ("spec", "start"),
    [
        ({"nodeSelector": {"beta.kubernetes.io/os": "a"}}, "spec.nodeSelector[beta.kubernetes.io/"),
        (
            {
                "affinity": {
                    "nodeAffinity": {
                        PREFERRED: [
                            {"preference": {"matchExpressions": [{"key": "k", "values": ["a b"]}]}}
                        ]
                    }
                }
            },
            f"spec.affinity.nodeAffinity.{PREFERRED}[0].preference.matchExpressions[0].values[0]: "
            "a b is invalid, a valid label must be",
        ),
        (
            {
                "affinity": {
                    "nodeAffinity": {
                        REQUIRED: {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "beta.kubernetes.io/arch"}]}
                            ]
                        }
                    }
                }
            },
            f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].key: "
            "beta.kubernetes.io/arch is deprecated since v1.14",
        ),
        (
            {"topologySpreadConstraints": [{"topologyKey": "z"}]},
            f"spec.topologySpreadConstraints[0].labelSelector: {NO_POD}",
        ),
        (
            {"affinity": {"podAntiAffinity": {PREFERRED: [{"podAffinityTerm": {}}]}}},
            f"spec.affinity.podAntiAffinity.{PREFERRED}[0].podAffinityTerm.labelSelector: {NO_POD}",
        ),
        (
            {"affinity": {"podAffinity": {REQUIRED: [{}]}}},
            f"spec.affinity.podAffinity.{REQUIRED}[0].labelSelector: {NO_POD}",
        ),
        ({"volumes": [{"name": "v", "storageos": {}}]}, "spec.volumes[0].storageOS: deprecated in"),
        (
            {"hostAliases": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}]},
            'spec.hostAliases[1].ip: duplicate ip "1.2.3.4"',
        ),
        ({"imagePullSecrets": [{}]}, 'spec.imagePullSecrets[0].name: invalid empty name ""'),
        (
            in_container(resources={"requests": {"memory": "100m"}}),
            'spec.containers[0].resources.requests[memory]: fractional byte value "100m" is',
        ),
        (
            in_container(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
            'spec.containers[0].env[1]: hides previous definition of "A", which may be dropped',
        ),
        (
            in_container(ports=[port(), port()]),
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].",
        ),
        (
            in_container(ports=[port(), port(hostPort=1)]),
            "spec.containers[0].ports[1]: overlapping port definition with",
        ),
        (
            in_container(ports=[port(hostPort=1), port(hostPort=1, hostIP="1.2.3.4")]),
            "spec.containers[0].ports[1]: dangerously ambiguous port definition with",
        ),
        (
            in_container(ports=[port(80, name="a"), port(81, name="a")]),
            'spec.containers[0].ports[1]: duplicate port name "a" with spec.containers[0].ports[0]',
        ),
        (
            in_container(ports=[port(hostIP="1.2.3.4", name="a")]),
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name:a HostPort:0 "
            "ContainerPort:80 Protocol:TCP HostIP:1.2.3.4}",
        ),
        (
            {"terminationGracePeriodSeconds": -1},
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid",
        ),
        ({"hostAliases": [{"ip": "01.2.3.4"}]}, "spec.hostAliases[0].ip: "),
    ],
)
def test_one_warning(spec: Object, start: str) -> None:
    found = pod_warnings({"spec": spec})
    assert len(found) == 1, found
    assert found[0].startswith(start)


@pytest.mark.parametrize(
    "spec",
    [
        in_container(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]),
        in_container(ports=[port(80), port(81)]),
        in_container(resources={"limits": {"memory": "1Mi", "cpu": "100m"}}),
    ],
)
def test_no_warning(spec: Object) -> None:
    assert pod_warnings({"metadata": {"annotations": {"a": "b"}}, "spec": spec}) == []


def test_annotations_of_old() -> None:
    pod = {
        "metadata": {
            "annotations": {
                "scheduler.alpha.kubernetes.io/critical-pod": "",
                "container.seccomp.security.alpha.kubernetes.io/c": "unconfined",
            }
        },
        "spec": in_container(),
    }
    first, second = pod_warnings(pod, "spec.template")
    assert first.startswith("spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/crit")
    assert second.endswith('non-functional in v1.27+; use the "seccompProfile" field instead')


@pytest.mark.parametrize("plural", ["deployments", "replicasets", "statefulsets", "daemonsets"])
def test_templates_are_looked_at_when_they_may_have_changed(plural: str) -> None:
    strategy = strategy_for(KIND_OF[plural])
    pods = template()
    pods["spec"]["imagePullSecrets"] = [{}]
    obj = new(plural, spec={"template": pods})
    said = ['spec.template.spec.imagePullSecrets[0].name: invalid empty name ""']
    assert strategy.warnings(obj, None) == said
    obj["metadata"]["generation"] = 1
    assert strategy.warnings(obj, obj) == []
    newer = {**obj, "metadata": {**obj["metadata"], "generation": 2}}
    assert strategy.warnings(newer, obj) == said
