"""Tokens, and whom a machine believes before it joins."""

from __future__ import annotations

import base64
import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from navarch import KUBERNETES_VERSION
from navarch.cli.join import parse_ttl
from navarch.cluster import discovery, joined_network, joining, network_plugin, pki, tokens
from navarch.cluster.api import ApiUnavailableError, Connection, parse_server
from navarch.cluster.drain import leaves
from navarch.cluster.joining import JoinRequest
from navarch.cluster.profile import ClusterError, HostUse, Paths, Profile, save
from navarch.controllers.bootstrap_tokens import signed

TOKEN = "abcdef.0123456789abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HASH = "sha256:" + 64 * "0"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("NAVARCH_HOME", str(tmp_path))
    found = Paths(tmp_path / "dev")
    found.create()
    pki.ensure(Profile("dev", nodes=0), found)
    return found


def published(paths: Paths, profile: Profile) -> dict[str, str]:
    """The data of `cluster-info`, signed."""
    objects = {value["metadata"]["name"]: value for _, value in tokens.objects(profile, paths)}
    return signed(objects["cluster-info"]["data"], {"abcdef": "0123456789abcdef"})


def test_a_token_is_a_secret_that_ends() -> None:
    secret = tokens.secret(TOKEN, timedelta(hours=1), "for me", NOW)
    assert secret["metadata"]["name"] == "bootstrap-token-abcdef"
    assert secret["stringData"]["expiration"] == "2026-01-01T01:00:00Z"
    assert "expiration" not in tokens.secret(TOKEN, timedelta(), "", NOW)["stringData"]
    assert tokens.TOKEN.fullmatch(tokens.new_token())
    with pytest.raises(ClusterError):
        tokens.secret("ABCDEF.0123456789abcdef", timedelta(), "", NOW)


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("1h30m", 5400), ("0", 0), ("1.5m", 90)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_ttl(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "1d", "-1h", "1h x"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ClusterError):
        parse_ttl(text)


def test_the_cluster_is_believed_by_signature_and_hash(paths: Paths) -> None:
    profile = Profile("dev", listen_addresses=("10.0.0.1",))
    data = published(paths, profile)
    certificate = (paths.pki / "ca.crt").read_bytes()
    digest = tokens.authority_hash(certificate)
    assert discovery.trusted_authority(data, TOKEN, [HASH, digest]) == certificate
    assert "server: https://10.0.0.1:8443\n" in data["kubeconfig"]
    assert tokens.join_command(profile, paths, TOKEN) == (
        f"navarch join 10.0.0.1:8443 --token {TOKEN} --discovery-token-ca-cert-hash {digest}"
    )


def test_an_impostor_is_not_believed(paths: Paths) -> None:
    data = published(paths, Profile("dev"))
    with pytest.raises(ClusterError, match="not what was given"):
        discovery.trusted_authority(data, TOKEN, [HASH])
    with pytest.raises(ClusterError, match="does not know this token"):
        discovery.trusted_authority(data, "ghijkl.0123456789abcdef", [HASH])
    changed = data | {"kubeconfig": data["kubeconfig"].replace("8443", "9443")}
    with pytest.raises(ClusterError, match="not by this token"):
        discovery.trusted_authority(changed, TOKEN, [])
    nonsense = signed({"kubeconfig": "[]"}, {"abcdef": "0123456789abcdef"})
    with pytest.raises(ClusterError, match="cannot be read"):
        discovery.trusted_authority(nonsense, TOKEN, [])


def test_an_impostor_is_not_listened_to_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        """A server whose answer has no end."""

        status = 200

        def __init__(self, *_: object, **__: object) -> None: ...

        def request(self, *_: object) -> None: ...

        def close(self) -> None: ...

        def getresponse(self) -> Endless:
            return self

        def read(self, most: int | None) -> bytes:
            assert most is not None, "this would go on for ever"
            return b" " * most

    monkeypatch.setattr("http.client.HTTPSConnection", Endless)
    with pytest.raises(ClusterError, match="is no API server"):
        discovery.discover(("10.0.0.1", 8443), TOKEN, [HASH])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("10.0.0.1:8443", ("10.0.0.1", 8443)),
        ("https://main.example:6443/", ("main.example", 6443)),
        ("[fd00::1]:8443", ("fd00::1", 8443)),
    ],
)
def test_servers(text: str, place: tuple[str, int]) -> None:
    assert parse_server(text) == place


@pytest.mark.parametrize("text", ["", "10.0.0.1", "fd00::1:8443", "a:0", "a:65536", "a b:1:2"])
def test_no_servers(text: str) -> None:
    with pytest.raises(ClusterError):
        parse_server(text)


@pytest.mark.parametrize(
    "request_",
    [
        JoinRequest("dev", "10.0.0.1:8443", "abc", (HASH,)),
        JoinRequest("dev", "10.0.0.1:8443", TOKEN),
        JoinRequest("dev", "10.0.0.1:8443", TOKEN, ("sha256:00",)),
        JoinRequest("dev", "10.0.0.1:8443", TOKEN, (HASH,), node_name="Big"),
        JoinRequest("dev", "10.0.0.1:8443", TOKEN, (HASH,), node_addresses=("x",)),
        JoinRequest("dev", "10.0.0.1:8443", TOKEN, (HASH,), node_addresses=("127.0.0.1",)),
    ],
)
def test_what_cannot_work_is_refused_at_once(request_: JoinRequest) -> None:
    with pytest.raises(ClusterError):
        joining.check(request_)


def described(**changes: object) -> dict[str, object]:
    return {
        "families": ["ipv4"],
        "nodeSubnets": ["192.168.49.0/24"],
        "serviceSubnets": ["10.96.0.0/16"],
        "podSubnets": ["10.244.0.0/16"],
        "clusterDomain": "cluster.local",
        "podNetwork": "auto",
    } | changes


def test_a_machine_that_joins_has_a_profile_and_a_network(tmp_path: Path) -> None:
    request = JoinRequest(
        "there", "10.0.0.1:8443", TOKEN, (HASH,), node_name="other", node_addresses=("10.0.0.7",)
    )
    profile = joining.joined_profile(request, described())
    assert profile.node_names() == ("other",)
    assert profile.node_addresses("other") == ("10.0.0.7",)
    assert profile.node_server == "https://10.0.0.1:8443"
    routes = [str(route) for route in joined_network.routes(profile, "10.0.0.1")]
    assert "192.168.49.0/24 via 10.0.0.1" in routes[1]
    assert "unreachable 10.244.0.0/16" in str(routes[0])
    rules = joined_network.rules(profile, "uplink0")
    # To the other nodes it is a machine like any: its pods come under its own address.
    assert "192.168.49.0/24" not in rules
    assert 'oifname "uplink0" masquerade' in rules
    assert 'oifname "uplink0" ip daddr 10.96.0.0/16 reject' in rules
    assert profile.enforces_policies  # also where the cluster is too old to say
    with pytest.raises(ClusterError):
        joining.joined_profile(request, described(podSubnets=["nonsense"]))
    with pytest.raises(ClusterError, match="nodes of its own"):
        joining.joined_profile(replace(request, node_name="dev-m02"), described(name="dev"))


def join_the_one_with(paths: Paths, network: dict[str, Any]) -> Profile:
    """What a machine makes of what the cluster with this network tells it."""
    found = {
        each["metadata"]["name"]: each
        for _, each in tokens.objects(Profile("dev", **network), paths)
    }
    told = json.loads(found[tokens.CLUSTER_CONFIG]["data"]["cluster.json"])
    request = JoinRequest("there", "10.0.0.1:8443", TOKEN, node_name="far")
    return joining.joined_profile(replace(request, node_addresses=("10.0.0.7",)), told)


@pytest.mark.parametrize(("network", "enforced"), [({}, True), ({"network_policy": "off"}, False)])
def test_policies_are_enforced_where_the_cluster_does(
    paths: Paths, network: dict[str, Any], enforced: bool
) -> None:
    assert join_the_one_with(paths, network).enforces_policies is enforced


@pytest.mark.parametrize("cni", ["cni.yaml", "cni.conflist", "false"])
def test_a_network_that_cannot_come_along_is_said(paths: Paths, cni: str) -> None:
    with pytest.raises(ClusterError, match="plug-in of the user's"):
        join_the_one_with(paths, {"cni": cni})


@pytest.mark.parametrize(
    ("addresses", "families"),
    [(("fd00::7",), ["ipv4"]), (("10.0.0.7", "fd00::7"), ["ipv4"]), (("10.0.0.7",), ["ipv6"])],
)
def test_a_node_has_addresses_of_the_cluster_s_families(
    addresses: tuple[str, ...], families: list[str]
) -> None:
    request = JoinRequest("there", "10.0.0.1:8443", TOKEN, (HASH,), False, "other", addresses)
    with pytest.raises(ClusterError, match="nodes of the cluster are of"):
        joining.joined_profile(request, described(families=families))


@pytest.mark.parametrize(
    ("server", "own", "use", "said"),
    [
        ("127.0.0.1:8443", "127.0.0.1", (), "is on this machine"),
        ("192.0.2.1:8443", "203.0.113.9", (), "no interface of this machine has the address"),
        ("192.0.2.1:8443", "127.0.0.1", ("10.244.7.0/24",), "has a route to 10.244.7.0/24"),
    ],
)
def test_what_this_machine_cannot_be(
    server: str, own: str, use: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the cluster hears of it, and so with nothing to take back."""
    monkeypatch.setattr(joining, "own_address", lambda host, port: "127.0.0.1")
    request = JoinRequest("there", server, TOKEN, (HASH,), False, "other", (own,))
    with pytest.raises(ClusterError, match=said):
        joining.preflight(joining.joined_profile(request, described()), HostUse(use))


@pytest.mark.parametrize(
    ("there", "meet"),
    [("10.244.0.0/16", True), ("10.244.3.0/24", True), ("10.0.0.0/8", False), ("fd00::/8", False)],
)
def test_routes_that_are_in_the_way(there: str, meet: bool) -> None:
    assert (joining.overlaps(["10.244.0.0/16"], [there]) is not None) is meet


def test_a_machine_is_a_node_of_one_cluster(paths: Paths) -> None:
    save(Profile("there", joined="10.0.0.1:8443", joined_node="other"))
    with pytest.raises(ClusterError, match=r"is the node other of the cluster at 10\.0\.0\.1"):
        joining._check_profiles("elsewhere")
    with pytest.raises(ClusterError, match="exists already"):
        joining._check_profiles("there")


@pytest.mark.parametrize(
    ("server", "own", "fits"),
    [
        ("v1.36.0", "v1.36.0", True),
        ("v1.36.4", "v1.33.0", True),
        ("v1.36.0", "v1.32.9", False),
        ("v1.35.9", "v1.36.0", False),
    ],
)
def test_versions_that_go_together(server: str, own: str, fits: bool) -> None:
    with nullcontext() if fits else pytest.raises(ClusterError, match="would be a node of"):
        discovery.check_version(server, own)


class Answers(Connection):
    """An API server that knows these paths."""

    def __init__(self, nodes: dict[str, Any]) -> None:
        self.paths = {"/version": {"gitVersion": KUBERNETES_VERSION}} | nodes

    def get(self, path: str) -> Any:
        if path not in self.paths:
            raise ApiUnavailableError("no such path", 404)
        return self.paths[path]


@pytest.mark.parametrize("ready", ["True", "Unknown", ""])
def test_a_name_is_taken_while_its_node_is_ready(ready: str) -> None:
    """Who comes back after a loss, whose Node is there and not ready, is welcome (kubeadm)."""
    node = {"status": {"conditions": [{"type": "Ready", "status": ready}]}}
    answers = Answers({"/api/v1/nodes/other": node} if ready else {})
    found = discovery.Discovered(b"", {}, answers)
    with pytest.raises(ClusterError, match="already") if ready == "True" else nullcontext():
        discovery.check_cluster(found, "other")


def test_a_network_plug_in_of_the_user_s(paths: Paths, tmp_path: Path) -> None:
    profile = Profile("dev")
    file = tmp_path / "mine.conflist"
    file.write_text(json.dumps({"name": "mine", "plugins": [{"type": "ptp"}]}))
    adopted = network_plugin.adopt(profile, paths, str(file))
    network_plugin.place(adopted, paths, "dev")
    directory = paths.node("dev") / "cni"
    assert [each.name for each in directory.iterdir()] == ["05-user.conflist"]
    assert network_plugin.notes(adopted, paths, False) == []
    file.write_text(json.dumps({"name": "mine", "type": "bridge"}))
    bridged = network_plugin.adopt(profile, paths, str(file))
    (note,) = network_plugin.notes(bridged, paths, False)
    assert "modprobe br_netfilter" in note
    assert network_plugin.notes(bridged, paths, True) == []
    back = network_plugin.adopt(adopted, paths, "bridge")
    network_plugin.place(back, paths, "dev")
    assert (back, list(directory.iterdir())) == (profile, [])
    nobody = network_plugin.adopt(profile, paths, "false")
    assert nobody.cni == "false"
    (note,) = network_plugin.notes(nobody, paths, True)
    assert "left to your network plug-in" in note
    assert network_plugin.notes(replace(nobody, network_policy="on"), paths, True) == []
    file.write_text("{}")
    for bad in (str(file), str(tmp_path / "missing.yaml"), "calico"):
        with pytest.raises(ClusterError):
            network_plugin.adopt(profile, paths, bad)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, True),
        ({"ownerReferences": [{"kind": "ReplicaSet", "controller": True}]}, True),
        ({"ownerReferences": [{"kind": "DaemonSet", "controller": True}]}, False),
        ({"annotations": {"kubernetes.io/config.mirror": "x"}}, False),
    ],
)
def test_which_pods_leave_a_node(metadata: dict[str, object], expected: bool) -> None:
    assert leaves({"metadata": metadata}) is expected


def test_tokens_are_listed_as_they_are() -> None:
    data = tokens.secret(TOKEN, timedelta(hours=1), "for me", NOW)["stringData"]
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    found = tokens._token(encoded)
    assert found.token == TOKEN
    assert found.usages == ("authentication", "signing")
    assert found.description == "for me"
