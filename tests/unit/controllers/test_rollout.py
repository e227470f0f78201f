"""How rollouts proceed, step by step, and what a Deployment reports of them."""

from datetime import UTC, datetime, timedelta

import pytest

from navarch.api.objects import copy_object
from navarch.api.times import format_time
from navarch.api.types.apps_v1 import (
    Deployment,
    DeploymentCondition,
    DeploymentSpec,
    DeploymentStrategy,
    ReplicaSet,
    ReplicaSetCondition,
    ReplicaSetSpec,
    ReplicaSetStatus,
    RollingUpdateDeployment,
)
from navarch.api.types.core_v1 import Container, PodSpec, PodTemplateSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.deployment import new_set
from navarch.controllers.deployment_status import (
    is_complete,
    next_status,
    note_pause,
    note_progress,
    seconds_until_deadline,
)
from navarch.controllers.pods import find_condition
from navarch.controllers.revisions import (
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    REVISION,
    REVISION_HISTORY,
    ROLLBACK_TO,
    numbered,
    rollback_revision,
    rolled_back,
    template_hash,
)
from navarch.controllers.rollout import (
    Bounds,
    Plan,
    View,
    bounds_of,
    find_new,
    plan,
    proportional,
    rolling_update,
    sets_to_delete,
)

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
    fields: dict[str, object] = {
        "strategy": strategy,
        "template": template("new"),
        "progressDeadlineSeconds": 600,
        **spec,
    }
    return Deployment(
        metadata=ObjectMeta(name="web", namespace="d", generation=1),
        spec=DeploymentSpec(
            replicas=replicas,
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
            {},
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
    scaled = plan(View(of, second, [first]))
    assert not scaled.is_rollout
    assert dict(scaled.sizes) == {"old": 20, "new": 13}
    assert dict(proportional(deployment(0, 3, 2), [first, second])) == {"old": 0, "new": 0}


@pytest.mark.parametrize(
    ("replicas", "sets", "expected"),
    [
        pytest.param(
            2_000_000_000,
            [("a", 800_000_000, "1000000000"), ("b", 200_000_000, "1000000000")],
            {"a": 1_600_000_000, "b": 400_000_000},
            id="products need more than 32 bits",
        ),
        pytest.param(12, [("a", 5, "10"), ("b", 5, "10")], {"a": 6, "b": 6}, id="equal shares"),
        pytest.param(
            11, [("a", 5, "10"), ("b", 5, "10")], {"a": 5, "b": 6}, id="up: the newest first"
        ),
        pytest.param(
            9, [("a", 5, "10"), ("b", 5, "10")], {"a": 4, "b": 5}, id="down: the oldest first"
        ),
        pytest.param(
            20, [("a", 6, "0"), ("b", 4, "x")], {"a": 12, "b": 8}, id="without notes: the status"
        ),
    ],
)
def test_proportional_scaling(
    replicas: int, sets: list[tuple[str, int, str]], expected: dict[str, int]
) -> None:
    of = deployment(replicas, 0, 1)
    of.status.replicas = 10
    active = [
        rs(name, size, age=9 - number, annotations={MAX_REPLICAS: note})
        for number, (name, size, note) in enumerate(sets)
    ]
    assert dict(proportional(of, active)) == expected


def test_scaling_outside_a_rollout_resizes_the_only_set() -> None:
    only = rs("new", 3, annotations={DESIRED_REPLICAS: "3"})
    assert dict(plan(View(deployment(5), only, [])).sizes) == {"new": 5}
    assert dict(plan(View(deployment(3), only, [])).sizes) == {}
    early, late = rs("early", 0, age=9), rs("late", 0, age=1)
    early.metadata.annotations[REVISION] = "7"
    paused = plan(View(deployment(2, paused=True), None, [late, early]))
    assert dict(paused.sizes) == {"late": 2}, "with none active the youngest grows"
    busy = [rs("a", 1, annotations={DESIRED_REPLICAS: "3"}), rs("b", 3)]
    full = rs("new", 3, annotations={DESIRED_REPLICAS: "3"})
    adopted = plan(View(deployment(3, paused=True), full, busy))
    assert dict(adopted.sizes) == {"a": 0, "b": 0}, "the new one alone is enough"


def recreate(replicas: int = 3) -> Deployment:
    return deployment(replicas, strategy=DeploymentStrategy(type="Recreate"))


@pytest.mark.parametrize(
    ("new", "old", "pods", "expected"),
    [
        pytest.param(None, [rs("a", 2), rs("b", 0, 0)], True, Plan(sizes={"a": 0}), id="empty"),
        pytest.param(None, [rs("a", 0)], True, Plan(), id="pods that are going are waited for"),
        pytest.param(None, [rs("a", 0)], False, Plan(create=True), id="then the new set comes"),
        pytest.param(rs("new", 0), [rs("a", 0)], False, Plan(sizes={"new": 3}), id="or grows"),
        pytest.param(rs("new", 3), [rs("a", 0)], False, Plan(), id="done"),
    ],
)
def test_recreate(
    new: ReplicaSet | None, old: list[ReplicaSet], pods: bool, expected: Plan
) -> None:
    assert plan(View(recreate(), new, old, pods)) == expected


def test_recreate_waits_for_sets_that_still_report_pods() -> None:
    slow = rs("a", 0)
    slow.status.replicas = 1
    assert plan(View(recreate(), None, [slow])) == Plan()


def test_a_deleted_deployment_only_reports() -> None:
    of = deployment()
    of.metadata.deletionTimestamp = format_time(NOW)
    assert plan(View(of, None, [rs("old", 3)])) == Plan(is_rollout=False)


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


def judged(of: Deployment, new: ReplicaSet | None, seconds: int, **options: bool) -> Deployment:
    result = copy_object(of)
    now = NOW + timedelta(seconds=seconds)
    note_pause(result, now)
    rollout = options.get("rollout", True)
    result.status = next_status(result, new, [new] if new else [], now, rollout)
    return result


def test_progress_from_creation_to_completion_and_the_deadline() -> None:
    of = deployment(2)
    new = rs("new", 2, 0)
    told = ("True", "NewReplicaSetCreated", "Created new replica set")
    note_progress(of, told, NOW)
    of.status.replicas = of.status.updatedReplicas = 2
    created = judged(of, new, 0)
    assert reason(created, "Progressing") == ("True", "NewReplicaSetCreated")
    assert reason(created, "Available") == ("False", "MinimumReplicasUnavailable")
    assert reason(judged(created, new, 600), "Progressing")[0] == "True"
    stuck = judged(created, new, 601)
    assert reason(stuck, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert reason(judged(created, new, 601, rollout=False), "Progressing")[0] == "True"
    new.status.readyReplicas = new.status.availableReplicas = 1
    moving = judged(created, new, 5)
    assert reason(moving, "Progressing") == ("True", "ReplicaSetUpdated")
    new.status.readyReplicas = new.status.availableReplicas = 2
    done = judged(moving, new, 9)
    assert is_complete(done, done.status)
    assert reason(done, "Progressing") == ("True", "NewReplicaSetAvailable")
    assert reason(done, "Available") == ("True", "MinimumReplicasAvailable")
    assert judged(done, new, 99).status == done.status, "a settled status does not change"


def test_a_pause_stops_the_clock() -> None:
    of = deployment(2)
    new = rs("new", 2, 0)
    note_progress(of, ("True", "ReplicaSetUpdated", ""), NOW)
    of.spec.paused = True
    paused = judged(of, new, 900, rollout=False)
    assert reason(paused, "Progressing") == ("Unknown", "DeploymentPaused")
    assert seconds_until_deadline(paused, paused.status, NOW) is None
    paused.spec.paused = False
    paused.status.replicas = paused.status.updatedReplicas = 2
    resumed = judged(paused, new, 2000)
    assert reason(resumed, "Progressing") == ("Unknown", "DeploymentResumed")
    now = NOW + timedelta(seconds=2100)
    assert seconds_until_deadline(resumed, resumed.status, now) == 500
    late = deployment(2, paused=True)
    note_progress(late, ("False", "ProgressDeadlineExceeded", ""), NOW)
    assert reason(judged(late, new, 5, rollout=False), "Progressing")[0] == "False"


def test_without_a_deadline_nobody_judges() -> None:
    of = deployment(2, progressDeadlineSeconds=None)
    note_progress(of, ("True", "ReplicaSetUpdated", ""), NOW)
    assert not of.status.conditions
    of.status.conditions = [DeploymentCondition(type="Progressing", status="True")]
    assert find_condition(judged(of, rs("new", 2), 0).status.conditions, "Progressing") is None


def test_a_failure_of_the_new_set_is_told_before_the_others() -> None:
    def failing(name: str) -> ReplicaSet:
        made = rs(name, 1)
        made.status.conditions = [
            ReplicaSetCondition(
                type="ReplicaFailure",
                status="True",
                reason="FailedCreate",
                message=name,
                lastTransitionTime="2025-12-31T00:00:00Z",
            )
        ]
        return made

    old, new = failing("old"), failing("new")
    of = deployment(2)
    of.status = next_status(of, new, [old, new], NOW, True)
    told = find_condition(of.status.conditions, "ReplicaFailure")
    assert told is not None
    assert (told.message, told.lastUpdateTime) == ("new", "2025-12-31T00:00:00Z")
    of.status = next_status(of, None, [old], NOW, True)
    kept = find_condition(of.status.conditions, "ReplicaFailure")
    assert kept == told, "the same status and reason: nothing new"
    of.status = next_status(of, None, [], NOW, True)
    assert find_condition(of.status.conditions, "ReplicaFailure") is None


@pytest.mark.parametrize(
    ("terminating", "expected"),
    [([(1, 2), (3, 1)], 3), ([(0, None), (1, 2)], 2), ([(1, None), (1, 2)], None), ([], 0)],
)
def test_terminating_pods_are_summed_once_all_sets_tell(
    terminating: list[tuple[int, int | None]], expected: int | None
) -> None:
    sets = [rs(f"s{number}", 0) for number in range(len(terminating))]
    for made, (observed, count) in zip(sets, terminating, strict=True):
        made.status.observedGeneration, made.status.terminatingReplicas = observed, count
    assert next_status(deployment(), None, sets, NOW, True).terminatingReplicas == expected


def test_foreign_conditions_are_kept() -> None:
    of = deployment(1)
    of.status.conditions = [DeploymentCondition(type="StatusUpdate", status="True")]
    result = next_status(of, None, [], NOW, True)
    assert find_condition(result.conditions, "StatusUpdate") is not None


@pytest.mark.parametrize(
    ("wanted", "reason", "image"),
    [
        pytest.param("0", "DeploymentRollback", "second", id="to the one before"),
        pytest.param("1", "DeploymentRollback", "first", id="to a certain one"),
        pytest.param("3", "DeploymentRollbackTemplateUnchanged", "new", id="to where it is"),
        pytest.param("9", "DeploymentRollbackRevisionNotFound", "new", id="to what is gone"),
    ],
)
def test_rollback(wanted: str, reason: str, image: str) -> None:
    of = deployment()
    of.metadata.annotations = {ROLLBACK_TO: wanted, REVISION: "3", "why": "new"}
    sets = [
        rs(name, 1, annotations={REVISION: str(number), "why": name})
        for number, name in enumerate(("first", "second", "new"), 1)
    ]
    sets[0].spec.template.metadata.labels = {"pod-template-hash": "x"}
    _, told, _ = rolled_back(of, sets)
    assert told == reason
    assert of.spec.template == template(image)
    assert of.metadata.annotations == {REVISION: "3", "why": image}
    assert rollback_revision(of) is None


def test_a_new_set_has_a_name_that_is_not_too_long() -> None:
    of = deployment()
    of.metadata.name = "x" * 253
    assert len(new_set(of, []).metadata.name) == 253


def test_a_long_history_forgets_its_beginning() -> None:
    history = ",".join(str(number) for number in range(1000, 1400))
    result = numbered({REVISION: "2000", REVISION_HISTORY: history}, 2001)[REVISION_HISTORY]
    assert len(result) <= 2000
    assert (result[:5], result[-5:]) == ("1001,", ",2000")
