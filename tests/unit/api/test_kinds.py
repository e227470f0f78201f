"""The kinds table: look-ups, subresources, and where objects are stored."""

from __future__ import annotations

import pytest

from navarch.api import kinds
from navarch.api.kinds import Kind, kind_by_name, kind_by_resource
from navarch.api.schema.facts import schema_for


def row(group: str, version: str, plural: str) -> Kind:
    found = kind_by_resource(group, version, plural)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("group", "version", "plural", "key"),
    [
        ("", "v1", "pods", "/registry/pods/ns/x"),
        ("", "v1", "services", "/registry/services/specs/ns/x"),
        ("", "v1", "endpoints", "/registry/services/endpoints/ns/x"),
        ("", "v1", "nodes", "/registry/minions/x"),
        ("", "v1", "replicationcontrollers", "/registry/controllers/ns/x"),
        ("apps", "v1", "deployments", "/registry/deployments/ns/x"),
        ("networking.k8s.io", "v1", "ingresses", "/registry/ingress/ns/x"),
        ("events.k8s.io", "v1", "events", "/registry/events/ns/x"),
        (
            "apiextensions.k8s.io",
            "v1",
            "customresourcedefinitions",
            "/registry/apiextensions.k8s.io/customresourcedefinitions/x",
        ),
        (
            "apiregistration.k8s.io",
            "v1",
            "apiservices",
            "/registry/apiregistration.k8s.io/apiservices/x",
        ),
    ],
)
def test_storage_keys_follow_etcd(group: str, version: str, plural: str, key: str) -> None:
    assert row(group, version, plural).storage_range("ns") + "x" == key


def test_versions_of_one_kind_share_their_place() -> None:
    old, new = (row("autoscaling", v, "horizontalpodautoscalers") for v in ("v1", "v2"))
    assert old.storage_prefix == new.storage_prefix
    assert old.stored_kind is new is new.stored_kind
    assert row("events.k8s.io", "v1", "events").stored_kind is row("", "v1", "events")
    assert row("", "v1", "pods").storage_version_hash == "xPOwRZ+Yhw8="


def test_subresources_know_what_they_carry() -> None:
    pods = row("", "v1", "pods")
    eviction = pods.subresource("eviction")
    assert eviction is not None
    assert (eviction.group, eviction.version, eviction.kind) == ("policy", "v1", "Eviction")
    assert eviction.verbs == ("create",)
    status = pods.subresource("status")
    assert status is not None
    assert (status.kind, status.verbs) == ("Pod", ("get", "patch", "update"))
    assert pods.subresource("scale") is None


def test_what_is_never_stored_has_no_place() -> None:
    review = row("authorization.k8s.io", "v1", "subjectaccessreviews")
    assert not review.is_stored
    assert review.list_kind == ""
    assert row("", "v1", "bindings").verbs == ("create",)
    assert "deletecollection" not in row("", "v1", "namespaces").verbs


def test_names() -> None:
    deployments = kind_by_name("apps", "v1", "Deployment")
    assert deployments is not None
    assert deployments.list_kind == "DeploymentList"
    assert deployments.short_names == ("deploy",)
    assert deployments.categories == ("all",)
    assert str(deployments) == "deployments.apps"
    assert deployments.api_version == "apps/v1"
    assert kind_by_name("apps", "v1beta1", "Deployment") is None


def test_groups_come_in_discovery_order() -> None:
    names = [group.name for group in kinds.GROUPS]
    assert names[:4] == ["", "apiregistration.k8s.io", "apps", "events.k8s.io"]
    assert kinds.GROUPS_BY_NAME["autoscaling"].versions.keys() == {"v2", "v1"}
    priorities = [group.priority for group in kinds.GROUPS]
    assert priorities == sorted(priorities, reverse=True)


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: f"{kind.api_version}/{kind.plural}")
def test_every_kind_has_a_schema(kind: Kind) -> None:
    assert "metadata" in schema_for(*kind.gvk).fields
    if kind.list_kind:
        assert "items" in schema_for(kind.group, kind.version, kind.list_kind).fields
