"""The wires and rules of a cluster as text."""

from __future__ import annotations

from navarch.cluster import topology
from navarch.cluster.profile import Profile


def test_two_nodes() -> None:
    assert (
        topology.plan(Profile("dev", nodes=2)).describe()
        == """\
bridge navarch0 192.168.49.1/24
host route 10.96.0.0/16 via 192.168.49.2 dev navarch0
host route 10.244.0.0/16 via 192.168.49.2 dev navarch0
node dev: navarch0n1 -> eth0 192.168.49.2/24
node dev: route 0.0.0.0/0 via 192.168.49.1 dev eth0
node dev: route unreachable 10.244.0.0/16
node dev-m02: navarch0n2 -> eth0 192.168.49.3/24
node dev-m02: route 0.0.0.0/0 via 192.168.49.1 dev eth0
node dev-m02: route unreachable 10.244.0.0/16
"""
    )


def test_host_rules() -> None:
    assert (
        topology.host_rules(Profile("dev")).replace("{ 10.96.0.0/16, 10.244.0.0/16 }", "INSIDE")
        == """\
add table ip navarch0
delete table ip navarch0
table ip navarch0 {
	chain forward {
		type filter hook forward priority filter; policy accept;
		oifname != "navarch0" ip daddr INSIDE reject with icmp net-unreachable
		oifname != "navarch0" ip saddr INSIDE drop
	}
	chain output {
		type filter hook output priority filter; policy accept;
		oifname != { "lo", "navarch0" } ip daddr INSIDE reject with icmp net-unreachable
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 192.168.49.0/24 oifname != "navarch0" masquerade
	}
}
"""
    )


def test_a_node_refuses_what_no_service_has_taken() -> None:
    rules = topology.node_rules(Profile("dev"))
    assert rules.count("ip daddr 10.96.0.0/16 reject with icmp port-unreachable") == 2
    assert 'iifname != "lo" ip daddr 127.0.0.0/8 ct status & dnat == 0 ct state new drop' in rules
    # Pods leave the cluster, and only that, under their node's address.
    assert (
        "ip saddr 10.244.0.0/16 ip daddr != { 192.168.49.0/24, 10.244.0.0/16, 10.96.0.0/16 } "
        'oifname "eth0" masquerade'
    ) in rules


def test_pods_can_be_kept_from_a_clouds_metadata() -> None:
    families = ("ipv4", "ipv6")
    assert "169.254.169.254" not in topology.node_rules(Profile("dev", families=families))
    rules = topology.node_rules(Profile("dev", families=families, metadata_blocked=True))
    for line in (
        "ip daddr 169.254.169.254 reject with icmp port-unreachable",
        "ip6 daddr fd00:ec2::254 reject with icmpv6 port-unreachable",
    ):
        assert rules.count(line) == 1


def test_interface_names_fit_the_kernel() -> None:
    wiring = topology.plan(Profile("x" * 40, nodes=200, bridge="navarch99"))
    names = [wiring.bridge, *(node.host_interface for node in wiring.nodes)]
    assert len(set(names)) == 201
    assert max(len(name) for name in names) <= 15


def test_two_families_and_a_node_that_is_off() -> None:
    profile = Profile("dev", nodes=3, removed=(2,), stopped=("dev",), families=("ipv4", "ipv6"))
    assert (
        topology.plan(profile).describe()
        == """\
bridge navarch0 192.168.49.1/24 fd4e:6176:0:1::1/64
host route 10.96.0.0/16 via 192.168.49.4 dev navarch0
host route 10.244.0.0/16 via 192.168.49.4 dev navarch0
host route fd4e:6176:0:2::/112 via fd4e:6176:0:1::4 dev navarch0
host route fd4e:6176:0:100::/56 via fd4e:6176:0:1::4 dev navarch0
node dev-m03: navarch0n3 -> eth0 192.168.49.4/24 fd4e:6176:0:1::4/64
node dev-m03: route 0.0.0.0/0 via 192.168.49.1 dev eth0
node dev-m03: route unreachable 10.244.0.0/16
node dev-m03: route ::/0 via fd4e:6176:0:1::1 dev eth0
node dev-m03: route unreachable fd4e:6176:0:100::/56
node dev-m04: navarch0n4 -> eth0 192.168.49.5/24 fd4e:6176:0:1::5/64
node dev-m04: route 0.0.0.0/0 via 192.168.49.1 dev eth0
node dev-m04: route unreachable 10.244.0.0/16
node dev-m04: route ::/0 via fd4e:6176:0:1::1 dev eth0
node dev-m04: route unreachable fd4e:6176:0:100::/56
"""
    )
    rules = topology.host_rules(profile)
    assert rules.count("table ip navarch0 {") == rules.count("table ip6 navarch0 {") == 1
    assert "ip6 daddr { fd4e:6176:0:2::/112, fd4e:6176:0:100::/56 } reject" in rules
    guard = topology.node_rules(profile)
    assert guard.count("127.0.0.0/8") == 1
    assert "ip6 daddr fd4e:6176:0:2::/112 reject with icmpv6 port-unreachable" in guard
