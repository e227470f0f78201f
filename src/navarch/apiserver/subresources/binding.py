"""`pods/binding` and the old `bindings`: a scheduler gives a pod its node."""

from __future__ import annotations

from typing import Any

from aiohttp.web import StreamResponse

from navarch.api.errors import (
    FieldError,
    bad_request,
    conflict,
    invalid_object,
    method_not_allowed,
    not_supported,
    required,
)
from navarch.api.kinds import Subresource
from navarch.api.patch.common import copy_json
from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import respond_object, success_status
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.subresources.bodies import read_kind
from navarch.apiserver.verbs.write_body import place

Object = dict[str, Any]

BINDING = Subresource("binding", (), "", "v1", "Binding")


async def bind(core: Core, call: Call, resource: Resource) -> StreamResponse:
    """POST pods/<name>/binding."""
    binding, context = await read_kind(call, BINDING, "CreateOptions")
    metadata, name = binding["metadata"], call.info.name
    if metadata.get("name") != name:
        raise bad_request("name in URL does not match name in Binding object")
    return await _assign(core, call, (binding, context), wanted=metadata)


async def legacy_bind(core: Core, call: Call) -> StreamResponse:
    """POST /api/v1/namespaces/<ns>/bindings: the pod is named in the body."""
    if call.info.verb != "create":
        raise method_not_allowed()
    read = await read_kind(call, BINDING, "CreateOptions")
    return await _assign(core, call, read, wanted={})


async def _assign(
    core: Core, call: Call, read: tuple[Object, WriteContext], wanted: Object
) -> StreamResponse:
    """`wanted` are the preconditions."""
    binding, context = read
    pods = core.catalog.get("", "v1", "pods")
    place(call, pods, binding)
    name = binding["metadata"].get("name", "")
    errors = _errors(binding)
    if errors:
        raise invalid_object("Binding", "", name, errors)
    request = core.registry.admission(pods, "CREATE", binding, None, context, "Binding")
    await core.registry.admit(request)
    now = core.registry.timestamp()

    def assign(pod: Object) -> None:
        _check_preconditions(pod, wanted, name)
        assign_node(pod, binding, now)

    key = (call.info.namespace, name)
    await core.registry.modify(pods, key, assign, context.dry_run, copied=_copied)
    return respond_object(call, success_status(code=201), 201)


def _errors(binding: Object) -> list[FieldError]:
    target = binding.get("target") or {}
    errors = []
    if target.get("kind") not in (None, "", "Node"):
        errors.append(not_supported("target.kind", target["kind"], ["Node", "<empty>"]))
    if not target.get("name"):
        errors.append(required("target.name"))
    return errors


def _check_preconditions(pod: Object, wanted: Object, name: str) -> None:
    for field in ("uid", "resourceVersion"):
        if wanted.get(field) and wanted[field] != pod["metadata"].get(field):
            why = (
                f"Precondition failed: {field} in precondition: {wanted[field]}, "
                f"in object meta: {pod['metadata'].get(field)}"
            )
            raise conflict("pods", "", name, why)


def _copied(pod: Object) -> Object:
    """A copy of a pod as deep as `assign_node` reaches."""
    status = copy_json(pod.get("status") or {})
    return {**pod, "metadata": {**pod["metadata"]}, "spec": {**pod["spec"]}, "status": status}


def assign_node(pod: Object, binding: Object, now: str) -> None:
    """Put the node and the binding's labels and annotations into the pod. Raises 409."""
    metadata, spec = pod["metadata"], pod["spec"]
    name = metadata["name"]
    if metadata.get("deletionTimestamp"):
        why = f"pod {name} is being deleted, cannot be assigned to a host"
        raise conflict("pods/binding", "", name, why)
    if spec.get("nodeName"):
        why = f'pod {name} is already assigned to node "{spec["nodeName"]}"'
        raise conflict("pods/binding", "", name, why)
    if spec.get("schedulingGates"):
        raise conflict("pods/binding", "", name, f"pod {name} has non-empty .spec.schedulingGates")
    spec["nodeName"] = binding["target"]["name"]
    for field in ("annotations", "labels"):
        added = binding["metadata"].get(field)
        if added:
            metadata[field] = {**(metadata.get(field) or {}), **added}
    status = pod.setdefault("status", {})
    status.pop("nominatedNodeName", None)
    conditions = status["conditions"] = status.get("conditions") or []
    condition = next((each for each in conditions if each.get("type") == "PodScheduled"), None)
    if condition is None:
        condition = {"type": "PodScheduled"}
        conditions.append(condition)
    if condition.get("status") != "True":
        condition["lastTransitionTime"] = now
    condition |= {"status": "True", "lastProbeTime": condition.get("lastProbeTime")}
    condition.pop("reason", None)
    condition.pop("message", None)


def add_binding(app: App) -> None:
    """Put the handlers into the app's tables."""
    app.subresources["pods", "binding", "create"] = bind
    app.virtual["", "bindings"] = legacy_bind
