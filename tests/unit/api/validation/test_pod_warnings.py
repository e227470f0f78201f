"""What a pod, and the template of pods in another object, is warned of."""

from __future__ import annotations

from itertools import combinations, islice
from random import Random

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
    found = [*pod_warnings({"spec": spec})]
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
    assert not [*pod_warnings({"metadata": {"annotations": {"a": "b"}}, "spec": spec})]


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
    assert [*strategy.warnings(obj, None)] == said
    obj["metadata"]["generation"] = 1
    assert not [*strategy.warnings(obj, obj)]
    newer = {**obj, "metadata": {**obj["metadata"], "generation": 2}}
    assert [*strategy.warnings(newer, obj)] == said


def how(port: Object, taken: Object) -> str:
    """What two definitions of one container port are to each other, literally."""
    mine, theirs = port.get("hostPort", 0), taken.get("hostPort", 0)
    address, other = port.get("hostIP", ""), taken.get("hostIP", "")
    if (mine, address) == (theirs, other):
        return "duplicate"
    if not mine or not theirs:
        return "overlapping"
    return "dangerously ambiguous" if mine == theirs and (not address) != (not other) else ""


def test_ports_in_each_others_way() -> None:
    """As if each was compared with each."""
    random = Random(5)
    for _ in range(200):
        ports = [
            port(random.choice((80, 81)), **{
                name: value for name, value in (
                    ("hostPort", random.choice((0, 7, 8))),
                    ("hostIP", random.choice(("", "1.2.3.4", "1.2.3.5"))),
                ) if value
            }) for _ in range(6)
        ]  # fmt: skip
        expected = {
            f"spec.containers[0].ports[{later}]: {text} port definition with "
            f"spec.containers[0].ports[{earlier}]"
            for earlier, later in combinations(range(6), 2)
            if ports[earlier]["containerPort"] == ports[later]["containerPort"]
            if (text := how(ports[later], ports[earlier]))
        }
        found = [each for each in pod_warnings({"spec": in_container(ports=ports)})
                 if "port definition" in each]  # fmt: skip
        assert set(found) == expected and len(found) == len(expected)


def test_thousands_of_ports_are_gone_through_once() -> None:
    class Counted(dict[str, object]):
        looks = 0

        def get(self, key: str, default: object = None) -> object:
            Counted.looks += 1
            return super().get(key, default)

    ports = [Counted(port(80, hostPort=number)) for number in range(1, 3001)]
    assert not [*pod_warnings({"spec": in_container(ports=ports)})]
    assert Counted.looks < 100 * len(ports)
    same = [Counted(port(80)) for _ in range(3000)]
    Counted.looks = 0
    assert len([*islice(pod_warnings({"spec": in_container(ports=same)}), 100)]) == 100
    assert Counted.looks < 100 * len(same)
