"""LimitRanger: a namespace's LimitRanges give containers their defaults and bound what they ask.

What was defaulted is noted in an annotation of the pod. Bounds hold per container, per pod and per
claim: minimum, maximum, and the ratio of limit to request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from navarch.api.pod_resources import Amounts, parse_amounts, pod_limits, pod_requests
from navarch.api.quantity import Quantity, parse_quantity
from navarch.api.strategies.podspec import quality_of_service
from navarch.apiserver.admission.base import ReadingPlugin, denied, spec_of
from navarch.apiserver.contracts import AdmissionRequest, Object

ANNOTATION = "kubernetes.io/limit-ranger"
_CONTAINER_LISTS = (("containers", "container"), ("initContainers", "init container"))
_ZERO = parse_quantity("0")


class LimitRanger(ReadingPlugin):
    name = "LimitRanger"
    mutates = True
    resources = frozenset({("", "pods"), ("", "persistentvolumeclaims")})
    subresources = ("", "resize")

    def handles(self, request: AdmissionRequest) -> bool:
        """Containers cannot change once a pod is there, except by a resize."""
        if not super().handles(request):
            return False
        is_pod, is_update = request.info.resource == "pods", request.operation == "UPDATE"
        concerns = is_pod and is_update if request.info.subresource else not (is_pod and is_update)
        return concerns and any(self._limit_ranges(request))

    async def admit(self, request: AdmissionRequest) -> None:
        if request.info.resource != "pods" or request.obj is None:
            return
        for limit_range in self._limit_ranges(request):
            _set_defaults(limit_range, request.obj)
        if request.operation == "CREATE":
            # A pod's class was decided by what its author asked for; it counts what it now gets.
            status = request.obj.setdefault("status", {})
            status["qosClass"] = quality_of_service(request.obj["spec"])

    async def validate(self, request: AdmissionRequest) -> None:
        if request.obj is None:
            return
        for limit_range in self._limit_ranges(request):
            check = _claim_errors if request.info.resource != "pods" else _pod_errors
            errors = list(dict.fromkeys(check(limit_range, request.obj)))
            if errors:
                joined = errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]"
                raise denied(request, joined)

    def _limit_ranges(self, request: AdmissionRequest) -> list[Object]:
        if ((request.old or {}).get("metadata") or {}).get("deletionTimestamp"):
            return []
        return list(self._access.lookup.list("limitranges", request.info.namespace))


def _limits(limit_range: Object, kind: str) -> Iterator[Object]:
    yield from (item for item in spec_of(limit_range).get("limits") or () if item["type"] == kind)


def _set_defaults(limit_range: Object, pod: Object) -> None:
    defaults: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for item in _limits(limit_range, "Container"):
        defaults["requests"].update(item.get("defaultRequest") or {})
        defaults["limits"].update(item.get("default") or {})
    notes = []
    for field, title in _CONTAINER_LISTS:
        for container in spec_of(pod).get(field) or ():
            resources = container.get("resources") or {}
            for kind, word in (("requests", "request"), ("limits", "limit")):
                held = resources.get(kind) or {}
                added = {k: v for k, v in defaults[kind].items() if k not in held}
                if added:
                    resources = {**resources, kind: {**held, **added}}
                    names = ", ".join(sorted(added))
                    notes.append(f"{names} {word} for {title} {container.get('name', '')}")
            container["resources"] = resources
    if notes:
        metadata = pod["metadata"]
        note = f"LimitRanger plugin set: {'; '.join(notes)}"
        metadata["annotations"] = {**(metadata.get("annotations") or {}), ANNOTATION: note}


def _pod_errors(limit_range: Object, pod: Object) -> Iterator[str]:
    spec = spec_of(pod)
    for item in _limits(limit_range, "Container"):
        for field, _ in _CONTAINER_LISTS:
            for container in spec.get(field) or ():
                resources = container.get("resources") or {}
                requests = parse_amounts(resources.get("requests"))
                yield from _errors(item, requests, parse_amounts(resources.get("limits")))
    for item in _limits(limit_range, "Pod"):
        requests, limits = pod_requests(pod, overhead=False), pod_limits(pod, overhead=False)
        yield from _errors(item, requests, limits)


def _claim_errors(limit_range: Object, claim: Object) -> Iterator[str]:
    """Claims know no limits: minimum and maximum bind what is requested."""
    requests = parse_amounts((spec_of(claim).get("resources") or {}).get("requests"))
    for item in _limits(limit_range, "PersistentVolumeClaim"):
        for name, text in (item.get("min") or {}).items():
            yield from _below(item["type"], name, text, requests, {})
        for name, text in (item.get("max") or {}).items():
            start = f"maximum {name} usage per {item['type']} is {text}"
            if name not in requests:
                yield f"{start}.  No request is specified"
            elif requests[name] > parse_quantity(text):
                yield f"{start}, but request is {requests[name]}"


def _errors(item: Mapping[str, Object], requests: Amounts, limits: Amounts) -> Iterator[str]:
    kind = str(item["type"])
    for name, text in (item.get("min") or {}).items():
        yield from _below(kind, name, text, requests, limits)
    for name, text in (item.get("max") or {}).items():
        yield from _above(kind, name, text, requests, limits)
    for name, text in (item.get("maxLimitRequestRatio") or {}).items():
        yield from _ratio(kind, name, text, requests, limits)


def _below(kind: str, name: str, text: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    start, bound = f"minimum {name} usage per {kind} is {text}", parse_quantity(text)
    if name not in requests:
        yield f"{start}.  No request is specified"
    elif requests[name] < bound:
        yield f"{start}, but request is {requests[name]}"
    elif name in limits and limits[name] < bound:
        yield f"{start}, but limit is {limits[name]}"


def _above(kind: str, name: str, text: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    start, bound = f"maximum {name} usage per {kind} is {text}", parse_quantity(text)
    if name not in limits:
        yield f"{start}.  No limit is specified"
    elif limits[name] > bound:
        yield f"{start}, but limit is {limits[name]}"
    elif name in requests and requests[name] > bound:
        yield f"{start}, but request is {requests[name]}"


def _ratio(kind: str, name: str, text: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    start = f"{name} max limit to request ratio per {kind} is {text}"
    request: Quantity = requests.get(name, _ZERO)
    limit: Quantity = limits.get(name, _ZERO)
    if not request:
        yield f"{start}, but no request is specified or request is 0"
    elif not limit:
        yield f"{start}, but no limit is specified or limit is 0"
    elif float(limit) / float(request) > float(parse_quantity(text)):
        yield f"{start}, but provided ratio is {float(limit) / float(request):f}"
