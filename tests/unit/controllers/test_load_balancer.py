"""Who gets which LoadBalancer address: rules one by one, then random histories by a model."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from navarch.api.load_balancers import POOL_ANNOTATION
from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.load_balancer import patch_of
from navarch.controllers.load_balancer_plan import (
    FINALIZER,
    OWN_CLASS,
    Books,
    Decision,
    Pool,
    adopt,
    decide,
    parse_pools,
    parse_range,
)

MB = "metallb.io/"
DUAL: dict[str, Any] = {"ipFamilies": ["IPv4", "IPv6"]}


def service(name: str, annotations: Mapping[str, str] | None = None, **spec: Any) -> Service:
    shown = spec.pop("shown", ())
    ports = [ServicePort(port=each, protocol="TCP") for each in spec.pop("ports", (80,))]
    labels = spec.pop("labels", {})
    values: dict[str, Any] = {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "ports": ports}
    return Service(
        metadata=ObjectMeta(
            name=name,
            namespace="ns",
            uid=f"{name}-1",
            resourceVersion="1",
            labels=labels,
            annotations=dict(annotations or {}),
        ),
        spec=ServiceSpec(**(values | spec)),
        status=_status(shown),
    )


def _status(shown: Any) -> ServiceStatus:
    ingress = [LoadBalancerIngress(ip=each, ipMode="VIP") for each in shown]
    return ServiceStatus(loadBalancer=LoadBalancerStatus(ingress=ingress))


def pools(text: str = "10.0.0.1-10.0.0.3") -> tuple[Pool, ...]:
    return parse_pools(f"address-pools: [{{name: default, addresses: [{text}]}}]")


def given(books: Books, each: Service, **labels: str) -> list[str]:
    decision = decide(books, each, labels)
    assert decision.given is not None, decision
    return [str(address) for address in decision.given.addresses]


def refused(books: Books, each: Service) -> str:
    decision = decide(books, each)
    assert decision.given is None
    return decision.events[0].message


SPECIAL = """\
address-pools:
- name: general
  protocol: layer2
  addresses: [10.0.0.0/31, "fd00::1-fd00::9"]
  avoid-buggy-ips: true
- name: special
  addresses: [10.1.0.1-10.1.0.1]
  serviceAllocation:
    priority: 5
    namespaceSelectors: [{matchLabels: {team: a}}]
    serviceSelectors: [{matchLabels: {tier: web}}]
- name: manual
  addresses: [10.2.0.0/30]
  autoAssign: false
"""


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        pytest.param(service("a"), ["10.0.0.1"], id="the first that is not .0"),
        pytest.param(service("a", labels={"tier": "web"}), ["10.1.0.1"], id="the special pool"),
        pytest.param(service("a", {MB + "address-pool": "manual"}), ["10.2.0.0"], id="named pool"),
        pytest.param(
            service("a", {"metallb.universe.tf/address-pool": "manual"}),
            ["10.2.0.0"],
            id="old name",
        ),
        pytest.param(service("a", loadBalancerIP="10.2.0.3"), ["10.2.0.3"], id="field"),
        pytest.param(
            service("a", {MB + "loadBalancerIPs": "10.2.0.2"}), ["10.2.0.2"], id="annotation"
        ),
        pytest.param(
            service("a", {MB + "loadBalancerIPs": "fd00::7, 10.0.0.1"}, **DUAL),
            ["fd00::7", "10.0.0.1"],
            id="both requested",
        ),
        pytest.param(service("a", ipFamilies=["IPv6"]), ["fd00::1"], id="IPv6"),
        pytest.param(service("a", **DUAL), ["10.0.0.1", "fd00::1"], id="both families"),
        pytest.param(
            service("a", {MB + "address-pool": "manual"}, **DUAL, ipFamilyPolicy="PreferDualStack"),
            ["10.2.0.0"],
            id="one of both does",
        ),
        pytest.param(service("a", loadBalancerClass=OWN_CLASS), ["10.0.0.1"], id="own class"),
    ],
)
def test_what_is_given(each: Service, expected: list[str]) -> None:
    assert given(Books(parse_pools(SPECIAL)), each, team="a") == expected


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (service("a", loadBalancerIP="10.9.0.1"), '["10.9.0.1"] is not allowed in config'),
        (service("a", loadBalancerIP="10.0.0.0"), '["10.0.0.0"] is not allowed in config'),
        (service("a", loadBalancerIP="10.1.0.1"), "pool special not compatible"),
        (service("a", loadBalancerIP="fd00::1"), "does not match the ipFamily"),
        (service("a", loadBalancerIP="nonsense"), "invalid requested address 'nonsense'"),
        (
            service("a", {MB + "loadBalancerIPs": "10.0.0.1"}, loadBalancerIP="10.0.0.1"),
            "service can not have both",
        ),
        (service("a", {MB + "address-pool": "none"}), 'unknown pool "none"'),
        (service("a", {MB + "address-pool": "special"}), "pool special not compatible"),
        (
            service("a", {MB + "address-pool": "manual"}, loadBalancerIP="10.0.0.1"),
            "is not compatible with requested address pool manual",
        ),
        (service("a", {MB + "address-pool": "manual"}, **DUAL), "no available IPs"),
    ],
)
def test_what_is_refused(each: Service, message: str) -> None:
    books = Books(parse_pools(SPECIAL))
    assert message in refused(books, each)
    assert not books.held


@pytest.mark.parametrize(
    "each",
    [
        service("a", type="NodePort"),
        service("a", loadBalancerClass="example.com/other", shown=["203.0.113.1"]),
        service("a", shown=["203.0.113.1"]),
        service("a", type="ClusterIP", shown=["203.0.113.1"]),
    ],
)
@pytest.mark.conformance("Services should complete a service status lifecycle")
def test_what_is_not_ours_is_left_alone(each: Service) -> None:
    for books in (Books(), Books(pools())):
        assert patch_of(each, decide(books, each)) is None
        assert not books.held


def test_a_hostname_of_another_provider_is_left_alone() -> None:
    each = service("a")
    each.status.loadBalancer.ingress = [LoadBalancerIngress(hostname="lb.example.com")]
    assert patch_of(each, decide(Books(pools()), each)) is None


def test_everything_is_written_at_once() -> None:
    each = service("a")
    assert patch_of(each, decide(Books(pools()), each)) == {
        "metadata": {
            "uid": "a-1",
            "resourceVersion": "1",
            "finalizers": [FINALIZER],
            "annotations": {POOL_ANNOTATION: "default"},
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ipMode": "VIP"}]}},
    }


def test_without_a_pool_only_what_is_ours_is_taken_back() -> None:
    each = service("a", {POOL_ANNOTATION: "default"}, shown=["10.0.0.1"])
    each.metadata.finalizers = ["example.com/other", FINALIZER]
    body = patch_of(each, decide(Books(), each))
    assert body is not None
    assert body["metadata"]["finalizers"] == ["example.com/other"]
    assert body["metadata"]["annotations"] == {POOL_ANNOTATION: None}
    assert body["status"] == {"loadBalancer": None}


def test_a_deleted_service_keeps_its_address_until_it_is_gone() -> None:
    books = Books(pools())
    each = service("a", {POOL_ANNOTATION: "default"}, shown=["10.0.0.1"])
    each.metadata.finalizers = [FINALIZER]
    adopt(books, [each], {})
    each.metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
    body = patch_of(each, decide(books, each))
    assert body is not None and body["metadata"]["finalizers"] == [] and "status" not in body
    assert given(books, service("b")) == ["10.0.0.2"]


SHARED = {MB + "allow-shared-ip": "x"}


@pytest.mark.parametrize(
    ("other", "shares"),
    [
        pytest.param(service("b", SHARED, ports=[443]), True, id="other port"),
        pytest.param(service("b", SHARED, ports=[80]), False, id="the same port"),
        pytest.param(service("b", {MB + "allow-shared-ip": "y"}, ports=[443]), False, id="key"),
        pytest.param(service("b", ports=[443]), False, id="no key"),
        pytest.param(
            service("b", SHARED, ports=[443], externalTrafficPolicy="Local", selector={"a": "b"}),
            False,
            id="elsewhere",
        ),
    ],
)
def test_sharing(other: Service, shares: bool) -> None:
    books = Books(pools())
    assert given(books, service("a", SHARED)) == ["10.0.0.1"]
    assert given(books, copy_object(other)) == (["10.0.0.1"] if shares else ["10.0.0.2"])


def test_local_policies_share_with_one_selector() -> None:
    local: dict[str, Any] = {"externalTrafficPolicy": "Local", "selector": {"app": "web"}}
    books = Books(pools())
    assert given(books, service("a", SHARED, **local)) == ["10.0.0.1"]
    assert given(books, service("b", SHARED, **local, ports=[443])) == ["10.0.0.1"]


def test_who_prefers_both_families_gets_the_second_later() -> None:
    books = Books(pools())
    each = service("a", **DUAL, ipFamilyPolicy="PreferDualStack")
    assert given(books, each) == ["10.0.0.1"]
    each.status = _status(["10.0.0.1"])
    assert decide(books, each).is_pending
    books.set_pools(pools("10.0.0.1-10.0.0.3, fd00::/120"))
    assert given(books, each) == ["10.0.0.1", "fd00::"]


def test_a_changed_wish_is_met_after_the_old_address_is_cleared() -> None:
    books = Books(pools())
    each = service("a", {POOL_ANNOTATION: "default"}, shown=["10.0.0.1"], loadBalancerIP="10.0.0.3")
    decision = decide(books, each)
    assert decision.clears_status and decision.events[0].reason == "ClearAssignment"
    each.status = ServiceStatus()
    assert given(books, each) == ["10.0.0.3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("address-pools: [{name: a, addresses: [10.0.0.9-10.0.0.1]}]", "pool a: '10.0.0.9-10"),
        ("address-pools: [{name: a, addresses: [10.0.0.9]}]", "neither a range A-B nor a CIDR"),
        ("address-pools: [{name: a, addresses: [10.0.0.0-fd00::1]}]", "does not come after"),
        ("address-pools: [{name: a}]", "missing required field `addresses`"),
        ("address-pools: [{name: a, adresses: []}]", "unknown field `adresses`"),
        ("address-pools: [{name: a, protocol: bgp, addresses: [10.0.0.0/24]}]", "bgp"),
        (
            "address-pools: [{name: a, addresses: [10.0.0.0/24]},"
            " {name: b, addresses: [10.0.0.7-10.0.0.7]}]",
            "pool b overlaps with pool a",
        ),
        ("[}", "parsing"),
        ("- a", "Expected `object`"),
    ],
)
def test_a_configuration_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as refusal:
        parse_pools(text)
    assert message in str(refusal.value)


def test_an_empty_configuration_has_no_pools() -> None:
    assert parse_pools("") == ()
    assert parse_range("10.0.0.0/30").last == ipaddress.ip_address("10.0.0.3")


WISHES = st.fixed_dictionaries(
    {
        "pool": st.sampled_from(["", "", "", "one", "two"]),
        "requested": st.sampled_from(["", "", "", "10.0.0.1", "10.0.1.1", "10.0.2.1"]),
        "sharing": st.sampled_from(["", "", "x", "y"]),
        "port": st.sampled_from([80, 80, 443]),
        "local": st.booleans(),
        "type": st.sampled_from(["LoadBalancer"] * 5 + ["ClusterIP"]),
    }
)
NAMES = st.sampled_from("abcd")
CONFIGURATIONS = {
    "both": [("one", "10.0.0.1-10.0.0.1"), ("two", "10.0.1.1-10.0.1.2")],
    "one": [("one", "10.0.0.1-10.0.0.2")],
    "moved": [("one", "10.0.0.2-10.0.0.2"), ("two", "10.0.2.1-10.0.2.1")],
    "none": [],
}


def configuration(name: str) -> tuple[Pool, ...]:
    return tuple(Pool(each, (parse_range(text),)) for each, text in CONFIGURATIONS[name])


class Histories(RuleBasedStateMachine):
    """The API is `stored`; the controller sees `seen`, which lags behind, and is killed at any
    point: before a write, after it (the answer is lost), or between any two. What holds at any time
    is said without the controller's words: by looking at the stored Services alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[str, Service] = {}
        self.seen: dict[str, Service] = {}
        self.version = 1
        self.configured = "both"
        self.start_controller()

    def start_controller(self) -> None:
        """A new controller lists everything before it acts."""
        self.seen = {name: copy_object(each) for name, each in self.stored.items()}
        self.books = Books(configuration(self.configured))
        adopt(self.books, self.seen.values(), {})

    def _store(self, name: str, each: Service) -> None:
        self.version += 1
        each.metadata.resourceVersion = str(self.version)
        self.stored[name] = each

    @rule(name=NAMES, wish=WISHES)
    def write(self, name: str, wish: dict[str, Any]) -> None:
        """A user creates a Service or changes what it asks for; status and finalizers stay."""
        old = self.stored.get(name)
        annotations = {
            key: value
            for key, value in (
                (MB + "address-pool", wish["pool"]),
                (MB + "loadBalancerIPs", wish["requested"]),
                (MB + "allow-shared-ip", wish["sharing"]),
            )
            if value
        }
        each = service(name, annotations, type=wish["type"], ports=[wish["port"]])
        if wish["local"]:
            each.spec.externalTrafficPolicy, each.spec.selector = "Local", {"app": name}
        if old is not None:
            if old.metadata.deletionTimestamp:
                return
            each.metadata.uid, each.status = old.metadata.uid, old.status
            each.metadata.finalizers = old.metadata.finalizers
            if POOL_ANNOTATION in old.metadata.annotations:
                pool = old.metadata.annotations[POOL_ANNOTATION]
                each.metadata.annotations[POOL_ANNOTATION] = pool
        else:
            each.metadata.uid = f"{name}-{self.version}"
        self._store(name, each)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        each = self.stored.get(name)
        if each is None:
            return
        if not each.metadata.finalizers:
            del self.stored[name]
            return
        each = copy_object(each)
        each.metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
        self._store(name, each)

    @rule(name=NAMES)
    def see(self, name: str) -> None:
        """The informer catches up with one Service."""
        each, before = self.stored.get(name), self.seen.get(name)
        if before is not None and (each is None or each.metadata.uid != before.metadata.uid):
            self.books.release(f"ns/{name}")
            del self.seen[name]
        if each is not None:
            self.seen[name] = copy_object(each)

    @rule(name=NAMES, fate=st.sampled_from(["lives"] * 4 + ["killed before", "killed after"]))
    def reconcile(self, name: str, fate: str) -> None:
        each = self.seen.get(name)
        if each is None:
            return
        decision = decide(self.books, each)
        body = patch_of(each, decision)
        if fate == "killed before":
            self.start_controller()
            return
        is_written = body is None or self._patch(name, body)
        if fate == "killed after":
            self.start_controller()
        elif is_written and decision.clears:
            self.books.release(f"ns/{name}")

    def _patch(self, name: str, body: dict[str, Any]) -> bool:
        old, meta = self.stored.get(name), body["metadata"]
        if old is None or old.metadata.resourceVersion != meta["resourceVersion"]:
            return False
        each = copy_object(old)
        each.metadata.finalizers = meta["finalizers"]
        for key, value in meta.get("annotations", {}).items():
            each.metadata.annotations.pop(key, None)
            if value is not None:
                each.metadata.annotations[key] = value
        if "status" in body:
            balancer = body["status"]["loadBalancer"] or {"ingress": []}
            each.status = _status([entry["ip"] for entry in balancer["ingress"]])
        self._store(name, each)
        if each.metadata.deletionTimestamp and not each.metadata.finalizers:
            del self.stored[name]
        return True

    @rule(name=st.sampled_from(sorted(CONFIGURATIONS)))
    def configure(self, name: str) -> None:
        self.configured = name
        self.books.set_pools(configuration(name))
        adopt(self.books, self.seen.values(), {})

    @precondition(lambda self: len(self.stored) > 1)
    @rule()
    def settle(self) -> None:
        """Left alone, everything comes to rest, and at rest everybody has what the rules say."""
        for _ in range(3 * len(self.stored) + 3):
            for name in [*self.seen.keys() | self.stored.keys()]:
                self.see(name)
                self.reconcile(name, "lives")
        for name in [*self.seen]:
            self.see(name)
        free = self._free()
        for name, each in self.stored.items():
            assert patch_of(each, decide(self.books, each)) is None, name
            shown = [entry.ip for entry in each.status.loadBalancer.ingress]
            asks = each.metadata.annotations
            if each.spec.type != "LoadBalancer" or self.configured == "none":
                assert not shown and not each.metadata.finalizers
                continue
            requested, pool = asks.get(MB + "loadBalancerIPs"), asks.get(MB + "address-pool")
            if shown:
                assert not requested or shown == [requested]
                assert not pool or asks[POOL_ANNOTATION] == pool
                assert FINALIZER in each.metadata.finalizers
            elif requested:
                assert not (requested in free and pool in (None, free[requested]))
            else:
                assert not any(pool in (None, owner) for owner in free.values())

    def _free(self) -> dict[str, str]:
        """Addresses that nobody shows, and their pools."""
        shown = {
            entry.ip for each in self.stored.values() for entry in each.status.loadBalancer.ingress
        }
        return {
            str(ipaddress.ip_address(number)): name
            for name, text in CONFIGURATIONS[self.configured]
            for number in range(int(parse_range(text).first), int(parse_range(text).last) + 1)
            if str(ipaddress.ip_address(number)) not in shown
        }

    @invariant()
    def nobody_has_what_another_has(self) -> None:
        """Of two that show one address as LoadBalancers both agreed to it at the time; a later
        change of terms may stand until it is seen, never a new assignment."""
        terms: dict[str, list[Service]] = {}
        for each in self.stored.values():
            for entry in each.status.loadBalancer.ingress:
                terms.setdefault(entry.ip, []).append(each)
        for address, users in terms.items():
            keys = {self.agreed.get((each.metadata.uid, address), "") for each in users}
            assert len(users) == 1 or (len(keys) == 1 and "" not in keys), (address, users)

    @property
    def agreed(self) -> dict[tuple[str, str], str]:
        """By Service and address: the sharing key under which it was first shown with it."""
        if not hasattr(self, "_agreed"):
            self._agreed: dict[tuple[str, str], str] = {}
        current = set()
        for each in self.stored.values():
            for entry in each.status.loadBalancer.ingress:
                at = (each.metadata.uid, entry.ip)
                current.add(at)
                self._agreed.setdefault(at, self._asked_for(each))
        for at in self._agreed.keys() - current:
            del self._agreed[at]
        return self._agreed

    @staticmethod
    def _asked_for(each: Service) -> str:
        key = each.metadata.annotations.get(MB + "allow-shared-ip", "")
        backend = each.spec.selector if each.spec.externalTrafficPolicy == "Local" else ""
        return f"{key}/{backend}" if key else ""


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_nothing_is_decided_of_nothing() -> None:
    assert patch_of(service("a"), Decision()) is None
