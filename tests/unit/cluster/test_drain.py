"""What leaves a node that is emptied, and how; with an API that is a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from navarch.cluster import drain, leaving, processes, profile, stop, teardown
from navarch.cluster.api import Api, ApiUnavailableError
from navarch.cluster.profile import Profile

NODE = "/api/v1/nodes/n1"


class Fake(Api):
    """Pods that end `rounds` looks after they were sent away; `held` ones by force only."""

    def __init__(self, pods: list[str], held: str = "", ready: str = "True") -> None:
        self.pods, self.held = list(pods), held
        self.node: dict[str, Any] = {
            "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }
        self.asked: list[str] = []

    def get(self, path: str) -> Any:
        if path == NODE:
            return self.node
        return {"items": [{"metadata": {"namespace": "ns", "name": name}} for name in self.pods]}

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        self.asked.append(f"{method} {path}")
        if method == "PATCH":
            assert body is not None
            change = json.loads(body)
            self.node["spec"] |= change.get("spec", {})
            self.node["status"] |= change.get("status", {})
            return b"{}"
        name = path.split("/")[6]
        if method == "POST" and name == self.held:
            raise ApiUnavailableError("its budget does not allow it", 429)
        self.pods.remove(name)
        return b"{}"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PATIENCE", 0.05), ("ENDING", 5.0), ("INTERVAL", 0.01)):
        monkeypatch.setattr(drain, name, value)


def test_pods_are_evicted_and_those_with_a_budget_deleted_at_last() -> None:
    api, notes = Fake(["a", "b"], held="b"), list[str]()
    assert drain.drain(api, "n1", notes.append)
    assert api.node["spec"] == {"unschedulable": True}
    assert api.asked[1] == "POST /api/v1/namespaces/ns/pods/a/eviction"
    assert api.asked[-1] == "DELETE /api/v1/namespaces/ns/pods/b"
    assert notes == ["ns/b is deleted: no disruption budget has let it go in 0.05 s"]


def test_nobody_waits_for_a_node_that_is_lost() -> None:
    api, notes = Fake(["a"], ready="Unknown"), list[str]()
    drain.drain(api, "n1", notes.append)
    assert api.pods == ["a"]
    assert notes == ["n1 is not ready: its pods go with it"]


def test_a_node_that_has_left_says_so_and_takes_pods_when_it_joins_again() -> None:
    api = Fake([])
    assert drain.drain(api, "n1", lambda _: None)
    leaving._farewell(api, "n1", cordoned=True)
    (ready,) = api.node["status"]["conditions"]
    assert (ready["status"], ready["reason"]) == ("False", "NodeLeft")
    assert api.node["spec"] == {"unschedulable": None}


def test_what_somebody_else_has_cordoned_stays_so() -> None:
    api = Fake([])
    api.node["spec"] = {"unschedulable": True}
    assert not drain.drain(api, "n1", lambda _: None)
    leaving._farewell(api, "n1", cordoned=False)
    assert api.node["spec"] == {"unschedulable": True}


def test_a_cluster_that_does_not_answer_is_left_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAVARCH_HOME", str(tmp_path))
    profile.save(Profile("far", joined="192.0.2.1:1", joined_node="n1", joined_addresses=("::",)))
    done: list[str] = []

    def deaf(*_: object) -> bytes:
        raise ApiUnavailableError("nobody answers")

    monkeypatch.setattr(Api, "request", deaf)
    monkeypatch.setattr(processes, "is_running", lambda *_: True)
    monkeypatch.setattr(teardown, "stop_processes", lambda _: done.append("stopped"))
    monkeypatch.setattr(stop, "delete", lambda name, _: done.append(f"deleted {name}"))
    told = Told()
    leaving.leave("far", told, empty=True)
    assert done == ["stopped", "deleted far"]
    assert told.notes == [
        "the cluster cannot be asked, its pods go with it: nobody answers",
        "the cluster does not know yet that n1 has left: nobody answers",
    ]


class Told:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)
