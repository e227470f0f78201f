"""Endpoints and EndpointSlices of a Service, from its pods."""

from types import SimpleNamespace
from typing import cast

import pytest

from navarch.api.types.core_v1 import (
    Container,
    ContainerPort,
    Endpoints,
    Pod,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client, ClientConfig, ControllerContext, FakeClock, InformerFactory
from navarch.client.informer import Handler
from navarch.controllers.endpoints import CAPACITY, OVER_CAPACITY, EndpointsController
from navarch.controllers.endpoints import desired as desired_endpoints
from navarch.controllers.endpointslice import MAX_ENDPOINTS, desired, plan
from navarch.controllers.service_pods import Triggers, backends_of


def pod(number: int, ready: bool = True, port: int = 8080, **meta: object) -> Pod:
    return Pod(
        metadata=ObjectMeta(
            name=f"p{number:04}",
            namespace="d",
            uid=f"u{number}",
            labels={"app": "a"},
            **meta,  # type: ignore[arg-type]
        ),
        spec=PodSpec(
            nodeName="n1",
            hostname=f"h{number}",
            subdomain="web" if number == 1 else "",
            containers=[
                Container(name="c", ports=[ContainerPort(name="http", containerPort=port)])
            ],
        ),
        status=PodStatus(
            phase="Running",
            podIPs=[PodIP(ip=f"10.0.{number // 250}.{number % 250}")],
            conditions=[PodCondition(type="Ready", status="True" if ready else "False")],
        ),
    )


def service(target: int | str = "http", **spec: object) -> Service:
    fields: dict[str, object] = {
        "clusterIP": "10.96.0.9",
        "selector": {"app": "a"},
        "ports": [ServicePort(name="web", port=80, targetPort=target)],
        **spec,
    }
    return Service(
        metadata=ObjectMeta(name="web", namespace="d", uid="s"),
        spec=ServiceSpec(**fields),  # type: ignore[arg-type]
    )


def slices(of: Service, pods: list[Pod], existing: list[EndpointSlice]) -> list[EndpointSlice]:
    """The slices after the plan was carried out."""
    zones = {"n1": "z1"}
    decided = plan(of, desired(of, backends_of(of, pods), zones), existing)
    updated = {s.metadata.name: s for s in decided.update}
    deleted = {s.metadata.name for s in decided.delete}
    kept = [updated.get(s.metadata.name, s) for s in existing]
    for index, new in enumerate(decided.create):
        new.metadata.name = f"new-{len(existing)}-{index}"
    return [s for s in kept if s.metadata.name not in deleted] + decided.create


def addresses(result: list[EndpointSlice]) -> set[str]:
    found = [e.addresses[0] for s in result for e in s.endpoints]
    assert len(found) == len(set(found)), "an address stands in two slices"
    return set(found)


def test_a_service_without_pods_has_an_empty_slice() -> None:
    (only,) = slices(service(), [], [])
    assert (only.endpoints, only.ports, only.addressType) == ([], [], "IPv4")
    assert slices(service(), [], [only]) == [only], "and keeps it"
    (filled,) = slices(service(), [pod(1)], [only])
    assert filled.metadata.name == only.metadata.name, "it is filled, not replaced"
    (emptied,) = slices(service(), [], [filled])
    assert emptied.endpoints == []


def test_conditions_hostname_and_ports() -> None:
    leaving = pod(3, deletionTimestamp="2026-01-01T00:00:00Z")
    (only,) = slices(service(), [pod(1), pod(2, ready=False), leaving], [])
    states = [
        (e.conditions.ready, e.conditions.serving, e.conditions.terminating) for e in only.endpoints
    ]
    assert states == [(True, True, False), (False, False, False), (False, True, True)]
    assert [e.hostname for e in only.endpoints] == ["h1", None, None]
    assert (only.ports[0].name, only.ports[0].port) == ("web", 8080)
    assert only.endpoints[0].zone == "z1"


def test_a_named_port_may_differ_between_pods() -> None:
    result = slices(service(), [pod(1), pod(2, port=9090)], [])
    assert sorted(s.ports[0].port or 0 for s in result) == [8080, 9090]
    assert len(slices(service("nothing"), [pod(1)], [])[0].endpoints) == 0


def test_finished_pods_and_pods_without_address_are_left_out() -> None:
    done, fresh = pod(1), pod(2)
    done.status.phase = "Succeeded"
    fresh.status.podIPs = []
    assert backends_of(service(), [done, fresh]) == []


def test_slices_hold_a_hundred_and_change_as_little_as_can_be() -> None:
    pods = [pod(i) for i in range(250)]
    result = slices(service(), pods, [])
    assert [len(s.endpoints) for s in result] == [MAX_ENDPOINTS, MAX_ENDPOINTS, 50]
    of = service()
    decided = plan(of, desired(of, backends_of(of, pods[1:]), {"n1": "z1"}), result)
    assert (len(decided.create), len(decided.update), len(decided.delete)) == (0, 1, 0)
    more = slices(of, [*pods, pod(300)], result)
    assert [len(s.endpoints) for s in more] == [MAX_ENDPOINTS, MAX_ENDPOINTS, 51]
    assert len(addresses(more)) == 251


@pytest.mark.parametrize("preference", ["PreferClose", "PreferSameZone", "PreferSameNode"])
def test_hints(preference: str) -> None:
    (only,) = slices(service(trafficDistribution=preference), [pod(1)], [])
    hints = only.endpoints[0].hints
    assert hints is not None and hints.forZones[0].name == "z1"
    assert bool(hints.forNodes) == (preference == "PreferSameNode")


def test_endpoints_object() -> None:
    result = desired_endpoints(service(), backends_of(service(), [pod(1), pod(2, False)]), None)
    (subset,) = result.subsets
    assert [a.ip for a in subset.addresses] == ["10.0.0.1"]
    assert [a.ip for a in subset.notReadyAddresses] == ["10.0.0.2"]
    assert subset.ports[0].port == 8080
    of = service(publishNotReadyAddresses=True)
    published = desired_endpoints(of, backends_of(of, [pod(2, False)]), result)
    assert [a.ip for a in published.subsets[0].addresses] == ["10.0.0.2"]
    assert desired_endpoints(service(), [], None).subsets == []


def test_endpoints_are_truncated() -> None:
    pods = [pod(i, ready=i % 2 == 0) for i in range(CAPACITY + 200)]
    result = desired_endpoints(service(), backends_of(service(), pods), None)
    (subset,) = result.subsets
    assert len(subset.addresses) == (CAPACITY + 200) // 2
    assert len(subset.addresses) + len(subset.notReadyAddresses) == CAPACITY
    assert result.metadata.annotations[OVER_CAPACITY] == "truncated"


async def test_events_of_a_large_service_are_gathered() -> None:
    clock = FakeClock()
    client = Client(ClientConfig("http://nobody.example"), clock=clock)
    controller = EndpointsController(ControllerContext(client, InformerFactory(client), clock))
    controller.services.cache.put("d/web", service())
    (handler,) = (each for each in controller.pods._handlers if isinstance(each, Handler))
    assert handler.on_update is not None
    for number in range(2):
        controller.pods.cache.put(f"d/p{number}", pod(number))
    controller.backends("d/web", service())
    handler.on_update(pod(1), pod(1))
    assert len(controller.queue) == 1
    controller.queue.done(await controller.queue.get())
    for number in range(1000):
        controller.pods.cache.put(f"d/p{number}", pod(number))
    controller.backends("d/web", service())
    for number in range(1000):
        handler.on_update(pod(number), pod(number))
    assert len(controller.queue) == 0
    await clock.advance(0.9)
    assert len(controller.queue) == 0
    await clock.advance(0.2)
    assert len(controller.queue) == 1


async def test_endpoints_are_not_written_again_before_the_last_write_is_seen() -> None:
    clock = FakeClock()
    client = Client(ClientConfig("http://nobody.example"), clock=clock)
    controller = EndpointsController(ControllerContext(client, InformerFactory(client), clock))
    written: list[Endpoints] = []

    async def write(wanted: Endpoints) -> Endpoints:
        wanted.metadata.resourceVersion = str(5 + len(written))
        written.append(wanted)
        return wanted

    resource = SimpleNamespace(create=write, update=write)
    controller.client = cast("Client", SimpleNamespace(resource=lambda kind: resource))
    controller.services.cache.put("d/web", service())
    await controller.reconcile("d/web")
    controller.pods.cache.put("d/p1", pod(1))
    await controller.reconcile("d/web")
    assert len(written) == 1
    controller.endpoints.cache.put("d/web", written[0])
    controller.endpoints.resource_version = "5"
    await controller.reconcile("d/web")
    assert len(written) == 2
    assert [each.ip for each in written[1].subsets[0].addresses] == ["10.0.0.1"]


def test_a_service_of_two_families_has_slices_of_both() -> None:
    of = service(ipFamilies=["IPv6", "IPv4"])
    assert sorted(s.addressType for s in slices(of, [], [])) == ["IPv4", "IPv6"]
    both, four = pod(1), pod(2)
    both.status.podIPs.append(PodIP(ip="fd00::1"))
    found = {s.addressType: addresses([s]) for s in slices(of, [both, four], [])}
    assert found == {"IPv4": {"10.0.0.1", "10.0.0.2"}, "IPv6": {"fd00::1"}}
    (only,) = desired_endpoints(of, backends_of(of, [both, four]), None).subsets
    assert [each.ip for each in only.addresses] == ["fd00::1"]
    single = service(ipFamilies=["IPv4"])
    left = slices(single, [both], slices(of, [both], []))
    assert [s.addressType for s in left] == ["IPv4"]


def test_the_oldest_change_triggers() -> None:
    def at(number: int, second: int, ready: bool = True) -> Pod:
        found = pod(number, ready)
        found.status.conditions[0].lastTransitionTime = f"2026-01-01T00:00:{second:02}Z"
        return found

    triggers, of = Triggers(), service()
    of.metadata.creationTimestamp = "2025-01-01T00:00:00Z"

    def since(*pods: Pod) -> str:
        return triggers.since("d/web", of, backends_of(of, pods))

    assert since(at(1, 1)) == "2025-01-01T00:00:00Z", "before, nobody looked"
    assert since(at(1, 1)) == ""
    assert since(at(1, 5), at(2, 3), at(3, 4, False)).endswith("00:00:03Z")
    assert since(at(1, 5), at(2, 3)) == "", "a pod that is gone has no time"
    triggers.forget("d/web")
    assert since(at(1, 9)) == "2025-01-01T00:00:00Z"
