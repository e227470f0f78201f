"""What a client is warned of in a pod, or in the template of pods: fields that are taken and do
nothing any more, or not what they seem to. The write goes on; kubectl prints the warnings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from heapq import merge
from operator import itemgetter
from typing import Any

from navarch.api.errors import go_quoted
from navarch.api.validation.addresses import address_warnings
from navarch.api.validation.common import Object, label_value, quantity

DEPRECATED_NODE_LABELS = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": (
        'deprecated since v1.17; use "topology.kubernetes.io/region" instead'
    ),
    "failure-domain.beta.kubernetes.io/zone": (
        'deprecated since v1.17; use "topology.kubernetes.io/zone" instead'
    ),
    "beta.kubernetes.io/instance-type": (
        'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead'
    ),
    "app.kubernetes.io/created-by": "deprecated since v1.9",
    "scheduler.alpha.kubernetes.io/preferAvoidPods": (
        "deprecated since v1.22; use Taints and Tolerations instead"
    ),
    "node-role.kubernetes.io/master": 'use "node-role.kubernetes.io/control-plane" instead',
}
_VOLUMES = {
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "gitRepo": "deprecated in v1.11, and disabled by default in v1.33+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
}
_SYSCTLS = 'non-functional in v1.11+; use the "sysctls" field instead'
_ANNOTATIONS = {
    "scheduler.alpha.kubernetes.io/critical-pod": (
        'non-functional in v1.16+; use the "priorityClassName" field instead'
    ),
    "security.alpha.kubernetes.io/sysctls": _SYSCTLS,
    "security.alpha.kubernetes.io/unsafe-sysctls": _SYSCTLS,
}
_SECCOMP = "seccomp.security.alpha.kubernetes.io/pod"
_CONTAINER_SECCOMP = "container.seccomp.security.alpha.kubernetes.io/"
_NO_SECCOMP = 'non-functional in v1.27+; use the "seccompProfile" field instead'
_NO_POD = "a null labelSelector results in matching no pod"
_TERMS = (
    ("requiredDuringSchedulingIgnoredDuringExecution", ""),
    ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm"),
)


def pod_warnings(pod: Object, path: str = "") -> Iterator[str]:
    """The warnings about a pod, or about the template at `path`, in upstream's order."""
    spec, annotations = pod.get("spec") or {}, (pod.get("metadata") or {}).get("annotations") or {}
    above, at = f"{path}." if path else "", f"{path}.spec" if path else "spec"
    affinity = spec.get("affinity") or {}
    yield from _about_nodes(spec, affinity.get("nodeAffinity") or {}, at)
    for key, message in _ANNOTATIONS.items() if annotations else ():
        if key in annotations:
            yield f"{above}metadata.annotations[{key}]: {message}"
    yield from _about_volumes(spec, at)
    yield from _about_lists(spec, at)
    yield from _fractions(spec.get("overhead"), f"{at}.overhead")
    if _SECCOMP in annotations and not (spec.get("securityContext") or {}).get("seccompProfile"):
        yield f"{above}metadata.annotations[{_SECCOMP}]: {_NO_SECCOMP}"
    containers = [
        (f"{at}.{field}[{index}]", container)
        for field in ("initContainers", "containers", "ephemeralContainers")
        for index, container in enumerate(spec.get(field) or ())
    ]
    for place, container in containers:
        key = f"{_CONTAINER_SECCOMP}{container.get('name')}" if annotations else ""
        context = container.get("securityContext") or {}
        if key in annotations and not context.get("seccompProfile"):
            yield f"{above}metadata.annotations[{key}]: {_NO_SECCOMP}"
        yield from _about_container(container, place)
    yield from _about_ports(containers)
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        wanted = "must be >= 0; negative values are invalid and will be treated as 1"
        yield f"{at}.terminationGracePeriodSeconds: {wanted}"
    for side in ("podAffinity", "podAntiAffinity"):
        for field, inner in _TERMS:
            for index, term in enumerate((affinity.get(side) or {}).get(field) or ()):
                if (term.get(inner) if inner else term or {}).get("labelSelector") is None:
                    place = f"{at}.affinity.{side}.{field}[{index}]{'.' if inner else ''}{inner}"
                    yield f"{place}.labelSelector: {_NO_POD}"
    for index, server in enumerate((spec.get("dnsConfig") or {}).get("nameservers") or ()):
        yield from address_warnings(f"{at}.dnsConfig.nameservers[{index}]", server)
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        yield from address_warnings(f"{at}.hostAliases[{index}].ip", alias.get("ip") or "")


def _about_nodes(spec: Object, affinity: Object, at: str) -> Iterator[str]:
    for key in spec.get("nodeSelector") or ():
        if message := DEPRECATED_NODE_LABELS.get(key):
            yield f"{at}.nodeSelector[{key}]: {message}"
    if affinity:
        place = f"{at}.affinity.nodeAffinity"
        required, preferred = _TERMS[0][0], _TERMS[1][0]
        terms = (affinity.get(required) or {}).get("nodeSelectorTerms") or ()
        for index, term in enumerate(terms):
            yield from _about_term(term, f"{place}.{required}.nodeSelectorTerms[{index}]", False)
        for index, weighted in enumerate(affinity.get(preferred) or ()):
            term = weighted.get("preference") or {}
            yield from _about_term(term, f"{place}.{preferred}[{index}].preference", True)
    for index, constraint in enumerate(spec.get("topologySpreadConstraints") or ()):
        place, key = f"{at}.topologySpreadConstraints[{index}]", constraint.get("topologyKey")
        if message := DEPRECATED_NODE_LABELS.get(key or ""):
            yield f"{place}.topologyKey: {key} is {message}"
        if constraint.get("labelSelector") is None:
            yield f"{place}.labelSelector: {_NO_POD}"


def _about_term(term: Object, place: str, checks_values: bool) -> Iterator[str]:
    for index, expression in enumerate(term.get("matchExpressions") or ()):
        if message := DEPRECATED_NODE_LABELS.get(expression.get("key") or ""):
            yield f"{place}.matchExpressions[{index}].key: {expression.get('key')} is {message}"
        for number, value in enumerate(expression.get("values") or () if checks_values else ()):
            for problem in label_value(value):
                where = f"{place}.matchExpressions[{index}].values[{number}]"
                yield f"{where}: {value} is invalid, {problem}"


def _about_volumes(spec: Object, at: str) -> Iterator[str]:
    for index, volume in enumerate(spec.get("volumes") or ()):
        place = f"{at}.volumes[{index}]"
        for source in volume:
            if source in _VOLUMES:
                shown = "storageOS" if source == "storageos" else source
                yield f"{place}.{shown}: {_VOLUMES[source]}"
        template = (volume.get("ephemeral") or {}).get("volumeClaimTemplate") or {}
        wanted = (template.get("spec") or {}).get("resources") or {}
        for kind in ("requests", "limits") if wanted else ():
            inside = f"{place}.ephemeral.volumeClaimTemplate.spec.resources.{kind}"
            yield from _fractions(wanted.get(kind), inside, ("storage",))


def _about_lists(spec: Object, at: str) -> Iterator[str]:
    """Entries of lists that are told apart by a key that they share here."""
    for field, key in (("hostAliases", "ip"), ("imagePullSecrets", "name")):
        seen = set()
        for index, item in enumerate(spec.get(field) or ()):
            value = item.get(key) or ""
            if value in seen:
                yield f"{at}.{field}[{index}].{key}: duplicate {key} {go_quoted(value)}"
            seen.add(value)
    for index, item in enumerate(spec.get("imagePullSecrets") or ()):
        if not item.get("name"):
            yield f'{at}.imagePullSecrets[{index}].name: invalid empty name ""'


def _fractions(
    amounts: Object | None, place: str, names: tuple[str, ...] = ("memory", "ephemeral-storage")
) -> Iterator[str]:
    for name in names if amounts else ():
        amount = quantity(amounts[name]) if amounts and name in amounts else None
        if amount is not None and amount.milli_value() % 1000:
            shown = go_quoted(str(amount))
            yield f"{place}[{name}]: fractional byte value {shown} is invalid, must be an integer"


def _about_container(container: Object, place: str) -> Iterator[str]:
    if resources := container.get("resources"):
        for name in ("memory", "ephemeral-storage"):
            for kind in ("limits", "requests"):
                yield from _fractions(resources.get(kind), f"{place}.resources.{kind}", (name,))
    seen = set()
    for index, variable in enumerate(container.get("env") or ()):
        name, value = variable.get("name") or "", variable.get("value") or ""
        reference = f"$({name})"
        # A variable that is built from its former value hides nothing.
        extends = reference in value and value != reference and not variable.get("valueFrom")
        if name in seen and not extends:
            hidden = f"hides previous definition of {go_quoted(name)}"
            yield f"{place}.env[{index}]: {hidden}, which may be dropped when using apply"
        seen.add(name)


def _about_ports(containers: list[tuple[str, Object]]) -> Iterator[str]:
    ports = [
        (f"{place}.ports[{index}]", port)
        for place, container in containers
        for index, port in enumerate(container.get("ports") or ())
    ]
    before = _Ports()
    for place, port in ports:
        if port.get("hostIP") and not port.get("hostPort"):
            shown = (
                f"{{Name:{port.get('name') or ''} HostPort:0 ContainerPort:{port['containerPort']} "
                f"Protocol:{port.get('protocol')} HostIP:{port['hostIP']}}}"
            )
            yield f"{place}: hostIP set without hostPort: {shown}"
        for other, how in before.rivals(port):
            yield f"{place}: {how} port definition with {other}"
        before.add(place, port)
    named: dict[str, str] = {}
    for place, port in ports:
        if name := port.get("name"):
            first = named.setdefault(name, place)
            if first != place:
                yield (
                    f"{place}: duplicate port name {go_quoted(name)} with {first}, services and "
                    f"probes that select ports by name will use {first}"
                )


class _Ports:
    """Definitions of ports, to be found by what another would collide with: going through all of
    them for each would take too long for thousands."""

    def __init__(self) -> None:
        self._found: defaultdict[tuple[Any, ...], list[tuple[int, str, Object]]] = defaultdict(list)
        self._count = 0

    def add(self, place: str, port: Object) -> None:
        same, number, address = _port_key(port)
        for key in ((same,), (same, number), (same, number, address)):
            self._found[key].append((self._count, place, port))
        self._count += 1

    def rivals(self, port: Object) -> Iterator[tuple[str, str]]:
        """Those of the same container port that get into its way, and how."""
        same, number, address = _port_key(port)
        if not number:
            keys: list[tuple[Any, ...]] = [(same,)]
        elif not address:
            keys = [(same, 0), (same, number)]
        else:
            keys = [(same, 0), (same, number, ""), (same, number, address)]
        found = [self._found.get(key, ()) for key in keys]
        for _, place, other in merge(*found, key=itemgetter(0)):
            _, taken, where = _port_key(other)
            if (number, address) == (taken, where):
                yield place, "duplicate"
            else:
                yield place, "dangerously ambiguous" if number and taken else "overlapping"


def _port_key(port: Object) -> tuple[tuple[int, str], int, str]:
    same = (port.get("containerPort") or 0, port.get("protocol") or "")
    return same, port.get("hostPort") or 0, port.get("hostIP") or ""
