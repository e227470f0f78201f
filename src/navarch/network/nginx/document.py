"""The model as data for the Lua code: JSON, in which whatever users wrote is a string.

What is empty, zero or false is left out, and Lua reads it as nil. Policies are replaced by their
names; address ranges are written as bytes in hexadecimal digits and a length.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from navarch.network.nginx.model import DataPlane, Host, Policy, Route

encode = msgspec.json.Encoder(order="deterministic").encode


@lru_cache(maxsize=1024)
def policy_name(policy: Policy) -> str:
    """The name of a policy's location: a digest, so that equal policies share one and a name
    always means the same."""
    return f"policy_{hashlib.sha256(encode(policy)).hexdigest()[:16]}"


def digest(text: str) -> str:
    """How files and certificates are named: by what is in them, never by a user's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def policies(plane: DataPlane) -> dict[str, Policy]:
    """All policies in use, by name."""
    found = {
        policy for routes in _routes(plane) for route in routes for policy in _policies_of(route)
    }
    return {policy_name(policy): policy for policy in found}


def _routes(plane: DataPlane) -> Iterator[tuple[Route, ...]]:
    for hosts in plane.tables.values():
        for host in hosts:
            yield host.routes


def _policies_of(route: Route) -> Iterator[Policy]:
    yield route.policy
    canary = (route.canary.backend,) if route.canary else ()
    for backend in (*route.backends, *canary):
        if backend.policy is not None:
            yield backend.policy


def checks_clients(plane: DataPlane) -> bool:
    """Whether any host asks for client certificates."""
    return any(host.client_ca for hosts in plane.tables.values() for host in hosts)


def document(plane: DataPlane) -> bytes:
    """What is posted to nginx, without endpoints and certificates."""
    return encode(
        {
            "policies": sorted(policies(plane)),
            "listeners": {
                str(listener.port): _pruned(msgspec.to_builtins(listener))
                | {"public_port": listener.public_port or listener.port}
                for listener in plane.listeners
            },
            "tables": {
                name: {host.name: _host(host) for host in hosts}
                for name, hosts in plane.tables.items()
            },
        }
    )


def _host(host: Host) -> dict[str, Any]:
    bare = msgspec.structs.replace(host, routes=())
    encoded: dict[str, Any] = _pruned(msgspec.to_builtins(bare))
    return encoded | {"routes": [_route(each) for each in host.routes]}


_USUAL = Route()
_FIELDS = Route.__struct_fields__


def _route(route: Route) -> dict[str, Any]:
    """Field by field, as nearly all fields of nearly all routes are as usual."""
    result = dict(_usual())
    for name in _FIELDS:
        value = getattr(route, name)
        if value != getattr(_USUAL, name):
            result[name] = _pruned(msgspec.to_builtins(value))
    result["policy"] = _policy(route.policy)
    backends = [*zip(result.get("backends", ()), route.backends, strict=True)]
    if route.canary is not None:
        backends.append((result["canary"]["backend"], route.canary.backend))
    for encoded, backend in backends:
        if backend.policy is not None:
            encoded["policy"] = _policy(backend.policy)
    for name in ("allow", "deny"):
        if ranges := getattr(route, name):
            result[name] = [address_range(each) for each in ranges]
    if route.limits is not None and route.limits.exempt:
        result["limits"]["exempt"] = [address_range(each) for each in route.limits.exempt]
    return result


@lru_cache(maxsize=1)
def _usual() -> dict[str, Any]:
    encoded: dict[str, Any] = _pruned(msgspec.to_builtins(_USUAL))
    return encoded


def _policy(policy: Policy) -> dict[str, Any]:
    limit = {"body_limit": policy.body_limit} if policy.body_limit else {}
    return {"name": policy_name(policy), **limit}


def _pruned(value: Any) -> Any:
    """Without what is empty: dictionaries only, as positions in lists have a meaning."""
    if isinstance(value, dict):
        pruned = {key: _pruned(each) for key, each in value.items()}
        return {key: each for key, each in pruned.items() if each not in (None, "", 0, {}, [], ())}
    if isinstance(value, list | tuple):
        return [_pruned(each) for each in value]
    return value


def address_range(text: str) -> str:
    """`10.0.0.0/8` as `0a000000/8`. Raises ValueError for anything else."""
    network = ipaddress.ip_network(text.strip(), strict=False)
    return f"{network.network_address.packed.hex()}/{network.prefixlen}"


def endpoint_changes(
    old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """What is posted when endpoints change: an empty text for an upstream without any."""
    changes = {name: ",".join(each) for name, each in new.items() if old.get(name) != each}
    return changes | {name: "" for name in old if name not in new}
