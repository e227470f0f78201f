"""Pods: what a new one needs, and the little that may change in one that exists."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

import msgspec

from navarch.api import names
from navarch.api.errors import FieldError, forbidden_field
from navarch.api.patch.common import copy_json
from navarch.api.strategies.podspec import quality_of_service
from navarch.api.validation.common import MAX_INT32, Errors, Object, dns1123_subdomain, indexed
from navarch.api.validation.containers import check_image_whitespace
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


def validate_pod(pod: Object) -> Errors:
    """A new pod."""
    errors = _whole(pod)
    spec = pod["spec"]
    if spec.get("ephemeralContainers"):
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        detail = "cannot be set until all schedulingGates have been cleared"
        errors.forbidden("spec.nodeName", detail)
    return errors


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


def _whole(pod: Object) -> Errors:
    errors = Errors()
    spec = pod["spec"]
    annotations = pod["metadata"].get("annotations")
    if annotations:
        check_pod_annotations(errors, "metadata.annotations", annotations, spec)
    key = _spec_key(spec)
    if not key:
        _check_spec(errors, pod)
    elif key in _valid:
        _valid[key] = _valid.pop(key)
    else:
        found = Errors()
        _check_spec(found, pod)
        errors += found
        if not found:
            if len(_valid) >= MAX_VALID:
                del _valid[next(iter(_valid))]
            _valid[key] = None
    return errors


def _check_spec(errors: Errors, pod: Object) -> None:
    spec = pod["spec"]
    check_pod_spec(errors, "spec", spec, pod)
    if not spec.get("serviceAccountName"):
        for index, volume in enumerate(spec.get("volumes") or ()):
            for position, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
                if source.get("serviceAccountToken") is not None:
                    here = f"spec.volumes[{index}].projected.sources[{position}]"
                    detail = "must not be specified when serviceAccountName is not set"
                    errors.forbidden(f"{here}.serviceAccountToken", detail)
    for kind in _KINDS:
        for index, container in enumerate(spec.get(kind) or ()):
            check_image_whitespace(errors, f"spec.{kind}[{index}]", container)


def validate_pod_update(pod: Object, old: Object) -> Errors:
    """An update of the pod itself."""
    errors = Errors()
    _check_mirror(errors, pod, old)
    new, before = pod["spec"], old["spec"]
    if new == before:
        # Nothing that was ever valid turns invalid by a change of the metadata.
        return errors
    errors += _whole(pod)
    for kind in _KINDS:
        here = f"spec.{kind}"
        if len(new.get(kind) or ()) != len(before.get(kind) or ()):
            errors.forbidden(here, "pod updates may not add or remove containers")
            return errors
    if not _check_deadline(errors, new, before):
        return errors
    _check_added_tolerations(errors, new, before)
    _check_removed_gates(errors, new, before)
    allowed = _with_allowed_changes(errors, new, before)
    if allowed != before:
        detail = f"pod updates may not change fields other than {UPDATABLE}\n"
        errors.forbidden("spec", detail + difference(before, allowed))
    return errors


def _check_mirror(errors: Errors, pod: Object, old: Object) -> None:
    new = (pod["metadata"].get("annotations") or {}).get(MIRROR_ANNOTATION)
    before = (old["metadata"].get("annotations") or {}).get(MIRROR_ANNOTATION)
    if new != before:
        verb = "add" if before is None else "remove or update"
        here = f"metadata.annotations[{MIRROR_ANNOTATION}]"
        errors.forbidden(here, f"may not {verb} mirror pod annotation")


def _check_deadline(errors: Errors, new: Object, old: Object) -> bool:
    here = "spec.activeDeadlineSeconds"
    value, before = new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds")
    if value is None:
        if before is not None:
            errors.invalid(here, value, "must not update from a positive integer to nil value")
        return True
    if not 0 <= value <= MAX_INT32:
        errors.invalid(here, value, names.in_range(0, MAX_INT32))
        return False
    if before is not None and before < value:
        errors.invalid(here, value, "must be less than or equal to previous value")
        return False
    return True


def _check_added_tolerations(errors: Errors, new: Object, old: Object) -> None:
    def without_seconds(toleration: Object) -> Object:
        return {key: item for key, item in toleration.items() if key != "tolerationSeconds"}

    given = [without_seconds(each) for each in new.get("tolerations") or ()]
    for toleration in old.get("tolerations") or ():
        if without_seconds(toleration) not in given:
            detail = "existing toleration can not be modified except its tolerationSeconds"
            errors.forbidden("spec.tolerations", detail)
            return
    check_tolerations(errors, "spec.tolerations", new.get("tolerations") or ())


def _check_removed_gates(errors: Errors, new: Object, old: Object) -> None:
    before = {gate.get("name") for gate in old.get("schedulingGates") or ()}
    for index, gate in enumerate(new.get("schedulingGates") or ()):
        if gate.get("name") not in before:
            detail = f"only deletion is allowed, but found new scheduling gate '{gate.get('name')}'"
            errors.forbidden(f"spec.schedulingGates[{index}].name", detail)


def _with_allowed_changes(errors: Errors, new: Object, old: Object) -> Object:
    """The new spec with everything an update may change put back: the old one, if that was all."""
    result = copy_json(new)
    for kind in _KINDS:
        for container, before in zip(result.get(kind) or (), old.get(kind) or (), strict=True):
            _put_back(container, before, "image")
    for field in ("activeDeadlineSeconds", "schedulingGates", "tolerations"):
        _put_back(result, old, field)
    grace = old.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0 and new.get("terminationGracePeriodSeconds") == 1:
        _put_back(result, old, "terminationGracePeriodSeconds")
    if old.get("schedulingGates"):
        _narrow(errors, result, old)
    return result  # type: ignore[no-any-return]


def _put_back(target: Object, source: Object, field: str) -> None:
    if field in source:
        target[field] = source[field]
    else:
        target.pop(field, None)


def _narrow(errors: Errors, result: Object, old: Object) -> None:
    """A gated pod may still be bound to fewer nodes."""
    selector = result.get("nodeSelector") or {}
    if any(selector.get(key) != value for key, value in (old.get("nodeSelector") or {}).items()):
        detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        errors.invalid("spec.nodeSelector", selector, detail)
    _put_back(result, old, "nodeSelector")
    affinity, before = result.get("affinity") or {}, old.get("affinity") or {}
    new_node, old_node = affinity.get("nodeAffinity"), before.get("nodeAffinity")
    if new_node == old_node:
        return
    new_terms = ((new_node or {}).get(_AFFINITY) or {}).get("nodeSelectorTerms") or []
    old_terms = ((old_node or {}).get(_AFFINITY) or {}).get("nodeSelectorTerms") or []
    here = f"spec.affinity.nodeAffinity.{_AFFINITY}.nodeSelectorTerms"
    if old_terms and len(old_terms) != len(new_terms):
        detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed"
        errors.invalid(here, new_terms, detail)
    for index, (new_term, old_term) in enumerate(zip(new_terms, old_terms, strict=False)):
        if not _only_adds(new_term, old_term):
            detail = "only additions are allowed (no mutations or deletions)"
            errors.invalid(f"{here}[{index}]", new_term, detail)
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


def validate_pod_status_update(pod: Object, old: Object) -> Errors:
    errors = Errors()
    _check_mirror(errors, pod, old)
    status, before = pod.get("status") or {}, old.get("status") or {}
    for here, condition in indexed("status.conditions", status.get("conditions")):
        kind = condition.get("type") or ""
        if (condition.get("observedGeneration") or 0) < 0:
            detail = "must be a non-negative integer"
            errors.invalid(f"{here}.observedGeneration", condition["observedGeneration"], detail)
        if kind not in ("PodScheduled", "Ready", "Initialized"):
            errors.label_name(f"{here}.Type", kind)
    nominated = status.get("nominatedNodeName")
    if nominated and nominated != before.get("nominatedNodeName"):
        errors.check("status.nominatedNodeName", nominated, dns1123_subdomain)
        if old["spec"].get("nodeName"):
            detail = "may not be set on pods that are already bound to a node"
            errors.forbidden("status.nominatedNodeName", detail)
    if (status.get("observedGeneration") or 0) < 0:
        detail = "must be a non-negative integer"
        errors.invalid("status.observedGeneration", status["observedGeneration"], detail)
    errors.immutable("status.qosClass", status.get("qosClass"), before.get("qosClass"))
    _check_transitions(errors, status, before, old["spec"])
    for field in ("podIPs", "hostIPs"):
        addresses = [each.get("ip") or "" for each in status.get(field) or ()]
        for index, address in enumerate(addresses):
            errors.address(f"status.{field}[{index}]", address)
        families = {":" in address for address in addresses}
        if len(addresses) > 1 and (len(addresses) > 2 or len(families) < 2):
            detail = "may specify no more than one IP for each IP family"
            errors.invalid(f"status.{field}", status[field], detail)
    hosts = status.get("hostIPs")
    if hosts and hosts[0].get("ip") != status.get("hostIP"):
        errors.invalid("status.hostIPs[0].ip", hosts[0].get("ip"), "must be equal to `hostIP`")
    return errors


def _comes_again(container: Object, spec: Object, code: int) -> bool:
    own = container.get("restartPolicy")
    for rule in container.get("restartPolicyRules") or () if own else ():
        codes = rule.get("exitCodes") or {}
        wanted = {"In": True, "NotIn": False}.get(codes.get("operator") or "")
        if (code in (codes.get("values") or ())) is wanted:
            return True
    policy = own or spec.get("restartPolicy") or "Always"
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def _check_transitions(errors: Errors, status: Object, before: Object, spec: Object) -> None:
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
        here = f"status.containerStatuses[{index}].state"
        errors.forbidden(here, "may not be transitioned to non-terminated state")


def validate_ephemeral_containers_update(pod: Object, old: Object) -> list[FieldError]:
    if MIRROR_ANNOTATION in (old["metadata"].get("annotations") or {}):
        return [forbidden_field("", "static pods do not support ephemeral containers")]
    errors = _whole(pod)
    new = {each.get("name"): each for each in pod["spec"].get("ephemeralContainers") or ()}
    for container in old["spec"].get("ephemeralContainers") or ():
        name, here = container.get("name"), "spec.ephemeralContainers"
        if name not in new:
            errors.forbidden(here, f'existing ephemeral containers "{name}" may not be removed\n')
        elif new[name] != container:
            detail = f'existing ephemeral containers "{name}" may not be changed\n'
            detail += difference(container, new[name])
            errors.forbidden(here, detail)
    return errors


def validate_resize(pod: Object, old: Object) -> list[FieldError]:
    if MIRROR_ANNOTATION in (old["metadata"].get("annotations") or {}):
        return [forbidden_field("", "static pods cannot be resized")]
    errors = _whole(pod)
    new, before = pod["spec"], old["spec"]
    known = (old.get("status") or {}).get("qosClass") or quality_of_service(before)
    if quality_of_service(new) != known:
        errors.invalid("spec", known, "Pod QOS Class may not change as a result of resizing")
    moved = [error for kind in _KINDS for error in _check_order(kind, new, before)]
    if moved:
        return [*errors, *moved]
    rest = copy_json(new)
    for kind in _KINDS:
        for index, container in enumerate(rest.get(kind) or ()):
            source = before[kind][index]
            here = f"spec.{kind}[{index}]"
            _check_resized(errors, here, container, source)
            _restore_resources(container, source)
            if kind == "initContainers" and container != source:
                detail = "only cpu and memory resources for init or sidecar containers are mutable"
                errors.forbidden(here, detail)
    _restore_resources(rest, before)
    if not errors and rest != before:
        errors.forbidden("spec", "only cpu and memory resources are mutable")
    return errors


def _check_order(kind: str, new: Object, old: Object) -> list[FieldError]:
    names = [each.get("name") for each in new.get(kind) or ()]
    before = [each.get("name") for each in old.get(kind) or ()]
    if len(names) != len(before):
        detail = f"{kind} may not be added or removed on resize"
        return [forbidden_field(f"spec.{kind}", detail)]
    detail = f"{kind} may not be renamed or reordered on resize"
    return [
        forbidden_field(f"spec.{kind}[{index}].name", detail)
        for index, (name, known) in enumerate(zip(names, before, strict=True))
        if name != known
    ]


def _check_resized(errors: Errors, path: str, container: Object, source: Object) -> None:
    new, before = container.get("resources") or {}, source.get("resources") or {}
    for kind in ("requests", "limits"):
        if set(before.get(kind) or ()) - set(new.get(kind) or ()):
            errors.forbidden(f"{path}.resources.{kind}", f"resource {kind} cannot be removed")


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
