"""/etc/hosts and resolv.conf of pods."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.types.core_v1 import HostAlias
from navarch.node.netfiles import (
    DnsSettings,
    host_network_hosts_file,
    hosts_file,
    pod_dns,
    resolv_conf_problem,
    without_resolv_conf,
)
from navarch.node.podspec import pod_domain, pod_hostname

NODE = DnsSettings(("10.0.0.9",), ("corp.test",), ("timeout:1",))
SUFFIXES = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.test")
CLUSTER = DnsSettings(("10.96.0.10",), SUFFIXES, ("ndots:5",))


def test_resolv_conf_is_read() -> None:
    text = "# a comment\nnameserver 10.0.0.9\nsearch a.test.\nsearch b.test c. .\noptions x y:1\n"
    text += "nameserver 10.0.0.8\noptions y:2\n"
    servers, options = ("10.0.0.9", "10.0.0.8"), ("x", "y:2")
    assert DnsSettings.parse(text) == DnsSettings(servers, ("b.test", "c"), options)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, CLUSTER, id="by default the cluster's"),
        pytest.param({"dnsPolicy": "Default"}, NODE, id="the node's"),
        pytest.param({"hostNetwork": True, "dnsPolicy": "ClusterFirst"}, NODE, id="host network"),
        pytest.param(
            {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, CLUSTER, id="both"
        ),
        pytest.param(
            {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"]}},
            DnsSettings(("1.1.1.1",), ("x",), ()), id="own",
        ),
        pytest.param(
            {"dnsConfig": {
                "nameservers": ["10.96.0.10", "1.1.1.1", "2.2.2.2", "3.3.3.3"],
                "searches": ["corp.test", "x"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"},
                            {"name": "rotate", "value": ""}],
            }},
            DnsSettings(("10.96.0.10", "1.1.1.1", "2.2.2.2"), (*SUFFIXES, "x"),
                        ("ndots:2", "edns0", "rotate")), id="merged and cut",
        ),
    ],
)  # fmt: skip
def test_pod_dns(spec: dict[str, Any], expected: DnsSettings) -> None:
    formed = pod_dns(make_pod(**spec), NODE, ("10.96.0.10",), "cluster.local")
    assert formed.settings == expected
    cut = "nameservers" in spec.get("dnsConfig", {}) and len(expected.servers) == 3
    assert [each.message for each in formed.warnings] == [
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied "
        "nameserver line is: 10.96.0.10 1.1.1.1 2.2.2.2"
    ] * cut


def test_no_cluster_dns_falls_back_and_tells() -> None:
    formed = pod_dns(make_pod(), NODE, (), "cluster.local")
    assert formed.settings == NODE
    (warning,) = formed.warnings
    assert (warning.reason, warning.of_node) == ("MissingClusterDNS", True)
    assert pod_dns(make_pod(dnsPolicy="Default"), NODE, (), "cluster.local").warnings == ()


@pytest.mark.parametrize(
    ("searches", "kept"),
    [
        pytest.param([f"d{i}.test" for i in range(33)], 32, id="many"),
        pytest.param(["a" * 254, "b.test"], 1, id="one too long"),
        pytest.param(["a" * 250] * 1 + [c * 250 for c in "bcdefghi"], 8, id="all too long"),
    ],
)
def test_searches_are_cut(searches: list[str], kept: int) -> None:
    config = {"nameservers": ["1.1.1.1"], "searches": searches}
    formed = pod_dns(make_pod(dnsPolicy="None", dnsConfig=config), NODE, (), "")
    assert len(formed.settings.searches) == kept
    (warning,) = formed.warnings
    assert warning.reason == "DNSConfigForming"
    assert warning.message == (
        "Search Line limits were exceeded, some search paths have been omitted, the applied search "
        "line is: " + " ".join(formed.settings.searches)
    )


def test_a_node_without_resolv_conf() -> None:
    node = without_resolv_conf(["192.168.49.2", "fd00::2"])
    assert node == DnsSettings(("127.0.0.1", "::1"), (".",))
    cluster = pod_dns(make_pod(), node, ("10.96.0.10",), "cluster.local").settings
    assert cluster.searches == SUFFIXES[:3]


@pytest.mark.parametrize(
    ("searches", "problem"),
    [
        (["a.test"], ""),
        ([f"d{i}" for i in range(30)], "consisting of more than 29 domains"),
        (["a" * 254], "a search path which length is more than allowed 253 chars"),
        ([c * 250 for c in "abcdefghi"], "search line which length is more than allowed 2048"),
    ],
)
def test_limits_of_the_nodes_own_file(searches: list[str], problem: str) -> None:
    found = resolv_conf_problem(DnsSettings((), tuple(searches)), "/etc/resolv.conf", "c.local")
    assert problem in found
    assert bool(found) == bool(problem)


def test_hosts_file() -> None:
    text = hosts_file(
        ["10.1.0.1", "fd00::1"], "box", "sub.default.svc.cluster.local",
        [HostAlias(ip="1.2.3.4", hostnames=["foo", "bar"])],
    )  # fmt: skip
    assert text == (
        "# Kubernetes-managed hosts file.\n"
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\n"
        "fe00::0\tip6-mcastprefix\n"
        "fe00::1\tip6-allnodes\n"
        "fe00::2\tip6-allrouters\n"
        "10.1.0.1\tbox.sub.default.svc.cluster.local\tbox\n"
        "fd00::1\tbox.sub.default.svc.cluster.local\tbox\n"
        "\n"
        "# Entries added by HostAliases.\n"
        "1.2.3.4\tfoo\tbar\n"
    )
    assert host_network_hosts_file("127.0.0.1 me\n", []) == (
        "# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n"
    )


@pytest.mark.parametrize(
    ("spec", "name", "expected"),
    [
        ({}, "web", "web"),
        ({}, "x" * 60 + "---abc", "x" * 60),
        ({"hostname": "box"}, "web", "box"),
        ({"hostnameOverride": "a.b", "hostname": "box"}, "web", "a.b"),
    ],
)
def test_hostname(spec: dict[str, Any], name: str, expected: str) -> None:
    assert pod_hostname(make_pod(metadata={"name": name}, **spec)) == expected


def test_domain() -> None:
    pod = make_pod(subdomain="sub")
    assert pod_domain(pod, "cluster.local") == "sub.default.svc.cluster.local"
    assert pod_domain(make_pod(), "cluster.local") == ""
