"""Rules as routes of the data plane: precedence, filters, backends, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.network.gateways import (
    INFRA,
    backend,
    gateway,
    listener,
    route,
    rule,
    translated,
)
from tests.unit.network.ingresses import service
from tests.unit.network.test_gateway_attach import SECRETS, TLS, said

from navarch.api.types.core_v1 import ServicePort
from navarch.network.gateway.rules import FOREVER
from navarch.network.gateway.translate import Translation
from navarch.network.nginx.document import document
from navarch.network.nginx.model import Host, PathKind, Protocol, Route, Timeouts

Object = dict[str, Any]


def hosts_of(found: Translation, port: int = 80) -> dict[str, Host]:
    return {each.name: each for each in found.plane.tables[f"{INFRA}/gateway {port}"]}


def routes_of(*rules: Object, **more: Any) -> tuple[Route, ...]:
    return hosts_of(translated(gateway(), route("r", *rules), **more))[""].routes


def names(host: Host) -> list[str]:
    """The Services of a host's routes, in their order."""
    return [route.backends[0].labels[2] for route in host.routes]


def matching(kind: str = "PathPrefix", value: str = "/", **more: Any) -> Object:
    return {"path": {"type": kind, "value": value}, **more}


def headers(count: int) -> list[Object]:
    return [{"name": f"h{number}", "value": "x"} for number in range(count)]


ORDER = [
    # Each goes before those that follow.
    matching("Exact", "/a"),
    matching("RegularExpression", "/.*"),
    matching(value="/a/long"),
    matching(value="/a", method="GET", headers=headers(1)),
    matching(value="/a", method="GET"),
    matching(value="/a", headers=headers(3)),
    matching(value="/a", headers=headers(2), queryParams=headers(2)),
    matching(value="/a", headers=headers(2), queryParams=headers(1)),
    matching(value="/a"),
    matching(value="/"),
]


@pytest.mark.parametrize("number", range(len(ORDER) - 1))
def test_precedence(number: int) -> None:
    one, other = rule("a", matches=[ORDER[number]]), rule("b", matches=[ORDER[number + 1]])
    for rules in ((one, other), (other, one)):
        assert names(hosts_of(translated(gateway(), route("r", *rules)))[""]) == ["a", "b"]


def test_ties_go_to_the_older_route_then_the_name_then_the_earlier_rule() -> None:
    young, old = route("a-young", rule("a")), route("z-old", rule("b"), rule("a"))
    young["metadata"]["creationTimestamp"] = "2026-06-01T00:00:00Z"
    old["metadata"]["creationTimestamp"] = "2026-05-01T00:00:00Z"
    host = hosts_of(translated(gateway(), young, old))[""]
    assert names(host) == ["b", "a", "a"]
    old["metadata"]["creationTimestamp"] = young["metadata"]["creationTimestamp"]
    assert names(hosts_of(translated(gateway(), young, old))[""]) == ["a", "b", "a"]


def test_wider_hostnames_come_after_narrower_ones_whatever_their_paths() -> None:
    found = translated(
        gateway(),
        route("any", rule("a", exact="/x")),
        route("wild", rule("b", path="/x/y"), hosts=["*.b"]),
        route("exact", rule("a", path="/"), hosts=["a.b"]),
    )
    hosts = hosts_of(found)
    assert list(hosts) == ["", "*.b", "a.b"]
    assert [len(each.routes) for each in hosts.values()] == [1, 2, 3]
    assert names(hosts["a.b"]) == ["a", "b", "a"]
    assert hosts["*.b"].deep


def test_a_listener_has_the_hostnames_that_no_narrower_one_has() -> None:
    parent = gateway("gateway", listener("any"), listener("wild", hostname="*.b"))
    found = translated(
        parent,
        route("wide", rule("a"), parents=[{"name": "gateway", "sectionName": "any"}]),
        route(
            "narrow",
            rule("b"),
            parents=[{"name": "gateway", "sectionName": "any"}],
            hosts=["a.b", "a.c"],
        ),
    )
    hosts = hosts_of(found)
    # a.b is the second listener's, which has no routes.
    assert {name: names(each) for name, each in hosts.items()} == {
        "": ["a"],
        "*.b": [],
        "a.c": ["b", "a"],
    }
    assert hosts["*.b"].group == "wild"
    assert hosts["a.c"].group == hosts[""].group == "any"


def test_each_gateway_and_port_has_a_table_and_a_port_of_its_own() -> None:
    listeners = (listener(), listener("s", 443, **TLS))
    found = translated(gateway("gateway", *listeners), gateway("two", *listeners), secrets=SECRETS)
    plane = found.plane
    assert len({each.port for each in plane.listeners}) == 4
    assert sorted((each.table, each.public_port, each.tls) for each in plane.listeners) == [
        (f"{INFRA}/gateway 443", 443, True),
        (f"{INFRA}/gateway 80", 80, False),
        (f"{INFRA}/two 443", 443, True),
        (f"{INFRA}/two 80", 80, False),
    ]
    assert len(plane.certificates) == 1
    assert hosts_of(found, 443)[""].certificate in plane.certificates


@pytest.mark.parametrize(
    ("given", "kind", "path"),
    [
        (("Exact", "/a%20b"), PathKind.EXACT, "/a b"),
        (("PathPrefix", "/a/"), PathKind.PREFIX, "/a/"),
        (("RegularExpression", "/a|/b"), PathKind.REGEX, "(?-i:/a|/b)$"),
    ],
)
def test_paths(given: tuple[str, str], kind: PathKind, path: str) -> None:
    match = routes_of(rule("a", matches=[matching(*given)]))[0].match
    assert (match.kind, match.path) == (kind, path)


def test_the_first_of_several_headers_of_one_name_counts() -> None:
    twice = [{"name": "X", "value": "1"}, {"name": "x", "value": "2"}]
    match = routes_of(rule("a", matches=[matching(headers=twice, queryParams=twice)]))[0].match
    assert [(each.name, each.value) for each in match.headers] == [("X", "1")]
    assert len(match.queries) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Timeouts()),
        ({}, Timeouts()),
        ({"request": "500ms"}, Timeouts(send=FOREVER, read=FOREVER, total=0.5)),
        (
            {"request": "20s", "backendRequest": "10s"},
            Timeouts(send=FOREVER, read=FOREVER, total=20, attempt=10),
        ),
        (
            {"request": "0s", "backendRequest": "1s"},
            Timeouts(send=FOREVER, read=FOREVER, attempt=1),
        ),
        ({"request": "0s"}, Timeouts(send=FOREVER, read=FOREVER)),
    ],
)
def test_timeouts(given: Object | None, expected: Timeouts) -> None:
    more: Object = {} if given is None else {"timeouts": given}
    found = routes_of(rule("a", **more))[0]
    assert found.timeouts == expected
    assert found.policy.limits_time == bool(expected.total or expected.attempt)


def test_protocols_of_backends() -> None:
    def speaking(name: str, protocol: str) -> Any:
        port = ServicePort(name="http", port=80, protocol="TCP", appProtocol=protocol)
        return service(name, ports=[port])

    services = {
        "a": speaking("a", "kubernetes.io/h2c"),
        "b": speaking("b", "kubernetes.io/ws"),
        "c": speaking("c", "kubernetes.io/wss"),
    }
    found = translated(gateway(), route("r", rule("a", "b", "c")), services=services)
    assert said(found)["ResolvedRefs"] == "False UnsupportedProtocol"
    one, two, three = hosts_of(found)[""].routes[0].backends
    assert one.policy is not None and one.policy.protocol is Protocol.GRPC
    assert (two.policy, two.status, three.status) == (None, 0, 500)


def test_names_elsewhere_are_no_backends() -> None:
    away = service("a", type="ExternalName", externalName="metadata.example")
    found = translated(gateway(), route("r", rule("a")), services={"a": away})
    assert said(found)["ResolvedRefs"] == "False InvalidKind"
    assert hosts_of(found)[""].routes[0].backends[0].status == 500


# -- what is refused ------------------------------------------------------------------------------


def changed(kind: str = "requestHeaderModifier", **fields: Any) -> Object:
    return {"type": kind[0].upper() + kind[1:], kind: fields}


def pair(name: str, value: str = "x") -> list[Object]:
    return [{"name": name, "value": value}]


EVIL = "x\r\nSet-Cookie: a=b"
BAD_FILTERS = {
    "line break in a value": changed(set=pair("X", EVIL)),
    "line break in a name": changed(add=pair(EVIL)),
    "framing of requests": changed(set=pair("Content-Length", "0")),
    "framing of answers": changed("responseHeaderModifier", add=pair("Transfer-Encoding")),
    "what the gateway says": changed(set=pair("X-Forwarded-For", "10.0.0.1")),
    "no Host": changed(remove=["Host"]),
    "redirect to no host": changed("requestRedirect", hostname="a b"),
    "redirect to more than a path": changed(
        "requestRedirect", path={"type": "ReplaceFullPath", "replaceFullPath": "/a?b"}
    ),
    "rewrite with a line break": changed(
        "urlRewrite", path={"type": "ReplacePrefixMatch", "replacePrefixMatch": "/a\nb"}
    ),
    "filter of another kind": {"type": "ExtensionRef", "extensionRef": {"name": "x"}},
    "line break in CORS": changed("cors", allowOrigins=["https://a.b"], allowHeaders=[EVIL]),
}


@pytest.mark.parametrize("name", BAD_FILTERS)
def test_bad_filters_let_nothing_pass(name: str) -> None:
    found = translated(gateway(), route("r", rule("a", filters=[BAD_FILTERS[name]])))
    assert said(found)["Accepted"] == "False UnsupportedValue"
    only = hosts_of(found)[""].routes
    assert [(each.status, each.backends) for each in only] == [(500, ())]
    mixed = translated(
        gateway(), route("r", rule("a", path="/x", filters=[BAD_FILTERS[name]]), rule("b"))
    )
    assert said(mixed)["Accepted"] == "True Accepted"
    assert said(mixed)["PartiallyInvalid"] == "True UnsupportedValue"
    assert [each.status for each in hosts_of(mixed)[""].routes] == [500, 0]


@pytest.mark.parametrize("name", BAD_FILTERS)
def test_bad_filters_of_backends_answer_their_share_with_500(name: str) -> None:
    bad = backend("a", filters=[BAD_FILTERS[name]])
    found = translated(gateway(), route("r", rule(bad, "b")))
    assert [each.status for each in hosts_of(found)[""].routes[0].backends] == [500, 0]
    assert "UnsupportedValue" in str(said(found))


def test_filters_that_exclude_each_other() -> None:
    both = [changed("requestRedirect", hostname="a"), changed("urlRewrite", hostname="b")]
    found = translated(gateway(), route("r", rule("a", filters=both)))
    assert said(found)["Accepted"] == "False IncompatibleFilters"


@pytest.mark.parametrize(
    "match",
    [
        matching("RegularExpression", "/(a"),
        matching("RegularExpression", "/a)(?i:b"),
        matching("Exact", "no-slash"),
        matching("PathPrefix", "/a\nb"),
        matching("Exact", "/%ff"),
        matching(headers=[{"type": "RegularExpression", "name": "x", "value": "["}]),
    ],
)
def test_bad_matches_match_nothing(match: Object) -> None:
    found = translated(gateway(), route("r", rule("a", matches=[match]), rule("b")))
    assert said(found)["PartiallyInvalid"] == "True UnsupportedValue"
    assert names(hosts_of(found)[""]) == ["b"]


def test_mirrors_that_cannot_be_reached_are_left_out_and_told() -> None:
    def mirror(name: str, **more: Any) -> Object:
        return changed("requestMirror", backendRef={"name": name, "port": 80}, **more)

    half = {"numerator": 1, "denominator": 2}
    given = [mirror("missing"), mirror("a", fraction=half), mirror("b", percent=0)]
    found = translated(gateway(), route("r", rule("a", filters=given)))
    assert said(found)["ResolvedRefs"] == "False BackendNotFound"
    only = hosts_of(found)[""].routes[0]
    shares = [(each.upstream, each.numerator, each.denominator) for each in only.mirrors]
    assert shares == [(f"{INFRA}/a/80", 1, 2), (f"{INFRA}/b/80", 0, 100)]
    assert only.policy.mirrors == 2


def test_the_document_is_what_lua_reads() -> None:
    found = translated(gateway(), route("r", rule("a", "empty")))
    shown = json.loads(document(found.plane))
    table = shown["tables"][f"{INFRA}/gateway 80"][""]
    assert [each.get("upstream") for each in table["routes"][0]["backends"]] == [
        f"{INFRA}/a/80",
        f"{INFRA}/empty/80",
    ]
    assert f"{INFRA}/empty/80" not in found.plane.upstreams
