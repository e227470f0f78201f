"""What a request line is about: the rules of upstream's RequestInfo, as a table."""

from __future__ import annotations

import pytest

from navarch.apiserver.http.request_info import parse_target


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        pytest.param("GET", "/api/v1/pods", ("list", "", "v1", "pods", "", "", ""), id="all"),
        pytest.param(
            "GET",
            "/api/v1/namespaces/n/pods/a/log",
            ("get", "", "v1", "pods", "log", "n", "a"),
            id="subresource",
        ),
        pytest.param(
            "POST",
            "/apis/apps/v1/namespaces/n/deployments",
            ("create", "apps", "v1", "deployments", "", "n", ""),
            id="create",
        ),
        pytest.param(
            "GET",
            "/apis/apps/v1/deployments?watch=banana",
            ("watch", "apps", "v1", "deployments", "", "", ""),
            id="any value watches",
        ),
        pytest.param(
            "GET", "/api/v1/pods?watch=false", ("list", "", "v1", "pods", "", "", ""), id="no watch"
        ),
        pytest.param(
            "GET",
            "/api/v1/watch/namespaces/n/pods/a",
            ("watch", "", "v1", "pods", "", "n", "a"),
            id="old watch",
        ),
        pytest.param(
            "DELETE",
            "/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Da",
            ("deletecollection", "", "v1", "pods", "", "n", "a"),
            id="a selected name counts",
        ),
        pytest.param(
            "GET", "/api/v1/namespaces/n", ("get", "", "v1", "namespaces", "", "n", "n"), id="ns"
        ),
        pytest.param(
            "PUT",
            "/api/v1/namespaces/n/finalize",
            ("update", "", "v1", "namespaces", "finalize", "n", "n"),
            id="finalize",
        ),
        pytest.param(
            "GET",
            "/api/v1/namespaces/n/pods/a%2Fb",
            ("get", "", "v1", "pods", "", "n", "a/b"),
            id="an escaped slash stays in the name",
        ),
    ],
)
def test_resources(method: str, path: str, expected: tuple[str, ...]) -> None:
    info = parse_target(method, path).info
    assert info.is_resource
    found = (info.verb, info.group, info.version, info.resource, info.subresource)
    assert (*found, info.namespace, info.name) == expected


@pytest.mark.parametrize("path", ["/", "/api", "/api/v1", "/apis/apps/v1/", "/healthz/etcd"])
def test_other_paths(path: str) -> None:
    info = parse_target("GET", path).info
    assert not info.is_resource
    assert (info.verb, info.path) == ("get", path)


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/api/v1/namespaces/n/pods/a/proxy", None),
        ("/api/v1/namespaces/n/pods/a/proxy/", ""),
        ("/api/v1/namespaces/n/pods/a/proxy/x%2Fy//z/?q=1", "x%2Fy//z/"),
        ("/api/v1/nodes/n1/proxy/pods", "pods"),
    ],
)
def test_what_follows_proxy_is_passed_on_untouched(path: str, rest: str | None) -> None:
    target = parse_target("GET", path)
    assert target.info.subresource == "proxy"
    assert target.rest == rest
    assert not target.is_malformed


@pytest.mark.parametrize(
    "path", ["/api/v1/namespaces//pods/a", "/api/v1//pods", "/api/v1/namespaces/n/pods/a/log/x"]
)
def test_paths_that_no_resource_has(path: str) -> None:
    assert parse_target("GET", path).is_malformed
