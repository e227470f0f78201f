"""Profiles: names, address ranges that do not collide, and files that are whole."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from navarch.cluster import profile as profiles
from navarch.cluster.profile import ClusterError, HostUse, Profile


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAVARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NAVARCH_PROFILE", raising=False)


@pytest.mark.parametrize("name", ["a", "navarch", "a-1", "x" * 40])
def test_good_names(name: str) -> None:
    assert profiles.check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a.b", "../x", "a/b", "x" * 41, "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ClusterError) as caught:
        profiles.check_name(name)
    assert caught.value.advice


def test_the_first_profile_has_the_usual_ranges() -> None:
    made = profiles.allocate("navarch", [], HostUse())
    assert made == Profile("navarch")
    assert (made.host_address, made.dns_address) == ("192.168.49.1", "10.96.0.10")
    assert made.kubernetes_service_addresses[0] == "10.96.0.1"


def test_profiles_share_nothing() -> None:
    made: list[Profile] = []
    for number in range(30):
        made.append(profiles.allocate(f"p{number}", made, HostUse()))
    for attribute in ("slot", "bridge", "subnet", "service_cidr", "pod_cidr", "api_port"):
        assert len({getattr(entry, attribute) for entry in made}) == 30, attribute


@pytest.mark.parametrize(
    ("use", "slot"),
    [
        pytest.param(HostUse(("192.168.49.0/24",)), 1, id="subnet taken"),
        pytest.param(HostUse(("192.168.48.0/20",)), 15, id="a wide route covers many subnets"),
        pytest.param(HostUse(("10.96.3.0/24",)), 1, id="part of the service range"),
        pytest.param(HostUse(("10.243.0.0/16", "10.244.1.0/24")), 2, id="two pod ranges"),
        pytest.param(HostUse(links=("navarch0", "eth0")), 1, id="bridge of another home"),
        pytest.param(HostUse(("172.16.0.0/12",)), 0, id="unrelated"),
    ],
)
def test_what_the_host_uses_is_avoided(use: HostUse, slot: int) -> None:
    assert profiles.allocate("new", [], use).slot == slot


def test_a_port_in_use_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = profiles.with_free_port(Profile("dev", api_port=port), [])
        assert found.api_port > port
        other = Profile("other", api_port=found.api_port)
        assert profiles.with_free_port(Profile("dev", api_port=port), [other]).api_port > (
            found.api_port
        )


def test_no_range_left() -> None:
    with pytest.raises(ClusterError, match="no address range"):
        profiles.allocate("new", [], HostUse(("10.0.0.0/8",)))


def test_nodes_are_named_and_numbered_like_minikubes() -> None:
    found = Profile("dev", nodes=3)
    assert found.node_names() == ("dev", "dev-m02", "dev-m03")
    assert [found.node_address(node) for node in found.node_names()] == [
        "192.168.49.2",
        "192.168.49.3",
        "192.168.49.4",
    ]
    assert found.node_cgroup("dev-m02") == f"{found.cgroup}/dev-m02"


def test_control_groups_of_two_homes_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAVARCH_HOME", "/var/lib/navarch")
    names = {Profile("dev").cgroup}
    assert names == {"/navarch-dev"}
    for home in ("/tmp/a", "/tmp/b"):
        monkeypatch.setenv("NAVARCH_HOME", home)
        names.add(Profile("dev").cgroup)
    assert len(names) == 3


def test_a_profile_is_read_as_it_was_saved() -> None:
    saved = replace(Profile("dev"), nodes=2, api_port=9000)
    profiles.save(saved)
    assert profiles.load("dev") == saved
    assert profiles.all_profiles() == [saved]
    assert profiles.paths_of("dev").root.stat().st_mode & 0o777 == 0o700
    assert profiles.load("other") is None


def test_a_damaged_profile_is_named() -> None:
    profiles.save(Profile("dev"))
    file = profiles.paths_of("dev").profile
    file.write_text("{")
    with pytest.raises(ClusterError, match=str(file)):
        profiles.load("dev")


def test_forgetting_the_last_profile_leaves_no_directory() -> None:
    profiles.save(Profile("one"))
    profiles.save(Profile("two"))
    profiles.set_current("one")
    profiles.forget("one")
    assert profiles.current_name() == profiles.DEFAULT_PROFILE
    assert [entry.name for entry in profiles.all_profiles()] == ["two"]
    profiles.forget("two")
    assert not profiles.home().exists()


def test_the_environment_decides_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert profiles.current_name() == "navarch"
    profiles.set_current("one")
    assert profiles.current_name() == "one"
    monkeypatch.setenv("NAVARCH_PROFILE", "two")
    assert profiles.current_name() == "two"


@pytest.mark.parametrize(("nodes", "simulated"), [(-1, 0), (201, 0), (0, -1), (0, 20_001)])
def test_impossible_sizes(nodes: int, simulated: int) -> None:
    with pytest.raises(ClusterError):
        profiles.resized(Profile("dev"), nodes, simulated)


def test_a_size_that_is_not_given_stays() -> None:
    assert profiles.resized(Profile("dev", nodes=2, simulated=3), None, None).nodes == 2
    assert profiles.resized(Profile("dev", nodes=2, simulated=3), 1, None).simulated == 3


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    profiles.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        profiles.write_json(file, object())
    assert file.read_text() == '{\n  "a": 1\n}\n'
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_any_node_may_go_and_the_others_stay_who_they_are() -> None:
    three = Profile("dev", nodes=3)
    two = profiles.without(three, ["dev-m02"])
    assert two.node_names() == ("dev", "dev-m03")
    assert two.node_address("dev-m03") == three.node_address("dev-m03") == "192.168.49.4"
    # A number that was in use among the others is not given again; the last one's may be.
    assert profiles.resized(two, 3, None).node_names() == ("dev", "dev-m03", "dev-m04")
    assert profiles.without(three, ["dev-m03"]) == Profile("dev", nodes=2)
    assert profiles.without(two, ["dev-m03"]) == Profile("dev", nodes=1)
    assert profiles.resized(two, 1, None) == Profile("dev", nodes=1)


def test_nodes_are_switched_off_and_on() -> None:
    three = Profile("dev", nodes=3)
    off = profiles.switched(three, ["dev", "dev-m02"], on=False)
    assert off.running_nodes() == ("dev-m03",)
    assert off.node_names() == three.node_names()
    assert profiles.switched(off, ["dev", "dev-m02"], on=True) == three
    assert profiles.without(off, ["dev-m02"]).stopped == ("dev",)


def test_two_families() -> None:
    dual = profiles.with_families(Profile("dev"), "dual", "", "")
    assert dual.node_addresses("dev") == ("192.168.49.2", "fd4e:6176:0:1::2")
    assert dual.dns_addresses == ("10.96.0.10", "fd4e:6176:0:2::a")
    six = profiles.with_families(Profile("dev"), "ipv6", "", "")
    assert six.node_server == "https://[fd4e:6176:0:1::1]:8443"
    given = profiles.with_families(Profile("dev"), "", "fd01::/112,10.9.0.0/16", "")
    assert given.service_cidrs == ("fd01::/112", "10.9.0.0/16")
    assert given.families == ("ipv6", "ipv4")


@pytest.mark.parametrize(
    ("family", "services", "pods"),
    [
        pytest.param("both", "", "", id="no such family"),
        pytest.param("", "10.9.0.0/40", "", id="no range"),
        pytest.param("", "10.9.0.0/16,10.8.0.0/16", "", id="one family twice"),
        pytest.param("ipv4", "fd01::/112", "", id="another family"),
        pytest.param("", "fd01::/64", "", id="too many Services"),
        pytest.param("", "", "10.9.0.0/25", id="too few pods"),
        pytest.param("", "10.9.0.0/16", "10.9.128.0/17", id="overlapping"),
        pytest.param("", "192.168.49.0/25", "", id="the nodes' own"),
    ],
)
def test_ranges_that_cannot_be(family: str, services: str, pods: str) -> None:
    with pytest.raises(ClusterError):
        profiles.with_families(Profile("dev"), family, services, pods)
