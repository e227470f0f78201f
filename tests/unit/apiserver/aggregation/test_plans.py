"""The decisions of the aggregation layer, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.api.errors import ApiError
from navarch.apiserver.aggregation.availability import (
    PASSED,
    Verdict,
    judge,
    with_condition,
)
from navarch.apiserver.aggregation.extension import SLICES, locate, set_user
from navarch.apiserver.aggregation.proxy import is_ambiguous
from navarch.apiserver.aggregation.records import ServiceRef, record_of
from navarch.apiserver.aggregation.register import Action, built_in_services, local_service, plan
from navarch.apiserver.aggregation.remote_discovery import from_legacy, versions_of
from navarch.apiserver.contracts import UserInfo
from navarch.apiserver.discovery.documents import (
    Registrations,
    RemoteVersion,
    arranged,
    served_groups,
)
from navarch.apiserver.openapi.documents import Extension, merged

Object = dict[str, Any]

REF = ServiceRef("ns", "svc", 443)


class Stored(MemoryLookup):
    """A Service that may be there, and its slices."""

    def __init__(self, service: Object | None, *slices: Object) -> None:
        super().__init__()
        if service is not None:
            self.put("services", service)
        for number, each in enumerate(slices):
            self.put(SLICES, {**each, "metadata": {**each["metadata"], "name": str(number)}})


def service(port: int = 443, name: str = "", **spec: Any) -> Object:
    ports = [{"port": port, "name": name} if name else {"port": port}]
    return {"metadata": {"namespace": "ns", "name": "svc"}, "spec": {"ports": ports, **spec}}


def endpoint_slice(
    *addresses: str, port: int = 8443, name: str = "", ready: bool | None = True, **more: Any
) -> Object:
    endpoints = [{"addresses": [each], "conditions": {"ready": ready}} for each in addresses]
    labels = {"kubernetes.io/service-name": "svc"}
    return {
        "metadata": {"namespace": "ns", "name": "svc-1", "labels": labels},
        "endpoints": endpoints,
        "ports": [{"port": port, "name": name}],
        **more,
    }


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        pytest.param(Stored(None), "ServiceNotFound", id="no service"),
        pytest.param(Stored(service(80)), "ServicePortError", id="another port"),
        pytest.param(Stored(service()), "EndpointsNotFound", id="no slices"),
        pytest.param(
            Stored(service(), endpoint_slice("10.0.0.1", ready=False)),
            "MissingEndpoints",
            id="not ready",
        ),
        pytest.param(
            Stored(service(name="web"), endpoint_slice("10.0.0.1", name="other")),
            "MissingEndpoints",
            id="port of another name",
        ),
        pytest.param(Stored(service(), endpoint_slice("10.0.0.1", ready=None)), "", id="good"),
        pytest.param(Stored(service(80, type="NodePort")), "", id="only ClusterIP is looked into"),
    ],
)
def test_what_is_wrong_with_a_service(stored: Stored, reason: str) -> None:
    verdict = judge(stored, REF)
    assert (verdict.reason if verdict is not None else "") == reason


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (Stored(service(), endpoint_slice("10.0.0.1")), ("10.0.0.1", 8443)),
        (Stored(service(type="ExternalName", externalName="x.example")), ("x.example", 443)),
        (
            Stored(
                service(ipFamilies=["IPv6", "IPv4"]),
                endpoint_slice("10.0.0.1", addressType="IPv4"),
                endpoint_slice("fd00::1", addressType="IPv6"),
            ),
            ("fd00::1", 8443),
        ),
        (
            Stored(
                service(),
                endpoint_slice("10.0.0.1", ready=False),
                endpoint_slice("10.0.0.2"),
            ),
            ("10.0.0.2", 8443),
        ),
    ],
)
def test_where_a_service_is(stored: Stored, expected: tuple[str, int]) -> None:
    assert locate(stored, REF) == expected


@pytest.mark.parametrize(
    "stored", [Stored(None), Stored(service(80)), Stored(service()), Stored(service(name="x"))]
)
def test_a_service_that_is_nowhere(stored: Stored) -> None:
    with pytest.raises(ApiError) as caught:
        locate(stored, REF)
    assert caught.value.status == 503


def test_conditions_change_only_when_they_must() -> None:
    obj: Object = {"metadata": {"name": "x"}}
    assert with_condition(obj, PASSED, "t1")
    assert not with_condition(obj, PASSED, "t2")
    other = Verdict(True, "Local", "m")
    assert with_condition(obj, other, "t3")
    assert obj["status"]["conditions"] == [
        {
            "type": "Available",
            "status": "True",
            "reason": "Local",
            "message": "m",
            "lastTransitionTime": "t1",
        }
    ]
    assert with_condition(obj, Verdict(False, "x", "y"), "t4")
    assert obj["status"]["conditions"][0]["lastTransitionTime"] == "t4"


# ---- automatic APIServices

CUSTOM = local_service("ex.io", "v1")
BUILT_IN = local_service("apps", "v1")
FOREIGN = {"metadata": {"name": "v1.ex.io"}, "spec": {"service": {"name": "mine"}}}


def bent(obj: Object) -> Object:
    return {**obj, "spec": {**obj["spec"], "versionPriority": 3}}


@pytest.mark.parametrize(
    ("wanted", "there", "is_start", "expected"),
    [
        pytest.param(CUSTOM, None, False, Action.CREATE, id="new"),
        pytest.param(CUSTOM, CUSTOM, False, Action.NOTHING, id="right"),
        pytest.param(CUSTOM, bent(CUSTOM), False, Action.UPDATE, id="bent"),
        pytest.param(None, CUSTOM, False, Action.DELETE, id="no longer served"),
        pytest.param(None, None, False, Action.NOTHING, id="neither"),
        pytest.param(CUSTOM, FOREIGN, False, Action.NOTHING, id="somebody else's"),
        pytest.param(None, FOREIGN, True, Action.NOTHING, id="somebody else's at start"),
        pytest.param(BUILT_IN, None, True, Action.CREATE, id="built in, at start"),
        pytest.param(BUILT_IN, None, False, Action.NOTHING, id="built in, deleted later"),
        pytest.param(BUILT_IN, bent(BUILT_IN), True, Action.UPDATE, id="built in, bent, at start"),
        pytest.param(BUILT_IN, bent(BUILT_IN), False, Action.NOTHING, id="built in, bent later"),
        pytest.param(None, BUILT_IN, True, Action.DELETE, id="of a version we no longer serve"),
    ],
)
def test_automatic_registration(
    wanted: Object | None, there: Object | None, is_start: bool, expected: Action
) -> None:
    assert plan(wanted, there, is_start) is expected


def test_names_and_labels_of_automatic_ones() -> None:
    found = {each["metadata"]["name"]: each for each in built_in_services()}
    assert "group" not in found["v1."]["spec"]
    assert found["v2.autoscaling"]["spec"]["versionPriority"] == 30
    label = "kube-aggregator.kubernetes.io/automanaged"
    assert CUSTOM["metadata"]["labels"] == {label: "true"}
    assert BUILT_IN["metadata"]["labels"] == {label: "onstart"}


def test_reading_an_api_service() -> None:
    spec = {"group": "g", "version": "v1", "service": {"namespace": "ns", "name": "svc"}}
    record = record_of({"metadata": {"name": "v1.g"}, "spec": spec})
    assert record.service == REF
    assert record.service.server_name == "svc.ns.svc"
    assert not record.is_available
    assert record.path == "/apis/g/v1"


# ---- headers and paths


def test_the_user_in_headers() -> None:
    headers = CIMultiDict(
        {"x-remote-user": "root", "X-Remote-Extra-A": "b", "X-REMOTE-GROUP": "g", "Kept": "1"}
    )
    user = UserInfo("ann", "7", ("a", "b"), {"example.com/Scope": ("x", "y")})
    set_user(headers, user)
    assert list(headers.items()) == [
        ("Kept", "1"),
        ("X-Remote-User", "ann"),
        ("X-Remote-Uid", "7"),
        ("X-Remote-Group", "a"),
        ("X-Remote-Group", "b"),
        ("X-Remote-Extra-example.com%2FScope", "x"),
        ("X-Remote-Extra-example.com%2FScope", "y"),
    ]


def test_a_user_that_cannot_be_said() -> None:
    with pytest.raises(ApiError) as caught:
        set_user(CIMultiDict(), UserInfo("ann\r\nX-Remote-Group: system:masters"))
    assert caught.value.status == 503


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/apis/g/v1/namespaces/a/things/b", False),
        ("/apis/g/v1/things?x=/../", False),
        ("/apis/g/v1/things/a%20b/", False),
        ("/apis/g/v1/things/a%2Fstatus", True),
        ("/apis/g/v1/things/..", True),
        ("/apis/g/v1/things/%2e/x", True),
        ("/apis/g/v1//things", True),
    ],
)
def test_paths_that_mean_two_things(path: str, expected: bool) -> None:
    assert is_ambiguous(path) is expected


# ---- discovery and OpenAPI


def test_old_discovery_documents() -> None:
    rows = [
        {"name": "foos/status", "kind": "Foo", "namespaced": True, "verbs": ["get"]},
        {
            "name": "foos",
            "kind": "Foo",
            "namespaced": True,
            "singularName": "foo",
            "verbs": ["get", "list"],
            "shortNames": ["f"],
        },
        {"name": "bars/scale", "kind": "Scale", "group": "autoscaling", "version": "v1"},
    ]
    foos, bars = from_legacy({"resources": rows})
    kind = {"group": "", "version": "", "kind": "Foo"}
    assert foos == {
        "resource": "foos",
        "responseKind": kind,
        "scope": "Namespaced",
        "singularResource": "foo",
        "verbs": ["get", "list"],
        "shortNames": ["f"],
        "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["get"]}],
    }
    assert bars["resource"] == "bars"
    assert bars["subresources"][0]["responseKind"]["group"] == "autoscaling"


@pytest.mark.parametrize("document", [{}, {"items": 3}, {"items": [3, {"versions": None}]}])
def test_documents_that_say_nothing(document: Object) -> None:
    assert versions_of(document) == {}


def test_the_order_of_groups_and_versions() -> None:
    registered = Registrations()
    registered.remote = {
        ("b.example", "v1"): RemoteVersion(),
        ("b.example", "v2beta1"): RemoteVersion(),
        ("a.example", "v1"): RemoteVersion(),
        ("first.example", "v1"): RemoteVersion(),
    }
    registered.priorities = {
        ("b.example", "v1"): (100, 5),
        ("b.example", "v2beta1"): (2000, 5),
        ("a.example", "v1"): (2000, 1),
        ("first.example", "v1"): (19000, 1),
    }
    groups = arranged(served_groups([]), registered)
    names = [group.name for group in groups]
    assert names[:4] == ["", "apiregistration.k8s.io", "first.example", "apps"]
    assert names[-2:] == ["a.example", "b.example"]
    assert list(groups[-1].versions) == ["v1", "v2beta1"]
    registered.priorities["b.example", "v2beta1"] = (2000, 9)
    assert list(arranged([], registered)[-1].versions) == ["v2beta1", "v1"]


def test_definitions_of_one_name_keep_apart() -> None:
    def extension(path: str, field: str) -> Extension:
        item = {"get": {"schema": {"$ref": "#/definitions/T"}}}
        definitions = {"T": {"field": field, "self": {"$ref": "#/definitions/T"}}, "U": {}}
        return Extension("", b"", {path: item}, definitions)

    paths, definitions = merged([extension("/a", "1"), extension("/b", "2"), extension("/c", "1")])
    assert set(definitions) == {"T", "T_v2", "U"}
    assert paths["/a"] == paths["/c"]
    assert paths["/b"]["get"]["schema"] == {"$ref": "#/definitions/T_v2"}
    assert definitions["T_v2"] == {"field": "2", "self": {"$ref": "#/definitions/T_v2"}}
