"""The kinds of the network against upstream's own words: one bad field at a time, and what is only
warned of. Each text was given by upstream's server for the same object, but for the names of fields
within values."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.kinds import KINDS
from navarch.api.schema.decode import normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.api.strategies.base import Strategy
from navarch.api.strategies.registry import strategy_for

Object = dict[str, Any]

SERVED = {
    kind.plural: kind
    for kind in KINDS
    if (kind.group, kind.version) in (("", "v1"), ("discovery.k8s.io", "v1"))
    or (kind.group, kind.version) == ("networking.k8s.io", "v1")
}
PARENT = {"resource": "services", "namespace": "default", "name": "x"}
BACKEND = {"service": {"name": "s", "port": {"number": 80}}}


def made(plural: str, **content: Any) -> tuple[Strategy, Object]:
    kind = SERVED[plural]
    strategy = strategy_for(kind)
    name = content.pop("name", "a")
    metadata = {"name": name, "annotations": content.pop("annotations", {})}
    obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **content}
    obj, _ = normalise_object(kind, obj)
    apply_defaults(kind, obj)
    strategy.defaults(obj)
    strategy.prepare_create(obj)
    return strategy, obj


def service(**spec: Any) -> Object:
    return {"spec": {"ports": [{"port": 80}], **spec}}


def slice_(kind: str, *addresses: str, **endpoint: Any) -> Object:
    return {"addressType": kind, "endpoints": [{"addresses": list(addresses), **endpoint}]}


def subset(ip: str) -> Object:
    return {"subsets": [{"addresses": [{"ip": ip}]}]}


def policy(cidr: str, *excepted: str) -> Object:
    block = {"cidr": cidr, "except": list(excepted)}
    return {"spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]}}


def ingress(**backend: Any) -> Object:
    return {"spec": {"defaultBackend": backend}}


def cidrs(*ranges: str) -> Object:
    return {"spec": {"cidrs": list(ranges)}}


MAPPED = "must not be an IPv4-mapped IPv6 address"
BITS = "must not have bits set beyond the prefix length"
ZEROS = "must not have leading 0s"


@pytest.mark.parametrize(
    ("plural", "content", "expected"),
    [
        ("services", service(externalIPs=["01.2.3.4"]), f'externalIPs[0]: "01.2.3.4": {ZEROS}'),
        ("services", service(clusterIP="::ffff:1.2.3.4"), f'"::ffff:1.2.3.4": {MAPPED}'),
        (
            "services",
            service(clusterIPs=["10.0.0.1"]),
            'clusterIPs: ["10.0.0.1"]: must be empty when `clusterIP` is not specified',
        ),
        (
            "services",
            service(clusterIP="None", clusterIPs=["None", "fd00::1"]),
            "'None' must be the first and only value",
        ),
        (
            "services",
            service(clusterIP="10.0.0.1", ipFamilies=["IPv6"]),
            'clusterIPs[0]: "10.0.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`',
        ),
        ("services", service(ipFamilies=["IPv4", "IPv4"]), 'Duplicate value: "IPv4"'),
        ("services", service(ipFamilies=["IPv5"]), 'ipFamilies[0]: Unsupported value: "IPv5"'),
        (
            "services",
            service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.1/8"]),
            f'spec.LoadBalancerSourceRanges[0]: "10.0.0.1/8": {BITS}',
        ),
        (
            "services",
            service(type="LoadBalancer", loadBalancerSourceRanges=["010.0.0.0/8"]),
            f"{ZEROS} in IP or prefix length",
        ),
        ("endpoints", subset(""), 'subsets[0].addresses[0].ip: "": must be a valid IP address'),
        ("endpoints", subset("010.0.0.1"), ZEROS),
        ("endpoints", subset("::ffff:10.0.0.1"), MAPPED),
        ("endpoints", subset("127.0.0.01"), "may not be in the loopback range"),
        ("endpoints", subset("::ffff:127.0.0.1"), "may not be in the loopback range"),
        ("endpoints", subset("::ffff:169.254.169.254"), "may not be in the link-local range"),
        (
            "endpointslices",
            slice_("IPv4", "fd00::1"),
            'endpoints[0].addresses: "fd00::1": must be an IPv4 address',
        ),
        (
            "endpointslices",
            slice_("IPv6", "FD00::1"),
            'endpoints[0].addresses[0]: "FD00::1": must be in canonical form ("fd00::1")',
        ),
        ("endpointslices", slice_("IPv6", "::ffff:10.0.0.1"), MAPPED),
        (
            "endpointslices",
            slice_("IPv4", "10.0.0.1", hints={"forZones": [{"name": "a b"}]}),
            'forZones[0].name: "a b": a valid label must be an empty string or consist of',
        ),
        (
            "endpointslices",
            slice_("IPv4", "10.0.0.1", hints={"forNodes": [{"name": f"n{i}"} for i in range(9)]}),
            "endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items",
        ),
        ("ingresses", ingress(resource={"apiGroup": "a_", "kind": "K", "name": "n"}), "apiGroup"),
        ("ingresses", ingress(resource={"kind": "", "name": "n"}), "resource.kind: Required value"),
        (
            "ingresses",
            {
                "annotations": {"kubernetes.io/ingress.class": "y"},
                "spec": {"ingressClassName": "x", "defaultBackend": BACKEND},
            },
            'annotations.kubernetes.io/ingress.class: "y": must match `ingressClassName` when both',
        ),
        ("ingressclasses", {"spec": {}}, "spec.controller: Required value"),
        ("networkpolicies", policy("10.0.0.1/8"), f'ipBlock.cidr: "10.0.0.1/8": {BITS}'),
        ("networkpolicies", policy("10.0.0.0/8", "11.0.0.0/16"), "must be a strict subset of"),
        ("servicecidrs", cidrs(), "spec.cidrs: Required value: at least one CIDR required"),
        ("servicecidrs", cidrs("10.0.0.1/24"), BITS),
        (
            "servicecidrs",
            cidrs("FD00::/64"),
            'spec.cidrs[0]: "FD00::/64": must be in canonical form ("fd00::/64")',
        ),
        (
            "servicecidrs",
            cidrs("10.0.0.0/24", "fd00::/64", "10.0.1.0/24"),
            'spec.cidrs: {"CIDRs":["10.0.0.0/24","fd00::/64","10.0.1.0/24"]}: may only hold',
        ),
        ("servicecidrs", cidrs("10.0.0.0/24", "10.0.1.0/24"), "may specify no more than one IP"),
        ("ipaddresses", {"spec": {}}, "spec.parentRef: Required value"),
        ("ipaddresses", {"spec": {"parentRef": {"resource": "x"}}}, "parentRef.name: Required"),
    ],
)
def test_refused(plural: str, content: Object, expected: str) -> None:
    strategy, obj = made(plural, **content)
    found = [str(each).replace("Invalid value: ", "") for each in strategy.validate(obj)]
    assert any(expected in each for each in found), found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("10.1.2.3", []),
        ("10.1.2.03", [ZEROS]),
        ("::ffff:10.1.2.3", [MAPPED]),
        ("FD00::1", ['must be in canonical form ("fd00::1")']),
        ("x", ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]),
    ],
)
def test_names_of_addresses(name: str, expected: list[str]) -> None:
    assert strategy_for(SERVED["ipaddresses"]).validate_name(name) == expected


CANONICAL = 'should be in RFC 5952 canonical format ("fd00::1")'


@pytest.mark.parametrize(
    ("plural", "content", "expected"),
    [
        ("services", service(), []),
        (
            "services",
            service(clusterIP="FD00::1"),
            [f'spec.clusterIPs[0]: IPv6 address "FD00::1" {CANONICAL}'],
        ),
        (
            "services",
            {**service(), "annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}},
            [
                "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use "
                "service.kubernetes.io/topology-mode instead"
            ],
        ),
        (
            "services",
            service(type="LoadBalancer", loadBalancerSourceRanges=["FD00::/64"]),
            [
                'spec.loadBalancerSourceRanges[0]: IPv6 CIDR value "FD00::/64" should be in '
                'RFC 5952 canonical format ("fd00::/64")'
            ],
        ),
        (
            "endpoints",
            subset("FD00::1"),
            [f'subsets[0].addresses[0].ip: IPv6 address "FD00::1" {CANONICAL}'],
        ),
        (
            "endpointslices",
            slice_("FQDN", "a.b"),
            ["spec.addressType: FQDN endpoints are deprecated"],
        ),
        (
            "networkpolicies",
            policy("FD00::/64"),
            [
                'spec.ingress[0].from[0].ipBlock.cidr: IPv6 CIDR value "FD00::/64" should be in '
                'RFC 5952 canonical format ("fd00::/64")'
            ],
        ),
    ],
)
def test_warned_of(plural: str, content: Object, expected: list[str]) -> None:
    strategy, obj = made(plural, **content)
    assert strategy.validate(obj) == []
    assert [*strategy.warnings(obj, None)] == expected


def test_what_was_right_once_may_stay() -> None:
    for plural, content in (
        ("networkpolicies", policy("10.0.0.1/8")),
        ("endpoints", subset("010.0.0.1")),
        ("endpointslices", slice_("IPv4", "010.0.0.1")),
        ("services", service(clusterIP="010.0.0.1", externalIPs=["01.2.3.4"])),
    ):
        strategy, old = made(plural, **content)
        new = {**old, "metadata": {**old["metadata"], "labels": {"a": "b"}}}
        assert strategy.validate(old)
        assert strategy.validate_update(new, old, "") == [], plural
