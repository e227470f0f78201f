"""Who is asked about a request: rules, scopes, selectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.api.errors import ApiError
from navarch.apiserver.admission.base import AdmissionAccess
from navarch.apiserver.admission.matching import (
    Criteria,
    Rule,
    Subject,
    Versions,
    is_exempt,
    subject_of,
)
from navarch.apiserver.contracts import AdmissionRequest, RequestInfo, UserInfo
from navarch.apiserver.hub.hub import Hub
from navarch.apiserver.registry.resource import Catalog
from navarch.store.memory import open_memory_store

Object = dict[str, Any]

PODS: Object = {
    "operations": ["CREATE"],
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "resources": ["pods"],
}
POD = Subject("CREATE", "", "v1", "pods", "", ("", "v1", "Pod"), "default", "a")
NODE = Subject("CREATE", "", "v1", "nodes", "", ("", "v1", "Node"), "", "a")
NAMESPACE = replace(NODE, resource="namespaces", kind=("", "v1", "Namespace"), namespace="a")
ANY: Object = {
    "operations": ["*"],
    "apiGroups": ["*"],
    "apiVersions": ["*"],
    "resources": ["*/*"],
}


@pytest.mark.parametrize(
    ("changes", "subject", "matches"),
    [
        pytest.param({}, POD, True, id="exact"),
        pytest.param({"operations": ["DELETE", "UPDATE"]}, POD, False, id="other operations"),
        pytest.param({"operations": ["*"]}, POD, True, id="any operation"),
        pytest.param({"apiGroups": ["apps"]}, POD, False, id="other group"),
        pytest.param({"apiGroups": ["*"]}, POD, True, id="any group"),
        pytest.param({"apiVersions": ["v2"]}, POD, False, id="other version"),
        pytest.param({"apiVersions": ["*"]}, POD, True, id="any version"),
        pytest.param({"resources": ["nodes"]}, POD, False, id="other resource"),
        pytest.param({"resources": ["*"]}, POD, True, id="any resource"),
        pytest.param({}, replace(POD, subresource="status"), False, id="subresource not named"),
        pytest.param({"resources": ["*"]}, replace(POD, subresource="status"), False, id="star"),
        pytest.param({"resources": ["pods/*"]}, replace(POD, subresource="exec"), True, id="all"),
        pytest.param({"resources": ["pods/*"]}, POD, True, id="all and the resource itself"),
        pytest.param({"resources": ["*/scale"]}, replace(POD, subresource="scale"), True, id="of"),
        pytest.param({"resources": ["*/scale"]}, POD, False, id="subresource of all"),
        pytest.param({"resources": ["*/*"]}, replace(POD, subresource="log"), True, id="all"),
        pytest.param({"scope": "Namespaced"}, POD, True, id="namespaced"),
        pytest.param({"scope": "Cluster"}, POD, False, id="not of the cluster"),
        pytest.param({**ANY, "scope": "Cluster"}, NODE, True, id="of the cluster"),
        pytest.param({**ANY, "scope": "Namespaced"}, NODE, False, id="not namespaced"),
        pytest.param({**ANY, "scope": "Cluster"}, NAMESPACE, True, id="namespace"),
        pytest.param({**ANY, "scope": "Namespaced"}, NAMESPACE, False, id="namespace in itself"),
        pytest.param({"resourceNames": ["a"]}, POD, True, id="named"),
        pytest.param({"resourceNames": ["b"]}, POD, False, id="other name"),
    ],
)
def test_rules(changes: Object, subject: Subject, matches: bool) -> None:
    assert Rule.of({**PODS, **changes}).matches(subject) is matches


@pytest.fixture
async def versions() -> Versions:
    catalog = Catalog(Hub(open_memory_store()))
    catalog.add_built_in()
    return Versions(catalog)


@pytest.fixture
def lookup() -> MemoryLookup:
    lookup = MemoryLookup()
    lookup.put("namespaces", {"metadata": {"name": "default", "labels": {"team": "a"}}})
    return lookup


def request_of(
    path: tuple[str, str, str, str, str], obj: Object | None, old: Object | None = None, **more: Any
) -> AdmissionRequest:
    """`path` is group, version, resource, namespace, name."""
    group, version, resource, namespace, name = path
    info = RequestInfo(True, "", "create", group, version, resource, "", namespace, name)
    kind = (obj or old or {}).get("kind", "")
    operation = "CREATE" if obj is not None else "DELETE"
    return AdmissionRequest(operation, info, kind, UserInfo("u"), obj, old, **more)


def pod(**labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": labels}}


async def asked(
    source: Object, request: AdmissionRequest, versions: Versions, lookup: MemoryLookup
) -> Subject | None:
    async def get(resource: str, namespace: str, name: str) -> Object | None:
        return None

    async def update(resource: str, obj: Object) -> Object:
        raise AssertionError

    access = AdmissionAccess(lookup, get, update)
    field = "resourceRules" if "resourceRules" in source else "rules"
    criteria = Criteria.of(source, field)
    return await criteria.match(request, subject_of(request), versions, access)


IN_DEFAULT = ("", "v1", "pods", "default", "")


@pytest.mark.parametrize(
    ("source", "matches"),
    [
        pytest.param({"rules": [PODS]}, True, id="no selectors"),
        pytest.param({"rules": []}, False, id="a webhook without rules"),
        pytest.param({"resourceRules": []}, True, id="a policy without rules"),
        pytest.param({"resourceRules": [PODS], "excludeResourceRules": [PODS]}, False, id="out"),
        pytest.param(
            {"rules": [PODS], "namespaceSelector": {"matchLabels": {"team": "a"}}}, True, id="ns"
        ),
        pytest.param(
            {"rules": [PODS], "namespaceSelector": {"matchLabels": {"team": "b"}}},
            False,
            id="other namespace",
        ),
        pytest.param(
            {"rules": [PODS], "objectSelector": {"matchLabels": {"app": "x"}}}, True, id="object"
        ),
        pytest.param(
            {"rules": [PODS], "objectSelector": {"matchLabels": {"app": "y"}}},
            False,
            id="other object",
        ),
    ],
)
async def test_selectors(
    source: Object, matches: bool, versions: Versions, lookup: MemoryLookup
) -> None:
    found = await asked(source, request_of(IN_DEFAULT, pod(app="x")), versions, lookup)
    assert (found is not None) is matches


async def test_a_namespace_that_is_not_there_is_an_error_of_those_it_concerns(
    versions: Versions, lookup: MemoryLookup
) -> None:
    request = request_of(("", "v1", "pods", "gone", ""), pod())
    selector = {"matchLabels": {"team": "a"}}
    others = {**PODS, "resources": ["secrets"]}
    assert (
        await asked({"rules": [others], "namespaceSelector": selector}, request, versions, lookup)
        is None
    )
    with pytest.raises(ApiError) as caught:
        await asked({"rules": [PODS], "namespaceSelector": selector}, request, versions, lookup)
    assert caught.value.is_not_found


async def test_namespace_selectors_do_not_spare_the_cluster(
    versions: Versions, lookup: MemoryLookup
) -> None:
    node: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    source = {"rules": [ANY], "namespaceSelector": {"matchLabels": {"team": "none"}}}
    request = request_of(("", "v1", "nodes", "", ""), node)
    assert await asked(source, request, versions, lookup) is not None


@pytest.mark.parametrize(
    ("policy", "version"), [("Equivalent", "v2"), ("Exact", "")], ids=["equivalent", "exact"]
)
async def test_equivalent_versions_are_caught(
    policy: str, version: str, versions: Versions, lookup: MemoryLookup
) -> None:
    rule = {
        "operations": ["CREATE"],
        "apiGroups": ["autoscaling"],
        "apiVersions": ["v2"],
        "resources": ["horizontalpodautoscalers"],
    }
    scaler: Object = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 5},
    }
    path = ("autoscaling", "v1", "horizontalpodautoscalers", "default", "")
    request = request_of(path, scaler)
    found = await asked({"rules": [rule], "matchPolicy": policy}, request, versions, lookup)
    assert (found.version if found else "") == version
    if found is not None:
        shown = await versions.convert(scaler, subject_of(request), found)
        assert shown["apiVersion"] == "autoscaling/v2"
        assert scaler["spec"] == {"maxReplicas": 3, "targetCPUUtilizationPercentage": 5}
        back = await versions.convert(shown, found, subject_of(request))
        assert back["spec"]["targetCPUUtilizationPercentage"] == 5


async def test_events_of_both_groups_are_equivalent(versions: Versions) -> None:
    subject = Subject("CREATE", "", "v1", "events", "", ("", "v1", "Event"), "default", "e")
    [other] = versions.equivalents(subject)
    assert other.place == ("events.k8s.io", "v1", "events")
    assert other.kind == ("events.k8s.io", "v1", "Event")


@pytest.mark.parametrize(
    ("request_", "name", "namespace"),
    [
        pytest.param(request_of(IN_DEFAULT, pod()), "a", "default", id="named in the body"),
        pytest.param(
            request_of(IN_DEFAULT, pod(), is_name_generated=True), "", "default", id="generated"
        ),
        pytest.param(request_of(IN_DEFAULT, None, pod()), "", "default", id="of a collection"),
        pytest.param(
            request_of(("", "v1", "namespaces", "", ""), {"metadata": {"name": "n"}}),
            "n",
            "n",
            id="namespace",
        ),
    ],
)
def test_names(request_: AdmissionRequest, name: str, namespace: str) -> None:
    subject = subject_of(request_)
    assert (subject.name, subject.namespace) == (name, namespace)


def test_configurations_are_exempt() -> None:
    group = "admissionregistration.k8s.io"
    place = (group, "v1", "validatingadmissionpolicies", "", "a")
    assert is_exempt(request_of(place, {"metadata": {}}))
    assert not is_exempt(request_of(IN_DEFAULT, pod()))
