"""What a StatefulSet does next."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.types.apps_v1 import (
    RollingUpdateStatefulSetStrategy,
    StatefulSet,
    StatefulSetOrdinals,
    StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec,
    StatefulSetUpdateStrategy,
)
from navarch.api.types.core_v1 import (
    PersistentVolumeClaim,
    Pod,
    PodCondition,
    PodStatus,
    PodTemplateSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.controllers.history import HASH
from navarch.controllers.statefulset_plan import (
    BURST,
    INDEX_LABEL,
    NAME_LABEL,
    Claims,
    Version,
    View,
    claim_owners,
    next_status,
    ordinal,
    owners_mended,
    plan,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
READY = PodCondition(type="Ready", status="True", lastTransitionTime="2025-01-01T00:00:00Z")


def owner(replicas: int = 3, policy: str = "OrderedReady", **spec: Any) -> StatefulSet:
    partition = spec.pop("partition", 0)
    strategy = StatefulSetUpdateStrategy(
        type=spec.pop("strategy", "RollingUpdate"),
        rollingUpdate=RollingUpdateStatefulSetStrategy(partition=partition),
    )
    made = StatefulSetSpec(
        replicas=replicas, podManagementPolicy=policy, updateStrategy=strategy, **spec
    )
    return StatefulSet(metadata=ObjectMeta(name="ss", namespace="a", uid="u"), spec=made)


def pod(number: int, state: str = "well", revision: str = "new") -> Pod:
    name = f"ss-{number}"
    labels = {HASH: revision, NAME_LABEL: name, INDEX_LABEL: str(number)}
    metadata = ObjectMeta(name=name, uid=name, labels=labels)
    if state == "going":
        metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
    phase = {"failed": "Failed", "pending": "Pending"}.get(state, "Running")
    conditions = [READY] if state in ("well", "going") else []
    return Pod(metadata=metadata, status=PodStatus(phase=phase, conditions=conditions))


NONE: dict[str, PersistentVolumeClaim] = {}


def view(made: StatefulSet, *pods: Pod, current: str = "old", claims: Claims = NONE) -> View:
    versions = Version(current, PodTemplateSpec()), Version("new", PodTemplateSpec())
    return View(made, pods, *versions, NOW, claims)


def names(pods: list[Pod]) -> list[str]:
    return [each.metadata.name for each in pods]


@pytest.mark.parametrize(
    ("pods", "create", "delete"),
    [
        pytest.param([], ["ss-0"], [], id="the first"),
        pytest.param([pod(0)], ["ss-1"], [], id="the next"),
        pytest.param([pod(0, "ill")], [], [], id="wait for the one before"),
        pytest.param([pod(0, "pending")], [], [], id="wait for it to start"),
        pytest.param([pod(0, "going")], [], [], id="wait for it to go"),
        pytest.param([pod(0, "failed")], [], ["ss-0"], id="a failed one goes"),
        pytest.param([pod(1), pod(2)], ["ss-0"], [], id="a gap is filled first"),
        pytest.param([pod(n) for n in range(5)], [], ["ss-4"], id="the highest goes"),
        pytest.param([*map(pod, range(4)), pod(4, "going")], [], [], id="one after the other"),
        pytest.param([*map(pod, range(4)), pod(4, "ill")], [], ["ss-4"], id="an ill one may go"),
        pytest.param(
            [*map(pod, range(3)), pod(3, "ill"), pod(4)], [], ["ss-4"], id="a well one above goes"
        ),
        pytest.param([pod(0, "ill"), *map(pod, range(1, 5))], [], [], id="illness halts scaling"),
        pytest.param([pod(n, revision="old") for n in range(3)], [], ["ss-2"], id="update"),
        pytest.param(
            [pod(0, revision="old"), pod(1, revision="old"), pod(2)], [], ["ss-1"], id="go on"
        ),
    ],
)
def test_one_step_at_a_time(pods: list[Pod], create: list[str], delete: list[str]) -> None:
    actions = plan(view(owner(), *pods))
    assert (names(actions.create), names(actions.delete + actions.replace)) == (create, delete)


def test_a_parallel_set_does_all_at_once() -> None:
    actions = plan(view(owner(policy="Parallel"), pod(1, "ill"), pod(4, "ill"), pod(5)))
    assert names(actions.create) == ["ss-0", "ss-2"]
    assert names(actions.delete) == ["ss-5", "ss-4"]


def replaced(made: StatefulSet, *pods: Pod) -> list[str]:
    return names(plan(view(made, *pods)).replace)


def test_the_partition_and_the_strategy_limit_updates() -> None:
    old = [pod(n, revision="old") for n in range(3)]
    assert replaced(owner(partition=2), *old) == ["ss-2"]
    assert not replaced(owner(partition=3), *old)
    assert not replaced(owner(strategy="OnDelete"), *old)
    made = plan(view(owner(partition=2), pod(1), pod(2))).create[0]
    assert made.metadata.labels[HASH] == "old"
    assert plan(view(owner(), pod(1), pod(2))).create[0].metadata.labels[HASH] == "new"
    from_five = owner(2, ordinals=StatefulSetOrdinals(start=5), partition=1)
    assert replaced(from_five, pod(5, revision="old"), pod(6)) == []
    assert replaced(from_five, pod(5, revision="old"), pod(6, revision="old")) == ["ss-6"]


def test_without_a_partition_as_many_keep_the_old_template_as_have_it() -> None:
    """A strategy that only says RollingUpdate: a pod that is lost midway comes back as it was."""
    made = owner()
    made.spec.updateStrategy.rollingUpdate = None
    made.status.currentReplicas = 2
    lost = plan(view(made, pod(1, revision="old"), pod(2))).create[0]
    assert lost.metadata.labels[HASH] == "old"
    next_one = plan(view(made, pod(0, revision="old"), pod(1, revision="old"))).create[0]
    assert next_one.metadata.labels[HASH] == "new"


def test_what_is_being_replaced_is_not_counted_as_current() -> None:
    old = view(owner(), *(pod(n, revision="old") for n in range(3)))
    assert next_status(old, 1).currentReplicas == 2
    assert next_status(view(owner(), pod(0, revision="older")), 1).currentReplicas == 0


def test_parallel_sets_fill_up_and_shrink_at_once_but_update_one_by_one() -> None:
    made = owner(policy="Parallel")
    old = [pod(n, revision="old") for n in range(3)]
    assert replaced(made, *old) == ["ss-2"]
    assert replaced(made, *old[:2], pod(2, "ill")) == []
    assert len(plan(view(owner(2_000_000_000, policy="Parallel"))).create) == BURST


def claim(name: str, reference: dict[str, Any] | None = None) -> dict[str, PersistentVolumeClaim]:
    metadata = ObjectMeta(name=name, namespace="a")
    if reference:
        metadata.ownerReferences = [from_object(OwnerReference, reference)]
    return {f"a/{name}": PersistentVolumeClaim(metadata=metadata)}


def with_claims(deleted: str = "Retain", scaled: str = "Retain", **spec: Any) -> StatefulSet:
    policy = StatefulSetPersistentVolumeClaimRetentionPolicy(whenDeleted=deleted, whenScaled=scaled)
    template = PersistentVolumeClaim(metadata=ObjectMeta(name="data", labels={"a": "b"}))
    return owner(1, persistentVolumeClaimRetentionPolicy=policy, volumeClaimTemplates=[template])


def test_a_new_pod_waits_for_the_end_of_a_claim_that_was_scaled_away() -> None:
    stale = claim("data-ss-0", {**OF_POD, "name": "ss-0", "uid": "old"})
    assert plan(view(with_claims(scaled="Delete"), claims=stale)).create == []
    assert names(plan(view(with_claims(), claims=stale)).create) == ["ss-0"]


def test_claims_of_pods_that_are_scaled_away_are_given_to_them_first() -> None:
    made = with_claims("Delete", "Delete")
    claims = claim("data-ss-0") | claim("data-ss-1")
    actions = plan(view(made, pod(0), pod(1), claims=claims))
    owners = {each.claim.metadata.name: [o.kind for o in each.owners] for each in actions.own}
    assert owners == {"data-ss-0": ["StatefulSet"], "data-ss-1": ["Pod"]}
    assert [each.is_told for each in actions.own] == [True, False]
    assert names(actions.delete) == ["ss-1"]


def test_a_claim_that_another_controls_is_told_of() -> None:
    other = {"kind": "X", "name": "x", "uid": "x", "controller": True}
    claims = claim("data-ss-0", other)
    claims["a/data-ss-0"].metadata.ownerReferences.append(
        from_object(OwnerReference, {"kind": "StatefulSet", "name": "ss", "uid": "u"})
    )
    (change,) = plan(view(with_claims("Delete"), pod(0), claims=claims)).own
    assert change.is_contested
    assert [each.uid for each in change.owners] == ["x"]


def test_lost_labels_are_put_back_on_pods_that_are_well() -> None:
    bare = pod(0)
    del bare.metadata.labels[NAME_LABEL], bare.metadata.labels[INDEX_LABEL]
    (mended,) = plan(view(owner(1), bare)).repair
    assert mended.metadata.labels == {HASH: "new", NAME_LABEL: "ss-0", INDEX_LABEL: "0"}
    ill = pod(0, "ill")
    del ill.metadata.labels[NAME_LABEL]
    assert not plan(view(owner(1), ill)).repair


def test_numbers_may_start_elsewhere() -> None:
    made = owner(2, ordinals=StatefulSetOrdinals(start=5))
    (first,) = plan(view(made)).create
    assert (first.metadata.name, first.metadata.generateName) == ("ss-5", "ss-")
    assert names(plan(view(made, pod(4), pod(5), pod(6))).delete) == ["ss-4"]
    assert [ordinal(made, name) for name in ("ss-7", "ss", "other-1")] == [7, None, None]


def test_the_status_and_the_end_of_an_update() -> None:
    pods = [pod(0, revision="old"), pod(1), pod(2, "ill")]
    status = next_status(view(owner(), *pods))
    counts = status.replicas, status.readyReplicas, status.availableReplicas
    assert counts == (3, 2, 2)
    assert (status.currentReplicas, status.updatedReplicas) == (1, 2)
    assert (status.currentRevision, status.updateRevision) == ("old", "new")
    done = next_status(view(owner(), *map(pod, range(3))))
    assert (done.currentRevision, done.currentReplicas) == ("new", 3)


@pytest.mark.parametrize(
    ("deleted", "scaled", "number", "owners"),
    [
        ("Retain", "Retain", 0, []),
        ("Delete", "Retain", 0, ["StatefulSet"]),
        ("Delete", "Retain", 9, ["StatefulSet"]),
        ("Retain", "Delete", 0, []),
        ("Retain", "Delete", 9, ["Pod"]),
        ("Delete", "Delete", 0, ["StatefulSet"]),
        ("Delete", "Delete", 9, ["Pod"]),
    ],
)
def test_who_takes_claims_along(deleted: str, scaled: str, number: int, owners: list[str]) -> None:
    policy = StatefulSetPersistentVolumeClaimRetentionPolicy(whenDeleted=deleted, whenScaled=scaled)
    made = owner(persistentVolumeClaimRetentionPolicy=policy)
    assert [ref.kind for ref in claim_owners(made, pod(number), number)] == owners


OF_SET = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set"}
OF_POD = {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "pod"}
OF_OTHER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}


@pytest.mark.parametrize(
    ("deleted", "present", "expected"),
    [
        pytest.param("Delete", [], ["set"], id="added"),
        pytest.param("Delete", [{**OF_SET, "controller": True}], None, id="right"),
        pytest.param("Delete", [OF_SET], ["set"], id="owner, but not the controller"),
        pytest.param("Delete", [OF_OTHER], ["x", "set"], id="beside another owner"),
        pytest.param("Delete", [{**OF_OTHER, "controller": True}], None, id="another's"),
        pytest.param(
            "Delete", [{**OF_OTHER, "controller": True}, OF_SET], ["x"], id="left to another"
        ),
        pytest.param("Delete", [{**OF_SET, "uid": "old"}], None, id="of a set of the past"),
        pytest.param("Delete", [{**OF_POD, "uid": "old"}], None, id="of a pod of the past"),
        pytest.param("Retain", [{**OF_SET, "controller": True}], [], id="kept from now on"),
        pytest.param("Retain", [OF_OTHER], None, id="nothing of ours"),
        pytest.param("Delete", [{**OF_POD, "controller": True}], ["set"], id="wanted again"),
    ],
)
def test_which_owners_claims_are_given(
    deleted: str, present: list[dict[str, Any]], expected: list[str] | None
) -> None:
    policy = StatefulSetPersistentVolumeClaimRetentionPolicy(
        whenDeleted=deleted, whenScaled="Retain"
    )
    made, mine = owner(persistentVolumeClaimRetentionPolicy=policy), pod(0)
    made.metadata.name, made.metadata.uid = "web", "set"
    mine.metadata.name, mine.metadata.uid = "web-0", "pod"
    references = [from_object(OwnerReference, each) for each in present]
    claim = PersistentVolumeClaim(metadata=ObjectMeta(ownerReferences=references))
    found = owners_mended(made, mine, 0, claim)
    assert (None if found is None else [ref.uid for ref in found]) == expected
    assert all(ref.controller for ref in found or () if ref.uid == "set")
