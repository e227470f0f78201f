"""ServiceAccount: every pod runs as a service account and gets its token, CA and namespace mounted.

The token comes as a projected volume `kube-api-access-xxxxx` (KEP-1205), mounted in each container
that has nothing at that path yet. A new namespace has no account `default` for a moment, until the
controller makes it: a pod that needs it waits for that.
"""

from __future__ import annotations

import asyncio
import random

from navarch.api.names import random_suffix
from navarch.apiserver.admission.base import (
    MIRROR_ANNOTATION,
    AdmissionAccess,
    Plugin,
    annotations_of,
    denied,
)
from navarch.apiserver.contracts import AdmissionRequest, Object
from navarch.apiserver.podrefs import containers, projections, secret_names, volumes

VOLUME_PREFIX = "kube-api-access-"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
WAIT_SECONDS = 1.5
_ENFORCE = "kubernetes.io/enforce-mountable-secrets"


class ServiceAccount(Plugin):
    name = "ServiceAccount"
    resources = frozenset({("", "pods")})
    subresources = ("", "ephemeralcontainers")

    def __init__(self, access: AdmissionAccess) -> None:
        self._access = access
        self._chance = random.Random()
        self._awaited: dict[tuple[str, str], asyncio.Event] = {}
        access.lookup.subscribe("serviceaccounts", self._account_changed)

    async def admit(self, request: AdmissionRequest) -> None:
        pod = request.obj
        if request.operation != "CREATE" or pod is None:
            return
        if MIRROR_ANNOTATION in annotations_of(pod):
            return
        spec = pod.setdefault("spec", {})
        name = spec.get("serviceAccountName") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self._account(request, name)
        if _mounts_token(account, spec):
            _mount_token(spec, self._chance)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [
                {"name": secret.get("name", "")} for secret in account["imagePullSecrets"]
            ]

    async def validate(self, request: AdmissionRequest) -> None:
        pod = request.obj
        if pod is None or (request.operation == "UPDATE" and not request.info.subresource):
            return
        if MIRROR_ANNOTATION in annotations_of(pod) and request.operation == "CREATE":
            _check_mirror(request, pod)
            return
        name = (pod.get("spec") or {}).get("serviceAccountName")
        if not name:
            path = f"{request.info.namespace}/{pod['metadata'].get('name', '')}"
            raise denied(request, f"no service account specified for pod {path}")
        account = await self._account(request, name)
        if annotations_of(account).get(_ENFORCE, "").lower() in ("1", "t", "true"):
            _check_secrets(request, pod, account)

    async def _account(self, request: AdmissionRequest, name: str) -> Object:
        namespace = request.info.namespace
        account = await self._access.find("serviceaccounts", namespace, name)
        if account is None and name == "default":
            account = await self._wait(namespace, name)
        if account is None:
            why = f'serviceaccount "{name}" not found'
            raise denied(request, f"error looking up service account {namespace}/{name}: {why}")
        return account

    async def _wait(self, namespace: str, name: str) -> Object | None:
        event = self._awaited.setdefault((namespace, name), asyncio.Event())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await event.wait()
        except TimeoutError:
            return None
        finally:
            self._awaited.pop((namespace, name), None)
        return self._access.lookup.get("serviceaccounts", namespace, name)

    def _account_changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and self._awaited:
            metadata = new["metadata"]
            event = self._awaited.get((metadata.get("namespace", ""), metadata["name"]))
            if event is not None:
                event.set()


def _mounts_token(account: Object, spec: Object) -> bool:
    for wish in (
        spec.get("automountServiceAccountToken"),
        account.get("automountServiceAccountToken"),
    ):
        if wish is not None:
            return bool(wish)
    return True


def _mount_token(spec: Object, chance: random.Random) -> None:
    present = [v["name"] for v in spec.get("volumes") or () if v["name"].startswith(VOLUME_PREFIX)]
    volume = present[0] if present else VOLUME_PREFIX + random_suffix(chance)
    mounted = False
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        mounts = container.get("volumeMounts") or []
        if any(mount.get("mountPath") == MOUNT_PATH for mount in mounts):
            continue
        mount = {"name": volume, "readOnly": True, "mountPath": MOUNT_PATH}
        container["volumeMounts"] = [*mounts, mount]
        mounted = True
    if mounted and not present:
        spec["volumes"] = [*(spec.get("volumes") or ()), _token_volume(volume)]


def _token_volume(name: str) -> Object:
    namespace_file = {
        "path": "namespace",
        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
    }
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace_file]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 420}}


def _check_mirror(request: AdmissionRequest, pod: Object) -> None:
    """A mirror pod shows a pod the node runs from a file: it must not reach into the API."""
    if (pod.get("spec") or {}).get("serviceAccountName"):
        raise denied(request, "a mirror pod may not reference service accounts")
    if any(secret_names(pod)):
        raise denied(request, "a mirror pod may not reference secrets")
    for volume in volumes(pod):
        if any(source.get("serviceAccountToken") is not None for source in projections(volume)):
            why = "a mirror pod may not use ServiceAccountToken volume projections"
            raise denied(request, why)


def _check_secrets(request: AdmissionRequest, pod: Object, account: Object) -> None:
    """For accounts that ask for it: only the secrets the account lists may be referred to."""
    name = account["metadata"]["name"]
    listed = {ref.get("name") for ref in account.get("secrets") or ()}
    unlisted = f"is not allowed because service account {name} does not reference that secret"
    for volume in volumes(pod):
        secret = (volume.get("secret") or {}).get("secretName")
        if secret and secret not in listed:
            raise denied(request, f'volume with secret.secretName="{secret}" {unlisted}')
    for container in containers(pod):
        for variable in container.get("env") or ():
            ref = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if ref and ref.get("name") not in listed:
                what = f"container {container['name']} with envVar {variable['name']}"
                secret = ref.get("name")
                raise denied(request, f'{what} referencing secret.secretName="{secret}" {unlisted}')
        for source in container.get("envFrom") or ():
            ref = source.get("secretRef")
            if ref and ref.get("name") not in listed:
                what = f"container {container['name']} with envFrom"
                secret = ref.get("name")
                raise denied(request, f'{what} referencing secret.secretName="{secret}" {unlisted}')
    pull_listed = {ref.get("name") for ref in account.get("imagePullSecrets") or ()}
    for index, ref in enumerate((pod.get("spec") or {}).get("imagePullSecrets") or ()):
        if ref.get("name") not in pull_listed:
            raise denied(
                request,
                f'imagePullSecrets[{index}].name="{ref.get("name")}" is not allowed because '
                f"service account {name} does not reference that imagePullSecret",
            )
