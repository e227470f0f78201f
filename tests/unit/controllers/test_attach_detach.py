"""Which nodes get a volume, which let go of it, and what is said meanwhile."""

from __future__ import annotations

import pytest

from navarch.api.csi import attachment_name, parse_unique_name, unique_name
from navarch.api.types.core_v1 import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStatus,
    Node,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    PersistentVolume,
    PersistentVolumeSpec,
    Pod,
    PodSpec,
    PodStatus,
    Taint,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.storage_v1 import VolumeAttachment, VolumeAttachmentStatus
from navarch.controllers.attach_detach_plan import (
    MANAGED,
    OUT_OF_SERVICE,
    Attach,
    Detach,
    List,
    NodeView,
    Refuse,
    Wait,
    conflict_text,
    is_shareable,
    plan,
    uses_volumes,
)


def node(ready: str = "True", taint: str = "", managed: bool = True) -> Node:
    return Node(
        metadata=ObjectMeta(name="n", annotations={MANAGED: "true"} if managed else {}),
        spec=NodeSpec(taints=[Taint(key=taint, effect="NoExecute")] if taint else []),
        status=NodeStatus(conditions=[NodeCondition(type="Ready", status=ready)]),
    )


def pod(name: str = "p", namespace: str = "ns") -> Pod:
    return Pod(metadata=ObjectMeta(name=name, namespace=namespace), spec=PodSpec(nodeName="n"))


def attachment(attached: bool = True, deleted: bool = False) -> VolumeAttachment:
    return VolumeAttachment(
        metadata=ObjectMeta(deletionTimestamp="2026-01-01T00:00:00Z" if deleted else None),
        status=VolumeAttachmentStatus(attached=attached),
    )


USED = NodeView("n", node(), (pod(),))
IDLE = NodeView("n", node(), (), attachment(), is_in_use=False, is_listed=True)
BUSY = NodeView("n", node(), (), attachment(), is_in_use=True, is_listed=True)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        pytest.param([USED], [Attach("n")], id="wanted"),
        pytest.param([NodeView("n", node(managed=False), (pod(),))], [], id="not-ours-to-attach"),
        pytest.param([NodeView("n", None, (pod(),))], [], id="no-such-node"),
        pytest.param(
            [NodeView("n", node(), (pod(),), attachment(False))], [], id="being-attached"
        ),
        pytest.param(
            [NodeView("n", node(), (pod(),), attachment())], [List("n", True)], id="attached"
        ),
        pytest.param(
            [NodeView("n", node(), (pod(),), attachment(), is_listed=True)], [], id="settled"
        ),
        pytest.param(
            [NodeView("n", node(), (pod(),), attachment(deleted=True), is_listed=True)],
            [List("n", False)],
            id="somebody-deletes-it",
        ),
        pytest.param(
            [NodeView("n", node(), (pod(),), None, is_listed=True)],
            [List("n", False), Attach("n")],
            id="somebody-deleted-it",
        ),
        pytest.param([IDLE], [List("n", False), Detach("n")], id="unmounted"),
        pytest.param([BUSY], [], id="still-mounted"),
        pytest.param(
            [NodeView("n", node("Unknown"), (), attachment(), True, True, 60.0)],
            [Wait("n", 300.0)],
            id="silent-node",
        ),
        pytest.param(
            [NodeView("n", node("Unknown"), (), attachment(), True, True, 360.0)],
            [List("n", False), Detach("n", is_forced=True)],
            id="silent-for-long",
        ),
        pytest.param(
            [NodeView("n", node(), (), attachment(), True, True, 1000.0)], [], id="healthy-for-long"
        ),
        pytest.param(
            [NodeView("n", node("Unknown", OUT_OF_SERVICE), (), attachment(), True, True)],
            [List("n", False), Detach("n", is_forced=True)],
            id="out-of-service",
        ),
        pytest.param(
            [NodeView("n", None, (), attachment(), True, False, 400.0)],
            [Detach("n", is_forced=True)],
            id="node-is-gone",
        ),
        pytest.param(
            [NodeView("n", node(), (), attachment(deleted=True), False, False)],
            [],
            id="being-detached",
        ),
        pytest.param([IDLE, NodeView("m", node(), (pod(),))],
                     [List("n", False), Detach("n"), Refuse("m", ("n",))], id="moving"),
        pytest.param([USED, NodeView("m", node(), (pod(),))],
                     [Attach("n"), Refuse("m", ("n",))], id="two-at-once"),
    ],
)  # fmt: skip
def test_plan(views: list[NodeView], expected: list[object]) -> None:
    assert plan(views, is_attachable=True, is_shareable=False) == expected


def test_shared_volumes_are_attached_everywhere() -> None:
    views = [USED, NodeView("m", node(), (pod(),))]
    assert plan(views, is_attachable=True, is_shareable=True) == [Attach("n"), Attach("m")]


def test_drivers_that_attach_nothing_lose_their_attachments() -> None:
    views = [USED, NodeView("m", node(), (pod(),), attachment(), is_in_use=False)]
    assert plan(views, is_attachable=False, is_shareable=False) == [Detach("m")]


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        pytest.param([], True, id="unknown"),
        pytest.param(["ReadWriteOnce"], False, id="one-node"),
        pytest.param(["ReadWriteOncePod"], False, id="one-pod"),
        pytest.param(["ReadWriteOnce", "ReadOnlyMany"], True, id="many-readers"),
        pytest.param(["ReadWriteMany"], True, id="many-writers"),
    ],
)
def test_is_shareable(modes: list[str], expected: bool) -> None:
    volume = PersistentVolume(spec=PersistentVolumeSpec(accessModes=modes))
    assert is_shareable(volume) is expected


RUNNING = ContainerState(running=ContainerStateRunning())
ENDED = ContainerState(terminated=ContainerStateTerminated())


@pytest.mark.parametrize(
    ("phase", "deleted", "states", "expected"),
    [
        pytest.param("Pending", False, [], True, id="new"),
        pytest.param("Running", False, [ENDED], True, id="will-be-restarted"),
        pytest.param("Succeeded", False, [ENDED], False, id="over"),
        pytest.param("Running", True, [RUNNING, ENDED], True, id="ending"),
        pytest.param("Running", True, [ENDED], False, id="ended"),
        pytest.param("Pending", True, [], False, id="never-began"),
    ],
)
def test_uses_volumes(
    phase: str, deleted: bool, states: list[ContainerState], expected: bool
) -> None:
    used = pod()
    used.metadata.deletionTimestamp = "2026-01-01T00:00:00Z" if deleted else None
    statuses = [ContainerStatus(name=str(number), state=each) for number, each in enumerate(states)]
    used.status = PodStatus(phase=phase, containerStatuses=statuses)
    assert uses_volumes(used) is expected


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        pytest.param(
            [],
            "Volume is already exclusively attached to one node and can't be attached to another",
            id="nobody",
        ),
        pytest.param(
            [pod("a"), pod("b")], "Volume is already used by pod(s) a, b", id="own-namespace"
        ),
        pytest.param(
            [pod("a"), pod("b", "x")],
            "Volume is already used by pod(s) a and 1 pod(s) in different namespaces",
            id="both",
        ),
        pytest.param(
            [pod("b", "x"), pod("c", "y")],
            "Volume is already used by 2 pod(s) in different namespaces",
            id="others",
        ),
    ],
)
def test_conflict_text(users: list[Pod], expected: str) -> None:
    assert conflict_text(pod(), users) == expected


def test_names() -> None:
    assert attachment_name("a", "b", "c") == (
        "csi-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert unique_name("csi.example.com", "vol-1") == "kubernetes.io/csi/csi.example.com^vol-1"
    assert parse_unique_name("kubernetes.io/csi/csi.example.com^a^b") == ("csi.example.com", "a^b")
    assert parse_unique_name("kubernetes.io/iscsi/x") is None
