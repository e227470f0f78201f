"""Schemas of custom resources in the document that describes the API, `/openapi/v2`. What kubectl
makes of them is tested with kubectl."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conformance.conftest import DEFINITIONS, FOO, WALDO, define, definition
from tests.api.conftest import Api
from tests.api.controllers.conftest import eventually

Object = dict[str, Any]
TITLE = "CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] "


ADDED = ("apiVersion", "kind", "metadata")


async def published(api: Api, name: str, expected: Object | None) -> None:
    """Wait until the document has this schema under the name; None: nothing."""

    async def matches() -> bool:
        found = (await api.get("/openapi/v2")).ok()["definitions"].get(f"com.example.{name}")
        if found is not None:
            assert found.pop("x-kubernetes-group-version-kind")
            for field in ADDED:
                assert found["properties"].pop(field)
        assert found == expected
        return True

    await eventually(matches, f"the definition of {name}")


@pytest.mark.conformance(TITLE + "works for multiple CRDs of different groups")
async def test_different_groups(api: Api) -> None:
    await define(api, definition("foo.example.com", "Foo", v1=FOO))
    await define(api, definition("waldo.example.com", "Waldo", v1beta1=WALDO))
    await published(api, "waldo.v1beta1.Waldo", WALDO)
    await published(api, "foo.v1.Foo", FOO)
    for name in ("foos.foo", "waldos.waldo"):
        (await api.delete(f"{DEFINITIONS}/{name}.example.com")).ok()
    await published(api, "waldo.v1beta1.Waldo", None)
    await published(api, "foo.v1.Foo", None)


@pytest.mark.conformance(TITLE + "works for multiple CRDs of same group but different versions")
async def test_different_versions(api: Api) -> None:
    await define(api, definition("multi.example.com", "Foo", v2=FOO, v3=FOO))
    await published(api, "multi.v3.Foo", FOO)
    await published(api, "multi.v2.Foo", FOO)
    await define(api, definition("common.example.com", "Foo", v4=FOO))
    await define(api, definition("common.example.com", "Waldo", v5=WALDO))
    await published(api, "common.v5.Waldo", WALDO)
    await published(api, "common.v4.Foo", FOO)


@pytest.mark.conformance(
    TITLE + "works for multiple CRDs of same group and version but different kinds"
)
async def test_different_kinds(api: Api) -> None:
    await define(api, definition("common.example.com", "Foo", v6=FOO))
    await define(api, definition("common.example.com", "Waldo", v6=WALDO))
    await published(api, "common.v6.Waldo", WALDO)
    await published(api, "common.v6.Foo", FOO)


@pytest.mark.conformance(TITLE + "updates the published spec when one version gets renamed")
async def test_a_renamed_version(api: Api) -> None:
    await define(api, definition("multi.example.com", "Foo", v3=FOO, v2=FOO))
    await published(api, "multi.v3.Foo", FOO)
    path = "/spec/versions/0/name"
    patch = [
        {"op": "test", "path": path, "value": "v3"},
        {"op": "replace", "path": path, "value": "v4"},
    ]
    (await api.patch(f"{DEFINITIONS}/foos.multi.example.com", patch, kind="json")).ok()
    await published(api, "multi.v4.Foo", FOO)
    await published(api, "multi.v3.Foo", None)
    await published(api, "multi.v2.Foo", FOO)


@pytest.mark.conformance(
    TITLE + "removes definition from spec when one version gets changed to not be served"
)
async def test_a_version_that_is_served_no_more(api: Api) -> None:
    path = f"{DEFINITIONS}/foos.multi.example.com"
    await define(api, definition("multi.example.com", "Foo", v6alpha1=FOO, v5=FOO))
    await published(api, "multi.v6alpha1.Foo", FOO)
    await published(api, "multi.v5.Foo", FOO)
    before = (await api.get(path)).ok()
    before["spec"]["versions"][0]["served"] = False
    after = (await api.put(path, before)).ok()
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    await published(api, "multi.v6alpha1.Foo", None)
    await published(api, "multi.v5.Foo", FOO)
