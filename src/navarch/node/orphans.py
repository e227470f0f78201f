"""Pods that only the runtime still knows: deleted while no agent ran. Pure.

Their containers carry what their end needs (as `pkg/kubelet/kuberuntime/labels.go` has it, under
the same names), so that they too get their preStop hook and their grace period.
"""

from __future__ import annotations

import msgspec

from navarch.api.types.core_v1 import (
    Container,
    ContainerPort,
    Lifecycle,
    LifecycleHandler,
    Pod,
    PodSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta

from .cri.values import POD_TERMINATION_GRACE, ContainerRecord, PodState

PRE_STOP = "io.kubernetes.container.preStopHandler"
PORTS = "io.kubernetes.container.ports"


def notes(container: Container) -> dict[str, str]:
    """What a container's annotations have to say for its end."""
    lifecycle = container.lifecycle
    if lifecycle is None or lifecycle.preStop is None:
        return {}
    hook, ports = msgspec.json.encode(lifecycle.preStop), msgspec.json.encode(container.ports)
    return {PRE_STOP: hook.decode(), PORTS: ports.decode()}


def remembered(state: PodState) -> Pod:
    """As much of a lost pod's object as its containers tell."""
    running = [each for each in state.containers if each.running]
    graces = [each.annotations.get(POD_TERMINATION_GRACE, "") for each in running]
    return Pod(
        metadata=ObjectMeta(name=state.name, namespace=state.namespace, uid=state.uid),
        spec=PodSpec(
            containers=[_container(each) for each in running],
            terminationGracePeriodSeconds=next(
                (int(each) for each in graces if each.isdecimal()), None
            ),
        ),
    )


def _container(record: ContainerRecord) -> Container:
    hook = record.annotations.get(PRE_STOP)
    if not hook:
        return Container(name=record.name)
    ports = record.annotations.get(PORTS, "[]")
    return Container(
        name=record.name,
        ports=msgspec.json.decode(ports, type=list[ContainerPort]),
        lifecycle=Lifecycle(preStop=msgspec.json.decode(hook, type=LifecycleHandler)),
    )
