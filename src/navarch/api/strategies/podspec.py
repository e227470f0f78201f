"""Defaults of pod specs and pod templates that are no constants of the schema.

Upstream applies some of them to pods only, so that stored templates keep their hashes: requests
from limits, service links and the ports of host-network pods. The rest applies to every pod spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from navarch.api.pod_resources import pod_requests

Object = dict[str, Any]

CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")


def containers_of(spec: Object, *lists: str) -> Iterator[Object]:
    """The containers of a pod spec, of all kinds or of the lists named."""
    for name in lists or CONTAINER_LISTS:
        yield from spec.get(name) or ()


_PART = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = rf"(?:(?=[^/]*[.:A-Z]|localhost/){_PART}(?:\.{_PART})*(?::[0-9]+)?/)?"
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<name>{_REGISTRY}{_WORD}(?:/{_WORD})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?P<digest>@[A-Za-z][\w.+-]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)


@lru_cache(1024)
def default_pull_policy(image: str) -> str:
    """Always for the tag `latest`, said or meant; otherwise, and for what names no image (see the
    grammar of references of the distribution project), IfNotPresent."""
    found = _IMAGE.fullmatch(image)
    if found is None or len(found["name"]) > 255:
        return "IfNotPresent"
    tag = found["tag"] or ("" if found["digest"] else "latest")
    return "Always" if tag == "latest" else "IfNotPresent"


def default_pod_spec(spec: Object) -> None:
    """The defaults of a pod spec wherever it stands, in a pod or in a template."""
    for name in CONTAINER_LISTS:
        for container in spec.get(name) or ():
            if not container.get("imagePullPolicy"):
                container["imagePullPolicy"] = default_pull_policy(container.get("image") or "")
    for volume in spec.get("volumes") or ():
        if len(volume) == 1:
            volume["emptyDir"] = {}
        elif (image := volume.get("image")) is not None and not image.get("pullPolicy"):
            image["pullPolicy"] = default_pull_policy(image.get("reference") or "")
    # The deprecated alias always shows the same name.
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account


def default_pod_only(spec: Object) -> None:
    """The defaults only pods get, not the templates they are made from."""
    host_network = spec.get("hostNetwork")
    for name in ("initContainers", "containers"):
        for container in spec.get(name) or ():
            resources = container.get("resources")
            if resources and resources.get("limits"):
                requests = resources.get("requests") or {}
                resources["requests"] = {**resources["limits"], **requests}
            if host_network:
                for port in container.get("ports") or ():
                    if not port.get("hostPort") and port.get("containerPort"):
                        port["hostPort"] = port["containerPort"]
    if spec.get("resources"):
        _default_pod_level_requests(spec)
    spec.setdefault("enableServiceLinks", True)
    # Upstream's conversion does this to pods alone: a template keeps what its maker wrote.
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        spec["terminationGracePeriodSeconds"] = 1


def _default_pod_level_requests(spec: Object) -> None:
    """Requests of the pod as a whole: what its containers request together, else its limits."""
    limits = spec["resources"].get("limits")
    if not limits:
        return
    requests = dict(spec["resources"].get("requests") or {})
    containers = {key: value for key, value in spec.items() if key in CONTAINER_LISTS}
    for name, total in pod_requests({"spec": containers}).items():
        if name in ("cpu", "memory"):
            requests.setdefault(name, str(total))
    for name, limit in limits.items():
        if name in ("cpu", "memory") or name.startswith("hugepages-"):
            requests.setdefault(name, limit)
    if requests:
        spec["resources"]["requests"] = requests


def quality_of_service(spec: Object) -> str:
    """The QoS class: Guaranteed when every container limits cpu and memory to what it requests,
    BestEffort when none asks for any, Burstable otherwise."""
    if spec.get("resources"):
        units: list[Any] = [spec]
    else:
        units = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    guaranteed, anything = True, False
    for unit in units:
        resources = unit.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        for name in ("cpu", "memory"):
            request, limit = requests.get(name, "0"), limits.get(name, "0")
            anything = anything or request != "0" or limit != "0"
            guaranteed = guaranteed and limit != "0" and request == limit
    if not anything:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
