"""What tests do with a cluster: apply manifests, look, wait, read events.

Objects are named as for kubectl (`deployment/web`, `certificates.cert-manager.io/tls`, short names
too) or by a manifest, and are plain dicts. Kinds are looked up in the server's own discovery, so
custom resources work as soon as they are served.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navarch.api.errors import ApiError, ignoring, missing

if TYPE_CHECKING:
    from navarch.client import Client, ResourceClient

Object = dict[str, Any]
Manifest = Object | list[Object] | str | Path
"""An object, several, YAML text, or a file or directory of YAML."""
Reference = str | Object
"""`kind/name`, or an object that says so itself."""
Predicate = Callable[[Object], object]

MANAGER = "navarch-testing"
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
NAMESPACE = "default"
TIMEOUT = 30.0


@dataclass(frozen=True)
class Resource:
    """One resource as discovery tells of it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    names: frozenset[str]
    """Every way to call it without its group, in lower case."""


class Operations:
    """With an administrator's client, in that client's event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: list[Resource] = []

    async def apply(self, *manifests: Manifest, namespace: str = NAMESPACE) -> list[Object]:
        """Apply on the server side, in the order given; what the server made of each. Custom
        resource definitions are waited for, so that their objects may come next."""
        return [await self._apply(obj, namespace) for obj in objects_of(*manifests)]

    async def _apply(self, obj: Object, namespace: str) -> Object:
        resource = await self._resource(obj)
        from navarch.client import PatchType

        metadata = obj.get("metadata") or {}
        where = (metadata.get("namespace") or namespace) if resource.namespaced else ""
        result = await self._of(resource).patch(
            metadata.get("name", ""),
            where,
            {**obj, "metadata": {**metadata, "namespace": where}} if where else obj,
            patch_type=PatchType.APPLY,
            field_manager=MANAGER,
            force=True,
        )
        if resource.kind == "CustomResourceDefinition":
            result = await self.wait_for(result, condition="Established")
        return result

    async def get(self, what: Reference, *, namespace: str = NAMESPACE) -> Object | None:
        """The object, None when it is not there."""
        target = await self._target(what, namespace)
        try:
            return await target.resource.get(target.name, target.namespace)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise

    async def find(
        self, kind: str, *, namespace: str = "", label_selector: str = ""
    ) -> list[Object]:
        """All objects of a kind, of one namespace or of all."""
        resource = await self._named(kind)
        where = namespace if resource.namespaced else ""
        found = await self._of(resource).list(where, label_selector=label_selector)
        return list(found.items)

    async def delete(
        self, what: Reference, *, namespace: str = NAMESPACE, timeout: float = TIMEOUT
    ) -> None:
        """Delete an object and wait until it is gone. What is not there is gone already."""
        target = await self._target(what, namespace)
        with ignoring(missing):
            await target.resource.delete(target.name, target.namespace)
        await self.wait_gone(what, namespace=namespace, timeout=timeout)

    async def wait_for(
        self,
        what: Reference,
        *,
        condition: str = "",
        until: Predicate | None = None,
        namespace: str = NAMESPACE,
        timeout: float = TIMEOUT,
    ) -> Object:
        """The object, once it exists, has the condition (`Ready`, or `Ready=False`) and satisfies
        `until`. Raises TimeoutError with the object's last state and its events."""
        has = _has_condition(condition) if condition else _anything
        satisfies = until or _anything
        target = await self._target(what, namespace)
        last: Object | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                async for last in target.states():
                    if last is not None and has(last) and satisfies(last):
                        return last
        wanted = condition or ("a predicate" if until else "existence")
        raise TimeoutError(await self._report(target, wanted, timeout, last))

    async def wait_gone(
        self, what: Reference, *, namespace: str = NAMESPACE, timeout: float = TIMEOUT
    ) -> None:
        """Return when the object is not there (any more)."""
        target = await self._target(what, namespace)
        last: Object | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                async for last in target.states():
                    if last is None:
                        return
        raise TimeoutError(await self._report(target, "deletion", timeout, last))

    async def events(
        self, about: Reference | None = None, *, namespace: str = NAMESPACE
    ) -> list[Object]:
        """The Events of a namespace, or those about an object, oldest first."""
        selector = ""
        if about is not None:
            target = await self._target(about, namespace)
            # Events about what is in no namespace are written into the default one.
            namespace = target.namespace or NAMESPACE
            selector = f"involvedObject.kind={target.kind},involvedObject.name={target.name}"
        events = self._client.dynamic("", "v1", "events")
        found = await events.list(namespace, field_selector=selector)
        return sorted(found.items, key=_moment)

    async def request(self, method: str, path: str, body: Object | None = None) -> Any:
        """A request of your own, as administrator: the decoded answer. A PATCH is a merge patch.
        Raises ApiError."""
        import msgspec

        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        encoded = None if body is None else msgspec.json.encode(body)
        answer = await self._client.request(method, path, body=encoded, content_type=kind)
        return msgspec.json.decode(answer)

    async def _report(
        self, target: Target, wanted: str, timeout: float, last: Object | None
    ) -> str:
        lines = [f"{target} after {timeout:g} s: waited for {wanted}"]
        if last is None:
            lines.append("it does not exist")
        else:
            lines.append(f"status: {last.get('status')}")
            lines += [
                f"event: {event.get('type')} {event.get('reason')}: {event.get('message')}"
                for event in (await self.events(last, namespace=target.namespace))[-10:]
            ]
        return "\n  ".join(lines)

    async def _target(self, what: Reference, namespace: str) -> Target:
        resource = await self._resource(what)
        if isinstance(what, str):
            name = what.partition("/")[2]
        else:
            name = what["metadata"]["name"]
            namespace = what["metadata"].get("namespace") or namespace
        if not name:
            raise ValueError(f"{what!r} names no object: kind/name")
        where = namespace if resource.namespaced else ""
        return Target(self._of(resource), resource.kind, name, where)

    async def _resource(self, what: Reference) -> Resource:
        if isinstance(what, str):
            return await self._named(what.partition("/")[0])
        group, _, version = str(what.get("apiVersion", "")).rpartition("/")
        kind = str(what.get("kind", ""))
        return await self._found(
            lambda each: (each.group, each.version, each.kind) == (group, version, kind),
            f"{kind} in {what.get('apiVersion')}",
        )

    async def _named(self, name: str) -> Resource:
        """By kind, plural, singular or short name, in any case, perhaps with a group behind."""
        wanted, _, group = name.lower().partition(".")
        return await self._found(
            lambda each: wanted in each.names and (not group or each.group == group), name
        )

    async def _found(self, fits: Callable[[Resource], bool], what: str) -> Resource:
        for known in (self._known, None):
            if known is None:
                known = self._known = await self._discover()
            for resource in known:
                if fits(resource):
                    return resource
        raise LookupError(f"the cluster does not serve {what}")

    async def _discover(self) -> list[Resource]:
        import msgspec

        found: list[Resource] = []
        for path in ("/api", "/apis"):
            async with self._client.stream("GET", path, accept=DISCOVERY) as response:
                document = msgspec.json.decode(await response.read())
            for group in document["items"]:
                found += _resources(group)
        return found

    def _of(self, resource: Resource) -> ResourceClient[Object]:
        return self._client.dynamic(
            resource.group, resource.version, resource.plural, resource.namespaced
        )


@dataclass(frozen=True)
class Target:
    """One object that is waited for."""

    resource: ResourceClient[Object]
    kind: str
    name: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"

    async def states(self) -> Any:
        """The object whenever it changes, None while it does not exist. Without end."""
        selector = f"metadata.name={self.name}"
        while True:
            page = await self.resource.list(self.namespace, field_selector=selector)
            yield page.items[0] if page.items else None
            try:
                async with contextlib.aclosing(
                    self.resource.watch(
                        self.namespace,
                        field_selector=selector,
                        resource_version=page.resource_version,
                    )
                ) as events:
                    async for event in events:
                        yield None if event.type == "DELETED" else event.object
            except ApiError as error:
                if not error.is_gone:
                    raise


def objects_of(*manifests: Manifest) -> Iterator[Object]:
    """The objects in manifests, with Lists taken apart."""
    for manifest in manifests:
        if isinstance(manifest, dict):
            if isinstance(items := manifest.get("items"), list) and "List" in manifest["kind"]:
                yield from objects_of(*items)
            else:
                yield manifest
        elif isinstance(manifest, list):
            yield from objects_of(*manifest)
        elif isinstance(manifest, str) and "\n" in manifest:
            yield from _parsed(manifest)
        else:
            path = Path(manifest)
            files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
            for file in files:
                yield from _parsed(file.read_text())


def _parsed(text: str) -> Iterator[Object]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    yield from objects_of(*filter(None, yaml.load_all(text, Loader=loader)))


def _resources(group: Object) -> Iterable[Resource]:
    for version in group.get("versions", ()):
        for entry in version.get("resources", ()):
            kind, plural = entry["responseKind"]["kind"], entry["resource"]
            names = {kind, plural, entry.get("singularResource", ""), *entry.get("shortNames", ())}
            yield Resource(
                group.get("metadata", {}).get("name", ""),
                version["version"],
                plural,
                kind,
                entry["scope"] == "Namespaced",
                frozenset(name.lower() for name in names if name),
            )


def _anything(obj: Object) -> bool:
    return True


def _has_condition(text: str) -> Predicate:
    """`Type` or `Type=Status`. What was said of an earlier generation does not count."""
    kind, _, wanted = text.partition("=")

    def holds(obj: Object) -> bool:
        status = obj.get("status") or {}
        generation = obj["metadata"].get("generation", 0)
        if status.get("observedGeneration", generation) < generation:
            return False
        return any(
            each.get("type") == kind
            and str(each.get("status", "")).lower() == (wanted or "true").lower()
            and each.get("observedGeneration", generation) >= generation
            for each in status.get("conditions") or ()
        )

    return holds


def is_open(node: Object) -> bool:
    """Whether a node takes pods: ready, and no taint says otherwise."""
    taints = node.get("spec", {}).get("taints") or ()
    return bool(_has_condition("Ready")(node)) and not any(
        taint["key"].startswith("node.kubernetes.io/") for taint in taints
    )


def _moment(event: Object) -> str:
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )
