"""Whatever is in Gateways and routes: the configuration has the template's directives and no text
of theirs, and what is said in statuses is what the API takes."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.unit.network.gateways import gateway, listener, route, translated
from tests.unit.network.test_ingress_fuzz import ORDINARY, TEXTS, comparable, rendered

from navarch.network.gateway.listeners import Condition
from navarch.network.gateway.publish import fitting, service_of
from navarch.network.gateway.status import gateway_status, route_status
from navarch.network.nginx.document import document, policies
from navarch.network.nginx.model import Policy, Protocol

Object = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"
TYPES = {"reason": r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", "type": r"[A-Za-z]+"}

NAMED = st.fixed_dictionaries(
    {"name": TEXTS, "value": TEXTS}, optional={"type": st.sampled_from(["RegularExpression"])}
)
CHANGE = st.fixed_dictionaries(
    {},
    optional={
        "set": st.lists(NAMED, max_size=2),
        "add": st.lists(NAMED, max_size=2),
        "remove": st.lists(TEXTS, max_size=2),
    },
)
PATH = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["ReplaceFullPath", "ReplacePrefixMatch"]),
        "replaceFullPath": TEXTS,
        "replacePrefixMatch": TEXTS,
    }
)
TARGET = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "missing"]) | TEXTS, "port": st.just(80)}
)
FIELDS = {
    "requestHeaderModifier": CHANGE,
    "responseHeaderModifier": CHANGE,
    "urlRewrite": st.fixed_dictionaries({"hostname": TEXTS, "path": PATH}),
    "requestRedirect": st.fixed_dictionaries({"hostname": TEXTS, "scheme": TEXTS, "path": PATH}),
    "requestMirror": st.fixed_dictionaries({"backendRef": TARGET}),
    "cors": st.fixed_dictionaries(
        {
            name: st.lists(TEXTS, max_size=2)
            for name in ("allowOrigins", "allowMethods", "allowHeaders", "exposeHeaders")
        }
    ),
}
FILTERS = st.lists(
    st.sampled_from(sorted(FIELDS)).flatmap(
        lambda name: st.fixed_dictionaries({"type": TEXTS, name: FIELDS[name]})
    ),
    max_size=3,
)
MATCHES = st.fixed_dictionaries(
    {
        "path": st.fixed_dictionaries(
            {
                "type": st.sampled_from(["Exact", "PathPrefix", "RegularExpression"]),
                "value": TEXTS | TEXTS.map("/{}".format),
            }
        ),
        "headers": st.lists(NAMED, max_size=2),
        "queryParams": st.lists(NAMED, max_size=2),
        "method": TEXTS,
    }
)
RULES = st.fixed_dictionaries(
    {
        "name": TEXTS,
        "matches": st.lists(MATCHES, max_size=2),
        "filters": FILTERS,
        "backendRefs": st.lists(TARGET, max_size=2),
        "timeouts": st.fixed_dictionaries({"request": TEXTS}),
    }
)
HOSTS = st.lists(st.sampled_from(["web.example", "*.example"]) | TEXTS, max_size=2)


@st.composite
def routes(draw: st.DrawFn) -> Object:
    rules = draw(st.lists(RULES, min_size=1, max_size=3))
    return route("r", *rules, hosts=draw(HOSTS))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(routes(), min_size=1, max_size=2), TEXTS, TEXTS)
@example([route("r", {"timeouts": {"request": "1m"}})], "", "")
def test_no_route_becomes_configuration(found: list[Object], host: str, name: str) -> None:
    listeners = (listener(name, hostname=host), listener("plain"))
    result = translated(gateway("gateway", *listeners), *found)
    plane = result.plane
    text = rendered([*policies(plane).values(), Policy()], plane.listeners)
    assert comparable(text) <= ALLOWED
    for value in texts([*found, host, name]):
        if len(value) > 3 and value not in ORDINARY and not value.isalnum():
            assert value not in text
    assert set(json.loads(document(plane))) <= {"policies", "listeners", "tables"}
    for state in result.gateways.values():
        check(gateway_status(state, ["203.0.113.1"], "", NOW))
    for each in result.routes:
        check(route_status(each.route, each, NOW))


PLAIN = translated(gateway(), route("r", {"backendRefs": [{"name": "a", "port": 80}]}))
EVERYTHING = [
    Policy(mirrors=count, protocol=protocol, body_limit=0, limits_time=limits_time)
    for count in range(4)
    for protocol in Protocol
    for limits_time in (False, True)
]
ALLOWED = comparable(rendered(EVERYTHING, PLAIN.plane.listeners))


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in texts(each)]


def check(status: Any) -> None:
    """Whether the API's schema of conditions takes a status."""
    if isinstance(status, dict) and "lastTransitionTime" in status:
        for key, pattern in TYPES.items():
            assert re.fullmatch(pattern, status[key]), status
        assert len(status["message"]) <= 32768
        assert status["status"] in ("True", "False")
    inner = status.values() if isinstance(status, dict) else status
    for each in inner if isinstance(status, dict | list) else ():
        check(each)


@given(st.text(st.sampled_from("abz019-.é_"), min_size=1, max_size=252))
def test_names_of_services_are_names(name: str) -> None:
    name += "a"
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fitting(name)), fitting(name)


def test_the_service_of_a_gateway_has_its_ports_once() -> None:
    parent = gateway(
        "gateway", listener("a", 80, "a.b"), listener("b", 80, "c.d"), listener("c", 81)
    )
    service = service_of(translated(parent).gateways["infra/gateway"])
    assert service is not None
    assert [(each.name, each.port) for each in service.spec.ports] == [
        ("port-80", 80),
        ("port-81", 81),
    ]


def test_a_condition_keeps_its_time_while_it_says_the_same() -> None:
    from navarch.network.gateway.status import conditions

    good, bad = Condition("Accepted", True, "Accepted"), Condition("Accepted", False, "Invalid")
    first = conditions([good], 1, [], NOW)
    later = "2026-02-02T00:00:00Z"
    again = conditions([good], 2, first, later)
    assert (again[0]["lastTransitionTime"], again[0]["observedGeneration"]) == (NOW, 2)
    assert conditions([bad], 2, first, later)[0]["lastTransitionTime"] == later
