"""Extended resources that device classes stand for: pods ask for amounts, as ever, and get devices.

What a pod's containers ask for becomes one claim of the pod's, made for the node that was chosen,
because a node may have the resource by an old device plugin as well. Containers that stay get
devices of their own; init containers that end use those of the containers that come after them, and
together only what the hungriest of them needs beyond these.
Source: KEP-5004; upstream's `plugins/dynamicresources/extendeddynamicresources.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Container, ContainerExtendedResourceRequest, Pod
from navarch.api.types.resource_v1 import DeviceRequest, ExactDeviceRequest


@dataclass(frozen=True, slots=True)
class Extended:
    """Requests for devices, and which container uses which of them."""

    requests: tuple[DeviceRequest, ...] = ()
    mappings: tuple[ContainerExtendedResourceRequest, ...] = ()


def requests_for(
    pod: Pod, resources: Iterable[str], class_of: Callable[[str], str | None]
) -> Extended:
    """The requests that stand for these resources of the pod."""
    containers = [*pod.spec.initContainers, *pod.spec.containers]
    ending = {
        number
        for number, container in enumerate(pod.spec.initContainers)
        if container.restartPolicy != "Always"
    }
    requests: list[DeviceRequest] = []
    mappings: list[ContainerExtendedResourceRequest] = []
    for resource in sorted(resources):
        class_name = class_of(resource)
        if class_name is not None:
            some = _of_resource(containers, ending, resource, class_name)
            requests += some.requests
            mappings += some.mappings
    requests.sort(key=lambda request: request.name)
    return Extended(tuple(requests), tuple(mappings))


def _of_resource(
    containers: Sequence[Container], ending: set[int], resource: str, class_name: str
) -> Extended:
    lasting: dict[int, DeviceRequest] = {}
    mappings: list[ContainerExtendedResourceRequest] = []
    for number, container in enumerate(containers):
        count = _amount(container, resource)
        if number not in ending and count:
            made = lasting[number] = _request(number, container, resource, class_name, count)
            mappings.append(_mapping(container, resource, made.name))
    largest: DeviceRequest | None = None
    uses: list[tuple[Container, str]] = []
    own: list[Container] = []
    for number in sorted(ending):
        container = containers[number]
        missing = _amount(container, resource)
        for later, request in lasting.items():
            if later < number or missing <= 0:
                continue
            missing -= _count(request)
            uses.append((container, request.name))
        if missing > 0:
            made = _request(number, container, resource, class_name, missing)
            own.append(container)
            if largest is None or _count(largest) < _count(made):
                largest = made
    if largest is not None:
        uses += [(container, largest.name) for container in own]
    mappings += [_mapping(container, resource, name) for container, name in uses]
    requests = [*([largest] if largest is not None else []), *lasting.values()]
    return Extended(tuple(requests), tuple(mappings))


def _amount(container: Container, resource: str) -> int:
    text = container.resources.requests.get(resource)
    return parse_quantity(text).value() if text else 0


def _count(request: DeviceRequest) -> int:
    return request.exactly.count if request.exactly is not None else 0


def _request(
    number: int, container: Container, resource: str, class_name: str, count: int
) -> DeviceRequest:
    place = sorted(container.resources.requests).index(resource)
    exactly = ExactDeviceRequest(
        deviceClassName=class_name, allocationMode="ExactCount", count=count
    )
    return DeviceRequest(name=f"container-{number}-request-{place}", exactly=exactly)


def _mapping(container: Container, resource: str, request: str) -> ContainerExtendedResourceRequest:
    return ContainerExtendedResourceRequest(
        containerName=container.name, resourceName=resource, requestName=request
    )
