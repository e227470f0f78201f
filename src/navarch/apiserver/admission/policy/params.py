"""The parameters of a policy: objects of a kind the policy names, chosen by its bindings."""

from __future__ import annotations

from navarch.api.selectors import label_selector_from_object
from navarch.apiserver.admission.base import labels_of
from navarch.apiserver.contracts import Object
from navarch.apiserver.registry.resource import Catalog, Resource


class ConfigurationProblem(Exception):
    """A policy or binding cannot be used as it is; the failure policy decides what that means."""


class Parameters:
    """Finds parameters in the server's own caches."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._generation = -1
        self._kinds: dict[tuple[str, str], Resource | None] = {}

    def check_kind(self, kind: Object | None) -> None:
        """Raises ConfigurationProblem when nothing of the kind is served."""
        if kind is not None and self._resource(kind) is None:
            group, _, version = str(kind.get("apiVersion") or "").rpartition("/")
            text = f"{group}/{version}, Kind={kind.get('kind')}"
            raise ConfigurationProblem(f"failed to find resource referenced by paramKind: '{text}'")

    async def collect(
        self, kind: Object | None, reference: Object | None, namespace: str
    ) -> list[Object | None]:
        """The parameters to evaluate with, one after the other; a None where there are none to be
        had. Raises ConfigurationProblem."""
        if kind is None or reference is None:
            return [None]
        resource = self._resource(kind)
        if resource is None:
            raise ConfigurationProblem(f"paramKind kind `{_shown(kind)}` not known")
        wanted = reference.get("namespace") or ""
        if resource.kind.namespaced:
            wanted = wanted or namespace
            if not wanted:
                raise ConfigurationProblem(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped "
                    "resources"
                )
        elif wanted:
            raise ConfigurationProblem(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`"
            )
        found = await _find(resource, wanted, reference)
        if not found and reference.get("parameterNotFoundAction") == "Deny":
            raise ConfigurationProblem(
                "no params found for policy binding with `Deny` parameterNotFoundAction"
            )
        return [*found]

    def _resource(self, kind: Object) -> Resource | None:
        if self._generation != self._catalog.generation:
            self._generation, self._kinds = self._catalog.generation, {}
        key = str(kind.get("apiVersion") or ""), str(kind.get("kind") or "")
        if key not in self._kinds:
            self._kinds[key] = next(
                (each for each in self._catalog if (each.kind.api_version, each.kind.kind) == key),
                None,
            )
        return self._kinds[key]


def _shown(kind: Object) -> str:
    """As Go prints the struct."""
    return f"&ParamKind{{APIVersion:{kind.get('apiVersion')},Kind:{kind.get('kind')},}}"


async def _find(resource: Resource, namespace: str, reference: Object) -> list[Object]:
    name = reference.get("name")
    if name:
        entry = resource.cache.get(namespace, name)
        return [] if entry is None else [resource.decode(await resource.view(entry))]
    selector = label_selector_from_object(reference.get("selector"))
    views = await resource.views(list(resource.cache.scan(namespace)))
    objects = [resource.decode(entry) for entry in views]
    return [obj for obj in objects if selector.matches(labels_of(obj))]
