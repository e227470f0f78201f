"""What becomes of nodes that fall silent, of the pods on tainted ones, and of pod ranges."""

from datetime import UTC, datetime, timedelta

import pytest

from navarch.api.node_selection import tolerates
from navarch.api.times import format_time
from navarch.api.types.core_v1 import (
    Node,
    NodeAddress,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    Taint,
    Toleration,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.joined_name_servers import LABEL, endpoints
from navarch.controllers.node_ipam import Ranges, ranges_of
from navarch.controllers.node_lifecycle import (
    NOT_READY,
    UNREACHABLE,
    lost_conditions,
    wanted_taints,
)
from navarch.controllers.taint_eviction import seconds_to_live

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def node(unschedulable: bool = False, taints: list[Taint] | None = None, **statuses: str) -> Node:
    return Node(
        metadata=ObjectMeta(name="n"),
        spec=NodeSpec(unschedulable=unschedulable, taints=taints or []),
        status=NodeStatus(
            conditions=[NodeCondition(type=t, status=s) for t, s in statuses.items()]
        ),
    )


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        pytest.param(node(Ready="True"), set(), id="well"),
        pytest.param(
            node(Ready="False"), {(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")}, id="unready"
        ),
        pytest.param(
            node(Ready="Unknown"),
            {(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")},
            id="silent",
        ),
        pytest.param(node(), {(NOT_READY, "NoSchedule")}, id="new"),
        pytest.param(
            node(Ready="True", MemoryPressure="True"),
            {("node.kubernetes.io/memory-pressure", "NoSchedule")},
            id="pressed",
        ),
        pytest.param(
            node(True, Ready="True"),
            {("node.kubernetes.io/unschedulable", "NoSchedule")},
            id="cordoned",
        ),
        pytest.param(
            node(taints=[Taint(key="mine", effect="NoExecute")], Ready="True"),
            {("mine", "NoExecute")},
            id="foreign taints stay",
        ),
        pytest.param(
            node(taints=[Taint(key=NOT_READY, effect="NoExecute")], Ready="True"),
            set(),
            id="cured",
        ),
    ],
)
def test_taints(of: Node, expected: set[tuple[str, str]]) -> None:
    assert {(taint.key, taint.effect) for taint in wanted_taints(of, NOW)} == expected


def test_a_taint_keeps_the_time_it_was_added() -> None:
    before = Taint(key=UNREACHABLE, effect="NoExecute", timeAdded="2025-12-31T00:00:00Z")
    taints = wanted_taints(node(taints=[before], Ready="Unknown"), NOW)
    assert before in taints


def test_lost_conditions() -> None:
    result = lost_conditions([NodeCondition(type="Ready", status="True", reason="Fine")], NOW)
    assert {c.type: c.status for c in result} == dict.fromkeys(
        ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure"), "Unknown"
    )
    assert result[0].reason == "NodeStatusUnknown"
    assert lost_conditions(result, NOW + timedelta(seconds=9)) == result


@pytest.mark.parametrize(
    ("toleration", "matches"),
    [
        pytest.param(Toleration(operator="Exists"), True, id="everything"),
        pytest.param(Toleration(key="k", operator="Exists"), True, id="key exists"),
        pytest.param(Toleration(key="k", value="v"), True, id="equal by default"),
        pytest.param(Toleration(key="k", operator="Equal", value="x"), False, id="other value"),
        pytest.param(Toleration(key="k", value="v", effect="NoSchedule"), False, id="effect"),
        pytest.param(Toleration(key="j", operator="Exists"), False, id="other key"),
    ],
)
def test_tolerations(toleration: Toleration, matches: bool) -> None:
    assert tolerates(toleration, Taint(key="k", value="v", effect="NoExecute")) is matches


@pytest.mark.parametrize(
    ("seconds", "left"),
    [
        pytest.param([], 0.0, id="not tolerated"),
        pytest.param([None], None, id="for ever"),
        pytest.param([60], 60.0, id="for a time"),
        pytest.param([60, 20, None], 60.0, id="the first counts"),
        pytest.param([None, 20], None, id="the first is for ever"),
        pytest.param([-5], 0.0, id="negative is none"),
    ],
)
def test_seconds_to_live(seconds: list[int | None], left: float | None) -> None:
    taint = Taint(key="k", effect="NoExecute", timeAdded=format_time(NOW))
    tolerations = [Toleration(key="k", operator="Exists", tolerationSeconds=s) for s in seconds]
    assert seconds_to_live(tolerations, [taint]) == left


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        pytest.param([], "10.244.0.0/24", id="first"),
        pytest.param(["10.244.0.0/24", "10.244.2.0/24"], "10.244.1.0/24", id="gap"),
        pytest.param(["10.244.0.0/23"], "10.244.2.0/24", id="another size"),
        pytest.param(["10.244.0.0/16"], None, id="full"),
    ],
)
def test_free_range(used: list[str], expected: str | None) -> None:
    ranges = Ranges("10.244.0.0/16", 24)
    for cidr in used:
        ranges.take(cidr, cidr)
    assert ranges.free() == expected


def test_ranges_are_given_again() -> None:
    ranges = Ranges("10.244.0.0/22", 24)
    for number in range(4):
        cidr = ranges.free()
        assert cidr == f"10.244.{number}.0/24"
        ranges.take(f"n{number}", cidr)
    assert ranges.free() is None
    ranges.take("wide", "10.244.2.0/23")
    for gone in ("n1", "n3"):
        ranges.release(gone)
    assert ranges.free() == "10.244.1.0/24"
    ranges.take("n1", "10.244.1.0/24")
    assert ranges.free() is None
    ranges.release("wide")
    assert ranges.free() == "10.244.3.0/24"


def test_ranges_of_two_families() -> None:
    four, six = ranges_of("10.244.0.0/16, fd00::/56", 24, 64)
    assert (four.free(), six.free()) == ("10.244.0.0/24", "fd00::/64")
    six.take("n1", "fd00::/64")
    assert six.free() == "fd00:0:0:1::/64"
    with pytest.raises(ValueError, match="one range of each family"):
        ranges_of("10.244.0.0/16,10.245.0.0/16", 24, 64)


def test_name_servers_of_machines_that_have_joined() -> None:
    def machine(name: str, *addresses: str, joined: bool = True) -> Node:
        return Node(
            metadata=ObjectMeta(name=name, labels={LABEL: "true"} if joined else {}),
            status=NodeStatus(
                addresses=[NodeAddress(type="InternalIP", address=each) for each in addresses]
            ),
        )

    nodes = [
        machine("far", "10.0.0.7", "fd00::7"),
        machine("own", "192.168.49.2", joined=False),
        machine("early"),
    ]
    for family, address in (("IPv4", "10.0.0.7"), ("IPv6", "fd00::7")):
        found = [(each.nodeName, each.addresses) for each in endpoints(nodes, family)]
        assert found == [("far", [address])]
