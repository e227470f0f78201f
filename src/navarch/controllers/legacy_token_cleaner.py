"""The cleaner of old service-account tokens: those that were once made by themselves.

Before Kubernetes 1.24 every account had a secret with a token that never expires, listed among the
account's `secrets`. One of these that nobody has used for a year, and that no pod mounts, is first
marked as invalid (`kubernetes.io/legacy-token-invalid-since`, after which the API server refuses
it), and deleted after another year. The API server says since when it has recorded the use of
tokens; before that is a year ago nothing can be told. Secrets that somebody made by hand stay.

Source: KEP-2799; upstream's `legacy_serviceaccount_token_cleaner.go`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import Enum

from navarch.api.errors import ignoring, outdated
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import ConfigMap, EnvFromSource, EnvVar, Pod, Secret, ServiceAccount
from navarch.client import Controller, ControllerContext
from navarch.controllers.service_account_tokens import NAME, TYPE, belongs

LAST_USED = "kubernetes.io/legacy-token-last-used"
INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"
TRACKING = "kube-apiserver-legacy-service-account-token-tracking"
UNUSED = timedelta(days=365)
LOOK_SECONDS = 86400.0
FORMAT = "%Y-%m-%d"


class Fate(Enum):
    KEEP = "keep"
    MARK = "mark as invalid"
    DELETE = "delete"


def parse_day(text: str | None) -> datetime | None:
    try:
        return datetime.strptime(text or "", FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def fate(secret: Secret, account: ServiceAccount | None, mounted: bool, now: datetime) -> Fate:
    meta = secret.metadata
    limit = now - UNUSED
    created = parse_time(meta.creationTimestamp) if meta.creationTimestamp else now
    if created >= limit or meta.deletionTimestamp or mounted or account is None:
        return Fate.KEEP
    # Only the account's own list tells that the secret made itself.
    if all(reference.name != meta.name for reference in account.secrets):
        return Fate.KEEP
    used = meta.labels.get(LAST_USED)
    if used is not None:
        day = parse_day(used)
        if day is None or used >= limit.strftime(FORMAT):
            return Fate.KEEP
    invalid_since = meta.labels.get(INVALID_SINCE)
    if parse_day(invalid_since) is None:
        return Fate.MARK
    return Fate.DELETE if str(invalid_since) < limit.strftime(FORMAT) else Fate.KEEP


def mounted_secrets(pods: Iterable[Pod]) -> set[str]:
    """The secrets that pods use in whatever way."""
    names: set[str] = set()
    for pod in pods:
        spec = pod.spec
        names |= {reference.name for reference in spec.imagePullSecrets}
        for volume in spec.volumes:
            if volume.secret is not None:
                names.add(volume.secret.secretName)
            if volume.projected is not None:
                names |= {s.secret.name for s in volume.projected.sources if s.secret is not None}
        for container in (*spec.containers, *spec.initContainers):
            names |= _secrets_in_environment(container.envFrom, container.env)
        for debugger in spec.ephemeralContainers:
            names |= _secrets_in_environment(debugger.envFrom, debugger.env)
    return names


def _secrets_in_environment(whole: Iterable[EnvFromSource], single: Iterable[EnvVar]) -> set[str]:
    names = {source.secretRef.name for source in whole if source.secretRef is not None}
    for variable in single:
        source = variable.valueFrom
        if source is not None and source.secretKeyRef is not None:
            names.add(source.secretKeyRef.name)
    return names


class LegacyTokenCleaner(Controller):
    """Looks once a day at everything, under one key. Reads: token secrets, accounts, pods."""

    name = "legacy-serviceaccount-token-cleaner"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        informers = context.informers
        self.secrets = informers.informer(Secret, field_selector=f"type={TYPE}")
        self.accounts = informers.informer(ServiceAccount)
        self.pods = informers.informer(Pod)
        for informer in (self.secrets, self.accounts, self.pods):
            self.depends_on(informer)
        self.queue.add("all")

    async def reconcile(self, key: str) -> None:
        self.queue.add_after(key, LOOK_SECONDS)
        now = self.clock.now()
        since = await self._tracked_since()
        # Use is recorded by the day, and of the first one only a part was seen.
        if since is None or now < since + timedelta(days=1) + UNUSED:
            return
        for secret in self.secrets.cache.list():
            meta = secret.metadata
            name = meta.annotations.get(NAME)
            account = self.accounts.cache.get(f"{meta.namespace}/{name}")
            if account is not None and not belongs(secret, account):
                account = None
            mounted = meta.name in mounted_secrets(self.pods.cache.list(meta.namespace))
            await self._meet(secret, fate(secret, account, mounted, now), now)

    async def _tracked_since(self) -> datetime | None:
        config = await self.client.resource(ConfigMap).find(TRACKING, "kube-system")
        return parse_day(config.data.get("since")) if config is not None else None

    async def _meet(self, secret: Secret, what: Fate, now: datetime) -> None:
        meta, resource = secret.metadata, self.client.resource(Secret)
        with ignoring(outdated):
            if what is Fate.MARK:
                labels = {INVALID_SINCE: now.strftime(FORMAT)}
                body = {"metadata": {"uid": meta.uid, "labels": labels}}
                await resource.patch(meta.name, meta.namespace, body)
            elif what is Fate.DELETE:
                version = meta.resourceVersion
                await resource.delete(meta.name, meta.namespace, resource_version=version)
