"""What objects count against a ResourceQuota: pure arithmetic for admission and the controller.

Names under `spec.hard` are object counts (`count/deployments.apps`, and older aliases such as
`configmaps`), or amounts that pods, services and claims use up. A quota with scopes looks only at
the pods (or claims) that match all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from navarch.api.pod_resources import (
    Amounts,
    add,
    has_pod_level_resources,
    is_best_effort,
    largest,
    parse_amounts,
    pod_limits,
    pod_requests,
)
from navarch.api.quantity import parse_quantity
from navarch.api.times import parse_time

Object = dict[str, Any]

UNTRACKED = frozenset(
    {
        "bindings",
        "componentstatuses",
        "events",
        "events.events.k8s.io",
        "tokenreviews.authentication.k8s.io",
        "selfsubjectreviews.authentication.k8s.io",
        "subjectaccessreviews.authorization.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
        "localsubjectaccessreviews.authorization.k8s.io",
        "selfsubjectrulesreviews.authorization.k8s.io",
    }
)
"""Resources that no quota counts: most of them are not stored at all."""

_ALIASED = ("configmaps", "resourcequotas", "replicationcontrollers", "secrets", "services")
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_POD_NAMES = frozenset(
    ["pods", *_COMPUTE] + [f"{kind}.{name}" for kind in ("requests", "limits") for name in _COMPUTE]
)
_MUST_BE_SET = tuple(
    f"{prefix}{name}" for name in ("cpu", "memory") for prefix in ("", "requests.", "limits.")
)
_CLASS_SUFFIX = ".storageclass.storage.k8s.io/"
_CLAIM_NAMES = ("persistentvolumeclaims", "requests.storage")
_SERVICE_NAMES = ("services", "services.nodeports", "services.loadbalancers")
_DEVICE_CLASS = "deviceclass.resource.kubernetes.io/"
_CLAIMED_DEVICES = ".deviceclass.resource.k8s.io/devices"
_RESOURCE_CLAIMS = "resourceclaims.resource.k8s.io"
_CLASSES = "deviceclasses.resource.k8s.io"
_EXTENDED_CLAIM = "resource.kubernetes.io/extended-resource-claim"
_MOST_DEVICES = 32
"""What a claim for all devices of a class counts as: no claim can be given more."""
_SPECIAL = ("pods", "services", "persistentvolumeclaims", _RESOURCE_CLAIMS)
_ONE = parse_quantity("1")
ZERO = parse_quantity("0")


@dataclass(frozen=True, slots=True)
class ScopeSelector:
    """One demand of a quota's scopes or scopeSelector."""

    scope: str
    operator: str
    values: tuple[str, ...] = ()


class Others(Protocol):
    """The objects that decide, besides a claim itself, what devices count as: classes of devices,
    and pods and their claims."""

    def get(self, resource: str, namespace: str, name: str) -> Object | None: ...

    def list(self, resource: str, namespace: str = "") -> Iterable[Object]: ...


def usage(resource: str, obj: Object, now: datetime, others: Others | None = None) -> Amounts:
    """What one object of `resource` (`pods`, `deployments.apps`) uses up."""
    counted = {f"count/{resource}": _ONE}
    if resource == "pods":
        return {**counted, **(_pod_usage(obj) if _counts(obj, now) else {})}
    if resource == "services":
        return {**counted, **_service_usage(obj)}
    if resource == "persistentvolumeclaims":
        return {**counted, **_claim_usage(obj)}
    if resource == _RESOURCE_CLAIMS:
        devices = _device_usage(obj)
        extended = _extended_usage(devices, obj, now, others) if others is not None else {}
        return {**counted, **devices, **extended}
    return {**counted, resource: _ONE} if resource in _ALIASED else counted


def resources_of(name: str) -> list[str]:
    """The resources whose objects count against a quota's name; none for an unknown name."""
    if name.startswith("count/"):
        resource = name.removeprefix("count/")
        return [] if resource in UNTRACKED else [resource]
    return [r for r in dict.fromkeys((*_SPECIAL, *_ALIASED)) if _tracks(r, name)]


def matching_names(resource: str, names: Iterable[str]) -> list[str]:
    """Those of a quota's names that objects of `resource` count against."""
    return [name for name in names if name == f"count/{resource}" or _tracks(resource, name)]


def scope_selectors(quota: Object) -> list[ScopeSelector]:
    spec = quota.get("spec") or {}
    selectors = [ScopeSelector(scope, "Exists") for scope in spec.get("scopes") or ()]
    for expression in (spec.get("scopeSelector") or {}).get("matchExpressions") or ():
        values = tuple(expression.get("values") or ())
        selectors.append(
            ScopeSelector(expression.get("scopeName", ""), expression.get("operator", ""), values)
        )
    return selectors


def in_scope(quota: Object, resource: str, obj: Object) -> bool:
    """Whether the object matches every scope of the quota (a quota without any takes all)."""
    return all(_matches_scope(s, resource, obj) for s in scope_selectors(quota))


def missing_compute(pod: Object, names: Iterable[str]) -> str:
    """Which containers do not set what a quota counts, "" if none: a quota on cpu or memory makes
    every container say how much it wants (`cpu for: c1,c2; memory for: c1`)."""
    if has_pod_level_resources(pod):
        return ""
    required = sorted(set(names) & set(_MUST_BE_SET))
    lacking: dict[str, set[str]] = {}
    spec = pod.get("spec") or {}
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        resources = container.get("resources") or {}
        given = _compute_usage(
            parse_amounts(resources.get("requests")), parse_amounts(resources.get("limits"))
        )
        for name in required:
            if name not in given:
                lacking.setdefault(name, set()).add(container.get("name", ""))
    return "; ".join(f"{name} for: {','.join(sorted(lacking[name]))}" for name in sorted(lacking))


def is_terminating(pod: Object) -> bool:
    """Whether the pod is of the scope Terminating: it has a deadline."""
    deadline = (pod.get("spec") or {}).get("activeDeadlineSeconds")
    return deadline is not None and deadline >= 0


def _tracks(resource: str, name: str) -> bool:
    if resource == "pods":
        huge = name.startswith(("hugepages-", "requests.hugepages-"))
        return name in _POD_NAMES or huge or _is_extended(name)
    if resource == "services":
        return name in _SERVICE_NAMES
    if resource == "persistentvolumeclaims":
        return name in _CLAIM_NAMES or name.endswith(
            tuple(f"{_CLASS_SUFFIX}{claimed}" for claimed in _CLAIM_NAMES)
        )
    if resource == _RESOURCE_CLAIMS:
        return name.endswith(_CLAIMED_DEVICES) or _is_extended(name)
    return name == resource and resource in _ALIASED


def _is_extended(name: str) -> bool:
    """Whether a quota's name is of an extended resource: of pods, and of claims for the devices
    that stand behind one."""
    is_foreign = "/" in name and "kubernetes.io/" not in name
    return name.startswith(f"requests.{_DEVICE_CLASS}") or (
        name.startswith("requests.") and is_foreign
    )


def _counts(pod: Object, now: datetime) -> bool:
    """A pod that has ended counts no more, nor one that outlived its deletion (its node is lost):
    its owner must be able to replace it."""
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return False
    metadata = pod.get("metadata") or {}
    deleted, grace = metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds")
    if deleted and grace is not None:
        return now <= parse_time(deleted) + timedelta(seconds=grace)
    return True


def _pod_usage(pod: Object) -> Amounts:
    return {"pods": _ONE, **_compute_usage(pod_requests(pod), pod_limits(pod))}


def _compute_usage(requests: Amounts, limits: Amounts) -> Amounts:
    result: Amounts = {}
    for name, value in requests.items():
        if name in _COMPUTE or name.startswith("hugepages-"):
            result[name] = value
            result[f"requests.{name}"] = value
        elif ("/" in name and "kubernetes.io/" not in name) or name.startswith(_DEVICE_CLASS):
            result[f"requests.{name}"] = value
    for name in _COMPUTE:
        if name in limits:
            result[f"limits.{name}"] = limits[name]
    return result


def _service_usage(service: Object) -> Amounts:
    spec = service.get("spec") or {}
    ports = spec.get("ports") or []
    balanced = spec.get("type") == "LoadBalancer"
    node_ports = 0
    if spec.get("type") == "NodePort":
        node_ports = len(ports)
    elif balanced and spec.get("allocateLoadBalancerNodePorts") is False:
        node_ports = sum(1 for port in ports if port.get("nodePort"))
    elif balanced:
        node_ports = len(ports)
    return {
        "services": _ONE,
        "services.nodeports": parse_quantity(str(node_ports)),
        "services.loadbalancers": _ONE if balanced else ZERO,
    }


def _claim_usage(claim: Object) -> Amounts:
    spec, status = claim.get("spec") or {}, claim.get("status") or {}
    result = {"persistentvolumeclaims": _ONE}
    requested = parse_amounts((spec.get("resources") or {}).get("requests"))
    if "storage" in requested:
        storage = {"storage": requested["storage"]}
        storage = largest(storage, _storage_of(status.get("allocatedResources")))
        # Counted in whole bytes, as a quota's own values have to be.
        result["requests.storage"] = parse_quantity(str(storage["storage"].value()))
        if storage["storage"] == parse_quantity(str(storage["storage"].value())):
            result["requests.storage"] = storage["storage"]
    annotations = (claim.get("metadata") or {}).get("annotations") or {}
    klass = annotations.get("volume.beta.kubernetes.io/storage-class") or spec.get(
        "storageClassName"
    )
    if klass:
        result.update({f"{klass}{_CLASS_SUFFIX}{name}": value for name, value in result.items()})
    return result


def _device_usage(claim: Object) -> Amounts:
    """The devices of each class that a claim may be given: of alternatives the most."""
    devices = ((claim.get("spec") or {}).get("devices") or {}).get("requests") or ()
    result: Amounts = {}
    for request in devices:
        exactly = request.get("exactly")
        options = request.get("firstAvailable") or ([exactly] if exactly else [])
        most: Amounts = {}
        for option in options:
            is_all = option.get("allocationMode") == "All"
            count = _MOST_DEVICES if is_all else option.get("count", 1)
            name = f"{option.get('deviceClassName', '')}{_CLAIMED_DEVICES}"
            most = largest(most, {name: parse_quantity(str(count))})
        result = add(result, most)
    return result


def _extended_usage(devices: Amounts, claim: Object, now: datetime, others: Others) -> Amounts:
    """The claimed devices by the names of the extended resources they stand behind (KEP-5004):
    devices are counted alike, whether a pod asks for them by a claim or in its containers. What the
    pod of such a claim counts as already is left out."""
    pod = _requesting_pod(claim, others)
    with_pod = usage("pods", pod, now) if pod is not None else {}
    names = {
        each["metadata"]["name"]: (each.get("spec") or {}).get("extendedResourceName")
        for each in others.list(_CLASSES)
    }
    result: Amounts = {}
    for devices_name, count in devices.items():
        device_class = devices_name.removesuffix(_CLAIMED_DEVICES)
        for name in (f"{_DEVICE_CLASS}{device_class}", names.get(device_class)):
            left = count - with_pod.get(f"requests.{name}", ZERO)
            if name and left > ZERO:
                result[f"requests.{name}"] = left
    return result


def _requesting_pod(claim: Object, others: Others) -> Object | None:
    """The pod for whose containers' extended resources a claim was made, if it is the pod's only
    such claim: the one that the pod's status names, or else its first."""
    metadata = claim.get("metadata") or {}
    owner = _controller(claim)
    if (metadata.get("annotations") or {}).get(_EXTENDED_CLAIM) != "true" or owner is None:
        return None
    if (owner.get("apiVersion"), owner.get("kind")) != ("v1", "Pod"):
        return None
    namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
    pod = others.get("pods", namespace, owner.get("name", ""))
    if pod is None or pod["metadata"].get("uid") != owner.get("uid"):
        return None
    told = (pod.get("status") or {}).get("extendedResourceClaimStatus")
    if told is not None:
        return pod if told.get("resourceClaimName") == name else None
    made = metadata.get("creationTimestamp")
    for other in others.list(_RESOURCE_CLAIMS, namespace):
        meta, its_owner = other["metadata"], _controller(other) or {}
        is_older = not made or (meta.get("creationTimestamp") or "", meta["name"]) < (made, name)
        if its_owner.get("uid") == owner.get("uid") and meta["name"] != name and is_older:
            return None
    return pod


def _controller(obj: Object) -> Object | None:
    owners = (obj.get("metadata") or {}).get("ownerReferences") or ()
    return next((each for each in owners if each.get("controller")), None)


def _storage_of(resources: dict[str, Any] | None) -> Amounts:
    return {name: value for name, value in parse_amounts(resources).items() if name == "storage"}


def _matches_scope(selector: ScopeSelector, resource: str, obj: Object) -> bool:
    if resource == "persistentvolumeclaims" and selector.scope == "VolumeAttributesClass":
        return _matches_values(selector, set(_attribute_classes(obj)))
    if resource != "pods":
        return False
    spec = obj.get("spec") or {}
    if selector.scope == "PriorityClass":
        name = spec.get("priorityClassName") or ""
        return _matches_values(selector, {name} if name else set())
    answer = {
        "Terminating": is_terminating,
        "NotTerminating": lambda pod: not is_terminating(pod),
        "BestEffort": is_best_effort,
        "NotBestEffort": lambda pod: not is_best_effort(pod),
        "CrossNamespacePodAffinity": _crosses_namespaces,
    }.get(selector.scope)
    return answer is not None and bool(answer(obj))


def _matches_values(selector: ScopeSelector, held: set[str]) -> bool:
    if selector.operator == "Exists":
        return bool(held)
    if selector.operator == "DoesNotExist":
        return not held
    if selector.operator == "In":
        return bool(held & set(selector.values))
    others = held - set(selector.values)
    return selector.operator == "NotIn" and (not held or bool(others))


def _attribute_classes(claim: Object) -> Iterator[str]:
    """The attribute classes a claim wants or still has, for both use the class."""
    spec, status = claim.get("spec") or {}, claim.get("status") or {}
    names = (
        spec.get("volumeAttributesClassName"),
        status.get("currentVolumeAttributesClassName"),
        (status.get("modifyVolumeStatus") or {}).get("targetVolumeAttributesClassName"),
    )
    yield from (name for name in names if name)


def _crosses_namespaces(pod: Object) -> bool:
    affinity = (pod.get("spec") or {}).get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        terms = list(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        for weighted in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            terms.append(weighted.get("podAffinityTerm") or {})
        if any(t.get("namespaces") or t.get("namespaceSelector") is not None for t in terms):
            return True
    return False
