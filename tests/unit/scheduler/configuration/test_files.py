"""KubeSchedulerConfiguration files: what is accepted, what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from navarch.api.component_config import ConfigurationError
from navarch.scheduler.configuration.arguments import (
    DefaultPreemptionArgs,
    NodeResourcesFitArgs,
    ResourceSpec,
)
from navarch.scheduler.configuration.files import parse
from navarch.scheduler.configuration.types import KubeSchedulerConfiguration

HEADER = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"


def document(**fields: Any) -> bytes:
    return (HEADER + yaml.safe_dump(fields)).encode()


def fit(**args: Any) -> dict[str, Any]:
    return profile("NodeResourcesFit", **args)


def profile(plugin: str, **args: Any) -> dict[str, Any]:
    return {"profiles": [{"pluginConfig": [{"name": plugin, "args": args}]}]}


def args_of(configuration: KubeSchedulerConfiguration, plugin: str) -> Any:
    found = configuration.profiles[0].pluginConfig
    return next(each.args for each in found if each.name == plugin)


def test_the_defaults() -> None:
    found = parse(HEADER.encode())
    assert [each.schedulerName for each in found.profiles] == ["default-scheduler"]
    assert (found.parallelism, found.podInitialBackoffSeconds, found.podMaxBackoffSeconds) == (
        16,
        1,
        10,
    )
    election = found.leaderElection
    assert election.leaderElect
    assert [election.leaseDuration, election.renewDeadline, election.retryPeriod] == [
        15.0,
        10.0,
        2.0,
    ]
    assert (election.resourceLock, election.resourceNamespace, election.resourceName) == (
        "leases",
        "kube-system",
        "kube-scheduler",
    )
    assert args_of(found, "DefaultPreemption") == DefaultPreemptionArgs()
    assert args_of(found, "NodeResourcesFit").scoringStrategy.type == "LeastAllocated"


def test_zeros_of_pointers_count_and_others_do_not() -> None:
    found = parse(
        document(
            percentageOfNodesToScore=0,
            clientConnection={"qps": 0, "burst": 0},
            **profile("DefaultPreemption", minCandidateNodesPercentage=0),
        )
    )
    assert (found.clientConnection.qps, found.clientConnection.burst) == (50, 100)
    assert args_of(found, "DefaultPreemption") == DefaultPreemptionArgs(
        minCandidateNodesPercentage=0
    )


def test_resources_without_a_weight_count_one() -> None:
    strategy = {
        "type": "MostAllocated",
        "resources": [{"name": "a/b"}, {"name": "cpu", "weight": 3}],
    }
    found = args_of(parse(document(**fit(scoringStrategy=strategy))), "NodeResourcesFit")
    assert found.scoringStrategy.counted == (ResourceSpec("a/b", 1), ResourceSpec("cpu", 3))


def test_what_extenders_look_after_is_ignored() -> None:
    managed = [{"name": "a.com/b", "ignoredByScheduler": True}, {"name": "a.com/c"}]
    extenders = [{"urlPrefix": "http://x", "managedResources": managed}]
    found = parse(document(extenders=extenders, **fit(ignoredResources=["z.com/z"])))
    args: NodeResourcesFitArgs = args_of(found, "NodeResourcesFit")
    assert args.ignoredResources == ("a.com/b",)


UNREADABLE = [
    pytest.param(
        b"kind: KubeSchedulerConfiguration\n", "Object 'apiVersion' is missing in", id="no version"
    ),
    pytest.param(
        b"apiVersion: kubescheduler.config.k8s.io/v1\n", "Object 'Kind' is missing", id="no kind"
    ),
    pytest.param(
        b"apiVersion: kubescheduler.config.k8s.io/unknown\nkind: KubeSchedulerConfiguration\n",
        'no kind "KubeSchedulerConfiguration" is registered for version '
        '"kubescheduler.config.k8s.io/unknown"',
        id="other version",
    ),
    pytest.param(
        b"apiVersion: kubescheduler.config.k8s.io/v1\nkind: NodeAffinityArgs\n",
        "couldn't decode as KubeSchedulerConfiguration, got kubescheduler.config.k8s.io/v1, "
        "Kind=NodeAffinityArgs: ",
        id="other kind",
    ),
    pytest.param(
        document(foo="bar"), 'strict decoding error: unknown field "foo"', id="unknown field"
    ),
    pytest.param(
        document(profiles=[{"plugins": {"score": {"on": []}}}]),
        'strict decoding error: unknown field "profiles[0].plugins.score.on"',
        id="unknown field inside",
    ),
    pytest.param(
        (HEADER + "parallelism: 1\nparallelism: 2\n").encode(),
        'strict decoding error: yaml: unmarshal errors:\n  line 4: key "parallelism" already set '
        "in map",
        id="twice",
    ),
    pytest.param(
        document(parallelism="many"),
        "json: cannot unmarshal string into Go struct field "
        "KubeSchedulerConfiguration.parallelism of type int32",
        id="wrong type",
    ),
    pytest.param(
        document(leaderElection={"leaseDuration": "soon"}),
        'time: invalid duration "soon"',
        id="no duration",
    ),
    pytest.param(
        document(**fit(scoringStrategy={"resources": [{"Name": "cpu", "Weight": 1}]})),
        "strict decoding error: decoding .profiles[0].pluginConfig[0]: strict decoding error: "
        "decoding args for plugin NodeResourcesFit: strict decoding error: unknown field "
        '"scoringStrategy.resources[0].Name", unknown field '
        '"scoringStrategy.resources[0].Weight"',
        id="unknown field of arguments",
    ),
    pytest.param(
        document(**profile("NodeAffinity", kind="NodeResourcesFitArgs")),
        "decoding .profiles[0].pluginConfig[0]: args for plugin NodeAffinity were not of type "
        "NodeAffinityArgs.kubescheduler.config.k8s.io, got "
        "NodeResourcesFitArgs.kubescheduler.config.k8s.io",
        id="another plugin's arguments",
    ),
    pytest.param(
        document(**profile("NodeAffinity", kind="FooArgs")),
        "decoding .profiles[0].pluginConfig[0]: decoding args for plugin NodeAffinity: no kind "
        '"FooArgs" is registered',
        id="unknown arguments",
    ),
    pytest.param(
        document(profiles=[{"pluginConfig": [{"name": "NodeAffinity"}]}]),
        "decoding .profiles[0].pluginConfig[0]: decoding args for plugin NodeAffinity: couldn't "
        "get version/kind; json parse error: unexpected end of JSON input",
        id="no arguments",
    ),
]


@pytest.mark.parametrize(("data", "text"), UNREADABLE)
def test_what_cannot_be_read(data: bytes, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(data)
    assert str(caught.value).startswith(text)


P = "profiles[0].pluginConfig[0].args"
SHAPE = [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]
WRONG = [
    (
        document(parallelism=0),
        "parallelism: Invalid value: 0: should be an integer value greater than zero",
    ),
    (
        document(percentageOfNodesToScore=101),
        "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
    ),
    (
        document(podInitialBackoffSeconds=0),
        "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0",
    ),
    (
        document(podInitialBackoffSeconds=20),
        "podMaxBackoffSeconds: Invalid value: 10: "
        "must be greater than or equal to PodInitialBackoffSeconds",
    ),
    (
        document(clientConnection={"burst": -1}),
        "clientConnection.burst: Invalid value: -1: must be non-negative",
    ),
    (
        document(leaderElection={"leaseDuration": "5s"}),
        'leaderElection.leaseDuration: Invalid value: "10s": must be greater than `RenewDeadline`',
    ),
    (
        document(leaderElection={"resourceLock": "configmaps"}),
        'leaderElection.resourceLock: Invalid value: "configmaps": '
        'resourceLock value must be "leases"',
    ),
    (
        document(profiles=[{"schedulerName": "a"}, {}]),
        "profiles[1].schedulerName: Required value",
    ),
    (
        document(profiles=[{"schedulerName": "a"}, {"schedulerName": "a"}]),
        "profiles[1].schedulerName: Duplicate value: {}",
    ),
    (
        document(profiles=[{"percentageOfNodesToScore": -1}]),
        "profiles[0].percentageOfNodesToScore: Invalid value: -1: not in valid range [0-100]",
    ),
    (
        document(profiles=[{"plugins": {"score": {"enabled": [{"name": "EBSLimits"}]}}}]),
        'profiles[0].plugins.score.enabled[0]: Invalid value: "EBSLimits": was invalid in version '
        '"v1" (KubeSchedulerConfiguration is version "kubescheduler.config.k8s.io/v1")',
    ),
    (
        document(
            profiles=[
                {"schedulerName": "a"},
                {
                    "schedulerName": "b",
                    "plugins": {"queueSort": {"enabled": [{"name": "PrioritySort"}]}},
                },
            ]
        ),
        'profiles[1].plugins.queueSort: Invalid value: {"Enabled":[{"Name":"PrioritySort",'
        '"Weight":0}],"Disabled":null}: must be the same for all profiles',
    ),
    (
        document(**profile("DefaultPreemption", minCandidateNodesPercentage=-1)),
        f"{P}.minCandidateNodesPercentage: Invalid value: -1: not in valid range [0, 100]",
    ),
    (
        document(
            **profile(
                "DefaultPreemption", minCandidateNodesPercentage=0, minCandidateNodesAbsolute=0
            )
        ),
        f"[{P}.minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as "
        f"minCandidateNodesAbsolute, {P}.minCandidateNodesAbsolute: Invalid value: 0: cannot be "
        "zero at the same time as minCandidateNodesPercentage]",
    ),
    (
        document(**profile("InterPodAffinity", hardPodAffinityWeight=101)),
        f"{P}.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
    ),
    (
        document(
            **profile("NodeResourcesBalancedAllocation", resources=[{"name": "cpu", "weight": 2}])
        ),
        f"{P}.resources[0].weight: Invalid value: 2: must be 1",
    ),
    (
        document(
            **profile("NodeResourcesBalancedAllocation", resources=[{"name": "a"}, {"name": "a"}])
        ),
        f'{P}.resources[1].name: Duplicate value: "a"',
    ),
    (
        document(**profile("PodTopologySpread", defaultingType="Some")),
        f'{P}.defaultingType: Unsupported value: "Some": supported values: "System", "List"',
    ),
    (
        document(
            **profile(
                "PodTopologySpread",
                defaultConstraints=[
                    {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"}
                ],
            )
        ),
        f'{P}.defaultingType: Invalid value: "System": when .defaultConstraints are not empty',
    ),
    (
        document(
            **profile(
                "PodTopologySpread",
                defaultingType="List",
                defaultConstraints=[{"maxSkew": 0, "labelSelector": {}}],
            )
        ),
        f"[{P}.defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf), "
        f"{P}.defaultConstraints[0].topologyKey: Required value: can not be empty, "
        f"{P}.defaultConstraints[0].whenUnsatisfiable: Required value: can not be empty, "
        f"{P}.defaultConstraints[0].labelSelector: Forbidden: constraint must not define a "
        "selector, as they deduced for each pod]",
    ),
    (
        document(**profile("VolumeBinding", bindTimeoutSeconds=-1)),
        f"{P}.bindTimeoutSeconds: Invalid value: -1: invalid BindTimeoutSeconds, should not be a "
        "negative value",
    ),
    (
        document(**profile("VolumeBinding", shape=SHAPE[:1])),
        f'{P}.shape: Invalid value: [{{"Utilization":0,"Score":0}}]: unexpected field `shape`, '
        "remove it or turn on the feature gate StorageCapacityScoring",
    ),
    (
        document(**profile("DynamicResources", bindingTimeout="1ms")),
        f'{P}.bindingTimeout: Invalid value: "1ms": must be at least 1 second',
    ),
    (
        document(
            **profile(
                "NodeAffinity",
                addedAffinity={
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "a", "operator": "Is"}]}
                        ]
                    }
                },
            )
        ),
        f"{P}.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]."
        'matchExpressions[0].operator: Unsupported value: "Is": supported values: "In", "NotIn", '
        '"Exists", "DoesNotExist", "Gt", "Lt"',
    ),
    (
        document(extenders=[{"prioritizeVerb": "p"}]),
        "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
    ),
    (
        document(extenders=[{"bindVerb": "b"}, {"bindVerb": "b"}]),
        'extenders: Invalid value: "found 2 extenders implementing bind": only one extender can '
        "implement bind",
    ),
    (
        document(extenders=[{"managedResources": [{"name": "cpu"}]}]),
        'extenders[0].managedResources[0].name: Invalid value: "cpu": is an invalid extended '
        "resource name",
    ),
]


@pytest.mark.parametrize(("data", "text"), WRONG, ids=[text[:60] for _, text in WRONG])
def test_what_is_not_valid(data: bytes, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(data)
    assert str(caught.value) == text
