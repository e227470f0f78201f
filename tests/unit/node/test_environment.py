"""Variables and references of a container."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import ConfigMap, Secret, Service
from navarch.node.downward import PodAddresses, format_map, go_quote
from navarch.node.env_files import EnvFile
from navarch.node.environment import (
    EnvironmentProblem,
    EnvironmentSources,
    build,
    expand,
    references,
    service_variables,
    unresolved,
)
from navarch.node.resources import NodeResources

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("$(A)", "1", id="reference"),
        pytest.param("x$(A)$(B)y", "x12y", id="two"),
        pytest.param("$(C)", "$(C)", id="unknown stays"),
        pytest.param("$$(A)", "$(A)", id="escaped"),
        pytest.param("$$$(A)", "$1", id="dollar, then reference"),
        pytest.param("$$$$(A)", "$$(A)", id="two dollars"),
        pytest.param("$A ${A} $", "$A ${A} $", id="no references"),
        pytest.param("$(A", "$(A", id="not closed"),
        pytest.param("$($(A))", "$($(A))", id="nested"),
        pytest.param("$(B$(A))", "$(B$(A))", id="nested behind a name"),
        pytest.param("$(B$(A)", "$(B$(A)", id="nested, not closed"),
        pytest.param("$(A$(B", "$(A$(B", id="twice not closed"),
        pytest.param("$()$(A)", "$()1", id="no name"),
        pytest.param("f000-$$VAR_A", "f000-$VAR_A", id="escaped without parentheses"),
        pytest.param("foo\\$(A)", "foo\\1", id="backslash means nothing"),
        pytest.param("$((A))", "$((A))", id="two parentheses"),
        pytest.param("$(A)(A)$", "1(A)$", id="dollar at the end"),
        pytest.param("", "", id="empty"),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


def test_unresolved_references_are_found() -> None:
    assert unresolved("$(A)/$(B)/$$(C)", {"A": "1"}) == ["B"]


SOURCES = EnvironmentSources(
    config_maps={"conf": ConfigMap(data={"COLOUR": "blue", "1st": "one"})},
    secrets={"key": Secret(data={"PASSWORD": "aHVzaA=="})},
    files={("v", "a.env"): EnvFile({"K": "from file"}), ("v", "bad"): EnvFile({}, is_whole=False)},
    addresses=PodAddresses(("10.1.0.7", "fd00::7"), ("192.168.49.2",)),
    node=NodeResources(4000, 8192 * MIB, 0),
)


def ref(**source: Any) -> dict[str, Any]:
    return {"name": "V", "valueFrom": source}


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        pytest.param(ref(fieldRef={"fieldPath": "metadata.uid"}), "u-1", id="uid"),
        pytest.param(ref(fieldRef={"fieldPath": "spec.nodeName"}), "node-1", id="node"),
        pytest.param(ref(fieldRef={"fieldPath": "status.podIPs"}), "10.1.0.7,fd00::7", id="ips"),
        pytest.param(ref(fieldRef={"fieldPath": "status.hostIP"}), "192.168.49.2", id="host"),
        pytest.param(ref(fieldRef={"fieldPath": "metadata.labels['tier']"}), "front", id="label"),
        pytest.param(ref(fieldRef={"fieldPath": "metadata.labels['x']"}), "", id="no such label"),
        pytest.param(ref(configMapKeyRef={"name": "conf", "key": "COLOUR"}), "blue", id="map"),
        pytest.param(ref(secretKeyRef={"name": "key", "key": "PASSWORD"}), "hush", id="secret"),
        pytest.param(
            ref(configMapKeyRef={"name": "no", "key": "k", "optional": True}), None, id="optional"
        ),
        pytest.param(ref(resourceFieldRef={"resource": "limits.cpu"}), "2", id="cpu rounds up"),
        pytest.param(
            ref(resourceFieldRef={"resource": "limits.cpu", "divisor": "1m"}), "1250", id="milli"
        ),
        pytest.param(
            ref(resourceFieldRef={"resource": "requests.memory", "divisor": "1Mi"}), "32", id="mem"
        ),
        pytest.param(
            ref(resourceFieldRef={"resource": "limits.memory", "divisor": "1Mi"}), "8192",
            id="no limit means the node's",
        ),
        pytest.param(ref(resourceFieldRef={"resource": "requests.cpu"}), "0", id="no request"),
        pytest.param(ref(resourceFieldRef={"resource": "limits.hugepages-2Mi", "divisor": "1Mi"}),
                     "4", id="huge pages"),
        pytest.param(ref(resourceFieldRef={"resource": "limits.hugepages-1Gi"}), "0",
                     id="no huge pages are the node's to give"),
        pytest.param(ref(resourceFieldRef={"resource": "limits.ephemeral-storage"}), "0",
                     id="disk"),
        pytest.param(ref(resourceFieldRef={"resource": "limits.memory", "divisor": "3k"}),
                     "2863312", id="a part of a divisor counts whole"),
        pytest.param(ref(resourceFieldRef={"containerName": "first", "resource": "limits.cpu"}),
                     "0", id="of an init container"),
        pytest.param(ref(fieldRef={"fieldPath": "spec.serviceAccountName"}), "bob", id="account"),
        pytest.param(ref(fieldRef={"fieldPath": "metadata.annotations['A/b']"}), "x y", id="note"),
        pytest.param(ref(fileKeyRef={"volumeName": "v", "path": "a.env", "key": "K"}), "from file",
                     id="file"),
        pytest.param(ref(fileKeyRef={"volumeName": "v", "path": "a.env", "key": "NO",
                                     "optional": True}), None, id="optional key of a file"),
    ],
)  # fmt: skip
def test_value_from(variable: dict[str, Any], expected: str | None) -> None:
    resources = {
        "limits": {"cpu": "1250m", "hugepages-2Mi": "4Mi"},
        "requests": {"memory": "32Mi"},
    }
    pod = make_pod(
        {"name": "main", "env": [variable], "resources": resources},
        metadata={"labels": {"tier": "front"}, "annotations": {"A/b": "x y"}},
        serviceAccountName="bob",
        initContainers=[{"name": "first", "image": "x"}],
    )
    variables = build(pod, pod.spec.containers[0], SOURCES)
    assert variables.get("V") == expected


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"env": [ref(configMapKeyRef={"name": "no", "key": "k"})]}, 'configmap "no" not found'),
        (
            {"env": [ref(configMapKeyRef={"name": "conf", "key": "k"})]},
            "couldn't find key k in ConfigMap default/conf",
        ),
        ({"env": [ref(secretKeyRef={"name": "no", "key": "k"})]}, 'secret "no" not found'),
        (
            {"env": [ref(secretKeyRef={"name": "key", "key": "k"})]},
            "couldn't find key k in Secret default/key",
        ),
        (
            {"env": [ref(fileKeyRef={"volumeName": "v", "path": "a.env", "key": "NO"})]},
            'environment variable key "NO" not found in file "a.env"',
        ),
        (
            {
                "env": [
                    ref(fileKeyRef={"volumeName": "v", "path": "bad", "key": "K", "optional": True})
                ]
            },
            "couldn't parse env file",
        ),
        ({"envFrom": [{"secretRef": {"name": "no"}}]}, 'secret "no" not found'),
    ],
)
def test_what_is_missing_is_named(container: dict[str, Any], message: str) -> None:
    pod = make_pod({"name": "main", **container})
    with pytest.raises(EnvironmentProblem) as caught:
        build(pod, pod.spec.containers[0], SOURCES)
    assert str(caught.value) == message


def test_precedence_and_references() -> None:
    container = {
        "name": "main",
        "envFrom": [{"prefix": "p.", "configMapRef": {"name": "conf"}},
                    {"configMapRef": {"name": "conf"}}],
        "env": [
            {"name": "COLOUR", "value": "red"},
            {"name": "BOTH", "value": "$(COLOUR) $(p.COLOUR) $(LATER) $(DB_SERVICE_HOST)"},
            {"name": "LATER", "value": "x"},
        ],
    }  # fmt: skip
    pod = make_pod(container)
    database = service("db", "default", "10.96.0.9", [{"port": 5432}])
    sources = EnvironmentSources(config_maps=SOURCES.config_maps, services=[database])
    result = build(pod, pod.spec.containers[0], sources)
    assert result["BOTH"] == "red blue $(LATER) 10.96.0.9"
    assert result["1st"] == "one"
    assert references(pod.spec.containers[0]) == ({"conf"}, set())


def service(name: str, namespace: str, address: str, ports: list[dict[str, Any]]) -> Service:
    meta = {"name": name, "namespace": namespace}
    return from_object(Service, {"metadata": meta, "spec": {"clusterIP": address, "ports": ports}})


def test_service_variables() -> None:
    services = [
        service("my-db", "default", "10.96.0.9", [
            {"name": "sql", "port": 5432, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]),
        service("headless", "default", "None", [{"port": 1}]),
        service("foreign", "other", "10.96.0.8", [{"port": 1}]),
        service("kubernetes", "default", "10.96.0.1", [{"name": "https", "port": 443}]),
    ]  # fmt: skip
    shown = service_variables(make_pod(), services)
    assert {key: value for key, value in shown.items() if key.startswith("MY_DB")} == {
        "MY_DB_SERVICE_HOST": "10.96.0.9",
        "MY_DB_SERVICE_PORT": "5432",
        "MY_DB_SERVICE_PORT_SQL": "5432",
        "MY_DB_PORT": "tcp://10.96.0.9:5432",
        "MY_DB_PORT_5432_TCP": "tcp://10.96.0.9:5432",
        "MY_DB_PORT_5432_TCP_PROTO": "tcp",
        "MY_DB_PORT_5432_TCP_PORT": "5432",
        "MY_DB_PORT_5432_TCP_ADDR": "10.96.0.9",
        "MY_DB_PORT_53_UDP": "udp://10.96.0.9:53",
        "MY_DB_PORT_53_UDP_PROTO": "udp",
        "MY_DB_PORT_53_UDP_PORT": "53",
        "MY_DB_PORT_53_UDP_ADDR": "10.96.0.9",
    }
    assert not any(key.startswith(("HEADLESS", "FOREIGN")) for key in shown)
    without = service_variables(make_pod(enableServiceLinks=False), services)
    assert without["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert not any(key.startswith("MY_DB") for key in without)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("plain", '"plain"'), ('a"b\\c', '"a\\"b\\\\c"'), ("tab\tnewline\n", '"tab\\tnewline\\n"'),
     ("é", '"é"'), ("\x01", '"\\x01"'), ("\u200b", '"\\u200b"')],
)  # fmt: skip
def test_go_quote(text: str, quoted: str) -> None:
    assert go_quote(text) == quoted


def test_maps_are_sorted_lines() -> None:
    assert format_map({"b": "2", "a": "1"}) == 'a="1"\nb="2"'


def test_limits_of_the_pod_stand_in_for_those_of_its_containers() -> None:
    variable = ref(resourceFieldRef={"resource": "limits.cpu", "divisor": "1m"})
    resources = {"limits": {"cpu": "300m"}}
    pod = make_pod({"name": "main", "env": [variable]}, resources=resources)
    assert build(pod, pod.spec.containers[0], SOURCES)["V"] == "300"
    own = {"name": "main", "env": [variable], "resources": {"limits": {"cpu": "200m"}}}
    pod = make_pod(own, resources=resources)
    assert build(pod, pod.spec.containers[0], SOURCES)["V"] == "200"
