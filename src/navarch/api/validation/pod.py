"""Pods: what a new one needs, and the little that may change in one that exists."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

import msgspec

from navarch.api import names
from navarch.api.patch.common import copy_json
from navarch.api.strategies.podspec import quality_of_service
from navarch.api.validation.common import MAX_INT32, Object, dns1123_subdomain
from navarch.api.validation.containers import check_image_whitespace
from navarch.api.validation.fields import Field
from navarch.api.validation.podspec import MIRROR_ANNOTATION, check_pod_annotations, check_pod_spec
from navarch.api.validation.scheduling import check_tolerations

UPDATABLE = ",".join(
    (
        "`spec.containers[*].image`",
        "`spec.initContainers[*].image`",
        "`spec.activeDeadlineSeconds`",
        "`spec.tolerations` (only additions to existing tolerations)",
        "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously "
        "negative)",
    )
)
encode_json = msgspec.json.Encoder().encode
_KINDS = ("containers", "initContainers")
_RESIZABLE = ("cpu", "memory")
_AFFINITY = "requiredDuringSchedulingIgnoredDuringExecution"


def validate_pod(pod: Field) -> None:
    """A new pod."""
    _check_whole(pod)
    spec = pod["spec"]
    if spec.get("ephemeralContainers"):
        spec["ephemeralContainers"].forbidden("cannot be set on create")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        spec["nodeName"].forbidden("cannot be set until all schedulingGates have been cleared")


_valid: dict[bytes, None] = {}
"""The specs that were found valid last, as `_spec_key` tells them apart."""
MAX_VALID = 256
MAX_SPEC_BYTES = 16 * 1024
_TOKEN_VOLUME = re.compile(rb'(?<=")kube-api-access-[a-z0-9]{5}(?=")')


def _spec_key(spec: Object) -> bytes:
    """The same for all pods of a workload, whose specs differ in the name of the volume with the
    ServiceAccount's token at most (a zero byte stands for it, which no JSON contains). Empty for
    specs that are judged one by one: what is said of them depends on the pod's name, or they are
    big."""
    key = encode_json(spec)
    if len(key) > MAX_SPEC_BYTES or b'"ephemeral' in key or b'"resourceClaims"' in key:
        return b""
    if b'"kube-api-access-' not in key:
        return key
    volumes = set(_TOKEN_VOLUME.findall(key))
    if not volumes:
        return key
    return key.replace(volumes.pop(), b"\0") if len(volumes) == 1 else b""


def _check_whole(pod: Field) -> None:
    spec = pod["spec"]
    if annotations := pod["metadata"]["annotations"]:
        check_pod_annotations(annotations, spec)
    key, found = _spec_key(spec.value), len(pod.errors)
    if key in _valid:
        _valid[key] = _valid.pop(key)
        return
    _check_spec(spec, pod.value)
    if key and len(pod.errors) == found:
        if len(_valid) >= MAX_VALID:
            del _valid[next(iter(_valid))]
        _valid[key] = None


def _check_spec(spec: Field, pod: Object) -> None:
    check_pod_spec(spec, pod)
    if not spec.get("serviceAccountName"):
        for volume in spec["volumes"]:
            for source in volume["projected"]["sources"]:
                if (token := source["serviceAccountToken"]).is_set:
                    token.forbidden("must not be specified when serviceAccountName is not set")
    for containers in spec.each(*_KINDS):
        for container in containers:
            check_image_whitespace(container)


def validate_pod_update(pod: Field, old: Field) -> None:
    """An update of the pod itself."""
    spec, before = pod["spec"], old["spec"].value
    _check_mirror(pod, old)
    if spec.value == before:
        # Nothing that was ever valid turns invalid by a change of the metadata.
        return
    _check_whole(pod)
    for kind in _KINDS:
        if len(spec[kind]) != len(before.get(kind) or ()):
            spec[kind].forbidden("pod updates may not add or remove containers")
            return
    if not _check_deadline(spec["activeDeadlineSeconds"], before.get("activeDeadlineSeconds")):
        return
    _check_added_tolerations(spec["tolerations"], before)
    _check_removed_gates(spec["schedulingGates"], before)
    allowed = _with_allowed_changes(spec, before)
    if allowed != before:
        detail = f"pod updates may not change fields other than {UPDATABLE}\n"
        spec.forbidden(detail + difference(before, allowed))


def _check_mirror(pod: Field, old: Field) -> None:
    annotations = pod["metadata"]["annotations"]
    before = old["metadata"]["annotations"].get(MIRROR_ANNOTATION)
    if annotations.get(MIRROR_ANNOTATION) != before:
        verb, place = "add" if before is None else "remove or update", f"[{MIRROR_ANNOTATION}]"
        annotations.at(place, None).forbidden(f"may not {verb} mirror pod annotation")


def _check_deadline(deadline: Field, before: int | None) -> bool:
    if not deadline.is_set:
        if before is not None:
            deadline.invalid("must not update from a positive integer to nil value")
        return True
    if not 0 <= deadline.value <= MAX_INT32:
        deadline.invalid(names.in_range(0, MAX_INT32))
        return False
    if before is not None and before < deadline.value:
        deadline.invalid("must be less than or equal to previous value")
        return False
    return True


def _check_added_tolerations(tolerations: Field, old: Object) -> None:
    def without_seconds(toleration: Object) -> Object:
        return {key: item for key, item in toleration.items() if key != "tolerationSeconds"}

    given = [without_seconds(each) for each in tolerations.value or ()]
    for toleration in old.get("tolerations") or ():
        if without_seconds(toleration) not in given:
            detail = "existing toleration can not be modified except its tolerationSeconds"
            tolerations.forbidden(detail)
            return
    check_tolerations(tolerations)


def _check_removed_gates(gates: Field, old: Object) -> None:
    before = {gate.get("name") for gate in old.get("schedulingGates") or ()}
    for gate in gates:
        name = gate["name"]
        if name.value not in before:
            name.forbidden(
                f"only deletion is allowed, but found new scheduling gate '{name.value}'"
            )


def _with_allowed_changes(spec: Field, old: Object) -> Object:
    """The new spec with everything an update may change put back: the old one, if that was all."""
    result: Object = copy_json(spec.value)
    for kind in _KINDS:
        for container, before in zip(result.get(kind) or (), old.get(kind) or (), strict=True):
            _put_back(container, before, "image")
    for field in ("activeDeadlineSeconds", "schedulingGates", "tolerations"):
        _put_back(result, old, field)
    grace = old.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0 and spec.get("terminationGracePeriodSeconds") == 1:
        _put_back(result, old, "terminationGracePeriodSeconds")
    if old.get("schedulingGates"):
        _narrow(spec, result, old)
    return result


def _put_back(target: Object, source: Object, field: str) -> None:
    if field in source:
        target[field] = source[field]
    else:
        target.pop(field, None)


def _narrow(spec: Field, result: Object, old: Object) -> None:
    """A gated pod may still be bound to fewer nodes."""
    selector = spec.at("nodeSelector", spec.get("nodeSelector") or {})
    if any(selector.get(key) != value for key, value in (old.get("nodeSelector") or {}).items()):
        detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        selector.invalid(detail)
    _put_back(result, old, "nodeSelector")
    affinity, before = result.get("affinity") or {}, old.get("affinity") or {}
    new_node, old_node = affinity.get("nodeAffinity"), before.get("nodeAffinity")
    if new_node == old_node:
        return
    old_terms = ((old_node or {}).get(_AFFINITY) or {}).get("nodeSelectorTerms") or []
    terms = spec["affinity"]["nodeAffinity"][_AFFINITY]["nodeSelectorTerms"]
    if old_terms and len(old_terms) != len(terms):
        detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed"
        terms.showing(terms.value or []).invalid(detail)
    for term, old_term in zip(terms, old_terms, strict=False):
        if not _only_adds(term.value, old_term):
            term.invalid("only additions are allowed (no mutations or deletions)")
    if old_node is not None:
        affinity["nodeAffinity"] = old_node
    else:
        affinity.pop("nodeAffinity", None)
    if affinity or "affinity" in old:
        result["affinity"] = affinity
    else:
        result.pop("affinity", None)


def _only_adds(new: Object, old: Object) -> bool:
    fields = ("matchExpressions", "matchFields")
    if not any(old.get(field) for field in fields):
        return not any(new.get(field) for field in fields)
    return all(
        (new.get(field) or [])[: len(old.get(field) or ())] == (old.get(field) or [])
        for field in fields
    )


def difference(old: Any, new: Any) -> str:
    """The lines that differ, for people."""
    before, after = (
        json.dumps(each, indent=1, sort_keys=True, ensure_ascii=False).splitlines()
        for each in (old, new)
    )
    lines = difflib.unified_diff(before, after, n=1, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def validate_pod_status_update(pod: Field, old: Field) -> None:
    _check_mirror(pod, old)
    status, before = pod["status"], old["status"]
    for condition in status["conditions"]:
        kind = condition.get("type") or ""
        _check_generation(condition["observedGeneration"])
        if kind not in ("PodScheduled", "Ready", "Initialized"):
            condition.at("Type", kind).label_name()
    nominated = status["nominatedNodeName"]
    if nominated and nominated.value != before.get("nominatedNodeName"):
        nominated.check(dns1123_subdomain)
        if old["spec"].get("nodeName"):
            nominated.forbidden("may not be set on pods that are already bound to a node")
    _check_generation(status["observedGeneration"])
    status.keeps(before, "qosClass")
    _check_transitions(status, before, old["spec"].value)
    for field in status.each("podIPs", "hostIPs"):
        families = set()
        for entry in field:
            entry.showing(entry.get("ip") or "").address()
            families.add(":" in (entry.get("ip") or ""))
        if len(field) > 1 and (len(field) > 2 or len(families) < 2):
            field.invalid("may specify no more than one IP for each IP family")
    for host in [*status["hostIPs"]][:1]:
        if host.get("ip") != status.get("hostIP"):
            host["ip"].invalid("must be equal to `hostIP`")


def _check_generation(generation: Field) -> None:
    if (generation.value or 0) < 0:
        generation.invalid("must be a non-negative integer")


def _comes_again(container: Object, spec: Object, code: int) -> bool:
    own = container.get("restartPolicy")
    for rule in container.get("restartPolicyRules") or () if own else ():
        codes = rule.get("exitCodes") or {}
        wanted = {"In": True, "NotIn": False}.get(codes.get("operator") or "")
        if (code in (codes.get("values") or ())) is wanted:
            return True
    policy = own or spec.get("restartPolicy") or "Always"
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def _check_transitions(status: Field, before: Field, spec: Object) -> None:
    """A container that is done for good does not come back to life."""
    containers = spec.get("containers") or ()
    if any(
        rule.get("action") == "RestartAllContainers"
        for each in (*containers, *(spec.get("initContainers") or ()))
        for rule in each.get("restartPolicyRules") or ()
    ):
        return
    by_name = {each.get("name"): each for each in containers}
    new = {each.get("name"): each for each in status.get("containerStatuses") or ()}
    for index, known in enumerate(before.get("containerStatuses") or ()):
        ended = (known.get("state") or {}).get("terminated")
        current = new.get(known.get("name"))
        if ended is None or current is None or (current.get("state") or {}).get("terminated"):
            continue
        container = by_name.get(known.get("name")) or {}
        if _comes_again(container, spec, ended.get("exitCode") or 0):
            continue
        place = status["containerStatuses"].at(f"[{index}].state", None)
        place.forbidden("may not be transitioned to non-terminated state")


def _refuses_static(pod: Field, old: Field, detail: str) -> bool:
    """Static pods are changed in their files alone."""
    is_static = MIRROR_ANNOTATION in old["metadata"]["annotations"]
    if is_static:
        pod.forbidden(f"static pods {detail}")
    return is_static


def validate_ephemeral_containers_update(pod: Field, old: Field) -> None:
    if _refuses_static(pod, old, "do not support ephemeral containers"):
        return
    _check_whole(pod)
    containers = pod["spec"]["ephemeralContainers"]
    new = {each.get("name"): each for each in containers.value or ()}
    for before in old["spec"].get("ephemeralContainers") or ():
        name = before.get("name")
        what = f'existing ephemeral containers "{name}" may not be'
        if name not in new:
            containers.forbidden(f"{what} removed\n")
        elif new[name] != before:
            containers.forbidden(f"{what} changed\n{difference(before, new[name])}")


def validate_resize(pod: Field, old: Field) -> None:
    if _refuses_static(pod, old, "cannot be resized"):
        return
    _check_whole(pod)
    spec, before = pod["spec"], old["spec"].value
    known = old["status"].get("qosClass") or quality_of_service(before)
    if quality_of_service(spec.value) != known:
        spec.showing(known).invalid("Pod QOS Class may not change as a result of resizing")
    orders = [_is_in_order(spec[kind], kind, before) for kind in _KINDS]
    if not all(orders):
        return
    rest = copy_json(spec.value)
    for kind in _KINDS:
        sources = before.get(kind) or ()
        for container, target, source in zip(
            spec[kind], rest.get(kind) or (), sources, strict=True
        ):
            _check_resized(container["resources"], source)
            _restore_resources(target, source)
            if kind == "initContainers" and target != source:
                detail = "only cpu and memory resources for init or sidecar containers are mutable"
                container.forbidden(detail)
    _restore_resources(rest, before)
    if not pod.errors and rest != before:
        spec.forbidden("only cpu and memory resources are mutable")


def _is_in_order(containers: Field, kind: str, old: Object) -> bool:
    before, found = old.get(kind) or (), len(containers.errors)
    if len(containers) != len(before):
        containers.forbidden(f"{kind} may not be added or removed on resize")
        return False
    for container, known in zip(containers, before, strict=True):
        if container.get("name") != known.get("name"):
            container["name"].forbidden(f"{kind} may not be renamed or reordered on resize")
    return len(containers.errors) == found


def _check_resized(resources: Field, source: Object) -> None:
    before = source.get("resources") or {}
    for kind in ("requests", "limits"):
        if set(before.get(kind) or ()) - set(resources.get(kind) or ()):
            resources[kind].forbidden(f"resource {kind} cannot be removed")


def _restore_resources(container: Object, source: Object) -> None:
    """Put back the amounts a resize may change, so that any other change shows."""
    if not container.get("resources") and not source.get("resources"):
        return
    resources = container.setdefault("resources", {})
    before = source.get("resources") or {}
    for kind in ("requests", "limits"):
        amounts = {
            name: amount
            for name, amount in (resources.get(kind) or {}).items()
            if name not in _RESIZABLE
        }
        for name in _RESIZABLE:
            if name in (before.get(kind) or {}):
                amounts[name] = before[kind][name]
        if amounts or kind in before:
            resources[kind] = amounts
        else:
            resources.pop(kind, None)
    if not resources and "resources" not in source:
        del container["resources"]
