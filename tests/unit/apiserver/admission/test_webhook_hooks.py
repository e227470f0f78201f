"""Which webhooks there are, and in which order."""

from __future__ import annotations

from typing import Any

from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.apiserver.admission.webhook_hooks import Configurations
from navarch.apiserver.webhooks.client import Endpoint

Object = dict[str, Any]
RESOURCE = "validatingwebhookconfigurations.admissionregistration.k8s.io"


def configuration(name: str, *webhooks: str) -> Object:
    client = {"url": "https://example.com"}
    hooks = [{"name": each, "clientConfig": client} for each in webhooks]
    return {"metadata": {"name": name}, "webhooks": hooks}


def uids(configurations: Configurations) -> list[str]:
    return [hook.uid for hook in configurations.hooks]


def test_hooks_follow_the_configurations() -> None:
    lookup = MemoryLookup()
    configurations = Configurations(lookup, RESOURCE.partition(".")[0])
    assert configurations.is_empty
    assert uids(configurations) == []
    lookup.put(RESOURCE, configuration("b", "one", "two"))
    lookup.put(RESOURCE, configuration("a", "three"))
    assert uids(configurations) == ["a/three/0", "b/one/0", "b/two/1"]
    before = configurations.hooks
    assert configurations.hooks is before
    lookup.put(RESOURCE, configuration("a", "four"))
    assert uids(configurations) == ["a/four/0", "b/one/0", "b/two/1"]
    assert configurations.hooks[1] is before[1]
    lookup.remove(RESOURCE, "", "a")
    lookup.remove(RESOURCE, "", "b")
    assert uids(configurations) == []


def test_endpoints() -> None:
    service = {"name": "web", "namespace": "ns", "path": "/a/b/"}
    endpoint = Endpoint.of({"service": service, "caBundle": "Ym90"})
    assert (endpoint.url, endpoint.ca_bundle) == ("https://web.ns.svc:443/a/b", "Ym90")
    endpoint = Endpoint.of({"service": {**service, "port": 8443, "path": ""}})
    assert endpoint.url == "https://web.ns.svc:8443/"
    assert Endpoint.of({"url": "https://example.com/x"}).url == "https://example.com/x"
