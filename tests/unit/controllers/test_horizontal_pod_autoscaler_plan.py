"""From what pods use to how many there should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from navarch.api.times import format_time
from navarch.api.types.core_v1 import (
    Container,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    ResourceRequirements,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.horizontal_pod_autoscaler_plan import (
    MAX_INT32,
    CannotCompute,
    Delays,
    Proposal,
    Sample,
    Scene,
    Tolerances,
    by_average,
    by_utilization,
    by_value,
    by_value_per_pod,
    grouped,
    requested,
    total,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = timedelta(seconds=30)


def ago(seconds: float) -> str:
    return format_time(NOW - timedelta(seconds=seconds))


def pod(
    name: str,
    *,
    phase: str = "Running",
    ready: str = "True",
    started: float = 3600,
    changed: float = 3000,
    requests: Mapping[str, str] | None = None,
    is_leaving: bool = False,
) -> Pod:
    """An old and ready pod that requests a core, if nothing else is said."""
    resources = ResourceRequirements(requests=dict(requests or {"cpu": "1"}))
    conditions = []
    if ready:
        transition = ago(changed)
        conditions = [PodCondition(type="Ready", status=ready, lastTransitionTime=transition)]
    return Pod(
        metadata=ObjectMeta(name=name, deletionTimestamp=ago(1) if is_leaving else None),
        spec=PodSpec(containers=[Container(name="main", resources=resources)]),
        status=PodStatus(phase=phase, startTime=ago(started), conditions=conditions),
    )


def samples(*values: int | None, age: float = 5) -> dict[str, Sample]:
    """Of the pods p0, p1 and so on; None is no sample."""
    return {
        f"p{number}": Sample(value, NOW - timedelta(seconds=age), WINDOW)
        for number, value in enumerate(values)
        if value is not None
    }


@dataclass
class Case:
    """So many pods of one core each use so many thousandths, aimed at `target` percent."""

    used: Sequence[int | None]
    target: int
    replicas: int
    utilization: int
    special: Mapping[int, Pod] = field(default_factory=dict)
    tolerances: Tolerances = field(default_factory=Tolerances)
    current: int | None = None


def young(name: str, ready: str = "False") -> Pod:
    return pod(name, ready=ready, started=60, changed=50)


CASES = [
    pytest.param(Case([300, 500, 700], 30, 5, 50), id="up"),
    pytest.param(Case([300, 500, 700], 50, 3, 50), id="as aimed at"),
    pytest.param(Case([540, 540], 50, 2, 54), id="within the tolerance"),
    pytest.param(Case([560, 560], 50, 3, 56), id="beyond it"),
    pytest.param(
        Case([540, 540], 50, 3, 54, tolerances=Tolerances(0.1, 0.05)), id="a tolerance for up"
    ),
    pytest.param(
        Case([480, 480], 50, 2, 48, tolerances=Tolerances(0.02, 0.1), current=3),
        id="a tolerance for down",
    ),
    pytest.param(Case([100, 300, 500, 250, 250], 50, 3, 28), id="down"),
    pytest.param(Case([1000, None], 50, 2, 100), id="a missing pod uses nothing when going up"),
    pytest.param(Case([100, None, None], 50, 3, 10), id="and all it asked for when going down"),
    pytest.param(
        Case([100, 100, None], 150, 2, 10), id="or the target, if that is more than everything"
    ),
    pytest.param(Case([400, None], 50, 2, 40), id="a missing pod turns the suggestion round"),
    pytest.param(
        Case([1000, 1000, 1000], 50, 4, 100, {2: young("p2")}), id="an unready pod uses nothing"
    ),
    pytest.param(Case([100, 900], 50, 1, 10, {1: young("p1")}), id="unready pods going down"),
    pytest.param(
        Case([1000, None], 50, 2, 100, {1: pod("p1", phase="Pending")}), id="a pending pod"
    ),
    pytest.param(
        Case([1000, 1000], 50, 2, 100, {1: pod("p1", phase="Failed")}, current=2),
        id="a failed pod is not counted",
    ),
    pytest.param(
        Case([200, 1000], 50, 1, 20, {1: pod("p1", is_leaving=True)}), id="nor one that leaves"
    ),
    pytest.param(
        Case([600, None, None], 50, 3, 60, current=3), id="no missing pod lets it go down"
    ),
]


@pytest.mark.parametrize("case", CASES)
def test_utilization(case: Case) -> None:
    pods = [case.special.get(n, pod(f"p{n}")) for n in range(len(case.used))]
    current = len(pods) if case.current is None else case.current
    scene = Scene(pods, current, NOW, case.tolerances)
    found = by_utilization(scene, samples(*case.used), "cpu", "", case.target)
    assert (found.replicas, found.utilization) == (case.replicas, case.utilization)


@pytest.mark.parametrize(
    ("used", "target", "current", "expected"),
    [
        pytest.param([20_000, 10_000, 30_000], 15_000, 3, (4, 20_000), id="up"),
        pytest.param([10_000, 10_000, 10_000], 20_000, 3, (2, 10_000), id="down"),
        pytest.param([10_000, 10_500], 10_000, 2, (2, 10_250), id="within the tolerance"),
        pytest.param([1_000, None], 2_000, 2, (2, 1_000), id="a missing pod uses the target"),
        pytest.param([9_000, None], 2_000, 2, (5, 9_000), id="a missing pod uses nothing"),
        pytest.param([1, 2], 1, 2, (2, 1), id="averages are rounded down"),
        pytest.param([-3, -4], 1, 2, (-6, -3), id="towards zero"),
    ],
)
def test_averages(
    used: Sequence[int | None], target: int, current: int, expected: tuple[int, int]
) -> None:
    scene = Scene([pod(f"p{n}", ready="") for n in range(len(used))], current, NOW)
    assert by_average(scene, samples(*used), "", target) == Proposal(*expected)


@pytest.mark.parametrize(
    ("each", "age", "expected"),
    [
        pytest.param(pod("p0"), 5, "ready", id="old and ready"),
        pytest.param(pod("p0", ready=""), 5, "unready", id="nobody says whether it is ready"),
        pytest.param(pod("p0", ready="False"), 5, "ready", id="unready again long after"),
        pytest.param(pod("p0", ready="False", changed=3590), 5, "unready", id="it was never ready"),
        pytest.param(
            pod("p0", ready="False", started=3600, changed=3560), 5, "ready", id="it was once"
        ),
        pytest.param(
            pod("p0", ready="False", started=100, changed=50), 5, "unready", id="young and unready"
        ),
        pytest.param(
            pod("p0", started=100, changed=50), 5, "ready", id="young, and ready for a window"
        ),
        pytest.param(
            pod("p0", started=100, changed=30), 5, "unready", id="young, ready too short a time"
        ),
        pytest.param(pod("p0", phase="Pending"), 5, "unready", id="pending"),
        pytest.param(pod("p0", phase="Succeeded"), 5, "ready", id="succeeded"),
    ],
)
def test_groups(each: Pod, age: float, expected: str) -> None:
    scene = Scene([each, pod("p1")], 2, NOW)
    found = grouped(scene, samples(10, 10, age=age), "cpu")
    group = "unready" if "p0" in found.unready else "ready"
    assert (group, found.ready) == (expected, 2 if expected == "ready" else 1)
    assert ("p0" in found.values) is (expected == "ready")


def test_memory_does_not_ask_for_readiness() -> None:
    scene = Scene([pod("p0", ready="False", started=5)], 1, NOW)
    assert grouped(scene, samples(10), "memory").ready == 1


def test_delays_can_be_set() -> None:
    each = pod("p0", started=100, changed=30)
    scene = Scene([each], 1, NOW, delays=Delays(timedelta(seconds=60), timedelta()))
    assert grouped(scene, samples(10), "cpu").ready == 1


@pytest.mark.parametrize(
    ("pods", "used", "message"),
    [
        pytest.param([], [1], "no pods returned by selector while calculating", id="no pods"),
        pytest.param(
            [pod("p0", phase="Pending")], [1], "(pods might be unready)", id="nothing is left"
        ),
        pytest.param(
            [pod("p0", requests={"memory": "1"})],
            [1],
            "missing request for cpu in container main of Pod p0",
            id="no request",
        ),
        pytest.param(
            [pod("p9", requests={"cpu": "0"})],
            [1],
            "no metrics returned matched known pods",
            id="samples of other pods",
        ),
    ],
)
def test_failures(pods: Sequence[Pod], used: Sequence[int], message: str) -> None:
    with pytest.raises(CannotCompute) as error:
        by_utilization(Scene(pods, 1, NOW), samples(*used), "cpu", "", 50)
    assert message in str(error.value)


def with_sidecar() -> Pod:
    result = pod("p0", requests={"cpu": "100m", "memory": "1Mi"})
    result.spec.containers.append(
        Container(name="side", resources=ResourceRequirements(requests={"cpu": "20m"}))
    )
    result.spec.initContainers = [
        Container(name="init", resources=ResourceRequirements(requests={"cpu": "9"})),
        Container(
            name="proxy",
            restartPolicy="Always",
            resources=ResourceRequirements(requests={"cpu": "3m"}),
        ),
    ]
    return result


def with_pod_level(requests: dict[str, str]) -> Pod:
    result = with_sidecar()
    result.spec.resources = ResourceRequirements(requests=requests)
    return result


@pytest.mark.parametrize(
    ("each", "container", "resource", "expected"),
    [
        pytest.param(with_sidecar(), "", "cpu", 123, id="containers and sidecars"),
        pytest.param(with_sidecar(), "side", "cpu", 20, id="one container"),
        pytest.param(with_sidecar(), "proxy", "cpu", 3, id="one sidecar"),
        pytest.param(with_sidecar(), "", "memory", "container side of Pod p0", id="one has none"),
        pytest.param(with_sidecar(), "x", "cpu", "container x not found in Pod p0", id="no such"),
        pytest.param(with_pod_level({"cpu": "2"}), "", "cpu", 2000, id="of the pod"),
        pytest.param(with_pod_level({"cpu": "2"}), "side", "cpu", 20, id="not for a container"),
        pytest.param(
            with_pod_level({"memory": "1Mi"}), "", "example.com/x", "missing pod-level", id="none"
        ),
    ],
)
def test_requests(each: Pod, container: str, resource: str, expected: int | str) -> None:
    if isinstance(expected, int):
        assert requested(each, container, resource) == expected
    else:
        with pytest.raises(CannotCompute) as error:
            requested(each, container, resource)
        assert expected in str(error.value)


@pytest.mark.parametrize(
    ("usage", "target", "current", "ready", "replicas"),
    [
        pytest.param(20_000, 15_000, 3, 3, 4, id="up"),
        pytest.param(5_000, 15_000, 3, 3, 1, id="down"),
        pytest.param(15_500, 15_000, 3, 3, 3, id="within the tolerance"),
        pytest.param(30_000, 15_000, 3, 1, 2, id="by the pods that are ready"),
        pytest.param(100, 15_000, 0, 0, 1, id="from nothing"),
        pytest.param(2**62, 1, 3, 3, MAX_INT32, id="never more than a number can say"),
    ],
)
def test_values(usage: int, target: int, current: int, ready: int, replicas: int) -> None:
    pods = [pod(f"p{n}", ready="True" if n < ready else "False") for n in range(current)]
    found = by_value(Scene(pods, current, NOW), usage, target)
    assert found == Proposal(replicas, usage)


def test_a_value_without_pods() -> None:
    with pytest.raises(CannotCompute, match="unable to calculate ready pods: no pods"):
        by_value(Scene([], 3, NOW), 20, 10)


@pytest.mark.parametrize(
    ("replicas", "usage", "target", "expected"),
    [
        pytest.param(3, 8600, 2867, (3, 2867), id="as aimed at"),
        pytest.param(3, 8600, 2150, (4, 2867), id="up"),
        pytest.param(5, 8600, 4000, (3, 1720), id="down"),
        pytest.param(0, 8600, 4000, (3, 8600), id="from nothing"),
    ],
)
def test_values_per_pod(replicas: int, usage: int, target: int, expected: tuple[int, int]) -> None:
    assert by_value_per_pod(replicas, usage, target, Tolerances()) == Proposal(*expected)


def test_series_are_summed_up() -> None:
    assert total([1, 2, 3]) == 6
    assert total([2**62] * 3) == 2**63 - 1
