"""What was found, as it is written into the status of a claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from navarch.api.types.core_v1 import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from navarch.api.types.resource_v1 import (
    AllocationResult,
    DeviceAllocationConfiguration,
    DeviceAllocationResult,
    DeviceClass,
    DeviceRequestAllocationResult,
    ResourceClaim,
)
from navarch.scheduler.dra.allocator import Taken


def allocation(
    claim: ResourceClaim,
    taken: Sequence[Taken],
    node: str,
    device_class: Callable[[str], DeviceClass | None],
    share_id: Callable[[], str],
) -> AllocationResult:
    """The allocation of one claim from the devices that were taken for it on a node."""
    return AllocationResult(
        devices=DeviceAllocationResult(
            results=[_result(each, share_id) for each in taken],
            config=[*_class_config(claim, taken, device_class), *_claim_config(claim, taken)],
        ),
        nodeSelector=node_selector(taken, node),
    )


def _result(taken: Taken, share_id: Callable[[], str]) -> DeviceRequestAllocationResult:
    driver, pool, device = taken.device.id
    amounts = taken.amounts
    return DeviceRequestAllocationResult(
        request=taken.wanted.name,
        driver=driver,
        pool=pool,
        device=device,
        adminAccess=True if taken.wanted.is_admin else None,
        tolerations=taken.wanted.request.tolerations,
        bindingConditions=taken.device.device.bindingConditions,
        bindingFailureConditions=taken.device.device.bindingFailureConditions,
        shareID=None if amounts is None else share_id(),
        consumedCapacity={name: str(value) for name, value in (amounts or {}).items()},
    )


def _chosen(claim: ResourceClaim, taken: Sequence[Taken]) -> Iterator[tuple[str, str, str]]:
    """Of every request: its name, its full name with the alternative that was chosen, and the
    class."""
    found = {each.wanted.parent or each.wanted.base: each.wanted for each in taken}
    for request in claim.spec.devices.requests:
        wanted = found.get(request.name)
        if wanted is not None:
            yield request.name, wanted.name, wanted.request.deviceClassName


def _class_config(
    claim: ResourceClaim, taken: Sequence[Taken], device_class: Callable[[str], DeviceClass | None]
) -> Iterator[DeviceAllocationConfiguration]:
    """Each class is told once, with all requests that use it."""
    requests: dict[str, list[str]] = {}
    for _, name, class_name in _chosen(claim, taken):
        requests.setdefault(class_name, []).append(name)
    for class_name, names in requests.items():
        found = device_class(class_name)
        for config in found.spec.config if found is not None else ():
            yield DeviceAllocationConfiguration(
                source="FromClass", requests=names, opaque=config.opaque
            )


def _claim_config(
    claim: ResourceClaim, taken: Sequence[Taken]
) -> Iterator[DeviceAllocationConfiguration]:
    chosen = [*_chosen(claim, taken)]
    for config in claim.spec.devices.config:
        mine = config.requests
        for _ in (
            [name for name, full, _ in chosen if name in mine or full in mine] if mine else [None]
        ):
            yield DeviceAllocationConfiguration(
                source="FromClaim", requests=mine, opaque=config.opaque
            )


def node_selector(taken: Sequence[Taken], node: str) -> NodeSelector | None:
    """Where the devices can be used: on one node, on those that all of them select, or anywhere."""
    term = NodeSelectorTerm()
    for each in taken:
        spec, device = each.device.slice.slice.spec, each.device.device
        where = device if spec.perDeviceNodeSelection else spec
        if where.nodeName or device.bindsToNode:
            only = NodeSelectorRequirement(key="metadata.name", operator="In", values=[node])
            return NodeSelector(nodeSelectorTerms=[NodeSelectorTerm(matchFields=[only])])
        for inner in where.nodeSelector.nodeSelectorTerms if where.nodeSelector else ():
            # Upstream puts fields and labels where they belong; what is there already stays once.
            _merge(term.matchFields, inner.matchFields)
            _merge(term.matchExpressions, inner.matchExpressions)
    if not term.matchFields and not term.matchExpressions:
        return None
    return NodeSelector(nodeSelectorTerms=[term])


def _merge(target: list[NodeSelectorRequirement], more: Sequence[NodeSelectorRequirement]) -> None:
    known = {(each.key, each.operator, frozenset(each.values)) for each in target}
    for each in more:
        if (each.key, each.operator, frozenset(each.values)) not in known:
            target.append(each)
