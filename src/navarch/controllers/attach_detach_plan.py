"""What is to be done about one volume: which nodes get it, and which let go of it. Pure.

A volume is attached to a node by a VolumeAttachment, which the driver's attacher carries out. It is
wanted where pods are that use it. Where it is not wanted any more it is detached as soon as the
node says that it has unmounted it; a node that says nothing more is believed to be gone after six
minutes, and at once if an administrator has said so by a taint (KEP-2268).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from navarch.api.types.core_v1 import Node, PersistentVolume, Pod
from navarch.api.types.storage_v1 import VolumeAttachment
from navarch.controllers.pods import find_condition, is_terminal

MANAGED = "volumes.kubernetes.io/controller-managed-attach-detach"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
UNMOUNT_SECONDS = 360.0
"""How long an unhealthy node may take to unmount before that is taken for granted."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One volume as seen from one node."""

    name: str
    node: Node | None
    pods: tuple[Pod, ...] = ()
    """Those of the node that use the volume."""
    attachment: VolumeAttachment | None = None
    is_in_use: bool = True
    is_listed: bool = False
    """Whether the node's status says that the volume is attached: then it may be mounted."""
    unwanted_for: float = 0.0

    @property
    def is_wanted(self) -> bool:
        return bool(self.pods) and self.node is not None and is_managed(self.node)

    @property
    def is_attached(self) -> bool:
        attachment = self.attachment
        return (
            attachment is not None
            and attachment.status.attached
            and not attachment.metadata.deletionTimestamp
        )


@dataclass(frozen=True, slots=True)
class Attach:
    node: str


@dataclass(frozen=True, slots=True)
class Detach:
    node: str
    is_forced: bool = False
    """Without the node having said that it is done with the volume."""


@dataclass(frozen=True, slots=True)
class List:
    """Says in the node's status that the volume is attached, or that it is not."""

    node: str
    is_attached: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """The volume is at other nodes and cannot be at two."""

    node: str
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may be done before so many seconds are over."""

    node: str
    seconds: float


Action = Attach | Detach | List | Refuse | Wait


def plan(views: Sequence[NodeView], *, is_attachable: bool, is_shareable: bool) -> list[Action]:
    """Detaching comes first: it makes room for attaching."""
    actions: list[Action] = []
    wanted = {view.name: view for view in views if view.is_wanted and is_attachable}
    for view in views:
        is_listed = view.is_attached and (view.name in wanted or not _may_go(view))
        if view.node is not None and view.is_listed and not is_listed:
            actions.append(List(view.name, False))
        attachment = view.attachment
        if view.name in wanted or attachment is None or attachment.metadata.deletionTimestamp:
            continue
        if _may_go(view):
            actions.append(Detach(view.name, is_forced=view.is_in_use))
        elif not _is_healthy(view.node):
            actions.append(Wait(view.name, UNMOUNT_SECONDS - view.unwanted_for))
    for view in wanted.values():
        if view.is_attached and not view.is_listed:
            actions.append(List(view.name, True))
        if view.attachment is not None:
            continue
        others = tuple(
            each.name for each in views if each is not view and each.attachment is not None
        )
        taken = [each for each in actions if isinstance(each, Attach)]
        if is_shareable or not (others or taken):
            actions.append(Attach(view.name))
        else:
            actions.append(Refuse(view.name, others or (taken[0].node,)))
    return actions


def _may_go(view: NodeView) -> bool:
    if not view.is_in_use:
        return True
    if view.node is not None and is_out_of_service(view.node):
        return True
    return not _is_healthy(view.node) and view.unwanted_for >= UNMOUNT_SECONDS


def is_managed(node: Node) -> bool:
    """Whether the node leaves attaching to this controller."""
    return MANAGED in node.metadata.annotations


def is_out_of_service(node: Node) -> bool:
    return any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints)


def _is_healthy(node: Node | None) -> bool:
    if node is None:
        return False
    ready = find_condition(node.status.conditions, "Ready")
    return ready is not None and ready.status == "True"


def uses_volumes(pod: Pod) -> bool:
    """Whether a pod still needs its volumes: not once its containers have ended for good."""
    if not pod.spec.nodeName or is_terminal(pod):
        return False
    return not pod.metadata.deletionTimestamp or any(
        each.state.terminated is None and each.state.waiting is None
        for each in pod.status.containerStatuses
    )


def is_shareable(volume: PersistentVolume) -> bool:
    """Whether a volume may be attached to several nodes; without modes the attacher knows."""
    modes = volume.spec.accessModes
    return not modes or "ReadWriteMany" in modes or "ReadOnlyMany" in modes


def conflict_text(pod: Pod, users: Sequence[Pod]) -> str:
    """What a pod is told that waits for a volume others have. Nobody learns the names of pods in
    namespaces that are not theirs."""
    if not users:
        return "Volume is already exclusively attached to one node and can't be attached to another"
    local = [
        each.metadata.name for each in users if each.metadata.namespace == pod.metadata.namespace
    ]
    foreign = len(users) - len(local)
    if not local:
        return f"Volume is already used by {foreign} pod(s) in different namespaces"
    text = f"Volume is already used by pod(s) {', '.join(local)}"
    return f"{text} and {foreign} pod(s) in different namespaces" if foreign else text
