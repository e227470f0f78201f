"""Ingresses as values of the data plane: annotations, precedence, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.network.ingresses import (
    ingress,
    routes,
    secret,
    service,
    slice_of,
    surroundings,
    translated,
)

from navarch.api.named_secrets import ANNOTATION_PREFIX
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import Ingress, IngressClass, IngressClassSpec
from navarch.network.ingress.annotations import Annotations, parse
from navarch.network.ingress.controller import addresses_of
from navarch.network.ingress.translate import Ports, is_ours, path_problem, translate
from navarch.network.nginx.backends import ready_endpoints
from navarch.network.nginx.document import address_range, document, endpoint_changes, policies
from navarch.network.nginx.model import Capture, NextUpstream, PathKind, Protocol, Route, Variable
from navarch.network.nginx.publish import Place, slices_of

VALUES: list[tuple[str, str, Any]] = [
    ("ssl-redirect", "T", True),
    ("ssl-redirect", "0", False),
    ("proxy-body-size", "8m", 8 << 20),
    ("proxy-body-size", "0", 0),
    ("proxy-body-size", "1G", 1 << 30),
    ("proxy-read-timeout", "3600", 3600),
    ("backend-protocol", "grpcs", Protocol.GRPCS),
    ("rewrite-target", "/$2", ("/", Capture(c=2))),
    ("rewrite-target", "/a/$1?b=$2", ("/a/", Capture(c=1), "?b=", Capture(c=2))),
    (
        "permanent-redirect",
        "https://x.example/$request_uri",
        ("https://x.example/", Variable(v="request_uri")),
    ),
    (
        "auth-url",
        "http://auth.ns.svc.cluster.local:8080/check?to=$host",
        ("http://auth.ns.svc.cluster.local:8080/check?to=", Variable(v="host")),
    ),
    ("upstream-hash-by", "${request_uri}-x", (Variable(v="request_uri"), "-x")),
    ("upstream-hash-by", "$http_x_user", (Variable(v="http_x_user"),)),
    ("whitelist-source-range", "10.0.0.1/8, fd00::/8", ("10.0.0.0/8", "fd00::/8")),
    ("proxy-next-upstream", "error http_502", (NextUpstream.ERROR, NextUpstream.HTTP_502)),
    ("custom-http-errors", "404, 503", (404, 503)),
    ("cors-allow-origin", "https://*.a.example, *", ("https://*.a.example", "*")),
    ("server-alias", "a.example,*.b.example", ("a.example", "*.b.example")),
    ("canary-by-header-pattern", "^v[0-9]+$", "^v[0-9]+$"),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_values(name: str, text: str, value: Any) -> None:
    found = parse({ANNOTATION_PREFIX + name: text})
    assert (found.get(name), found.problems) == (value, ())


# CVE numbers and what each put into a configuration; none of it passes a grammar.
INJECTIONS = [
    ("2021-25742", "configuration-snippet", "more_set_headers 'x: y';"),
    ("2021-25742", "server-snippet", "location /x { return 200; }"),
    ("2021-25742", "auth-snippet", "proxy_set_header A B;"),
    ("2021-25742", "stream-snippet", "x"),
    ("2021-25742", "modsecurity-snippet", "x"),
    ("2021-25746", "proxy-body-size", "1m; lua_code_cache off"),
    ("2021-25746", "proxy-read-timeout", "60; }"),
    ("2021-25746", "upstream-vhost", "x.example; access_log /etc/x"),
    ("2021-25746", "whitelist-source-range", "10.0.0.0/8; deny all"),
    ("2021-25746", "session-cookie-name", "a b"),
    ("2021-25748", "rewrite-target", "/\n}"),
    ("2023-5043", "configuration-snippet", "by_lua"),
    ("2023-5044", "permanent-redirect", "https://x.example/;} location /y {"),
    ("2024-7646", "x-forwarded-prefix", "/a\rproxy_pass http://evil;"),
    ("2024-7646", "permanent-redirect", "https://x.example/\r\n}"),
    ("2025-24513", "auth-secret", "../../../etc/passwd"),
    ("2025-24513", "auth-secret", "ns/../other/x"),
    ("2025-24514", "auth-url", 'http://x.example/#;}\nssl_engine "/x"'),
    ("2025-24514", "auth-url", 'http://x.example/"; }'),
    ("2025-1097", "auth-tls-match-cn", "CN=x #(\n) {} }\nssl_engine a;"),
    ("2025-1098", "mirror-target", "http://x.example/;#"),
    ("2025-1098", "mirror-host", 'ho"st;'),
    ("2025-1974", "auth-url", "file:///proc/1/fd/8"),
    ("2025-15566", "auth-proxy-set-headers", "ns/map"),
    ("2026-1580", "auth-method", "GET; }"),
    ("2026-3288", "rewrite-target", '/" break; } #'),
    ("2026-4342", "auth-signin", "https://x.example/#"),
    ("2026-4342", "app-root", "/#"),
    ("2026-42945", "rewrite-target", "/?$1{"),
    ("", "auth-realm", 'a" b'),
    ("", "proxy-ssl-name", "a b"),
    ("", "canary-by-cookie", "a;b"),
    ("", "cors-allow-origin", "https://a.example$host"),
    ("", "cors-allow-headers", "X-A: b"),
    ("", "upstream-hash-by", "$realpath_root"),
    ("", "auth-url", "http://$http_x/"),
    ("", "rewrite-target", "/$host"),
    ("", "temporal-redirect", "//evil.example"),
    ("", "temporal-redirect", "javascript:alert(1)"),
    ("", "app-root", "//evil.example"),
    ("", "permanent-redirect-code", "200"),
    ("", "limit-rps", "-1"),
    ("", "limit-rps", "1e9"),
    ("", "ssl-passthrough", "true"),
    ("", "server-alias", "~^a.*"),
    ("", "default-backend", "a/b"),
    ("", "proxy-next-upstream", "error off"),
    ("", "backend-protocol", "FCGI"),
    # nginx refuses a whole configuration for it, and so all that others change.
    ("", "custom-http-errors", "404,499"),
    ("", "proxy-buffer-size", "999999999g"),
    ("", "proxy-body-size", "999999999g"),
]


@pytest.mark.parametrize(("number", "name", "text"), INJECTIONS)
def test_injections(number: str, name: str, text: str) -> None:
    """The Ingress answers 503, whole, and its owner is told why."""
    around = {"secrets": {"default/users": secret("users", auth="x", ca__crt="x")}}
    values: dict[str, Any] = {name.replace("-", "_"): text}
    if name == "auth-tls-match-cn":
        values["auth_tls_secret"] = "users"
    bad = ingress(**values)
    result = translated(bad, **around)
    found = routes(result)
    assert found and all(each.status == 503 and not each.backends for each in found)
    assert [each.reason for each in result.problems] == ["Rejected"]
    message = result.problems[0].message
    assert "503" in message and message.isprintable()


PATHS = [
    ("/a", "Prefix", True),
    ("/a(/|$)(.*)", "ImplementationSpecific", True),
    ("/ä", "Prefix", True),
    ("a", "ImplementationSpecific", False),
    ("/a(", "ImplementationSpecific", False),
    ('/a" {', "ImplementationSpecific", False),
    ("/a\n}", "ImplementationSpecific", False),
    ("/a\r", "Exact", False),
    ("/a;b", "Prefix", False),
    ("/a#b", "Prefix", False),
    ("/a\u2028b", "Prefix", False),
    ("/" + "a" * 2000, "Prefix", False),
]


@pytest.mark.parametrize(("path", "kind", "good"), PATHS)
def test_paths(path: str, kind: str, good: bool) -> None:
    """CVE-2021-25745, 2022-4886, 2026-24512: directives carried in a path."""
    assert (path_problem(path, kind) == "") == good
    result = translated(ingress(paths={path: "a"}, kind=kind))
    assert len(routes(result)) == (1 if good else 0)
    assert len(result.problems) == (0 if good else 1)


@pytest.mark.parametrize("host", ["a.example;", "a b", "a\n", "*", "*.*.a", 'a"', "A.example"])
def test_hosts_that_are_none(host: str) -> None:
    result = translated(ingress(host=host))
    assert routes(result, host) == []
    assert [each.reason for each in result.problems] == ["Rejected"]


def test_unknown_annotations_are_told_and_ignored() -> None:
    result = translated(ingress(no_such_thing="x"))
    assert routes(result)[0].backends
    assert [each.reason for each in result.problems] == ["UnknownAnnotation"]
    assert parse({"other.example/rewrite-target": "{"}) == Annotations({})


def test_order_of_paths() -> None:
    one = ingress("one", {"/": "a", "/a/": "a", "/long/path": "a"})
    two = ingress("two", {"/a": "b"}, kind="Exact")
    three = ingress("three", {"/a": "c"}, kind="ImplementationSpecific")
    found = [(each.match.path, each.match.kind) for each in routes(translated(one, two, three))]
    assert found == [
        ("/long/path", PathKind.PREFIX),
        ("/a", PathKind.EXACT),
        ("/a/", PathKind.PREFIX),
        ("/a", PathKind.BEGINS),
        ("/", PathKind.PREFIX),
    ]


def test_patterns_concern_the_whole_host() -> None:
    one = ingress("one", {"/x(.*)": "a"}, kind="Prefix", rewrite_target="/$1")
    two = ingress("two", {"/files": "a", "/exact": "a"}, kind="ImplementationSpecific")
    three = ingress("three", {"/y(": "a"}, kind="Prefix")
    kinds = {each.match.path: each.match.kind for each in routes(translated(one, two, three))}
    assert kinds == {
        "/x(.*)": PathKind.REGEX,
        "/files": PathKind.REGEX,
        "/exact": PathKind.REGEX,
        "/y(": PathKind.PREFIX,
    }


def test_what_does_not_exist_answers_503() -> None:
    missing = translated(ingress(paths={"/": "absent"}))
    assert routes(missing)[0].status == 503
    assert missing.problems[0].reason == "ServiceNotFound"
    resource = ingress()
    backend = resource.spec.rules[0].http.paths[0].backend  # type: ignore[union-attr]
    backend.service = None
    refused = translated(resource)
    assert routes(refused)[0].status == 503
    assert "backend.resource" in refused.problems[0].message


def test_secrets_of_other_namespaces_are_refused() -> None:
    result = translated(ingress(auth_type="basic", auth_secret="kube-system/root"))
    assert "another namespace" in result.problems[0].message


@pytest.mark.parametrize(
    ("auth", "tls", "wanted"),
    [
        ("users", "site", {"default/site", "default/users"}),
        ("kube-system/root", None, set()),
    ],
)
def test_only_secrets_that_are_named_are_wanted(
    auth: str, tls: str | None, wanted: set[str]
) -> None:
    around = surroundings()
    translate([ingress(tls=tls, auth_type="basic", auth_secret=auth)], around, Ports())
    assert around.secrets_wanted == wanted


CLASSES = [
    IngressClass(metadata=ObjectMeta(name="nginx"), spec=IngressClassSpec(controller="ours")),
    IngressClass(metadata=ObjectMeta(name="other"), spec=IngressClassSpec(controller="theirs")),
]


@pytest.mark.parametrize(
    ("name", "annotation", "classless", "result"),
    [
        ("nginx", "", False, True),
        ("other", "", True, False),
        ("absent", "", True, False),
        (None, "nginx", False, True),
        (None, "other", True, False),
        (None, "", True, True),
        (None, "", False, False),
    ],
)
def test_classes(name: str | None, annotation: str, classless: bool, result: bool) -> None:
    found = Ingress()
    found.spec.ingressClassName = name
    if annotation:
        found.metadata.annotations = {"kubernetes.io/ingress.class": annotation}
    assert is_ours(found, CLASSES, "ours", classless) == result


def test_endpoints() -> None:
    not_ready = slice_of("10.0.0.9:80", ready=False)
    assert ready_endpoints([slice_of("10.0.0.2:80", "10.0.0.1:80"), not_ready], "http") == (
        "10.0.0.1:80",
        "10.0.0.2:80",
    )
    assert ready_endpoints([slice_of("10.0.0.1:80")], "other") == ()
    six = slice_of("fd00--1:80")
    six.addressType, six.endpoints[0].addresses = "IPv6", ["fd00::1"]
    assert ready_endpoints([six], "http") == ("[fd00::1]:80",)


def test_changes_of_endpoints() -> None:
    old, new = {"a": ("1",), "b": ("2",), "c": ("3",)}, {"a": ("1",), "b": ("2", "4")}
    assert endpoint_changes(old, new) == {"b": "2,4", "c": ""}


def test_ranges_as_bytes() -> None:
    assert address_range("10.1.0.0/16") == "0a010000/16"
    with pytest.raises(ValueError):
        address_range("10.0.0.0/33")


def test_equal_policies_are_one() -> None:
    plane = translated(
        ingress("a", {"/a": "a"}, proxy_body_size="2m"),
        ingress("b", {"/b": "a"}, proxy_body_size="2048k"),
        ingress("c", {"/c": "a"}),
    ).plane
    assert len(policies(plane)) == 2
    assert b"Policy" not in document(plane)


def test_a_canary_changes_backends_only() -> None:
    plain = routes(translated(ingress(auth_type="basic", auth_secret="users")))
    assert plain[0].status == 503
    both = translated(
        ingress(denylist_source_range="10.0.0.0/8"),
        ingress("new", {"/": "b"}, canary="true", canary_weight="5", rewrite_target="/x"),
    )
    (route,) = routes(both)
    assert route.canary is not None and route.canary.backend.upstream == "default/b/80"
    assert (route.deny, route.rewrite, route.canary.weight) == (("10.0.0.0/8",), None, 5)


def test_published_addresses() -> None:
    from navarch.api.types.core_v1 import LoadBalancerIngress, LoadBalancerStatus, ServiceStatus

    place = Place("n1", ("10.0.0.2", "fd00::2"))
    own = slices_of(service("svc"), place, {"http": 80}, "me")
    assert [each.addressType for each in own] == ["IPv4", "IPv6"]
    assert [each.ip for each in addresses_of(None, own, ())] == ["10.0.0.2", "fd00::2"]
    assert [each.ip for each in addresses_of(None, (), ("10.0.0.3",))] == ["10.0.0.3"]
    balanced = service("svc")
    balanced.status = ServiceStatus(
        loadBalancer=LoadBalancerStatus(ingress=[LoadBalancerIngress(ip="10.9.9.9")])
    )
    assert [each.ip for each in addresses_of(balanced, own, ())] == ["10.9.9.9"]


def test_an_ordinary_route() -> None:
    """Nothing is there that nobody asked for."""
    (route,) = routes(translated(ingress()))
    assert route == Route(match=route.match, backends=route.backends)
