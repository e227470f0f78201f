"""Why a Service has nobody behind it, and why a claim has no volume."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from navarch.api.types.core_v1 import Event, PersistentVolumeClaim, Pod, Service, ServicePort
from navarch.api.types.storage_v1 import StorageClass
from navarch.cli.why.facts import condition
from navarch.cli.why.report import Line, Report, Section, State, Tone, Verdict
from navarch.cli.why.words import ago, condensed, counted, listed, shortened

NAMES_TOLD = 5


def service(found: Service, pods: Sequence[Pod]) -> Report:
    """`pods` are all of its namespace."""
    name, spec = f"service {found.metadata.name}", found.spec
    if spec.type == "ExternalName":
        text = f"{name} is another name for {spec.externalName}, it has no pods of its own"
        return Report(name, Verdict(State.RUNNING, text))
    if not spec.selector:
        text = f"{name} has no selector: whoever made it looks after its EndpointSlices"
        return Report(name, Verdict(State.RUNNING, text))
    wanted = ",".join(f"{key}={value}" for key, value in spec.selector.items())
    chosen = [
        pod
        for pod in pods
        if spec.selector.items() <= pod.metadata.labels.items()
        and pod.status.phase not in ("Succeeded", "Failed")
    ]
    lines = tuple(_pod_line(pod) for pod in chosen[:NAMES_TOLD])
    sections = (Section(f"PODS with {wanted}", lines),)
    return Report(name, _service_verdict(name, found, wanted, chosen, pods), sections)


def _service_verdict(
    name: str, found: Service, wanted: str, chosen: Sequence[Pod], pods: Sequence[Pod]
) -> Verdict:
    spec = found.spec
    if not chosen:
        text = f"{name} has no endpoints: its selector {wanted} matches no pod"
        near = [p for p in pods if spec.selector.items() & p.metadata.labels.items()]
        remedies = ["correct the selector, or the pods' labels"]
        if near:
            labels = ",".join(f"{k}={v}" for k, v in near[0].metadata.labels.items())
            remedies.append(f"pod {near[0].metadata.name} comes near: {shortened(labels)}")
        return Verdict(State.BROKEN, text, tuple(remedies))
    ready = [pod for pod in chosen if _is_ready(pod)]
    if not ready and not spec.publishNotReadyAddresses:
        names = listed([p.metadata.name for p in chosen[:NAMES_TOLD]], len(chosen))
        text = f"{name} has no endpoints: none of {counted(len(chosen), 'pod')} is ready ({names})"
        remedy = f"navarch why {chosen[0].metadata.name}"
        return Verdict(State.BROKEN, text, (remedy,))
    for port in spec.ports:
        if problem := _port_problem(port, ready or chosen):
            return Verdict(State.BROKEN, f"{name}: {problem}", ("correct targetPort or the pod",))
    text = f"{name} has {counted(len(ready or chosen), 'endpoint')} ({len(chosen)} pods match)"
    return Verdict(State.RUNNING, text)


def _port_problem(port: ServicePort, pods: Sequence[Pod]) -> str:
    """A port that is named must be there; one that is a number may be open without being told."""
    target = port.targetPort if port.targetPort not in (None, "", 0) else port.port
    told = {
        (each.name, each.containerPort)
        for pod in pods
        for container in pod.spec.containers
        for each in container.ports
        if (each.protocol or "TCP") == (port.protocol or "TCP")
    }
    if isinstance(target, str) and target not in {name for name, _ in told}:
        names = ", ".join(sorted(name for name, _ in told if name)) or "none"
        return f"port {port.port} leads to the port named {target}, which no pod has ({names})"
    if isinstance(target, int) and told and target not in {number for _, number in told}:
        numbers = ", ".join(sorted(str(number) for _, number in told))
        return f"port {port.port} leads to {target}, and its pods tell of {numbers} only"
    return ""


def _is_ready(pod: Pod) -> bool:
    found = condition(pod, "Ready")
    return found is not None and found[0] == "True" and not pod.metadata.deletionTimestamp


def _pod_line(pod: Pod) -> Line:
    ready = _is_ready(pod)
    state = "ready" if ready else f"not ready ({pod.status.phase or 'Pending'})"
    where = pod.status.podIP or "no address"
    return Line(f"{pod.metadata.name}: {state}, {where}", Tone.PLAIN if ready else Tone.BAD)


def claim(
    found: PersistentVolumeClaim,
    classes: Sequence[StorageClass],
    pods: Sequence[Pod],
    events: Sequence[Event],
    now: datetime,
) -> Report:
    """`pods` are all of its namespace."""
    name = f"claim {found.metadata.name}"
    users = [
        pod.metadata.name
        for pod in pods
        if any(
            v.persistentVolumeClaim and v.persistentVolumeClaim.claimName == found.metadata.name
            for v in pod.spec.volumes
        )
    ]
    told = condensed(events)[-5:]
    lines = tuple(
        Line(
            f"{ago(each.last.isoformat(), now)}: {each.reason}: {shortened(each.message)}",
            Tone.BAD if each.is_warning else Tone.PLAIN,
        )
        for each in told
    )
    used = (Line(listed(users[:NAMES_TOLD], len(users)) or "no pod"),)
    sections = (Section("USED BY", used), Section("EVENTS", lines))
    return Report(name, _claim_verdict(found, classes, users, lines), sections)


def _claim_verdict(
    found: PersistentVolumeClaim,
    classes: Sequence[StorageClass],
    users: Sequence[str],
    told: Sequence[Line],
) -> Verdict:
    name, spec, status = f"claim {found.metadata.name}", found.spec, found.status
    if found.metadata.deletionTimestamp:
        by = f"pods use it: {', '.join(users)}" if users else (
            f"held by finalizers: {', '.join(found.metadata.finalizers)}")  # fmt: skip
        return Verdict(State.TERMINATING, f"{name} is being deleted: {by}")
    if status.phase == "Bound":
        size = status.capacity.get("storage", "")
        return Verdict(State.RUNNING, f"{name} is bound to volume {spec.volumeName} ({size})")
    if status.phase == "Lost":
        text = f"{name} has lost its volume {spec.volumeName}"
        return Verdict(State.BROKEN, text)
    wants = spec.resources.requests.get("storage", "?")
    begin = f"{name} ({wants}, {', '.join(spec.accessModes)}) has no volume: "
    if spec.volumeName:
        text = f"it asks for volume {spec.volumeName}, which is missing or cannot be bound to it"
        return Verdict(State.PENDING, begin + text)
    there = f"storage classes here: {', '.join(c.metadata.name for c in classes) or 'none'}"
    if not spec.storageClassName:
        text = "it names no storage class, and only volumes without a class will do"
        return Verdict(State.PENDING, begin + text, (there,))
    known = next((c for c in classes if c.metadata.name == spec.storageClassName), None)
    if known is None:
        text = f"storage class {spec.storageClassName} does not exist"
        return Verdict(State.PENDING, begin + text, (there,))
    if known.volumeBindingMode == "WaitForFirstConsumer" and not users:
        text = f"class {spec.storageClassName} waits until a pod uses the claim, and none does"
        return Verdict(State.PENDING, begin + text)
    last = f": {told[-1].text}" if told else ""
    if known.provisioner in ("", "kubernetes.io/no-provisioner"):
        text = f"class {spec.storageClassName} makes no volumes, and no free one fits"
        return Verdict(State.PENDING, begin + text, ("make a PersistentVolume that fits",))
    text = f"{known.provisioner} has not made it{last}"
    return Verdict(State.PENDING, begin + text, (f"see whether {known.provisioner} runs",))
