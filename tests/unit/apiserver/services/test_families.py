"""ipFamilies and ipFamilyPolicy: what is completed, and what is refused on which cluster."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.apiserver.services.families import init_families

Object = dict[str, Any]

FOUR, SIX, BOTH = ("IPv4",), ("IPv6",), ("IPv4", "IPv6")
PLAIN: Object = {"type": "ClusterIP", "selector": {"a": "b"}}
HEADLESS: Object = {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}
PREFER, REQUIRE = {"ipFamilyPolicy": "PreferDualStack"}, {"ipFamilyPolicy": "RequireDualStack"}
DUAL: Object = {
    **PLAIN,
    **PREFER,
    "clusterIP": "10.0.0.9",
    "clusterIPs": ["10.0.0.9", "fd00::9"],
    "ipFamilies": ["IPv4", "IPv6"],
}


@pytest.mark.parametrize(
    ("spec", "cluster", "families", "policy"),
    [
        pytest.param(PLAIN, FOUR, ["IPv4"], "SingleStack", id="plain"),
        pytest.param(PLAIN, SIX, ["IPv6"], "SingleStack", id="the cluster's default"),
        pytest.param({**PLAIN, **PREFER}, FOUR, ["IPv4"], "PreferDualStack", id="prefer on one"),
        pytest.param({**PLAIN, **PREFER}, BOTH, ["IPv4", "IPv6"], "PreferDualStack", id="prefer"),
        pytest.param(
            {**PLAIN, **REQUIRE, "ipFamilies": ["IPv6"]},
            BOTH,
            ["IPv6", "IPv4"],
            "RequireDualStack",
            id="order is kept",
        ),
        pytest.param(
            {**PLAIN, "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]},
            BOTH,
            ["IPv6"],
            "SingleStack",
            id="from the address",
        ),
        pytest.param(
            {**HEADLESS, "selector": {"a": "b"}}, FOUR, ["IPv4"], "SingleStack", id="headless"
        ),
        pytest.param(
            HEADLESS, FOUR, ["IPv4", "IPv6"], "RequireDualStack", id="endpoints of others"
        ),
        pytest.param(
            {**HEADLESS, "ipFamilies": ["IPv6"]},
            FOUR,
            ["IPv6", "IPv4"],
            "RequireDualStack",
            id="endpoints of others in another family",
        ),
        pytest.param({"type": "ExternalName"}, FOUR, None, None, id="external name"),
    ],
)
def test_a_new_service(
    spec: Object, cluster: tuple[str, ...], families: list[str] | None, policy: str | None
) -> None:
    made = {**spec}
    assert init_families(made, None, cluster) == []
    assert (made.get("ipFamilies"), made.get("ipFamilyPolicy")) == (families, policy)


@pytest.mark.parametrize(
    ("spec", "cluster", "expected"),
    [
        pytest.param(
            {**PLAIN, "ipFamilies": ["IPv6"]},
            FOUR,
            'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster',
            id="family",
        ),
        pytest.param(
            {**PLAIN, "clusterIPs": ["fd00::1"]},
            FOUR,
            'spec.clusterIPs[0]: Invalid value: ["fd00::1"]: '
            "IPv6 is not configured on this cluster",
            id="address",
        ),
        pytest.param(
            {**PLAIN, **REQUIRE},
            FOUR,
            'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": '
            "this cluster is not configured for dual-stack services",
            id="both required",
        ),
        pytest.param(
            {**DUAL, "ipFamilyPolicy": None, "ipFamilies": None},
            BOTH,
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or "
            "'PreferDualStack' when multiple cluster IPs are specified",
            id="two addresses",
        ),
        pytest.param(
            {**PLAIN, "ipFamilies": ["IPv4", "IPv6"]},
            BOTH,
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or "
            "'PreferDualStack' when multiple IP families are specified",
            id="two families",
        ),
    ],
)
def test_refused(spec: Object, cluster: tuple[str, ...], expected: str) -> None:
    assert [str(each) for each in init_families({**spec}, None, cluster)] == [expected]


@pytest.mark.parametrize(
    ("change", "addresses", "families"),
    [
        pytest.param({}, 2, 2, id="nothing"),
        pytest.param({"ipFamilyPolicy": "SingleStack"}, 1, 1, id="the policy alone"),
        pytest.param(
            {"ipFamilyPolicy": "SingleStack", "clusterIPs": ["10.0.0.9"]}, 1, 1, id="address too"
        ),
        pytest.param({"ipFamilyPolicy": None, "ipFamilies": None}, 2, 2, id="left out"),
    ],
)
def test_an_update(change: Object, addresses: int, families: int) -> None:
    made = {**DUAL, **change}
    assert init_families(made, DUAL, BOTH) == []
    assert (len(made["clusterIPs"]), len(made["ipFamilies"])) == (addresses, families)


def test_a_family_goes_only_when_the_policy_says_so() -> None:
    made = {**DUAL, "clusterIPs": ["10.0.0.9"], "ipFamilies": ["IPv4"]}
    found = [each.message for each in init_families(made, DUAL, BOTH)]
    assert len(found) == 2
    assert "must be 'SingleStack' to release the secondary cluster IP" in found[0]
    assert "must be 'SingleStack' to release the secondary IP family" in found[1]


def test_a_preference_is_not_decided_anew_when_the_cluster_changes() -> None:
    old = {**PLAIN, **PREFER, "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"]}
    old["ipFamilies"] = ["IPv4"]
    same = {**old, "selector": {"c": "d"}}
    assert init_families(same, old, BOTH) == []
    assert same["ipFamilies"] == ["IPv4"]
    required = {**old, **REQUIRE}
    assert init_families(required, old, BOTH) == []
    assert required["ipFamilies"] == ["IPv4", "IPv6"]
