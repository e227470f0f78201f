"""The roles and bindings every cluster starts with, as upstream's v1.36 bootstrap policy has them.

The facts are data (`bootstrap_policy.json`): a rule is `verbs | groups | resources [| names]`, or
`verbs | URLs`; `gathers` and `joins` are the aggregation labels; a ClusterRoleBinding has the name
of its role. At each start they are reconciled: what is missing is created, rules and subjects that
are missing are added, additions of administrators stay, and an object annotated
`rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

Two things differ: upstream's controller manager takes the identity of one service account per
controller, ours is a single user; so that user is added to the subjects of every controller's role.
And `system:aggregated-metrics-reader`, which metrics-server brings along elsewhere, is there from
the start, as its API is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib import resources
from typing import Any

import msgspec

from navarch.apiserver.authorization.rules import GROUP, Rule, missing_rules, parse_rules
from navarch.apiserver.contracts import Object

API_VERSION = f"{GROUP}/v1"
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
AGGREGATE_LABEL = f"{GROUP}/aggregate-to-"
CONTROLLER_ROLE_PREFIX = "system:controller:"
CONTROLLER_MANAGER = "User system:kube-controller-manager"


def bootstrap_policy() -> list[tuple[str, Object]]:
    """(resource, object) of every role and binding, roles first."""
    policy = _read_policy()
    result: list[tuple[str, Object]] = []
    for name, role in policy["clusterRoles"].items():
        rules = [parse_rule_text(text).to_object() for text in _gathered(policy, name)]
        obj = _object("ClusterRole", name, "", rules=rules)
        if "joins" in role:
            obj["metadata"]["labels"][f"{AGGREGATE_LABEL}{role['joins']}"] = "true"
        if "gathers" in role:
            selector = {"matchLabels": {f"{AGGREGATE_LABEL}{role['gathers']}": "true"}}
            obj["aggregationRule"] = {"clusterRoleSelectors": [selector]}
        result.append((f"clusterroles.{GROUP}", obj))
    for path, role in policy["roles"].items():
        namespace, name = path.split("/", 1)
        rules = [parse_rule_text(text).to_object() for text in role["rules"]]
        result.append((f"roles.{GROUP}", _object("Role", name, namespace, rules=rules)))
    for name, subjects in policy["clusterRoleBindings"].items():
        obj = _binding("ClusterRoleBinding", name, "", "ClusterRole", name, subjects)
        result.append((f"clusterrolebindings.{GROUP}", obj))
    for path, binding in policy["roleBindings"].items():
        namespace, name = path.split("/", 1)
        obj = _binding("RoleBinding", name, namespace, "Role", binding["role"], binding["subjects"])
        result.append((f"rolebindings.{GROUP}", obj))
    return result


def node_rules() -> tuple[Rule, ...]:
    """The rules of the ClusterRole `system:node`, which the node authorizer applies by itself."""
    return tuple(
        parse_rule_text(text) for text in _read_policy()["clusterRoles"]["system:node"]["rules"]
    )


def parse_rule_text(text: str) -> Rule:
    """A rule as the data file writes it."""
    parts = [tuple(part.split()) for part in text.split("|")]
    if len(parts) == 2:
        return Rule(parts[0], urls=parts[1])
    groups = tuple("" if group == "core" else group for group in parts[1])
    return Rule(parts[0], groups, parts[2], parts[3] if len(parts) > 3 else ())


def reconciled(expected: Object, existing: Object) -> Object | None:
    """`existing` with what it lacks of `expected`, None if it lacks nothing or opted out."""
    metadata = existing["metadata"]
    if (metadata.get("annotations") or {}).get(AUTOUPDATE) == "false":
        return None
    result = copy.deepcopy(existing)
    for field in ("labels", "annotations"):
        wanted = expected["metadata"][field]
        result["metadata"][field] = {**wanted, **(metadata.get(field) or {})}
    if "roleRef" in expected:
        subjects = result.get("subjects") or []
        lacking = [subject for subject in expected["subjects"] if subject not in subjects]
        if lacking:
            result["subjects"] = subjects + lacking
    elif "aggregationRule" in expected:
        selectors = (result.get("aggregationRule") or {}).get("clusterRoleSelectors") or []
        wanted = expected["aggregationRule"]["clusterRoleSelectors"]
        result["aggregationRule"] = {
            "clusterRoleSelectors": selectors + [s for s in wanted if s not in selectors]
        }
    else:
        held, wanted_rules = parse_rules(result.get("rules")), parse_rules(expected["rules"])
        if not set(wanted_rules) <= set(held):
            added = [rule.to_object() for rule in missing_rules(held, wanted_rules)]
            result["rules"] = (result.get("rules") or []) + added
    return None if result == existing else result


def _read_policy() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("bootstrap_policy.json").read_bytes()
    policy: dict[str, Any] = msgspec.json.decode(text)
    return policy


def _gathered(policy: dict[str, Any], name: str) -> Iterator[str]:
    """The rules of a role; those of an aggregated role are the union of its members', so that the
    object says at once what the controller would fill in."""
    role = policy["clusterRoles"][name]
    yield from role.get("rules", ())
    if "gathers" in role:
        for member, other in policy["clusterRoles"].items():
            if other.get("joins") == role["gathers"]:
                yield from _gathered(policy, member)


def _object(kind: str, name: str, namespace: str, **fields: Any) -> Object:
    metadata: Object = {
        "name": name,
        "annotations": {AUTOUPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    }
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, **fields}


def _binding(
    kind: str, name: str, namespace: str, role_kind: str, role: str, subjects: list[str]
) -> Object:
    if name.startswith(CONTROLLER_ROLE_PREFIX):
        subjects = [*subjects, CONTROLLER_MANAGER]
    return _object(
        kind,
        name,
        namespace,
        roleRef={"apiGroup": GROUP, "kind": role_kind, "name": role},
        subjects=[_subject(text) for text in subjects],
    )


def _subject(text: str) -> Object:
    kind, name = text.split(" ", 1)
    if kind == "ServiceAccount":
        namespace, name = name.split("/", 1)
        return {"kind": kind, "name": name, "namespace": namespace}
    return {"apiGroup": GROUP, "kind": kind, "name": name}
