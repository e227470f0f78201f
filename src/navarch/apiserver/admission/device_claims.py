"""Who may have what of devices: administrators' access, and who may write which part of a status.

Administrators look at devices that others use; only claims in namespaces with a label may ask for
that. In a claim's status, what was allocated and for whom takes the right to bind claims, and what
drivers report of devices takes a right on the driver, for the driver's own node or for all nodes.
Upstream asks these questions when it validates a claim, so they are answered as field errors.
Source: KEP-5018 (admin access), KEP-4817 (device status); upstream's `pkg/registry/resource`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

from navarch.api.errors import FieldError, forbidden_field, invalid_object
from navarch.apiserver.admission.base import AdmissionAccess, Plugin, labels_of, spec_of
from navarch.apiserver.contracts import AdmissionRequest, Attributes, Authorizer, Decision, Object

GROUP = "resource.k8s.io"
LABEL = "resource.kubernetes.io/admin-access"
NODE = "authentication.kubernetes.io/node-name"
CLAIMS, TEMPLATES = "resourceclaims", "resourceclaimtemplates"


class DeviceClaims(Plugin):
    name = "DeviceClaims"
    resources = frozenset({(GROUP, CLAIMS), (GROUP, TEMPLATES)})
    subresources = ("", "status")

    def __init__(self, access: AdmissionAccess, authorizer: Authorizer) -> None:
        self._access = access
        self._authorizer = authorizer

    async def validate(self, request: AdmissionRequest) -> None:
        errors = [error async for error in self._admin_access(request)]
        if request.info.subresource:
            errors += self._status(request)
        if errors:
            metadata = (request.obj or {}).get("metadata") or {}
            name = metadata.get("name") or metadata.get("generateName") or ""
            raise invalid_object(request.kind, GROUP, name, errors)

    async def _admin_access(self, request: AdmissionRequest) -> AsyncIterator[FieldError]:
        path = _admin_path(request.obj, request.info.subresource)
        if not path or (request.old is not None and not request.info.subresource):
            return
        if request.info.subresource and _admin_path(request.old, "status"):
            return
        namespace = await self._access.find("namespaces", "", request.info.namespace)
        if labels_of(namespace).get(LABEL) != "true":
            detail = f"admin access to devices requires the `{LABEL}: true` label on the "
            yield forbidden_field(path, f"{detail}containing namespace")

    def _status(self, request: AdmissionRequest) -> Iterator[FieldError]:
        new, old = _status_of(request.obj), _status_of(request.old)
        if any(new.get(field) != old.get(field) for field in ("allocation", "reservedFor")):
            verb = request.info.verb
            if (why := self._refused(request, verb, "binding")) is not None:
                detail = "changing status.allocation or status.reservedFor requires "
                detail += f'resource="resourceclaims/binding", verb="{verb}" permission: {why}'
                yield forbidden_field("status.allocation", detail)
        if not new.get("allocation"):
            return
        verbs = [f"arbitrary-node:{request.info.verb}"]
        if _is_on_node(request, new["allocation"]):
            verbs.insert(0, f"associated-node:{request.info.verb}")
        for driver in sorted(_changed_drivers(new.get("devices"), old.get("devices"))):
            answers = [self._refused(request, verb, "driver", driver) for verb in verbs]
            if None not in answers:
                detail = 'changing status.devices requires resource="resourceclaims/driver", '
                detail += f'verb="[{" ".join(verbs)}]" permission: {answers[0]}'
                yield forbidden_field("status.devices", detail)

    def _refused(
        self, request: AdmissionRequest, verb: str, subresource: str, name: str = ""
    ) -> str | None:
        """Why the user may not; None if they may."""
        namespace = request.info.namespace if name else ""
        asked = replace(
            request.info, verb=verb, subresource=subresource, name=name, namespace=namespace
        )
        decision, why = self._authorizer.authorize(Attributes(request.user, asked))
        if decision is Decision.ALLOW:
            return None
        where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
        what = f'resource "{CLAIMS}/{subresource}" in API group "{GROUP}"'
        who = f'User "{request.user.name}" cannot {verb} {what}{where}'
        subject = f'{CLAIMS}.{GROUP} "{name}"' if name else f"{CLAIMS}.{GROUP}"
        return f"{subject} is forbidden: {who}" + (f": {why}" if why else "")


def _status_of(obj: Object | None) -> Object:
    status: Object = (obj or {}).get("status") or {}
    return status


def _admin_path(obj: Object | None, subresource: str) -> str:
    """Where administrators' access is asked for first."""
    if subresource:
        path = "status.allocation.devices.results"
        allocation = _status_of(obj).get("allocation") or {}
        items = (allocation.get("devices") or {}).get("results") or ()
    else:
        path, spec = "spec.devices.requests", spec_of(obj)
        devices = spec.get("devices") or (spec.get("spec") or {}).get("devices") or {}
        items = [each.get("exactly") or each for each in devices.get("requests") or ()]
    for index, item in enumerate(items):
        if item.get("adminAccess"):
            return f"{path}[{index}].adminAccess"
    return ""


def _changed_drivers(new: Sequence[Object] | None, old: Sequence[Object] | None) -> set[str]:
    """The drivers whose reports are different now."""
    return {
        each["driver"]
        for some, others in ((new or (), old or ()), (old or (), new or ()))
        for each in some
        if each not in others
    }


def _is_on_node(request: AdmissionRequest, allocation: Object) -> bool:
    """Whether a service account's pod runs on the one node that the devices are on."""
    nodes = request.user.extra.get(NODE, ())
    terms: list[Object] = (allocation.get("nodeSelector") or {}).get("nodeSelectorTerms") or []
    fields: list[Object] = [each for term in terms for each in term.get("matchFields") or ()]
    is_plain = len(terms) == len(fields) == 1 and not terms[0].get("matchExpressions")
    is_account = request.user.name.startswith("system:serviceaccount:")
    return (
        is_account
        and is_plain
        and len(nodes) == 1
        and (fields[0].get("key"), fields[0].get("operator")) == ("metadata.name", "In")
        and fields[0].get("values") == [*nodes]
    )
