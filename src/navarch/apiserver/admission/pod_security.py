"""PodSecurity: a namespace's labels say which of the Pod Security Standards its pods must meet.

`enforce` refuses pods, `warn` answers with a warning (for workloads with a pod template as well),
`audit` is for the audit log. Each names a level and a version of the standards. Nothing is
forbidden in a namespace without labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from navarch.api.errors import FieldError, invalid, invalid_object
from navarch.apiserver.admission.base import ReadingPlugin, denied, labels_of, spec_of
from navarch.apiserver.admission.pod_security_checks import Check, Violation, checks_of
from navarch.apiserver.authorization.rules import quoted
from navarch.apiserver.contracts import AdmissionRequest, Object

PREFIX = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")
NEWEST_MINOR = 36
PODS_TO_CHECK = 3000
"""How many pods of a namespace are looked at when its level is raised."""

_VERSION = re.compile(r"v1\.(0|[1-9][0-9]*)")
_OTHER_SUBRESOURCES = frozenset(
    {"exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"}
)
_TEMPLATES = {
    ("", "replicationcontrollers"): ("spec", "template"),
    ("", "podtemplates"): ("template",),
    ("apps", "replicasets"): ("spec", "template"),
    ("apps", "deployments"): ("spec", "template"),
    ("apps", "statefulsets"): ("spec", "template"),
    ("apps", "daemonsets"): ("spec", "template"),
    ("batch", "jobs"): ("spec", "template"),
    ("batch", "cronjobs"): ("spec", "jobTemplate", "spec", "template"),
}


@dataclass(frozen=True, slots=True)
class Standard:
    """A level at a version."""

    level: str = "privileged"
    version: str = "latest"

    def __str__(self) -> str:
        return f"{self.level}:{self.version}"

    def violations(self, pod: Object) -> list[Violation]:
        if self.level == "privileged":
            return []
        return [found for check in self._checks() if (found := check(pod)) is not None]

    def _checks(self) -> list[Check]:
        match = _VERSION.fullmatch(self.version)
        return _cached_checks(
            self.level, min(int(match.group(1)), NEWEST_MINOR) if match else NEWEST_MINOR
        )


@dataclass(frozen=True, slots=True)
class Policy:
    enforce: Standard = Standard()
    audit: Standard = Standard()
    warn: Standard = Standard()


class PodSecurity(ReadingPlugin):
    name = "PodSecurity"
    resources = frozenset({("", "pods"), ("", "namespaces"), *_TEMPLATES})

    def handles(self, request: AdmissionRequest) -> bool:
        info = request.info
        if request.operation not in self.operations or request.obj is None:
            return False
        if (info.group, info.resource) == ("", "pods"):
            return info.subresource not in _OTHER_SUBRESOURCES
        return not info.subresource and (info.group, info.resource) in self.resources

    async def validate(self, request: AdmissionRequest) -> None:
        obj, info = request.obj, request.info
        if obj is None:
            return
        if info.resource == "namespaces":
            self._validate_namespace(request, obj)
            return
        namespace = await self._access.find("namespaces", "", info.namespace)
        stated = (pair for pair in labels_of(namespace).items() if pair[0].startswith(PREFIX))
        policy = _policy_of(tuple(stated))
        if info.resource == "pods":
            if request.operation == "UPDATE" and not _is_significant(obj, request.old or {}):
                return
            request.annotate(f"{PREFIX}enforce-policy", str(policy.enforce))
            violations = policy.enforce.violations(obj)
            if violations:
                told = _print(violations)
                raise denied(request, f'violates PodSecurity "{policy.enforce}": {told}')
            self._tell(request, policy, obj)
        elif (policy.warn.level, policy.audit.level) != ("privileged", "privileged"):
            template: Object | None = obj
            for field in _TEMPLATES[info.group, info.resource]:
                template = (template or {}).get(field)
            if template is not None:
                self._tell(request, policy, template)

    def _tell(self, request: AdmissionRequest, policy: Policy, pod: Object) -> None:
        """The modes that refuse nothing."""
        if request.trail is not None and (violations := policy.audit.violations(pod)):
            text = f'would violate PodSecurity "{policy.audit}": {_print(violations)}'
            request.annotate(f"{PREFIX}audit-violations", text)
        if violations := policy.warn.violations(pod):
            told = _print(violations)
            request.warnings.add(f'would violate PodSecurity "{policy.warn}": {told}')

    def _validate_namespace(self, request: AdmissionRequest, namespace: Object) -> None:
        policy, errors = parse_policy(labels_of(namespace))
        old_policy, old_errors = parse_policy(labels_of(request.old))
        if errors and (request.operation == "CREATE" or errors != old_errors):
            raise invalid_object("Namespace", "", namespace["metadata"].get("name", ""), errors)
        if request.operation == "CREATE":
            return
        new, old = policy.enforce, old_policy.enforce
        relaxed = LEVELS.index(new.level) <= LEVELS.index(old.level)
        if new == old or new.level == "privileged" or (new.version == old.version and relaxed):
            return
        name = namespace["metadata"]["name"]
        pods = list(self._access.lookup.list("pods", name))
        request.warnings.take(existing_warnings(name, new, pods))


def parse_policy(labels: Mapping[str, str]) -> tuple[Policy, list[FieldError]]:
    """The policy that labels state. A level that makes no sense counts as the strictest for
    enforcement, and as none for the modes that refuse nothing."""
    errors: list[FieldError] = []

    def standard(mode: str, fallback: str) -> tuple[Standard, bool]:
        level, version = labels.get(PREFIX + mode), labels.get(f"{PREFIX}{mode}-version", "latest")
        is_valid = level in LEVELS
        if level is not None and not is_valid:
            path = f"metadata.labels[{PREFIX}{mode}]"
            errors.append(invalid(path, level, f"must be one of {', '.join(LEVELS)}"))
        if version != "latest" and not _VERSION.fullmatch(version):
            path = f"metadata.labels[{PREFIX}{mode}-version]"
            errors.append(invalid(path, version, 'must be "latest" or "v1.x"'))
            version = "latest"
        chosen = "privileged" if level is None else level if is_valid else fallback
        return Standard(chosen, version), is_valid

    enforce, enforce_is_set = standard("enforce", "restricted")
    audit, _ = standard("audit", "privileged")
    warn, _ = standard("warn", "privileged")
    if f"{PREFIX}warn" not in labels and enforce_is_set and enforce.level != "privileged":
        stated = f"{PREFIX}warn-version" in labels
        warn = Standard(enforce.level, warn.version if stated else enforce.version)
    return Policy(enforce, audit, warn), errors


def existing_warnings(namespace: str, standard: Standard, pods: list[Object]) -> list[str]:
    """What to say about the pods that are there already when the level is raised: each violation
    once, with the first pod it is found in and the number of others."""
    checked = _one_of_each_owner_first(pods)[:PODS_TO_CHECK]
    found: dict[str, list[str]] = {}
    for pod in checked:
        violations = standard.violations(pod)
        if violations:
            reason = ", ".join(violation.reason for violation in violations)
            found.setdefault(reason, []).append(pod["metadata"]["name"])
    warnings = []
    if len(checked) < len(pods):
        what = "new PodSecurity enforce level only checked against the first"
        warnings.append(f"{what} {len(checked)} of {len(pods)} existing pods")
    if found:
        what = f"existing pods in namespace {quoted(namespace)} violate"
        warnings.append(f'{what} the new PodSecurity enforce level "{standard}"')
    return warnings + sorted(_decorated(reason, names) for reason, names in found.items())


def _decorated(reason: str, names: list[str]) -> str:
    others = len(names) - 1
    more = f" (and {others} other pod{'s' if others > 1 else ''})" if others else ""
    return f"{min(names)}{more}: {reason}"


def _one_of_each_owner_first(pods: Iterable[Object]) -> list[Object]:
    """Pods of one controller are alike: one of each comes before the rest."""
    first: list[Object] = []
    rest: list[Object] = []
    seen: set[str] = set()
    for pod in pods:
        owners = pod["metadata"].get("ownerReferences") or ()
        owner = next((o.get("uid", "") for o in owners if o.get("controller")), None)
        (rest if owner is not None and owner in seen else first).append(pod)
        if owner is not None:
            seen.add(owner)
    return first + rest


def _is_significant(new: Object, old: Object) -> bool:
    """Whether an update changes anything the standards look at: containers or their images."""
    for field in ("containers", "initContainers"):
        images = [[c.get("image") for c in spec_of(o).get(field) or ()] for o in (new, old)]
        if images[0] != images[1]:
            return True
    before = {c.get("name"): c.get("image") for c in spec_of(old).get("ephemeralContainers") or ()}
    return any(
        c.get("name") not in before or c.get("image") != before[c.get("name")]
        for c in spec_of(new).get("ephemeralContainers") or ()
    )


def _print(violations: Iterable[Violation]) -> str:
    return ", ".join(str(violation) for violation in violations)


@lru_cache(maxsize=64)
def _policy_of(labels: tuple[tuple[str, str], ...]) -> Policy:
    return parse_policy(dict(labels))[0]


@lru_cache(maxsize=64)
def _cached_checks(level: str, minor: int) -> list[Check]:
    return checks_of(level, minor)
