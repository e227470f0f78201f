"""ipFamilies and ipFamilyPolicy of a Service: what a write that leaves them out means, and what
this cluster cannot do.

Source: KEP-563; upstream's `pkg/registry/core/service/storage/alloc.go`. Pure; `spec` is completed
in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from navarch.api.errors import FieldError, invalid

Object = dict[str, Any]

OTHER = {"IPv4": "IPv6", "IPv6": "IPv4"}
POLICY = "spec.ipFamilyPolicy"


def is_headless(spec: Object) -> bool:
    return spec.get("clusterIP") == "None"


def is_unchanged_preference(spec: Object, old: Object | None) -> bool:
    """A Service that prefers two families keeps what it has when the cluster has changed since:
    only a change of its policy, families or addresses adds or removes one."""
    return (
        old is not None
        and spec.get("type") == old.get("type") != "ExternalName"
        and spec.get("ipFamilyPolicy") == "PreferDualStack"
        and old.get("ipFamilyPolicy") in (None, "PreferDualStack")
        and _same(spec, old, "clusterIPs")
        and _same(spec, old, "ipFamilies")
    )


def init_families(spec: Object, old: Object | None, configured: Sequence[str]) -> list[FieldError]:
    """Complete the families of a Service; `old` is the spec before, `configured` are the cluster's
    families, the default first."""
    if spec.get("type") == "ExternalName" or is_unchanged_preference(spec, old):
        return []
    is_free = is_headless(spec) and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        before = (old or {}).get("ipFamilyPolicy")
        spec["ipFamilyPolicy"] = before or ("RequireDualStack" if is_free else "SingleStack")
    errors: list[FieldError] = []
    if old is not None:
        errors += _reduce(spec, old)
    if spec["ipFamilyPolicy"] == "SingleStack":
        for key, what in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")):
            if len(spec.get(key) or ()) == 2:
                errors.append(
                    invalid(
                        POLICY,
                        "SingleStack",
                        "must be 'RequireDualStack' or 'PreferDualStack' when multiple "
                        f"{what} are specified",
                    )
                )
    errors += _infer(spec, configured)
    if not errors:
        _complete(errors, spec, configured, is_free)
    return errors


def _same(spec: Object, old: Object, key: str) -> bool:
    return (spec.get(key) or []) == (old.get(key) or [])


def _reduce(spec: Object, old: Object) -> list[FieldError]:
    """Going back to one family: the policy alone says so, or the policy and the lists."""
    policy = spec["ipFamilyPolicy"]
    errors = []
    for key, what in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        values = spec.get(key) or []
        if policy == "SingleStack":
            if _same(spec, old, key) and len(values) > 1:
                spec[key] = values[:1]
        elif values and len(values) < len(old.get(key) or ()):
            detail = f"must be 'SingleStack' to release the secondary {what}"
            errors.append(invalid(POLICY, policy, detail))
    return errors


def _infer(spec: Object, configured: Sequence[str]) -> list[FieldError]:
    """Families of addresses that were given."""
    families = list(spec.get("ipFamilies") or ())
    addresses = spec.get("clusterIPs") or []
    errors = []
    for index, address in enumerate(addresses):
        if address == "None":
            break
        if index < len(families):
            continue
        family = "IPv6" if ":" in address else "IPv4"
        if family in configured:
            families.append(family)
        else:
            detail = f"{family} is not configured on this cluster"
            errors.append(invalid(f"spec.clusterIPs[{index}]", addresses, detail))
    if families:
        spec["ipFamilies"] = families
    return errors


def _complete(
    errors: list[FieldError], spec: Object, configured: Sequence[str], is_free: bool
) -> None:
    families = list(spec.get("ipFamilies") or ())
    policy = spec["ipFamilyPolicy"]
    # Where others choose the endpoints of a headless Service, the cluster's families mean nothing.
    if not is_free:
        if policy == "RequireDualStack" and len(configured) < 2:
            detail = "this cluster is not configured for dual-stack services"
            errors.append(invalid(POLICY, policy, detail))
        errors += [
            invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
            for index, family in enumerate(families)
            if family not in configured
        ]
        if errors:
            return
    families = families or [configured[0]]
    if policy != "SingleStack" and len(families) == 1 and (is_free or len(configured) == 2):
        families.append(OTHER[families[0]])
    spec["ipFamilies"] = families
