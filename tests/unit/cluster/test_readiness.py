"""What `navarch start` waits for."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from navarch.cluster import images, readiness
from navarch.cluster.api import ApiUnavailableError
from navarch.cluster.name_server import dns_objects
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.cluster.readiness import Waiting, dns_question, is_answer


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path / "dev")
    found.create()
    return found


def test_a_question_as_on_the_wire() -> None:
    assert dns_question(7, "a.bc") == bytes.fromhex("0007 0100 0001 0000 0000 0000") + (
        b"\x01a\x02bc\x00\x00\x01\x00\x01"
    )


@pytest.mark.parametrize(
    ("identity", "flags", "records", "good"),
    [
        pytest.param(7, 0x8180, 1, True, id="an address"),
        pytest.param(7, 0x8180, 0, False, id="no record"),
        pytest.param(7, 0x8183, 0, False, id="no such name"),
        pytest.param(7, 0x8182, 1, False, id="server failure"),
        pytest.param(7, 0x0100, 1, False, id="not a response"),
        pytest.param(8, 0x8180, 1, False, id="another question's"),
    ],
)
def test_answers(identity: int, flags: int, records: int, good: bool) -> None:
    answer = struct.pack("!6H", identity, flags, 1, records, 0, 0)
    assert is_answer(dns_question(7, "a"), answer) is good


def test_a_short_answer_is_none() -> None:
    assert not is_answer(dns_question(7, "a"), b"\x00\x07")


def node(ready: str = "True", taints: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "spec": {"taints": taints} if taints is not None else {},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    ("value", "ready"),
    [
        pytest.param(node(), True, id="ready"),
        pytest.param(node("False"), False, id="not ready"),
        pytest.param(node("Unknown"), False, id="unknown"),
        pytest.param({"spec": {}, "status": {}}, False, id="no condition yet"),
        pytest.param(
            node(taints=[{"key": "node.kubernetes.io/not-ready"}]), False, id="still tainted"
        ),
        pytest.param(node(taints=[{"key": "dedicated"}]), True, id="the user's own taint"),
    ],
)
def test_node_readiness(value: dict[str, Any], ready: bool) -> None:
    assert readiness.is_ready(value) is ready


def test_waiting_ends_with_the_condition(paths: Paths) -> None:
    answers = iter([False, False, True])
    Waiting(paths, time.monotonic() + 5).until("it", lambda: next(answers))


def test_a_time_out_tells_the_last_problem_and_the_end_of_the_log(paths: Paths) -> None:
    (paths.logs / "apiserver.log").write_text("first\nlast\n")

    def check() -> bool:
        raise ApiUnavailableError("GET /readyz: 503")

    with pytest.raises(ClusterError, match="503") as caught:
        Waiting(paths, time.monotonic()).until("the API server", check, "apiserver")
    assert "last" in caught.value.advice


def test_a_process_that_keeps_ending_is_reported_at_once(paths: Paths) -> None:
    state = {"controllers": {"failures": 4, "last_exit": "has ended with code 1"}}
    (paths.run / "state.json").write_text(json.dumps(state))
    (paths.logs / "controllers.log").write_text("the reason\n")
    with pytest.raises(ClusterError, match="controllers keeps ending") as caught:
        Waiting(paths, time.monotonic() + 60).until("the nodes", lambda: False)
    assert "the reason" in caught.value.advice


def test_the_tail_of_a_long_log(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text("".join(f"{number}\n" for number in range(50_000)))
    assert readiness.tail(file, 2) == "49998\n49999"


def test_every_node_answers_for_names() -> None:
    service, endpoints, *_ = (value for _, value in dns_objects(Profile("dev", nodes=2)))
    assert service["spec"]["clusterIP"] == "10.96.0.10"
    assert [entry["addresses"] for entry in endpoints["endpoints"]] == [
        ["192.168.49.2"],
        ["192.168.49.3"],
    ]
    assert {port["protocol"] for port in service["spec"]["ports"]} == {"UDP", "TCP"}


def test_nodes_the_cluster_no_longer_has_are_told_by_their_names() -> None:
    def node(name: str, owner: str = "") -> dict[str, Any]:
        annotations = {"simulated.navarch.dev/owner": owner} if owner else {}
        return {"metadata": {"name": name, "annotations": annotations}}

    nodes = [node(name) for name in ("dev", "dev-m02", "dev-m03", "mine", "dev-x", "sim-9")]
    nodes += [node("sim-0", "dev"), node("sim-7", "dev"), node("sim-8", "other")]
    found = readiness.gone_nodes(Profile("dev", nodes=2, simulated=1), nodes, {"sim-0"})
    assert found == ["dev-m03", "sim-7"]
    none = readiness.gone_nodes(Profile("dev", nodes=0), nodes[:2], frozenset())
    assert none == ["dev", "dev-m02"]


class Silent:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


class Answers:
    """An API server that has a node by the second question only, and keeps what it is told."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.labelled = 0

    def is_ready(self) -> bool:
        return True

    def get(self, path: str) -> Any:
        assert path == "/api/v1/nodes", "nobody who does not wait asks for more"
        return {"items": []}

    def put_in_place(self, collection: str, value: dict[str, Any]) -> None:
        self.written.append(f"{value['kind']}/{value['metadata']['name']}")

    def create_missing(self, collection: str, value: dict[str, Any]) -> None:
        self.put_in_place(collection, value)

    def merge(self, path: str, value: dict[str, Any]) -> None:
        assert path == "/api/v1/nodes/dev"
        self.labelled += 1
        if self.labelled == 1:
            raise ApiUnavailableError("not there yet", 404)

    def close(self) -> None: ...


def test_who_does_not_wait_gets_a_whole_cluster_all_the_same(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, images = Answers(), list[str]()
    monkeypatch.setattr(readiness, "Api", lambda *_: api)
    monkeypatch.setattr(readiness, "bring_pause_image", lambda *given: images.append(given[2]))
    profile = Profile("dev", nodes=2)
    readiness.complete(profile, paths, Silent(), 5.0, wait=False)
    assert {"Service/kube-dns", "EndpointSlice/kube-dns-nodes", "ConfigMap/coredns"} <= set(
        api.written
    )
    assert "ClusterRoleBinding/navarch:network-policy" in api.written
    assert sorted(images) == ["dev", "dev-m02"] and api.labelled == 2


def test_a_newcomer_gets_the_images_that_it_lacks_though_the_first_attempt_fails(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or though whoever brings them is ended on the way: the node is one all the same."""

    def bring(source: Pins, target: Pins) -> None:
        copies.add((source.node, target.node))
        if fails:
            raise ClusterError("no room")

    copies, told, fails = set[tuple[str, str]](), Silent(), True
    monkeypatch.setattr(readiness, "Api", lambda *_: Answers())
    monkeypatch.setattr(readiness, "bring_pause_image", lambda *_: None)
    monkeypatch.setattr(readiness, "wait_for_runtime", lambda *_: None)
    monkeypatch.setattr(images, "copy", bring)
    profile, new = Profile("dev", nodes=3), ["dev", "dev-m03"]
    readiness.expect_images(paths, new)
    for is_last in (False, True):
        fails = not is_last
        readiness.complete(profile, paths, told, 5.0, wait=False)
        assert copies == {("dev-m02", "dev"), ("dev-m02", "dev-m03")}
        copies.clear()
    assert told.notes == [f"{name} lacks images that dev-m02 has: no room" for name in new]
    readiness.complete(profile, paths, told, 5.0, wait=False)
    assert copies == set()


def test_where_all_nodes_are_new_none_has_images_for_others(paths: Paths) -> None:
    readiness.expect_images(paths, ["dev", "dev-m02"])
    assert readiness.sources_of_images(paths, ["dev", "dev-m02"]) == {}
    readiness.expect_images(paths, ["dev-m03"])
    running = ["dev", "dev-m02", "dev-m03"]
    assert readiness.sources_of_images(paths, running) == {"dev-m03": "dev"}


def test_nodes_that_are_switched_off_are_not_waited_for(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "Api", lambda *_: Answers())
    monkeypatch.setattr(readiness, "_accounts_are_there", lambda _: True)
    profile = Profile("dev", nodes=2, stopped=("dev", "dev-m02"))
    readiness.complete(profile, paths, Silent(), 1.0, wait=True)
    assert readiness._count(Profile("dev", nodes=3, stopped=("dev-m02",))) == "2 nodes"
