"""How rollouts proceed, step by step, and what a Deployment reports of them."""

from datetime import UTC, datetime, timedelta

import pytest

from navarch.api.times import format_time
from navarch.api.types.apps_v1 import (
    Deployment,
    DeploymentSpec,
    DeploymentStrategy,
    ReplicaSet,
    ReplicaSetSpec,
    ReplicaSetStatus,
    RollingUpdateDeployment,
)
from navarch.api.types.core_v1 import Container, PodSpec, PodTemplateSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.deployment import find_new, is_scaling, scale_plan, sets_to_delete
from navarch.controllers.deployment_status import ProgressNote, next_status
from navarch.controllers.pods import find_condition
from navarch.controllers.revisions import (
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    REVISION,
    REVISION_HISTORY,
    numbered,
    template_hash,
)
from navarch.controllers.rollout import Bounds, bounds_of, proportional, rolling_update

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def template(image: str = "a") -> PodTemplateSpec:
    return PodTemplateSpec(spec=PodSpec(containers=[Container(name="c", image=image)]))


def deployment(
    replicas: int = 3, surge: int | str = 1, away: int | str = 0, **spec: object
) -> Deployment:
    strategy = DeploymentStrategy(
        type="RollingUpdate",
        rollingUpdate=RollingUpdateDeployment(maxSurge=surge, maxUnavailable=away),
    )
    fields: dict[str, object] = {"strategy": strategy, "template": template("new"), **spec}
    return Deployment(
        metadata=ObjectMeta(name="web", namespace="d", generation=1),
        spec=DeploymentSpec(
            replicas=replicas,
            progressDeadlineSeconds=600,
            **fields,  # type: ignore[arg-type]
        ),
    )


def rs(
    name: str,
    replicas: int,
    available: int | None = None,
    age: int = 0,
    annotations: dict[str, str] | None = None,
) -> ReplicaSet:
    ready = replicas if available is None else available
    return ReplicaSet(
        metadata=ObjectMeta(
            name=name,
            namespace="d",
            uid=name,
            annotations=annotations or {},
            creationTimestamp=format_time(NOW - timedelta(seconds=age)),
        ),
        spec=ReplicaSetSpec(replicas=replicas, template=template(name)),
        status=ReplicaSetStatus(replicas=replicas, readyReplicas=ready, availableReplicas=ready),
    )


@pytest.mark.parametrize(
    ("replicas", "surge", "away", "expected"),
    [
        pytest.param(10, "25%", "25%", Bounds(3, 2), id="surge up, unavailable down"),
        pytest.param(1, "25%", "25%", Bounds(1, 0), id="one replica"),
        pytest.param(3, 0, "10%", Bounds(0, 1), id="both zero would stand still"),
    ],
)
def test_bounds(replicas: int, surge: int | str, away: int | str, expected: Bounds) -> None:
    assert bounds_of(deployment(replicas, surge, away)) == expected


@pytest.mark.parametrize(
    ("of", "new", "old", "expected"),
    [
        pytest.param(deployment(3), rs("new", 0), [rs("old", 3)], {"new": 1}, id="surge first"),
        pytest.param(deployment(3), rs("new", 1, 0), [rs("old", 3)], {}, id="wait for the new one"),
        pytest.param(
            deployment(3), rs("new", 1), [rs("old", 3)], {"old": 2}, id="then shrink the old"
        ),
        pytest.param(deployment(3, 0, 1), rs("new", 0), [rs("old", 3)], {"old": 2}, id="no surge"),
        pytest.param(
            deployment(3),
            rs("new", 1, 0),
            [rs("old", 3, 1)],
            {},
            id="unready old ones stay while the bound is passed",
        ),
        pytest.param(
            deployment(3, 1, 1),
            rs("new", 1, 0),
            [rs("old", 3, 2)],
            {"old": 2},
            id="unready old ones go first",
        ),
        pytest.param(
            deployment(4, 1, 1),
            rs("new", 2, 1),
            [rs("old", 3, 4)],
            {"old": 2},
            id="pods that are about to go are not relied on",
        ),
        pytest.param(deployment(3), rs("new", 3), [rs("old", 0)], {}, id="done"),
        pytest.param(deployment(3), rs("new", 5), [], {"new": 3}, id="too many"),
    ],
)
def test_rolling_update(
    of: Deployment, new: ReplicaSet, old: list[ReplicaSet], expected: dict[str, int]
) -> None:
    assert dict(rolling_update(of, new, old)) == expected


def test_a_rolling_update_ends_and_never_leaves_its_bounds() -> None:
    of = deployment(10, "25%", "25%")
    new, old = rs("new", 0), [rs("old", 10)]
    for _ in range(60):
        for name, size in rolling_update(of, new, old).items():
            target = new if name == "new" else old[0]
            target.spec.replicas = size
        total = (new.spec.replicas or 0) + (old[0].spec.replicas or 0)
        assert total <= 13
        for one in (new, *old):
            one.status.replicas = one.spec.replicas or 0
            grown = min(one.status.availableReplicas + 1, one.spec.replicas or 0)
            one.status.availableReplicas = grown if one is new else one.spec.replicas or 0
        assert new.status.availableReplicas + old[0].status.availableReplicas >= 8
        if (new.spec.replicas, old[0].spec.replicas) == (10, 0):
            return
    pytest.fail("the rollout stands still")


def test_proportional_scaling_as_the_conformance_test_has_it() -> None:
    first = rs("old", 8, 8, 60, annotations={MAX_REPLICAS: "13", DESIRED_REPLICAS: "10"})
    second = rs("new", 5, 0, 0, annotations={MAX_REPLICAS: "13", DESIRED_REPLICAS: "10"})
    of = deployment(30, 3, 2)
    assert is_scaling(of, [first, second])
    assert dict(proportional(of, [first, second])) == {"old": 20, "new": 13}
    assert dict(proportional(deployment(0, 3, 2), [first, second])) == {"old": 0, "new": 0}


def test_scaling_outside_a_rollout_resizes_the_only_set() -> None:
    only = rs("new", 3, annotations={DESIRED_REPLICAS: "3"})
    assert dict(scale_plan(deployment(5), only, [only])) == {"new": 5}
    assert dict(scale_plan(deployment(3), only, [only])) == {}


def test_the_oldest_matching_set_is_the_new_one() -> None:
    sets = [rs("a", 1, age=10), rs("b", 1, age=20), rs("c", 1, age=5)]
    for one in sets[:2]:
        one.spec.template = template("new")
    sets[1].spec.template.metadata.labels = {"pod-template-hash": "x"}
    assert find_new(deployment(), sets) is sets[1]
    assert find_new(deployment(), sets[2:]) is None


def test_history_limit() -> None:
    old = [rs(f"s{i}", 0, age=50 - i, annotations={REVISION: str(i)}) for i in range(4)]
    old.append(rs("busy", 1, annotations={REVISION: "0"}))
    names = [s.metadata.name for s in sets_to_delete(deployment(revisionHistoryLimit=2), old)]
    assert names == ["s0", "s1"]
    assert sets_to_delete(deployment(revisionHistoryLimit=5), old) == []


def test_revisions_are_remembered() -> None:
    assert numbered({}, 1) == {REVISION: "1"}
    assert numbered({REVISION: "1"}, 3) == {REVISION: "3", REVISION_HISTORY: "1"}
    assert numbered({REVISION: "3", REVISION_HISTORY: "1"}, 4)[REVISION_HISTORY] == "1,3"
    huge = 3546343826724305833
    assert numbered({}, huge) == {REVISION: str(huge)}


def test_hashes_differ_by_template_and_collision() -> None:
    names = {template_hash(template("a"), None), template_hash(template("b"), None)}
    names |= {template_hash(template("a"), 1)}
    assert len(names) == 3
    assert all(set(name) <= set("456789bcdf") for name in names)


def reason(of: Deployment, type_: str) -> tuple[str, str]:
    condition = find_condition(of.status.conditions, type_)
    assert condition is not None
    return condition.status, condition.reason


def test_progress_from_creation_to_completion_and_the_deadline() -> None:
    of = deployment(2)
    new = rs("new", 2, 0)
    created = next_status(of, [new], new, NOW, ProgressNote.CREATED).deployment
    assert reason(created, "Progressing") == ("True", "NewReplicaSetCreated")
    assert reason(created, "Available") == ("False", "MinimumReplicasUnavailable")
    stuck = next_status(created, [new], new, NOW + timedelta(seconds=601)).deployment
    assert reason(stuck, "Progressing") == ("False", "ProgressDeadlineExceeded")
    new.status.readyReplicas = new.status.availableReplicas = 1
    moving = next_status(created, [new], new, NOW + timedelta(seconds=5)).deployment
    assert reason(moving, "Progressing") == ("True", "ReplicaSetUpdated")
    new.status.readyReplicas = new.status.availableReplicas = 2
    result = next_status(moving, [new], new, NOW + timedelta(seconds=9))
    assert result.is_complete
    assert reason(result.deployment, "Progressing") == ("True", "NewReplicaSetAvailable")
    assert reason(result.deployment, "Available") == ("True", "MinimumReplicasAvailable")
    again = next_status(result.deployment, [new], new, NOW + timedelta(seconds=99))
    assert again.deployment.status == result.deployment.status, "a settled status does not change"


def test_foreign_conditions_are_kept() -> None:
    from navarch.api.types.apps_v1 import DeploymentCondition

    of = deployment(1)
    of.status.conditions = [DeploymentCondition(type="StatusUpdate", status="True")]
    result = next_status(of, [], None, NOW).deployment
    assert find_condition(result.status.conditions, "StatusUpdate") is not None
