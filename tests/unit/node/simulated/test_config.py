"""The file that says what simulated nodes are like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Pod
from navarch.node.simulated import SimulatedOptions
from navarch.node.simulated.config import (
    API_VERSION,
    ConfigError,
    Fleet,
    NodeGroup,
    grown,
    load,
    parse,
    render,
    shrunk,
)
from navarch.node.simulated.options import default_timetable, members
from navarch.node.simulated.timetable import Span, Timetable

FILE = """
apiVersion: navarch.dev/v1alpha1
kind: SimulatedNodes
nodes:
- name: small
  count: 3
  capacity: {cpu: 4, memory: 8Gi}
  allocatable: {cpu: 3500m}
  labels: {disk: ssd}
  taints: ["dedicated=batch:NoSchedule"]
  zones: [a, b]
  region: here
  images: ["registry.example/app:1=120Mi"]
- {name: gpu, first: 7, capacity: {example.com/gpu: 2}}
pods:
- start: 1s-3s
- match:
    namespaces: [default]
    labels: {matchLabels: {app: web}}
  ready: 2
  containers:
    log: {run: 5s, exitCode: 1}
- match: {nodes: [gpu]}
  reject: OutOfgpu
"""


def document(**changes: Any) -> dict[str, Any]:
    data = yaml.safe_load(FILE)
    data.update(changes)
    return dict(data)


def pod(labels: dict[str, str], annotations: dict[str, str] | None = None) -> Pod:
    meta = {"name": "p", "namespace": "default", "labels": labels, "annotations": annotations or {}}
    return from_object(Pod, {"metadata": meta, "spec": {"containers": []}})


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text(FILE)
    fleet = load(tmp_path / "nodes.yaml")
    assert fleet.node_names() == ["small-0", "small-1", "small-2", "gpu-7"]
    small = fleet.nodes[0]
    assert [small.zone(number) for number in small.numbers()] == ["a", "b", "a"]
    assert (small.capacity["cpu"], small.capacity["pods"]) == ("4", "110")
    web = fleet.timetable(pod({"app": "web"}), "small", Timetable())
    assert (web.start, web.ready, web.of("log").exit_code) == (Span(1, 3), Span(2, 2), 1)
    other = fleet.timetable(pod({}), "gpu", Timetable())
    assert (other.start, other.ready, other.reject) == (Span(1, 3), Span(), "OutOfgpu")
    own = pod({"app": "web"}, {"simulated.navarch.dev/start": "9"})
    assert fleet.timetable(own, "small", Timetable()).start == Span(9, 9)


def group(**values: Any) -> dict[str, Any]:
    return {"nodes": [{"name": "a", **values}]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "Nodes"}, "kind: must be SimulatedNodes, not 'Nodes'"),
        ({"speed": 1}, "the document: unknown field 'speed'"),
        ({"nodes": {}}, ""),
        ({"nodes": {"a": 1}}, "nodes: must be a list"),
        (group(cout=1), r"nodes\[0\]: unknown field 'cout'; known are .*count"),
        (group(count=0), r"nodes\[0\].count: 0 is no number from 1"),
        (group(count=30_000), "30000 are more than 20000"),
        (group(name="Big"), r"nodes\[0\].name: 'Big' is no beginning of a node's name"),
        (group(capacity={"cpu": "much"}), r"nodes\[0\].capacity.cpu: 'much'"),
        (group(capacity={"cpu": "-1"}), "is less than nothing"),
        (group(allocatable={"cpu": "9"}), "allocatable.cpu: 9 is more than the capacity"),
        (group(taints=["a=b"]), r"nodes\[0\].taints\[0\]: 'a=b' is no taint"),
        (group(taints=["a=b:Never"]), "the effect is one of NoSchedule"),
        (group(labels={"a": 1}), r"nodes\[0\].labels.a: 1 is no text; put it in quotes"),
        (group(labels={"a b": "c"}), r"nodes\[0\].labels.a b: "),
        (group(zones=["a b"]), r"nodes\[0\].zones\[0\]: 'a b'"),
        ({"nodes": [{"name": "a", "count": 2}, {"name": "a", "first": 1}]}, "a-1 is in nodes"),
        ({"pods": [{"sleep": 1}]}, r"pods\[0\].sleep: there is no such setting"),
        ({"pods": [{"start": "soon"}]}, r"pods\[0\].start: 'soon' is no duration"),
        ({"pods": [{"match": {"label": {}}}]}, r"pods\[0\].match: unknown field 'label'"),
        ({"pods": [{"match": {"nodes": ["x"]}}]}, r"pods\[0\].match.nodes: .*'x'"),
        (
            {
                "pods": [
                    {"match": {"labels": {"matchExpressions": [{"key": "a", "operator": "?"}]}}}
                ]
            },
            r"pods\[0\].match.labels: ",
        ),
        (
            {"pods": [{"containers": {"c": {"exitCode": "bad"}}}]},
            r"pods\[0\].containers.c.exitCode: ",
        ),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], problem: str) -> None:
    values = {**document(), "pods": [], **changes}
    if not problem:
        assert parse(values).count == 0
        return
    with pytest.raises(ConfigError, match=problem):
        parse(values)


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text("nodes: [")
    with pytest.raises(ConfigError, match=r"nodes\.yaml"):
        load(tmp_path / "nodes.yaml")


def test_what_is_written_reads_back() -> None:
    fleet = shrunk(parse(document()), "small-1")
    written = render(fleet, document()["pods"])
    assert written["apiVersion"] == API_VERSION
    assert parse(yaml.safe_load(yaml.safe_dump(written))) == fleet


def test_growing_and_shrinking() -> None:
    fleet = grown(Fleet(), NodeGroup("sim", 2))
    fleet = grown(fleet, NodeGroup("sim", 1))
    assert fleet.nodes == (NodeGroup("sim", 3),)
    fleet = grown(fleet, NodeGroup("sim", 2, labels={"disk": "ssd"}))
    assert fleet.node_names() == ["sim-0", "sim-1", "sim-2", "sim-3", "sim-4"]
    fleet = shrunk(shrunk(fleet, "sim-1"), "sim-2")
    assert fleet.nodes[0] == NodeGroup("sim", 1)
    assert fleet.node_names() == ["sim-0", "sim-3", "sim-4"]
    assert shrunk(fleet, "sim-0").node_names() == ["sim-3", "sim-4"]
    with pytest.raises(KeyError):
        shrunk(fleet, "sim-1")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"capacity": {"cpu": "much"}}, "options.capacity.cpu: 'much'"),
        ({"capacity": {"cpu": "8,memory=32Gi"}}, "options.capacity.cpu: '8,memory=32Gi'"),
        ({"labels": {"a b": "c"}}, "options.labels.a b: "),
        ({"taints": ("a=b:NoSchedule,c",)}, "options.taints[1]: 'c' is no taint"),
        ({"zones": ("a,b c",)}, "options.zones[1]: 'b c': "),
        ({"names": ("Upper",)}, "names: 'Upper': "),
        ({"name_prefix": "a b", "nodes": 2}, "names: 'a b0': "),
    ],
)
def test_bad_options(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        members(SimulatedOptions("", **given), Fleet())
    assert str(raised.value).startswith(problem)


def test_options_with_commas() -> None:
    options = SimulatedOptions(
        "", names=("x,y",), zones=("a,b",), taints=("k=v:NoSchedule,e:NoExecute",)
    )
    found = members(options, Fleet())
    assert [(m.name, m.group.zone(m.number)) for m in found] == [("x", "a"), ("y", "b")]
    assert found[0].group.taints == ("k=v:NoSchedule", "e:NoExecute")


def test_options_and_file_together(tmp_path: Path) -> None:
    options = SimulatedOptions("", nodes=2, first_number=5, zones=("a", "b"))
    found = [(m.name, m.group.zone(m.number)) for m in members(options, Fleet())]
    assert found == [("sim-5", "b"), ("sim-6", "a")]
    assert len(members(SimulatedOptions(""), Fleet())) == 1
    file = tmp_path / "nodes.yaml"
    file.write_text(FILE)
    assert len(members(SimulatedOptions("", config=str(file)), load(file))) == 4
    timetable = default_timetable(SimulatedOptions("", timetable={"ready": "2s"}, run_seconds=3))
    assert (timetable.ready, timetable.run, timetable.run_only_finite) == (
        *(Span(2, 2), Span(3, 3), True),
    )
