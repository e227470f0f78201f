"""CredentialProviderConfig files: which credential providers there are, and what each is told.

The strict decoder, the rules and their messages are upstream's
(`pkg/credentialprovider/plugin/config.go`): a configuration with a mistake stops the agent at its
start, for pods without their registries would be harder to explain.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from navarch.api.names import qualified_name
from navarch.api.times import parse_duration
from navarch.api.types.core_v1 import Pod

_VERSIONS = ("v1", "v1alpha1", "v1beta1")
_GROUP_VERSIONS = tuple(f"credentialprovider.kubelet.k8s.io/{each}" for each in _VERSIONS)
_CONFIG_VERSIONS = tuple(f"kubelet.config.k8s.io/{each}" for each in _VERSIONS)
_CACHE_TYPES = ("ServiceAccount", "Token")


class BadProviderConfig(ValueError):
    """The configuration cannot be used."""


class EnvVar(msgspec.Struct, forbid_unknown_fields=True):
    """One variable of a provider's environment."""

    name: str = ""
    value: str = ""


class TokenAttributes(msgspec.Struct, forbid_unknown_fields=True):
    """Makes a provider act for the pod's service account."""

    serviceAccountTokenAudience: str = ""
    cacheType: str = ""
    requireServiceAccount: bool | None = None
    requiredServiceAccountAnnotationKeys: list[str] = []
    optionalServiceAccountAnnotationKeys: list[str] = []


class ProviderConfig(msgspec.Struct, forbid_unknown_fields=True):
    """One provider."""

    name: str = ""
    matchImages: list[str] = []
    defaultCacheDuration: str | None = None
    apiVersion: str = ""
    args: list[str] = []
    env: list[EnvVar] = []
    tokenAttributes: TokenAttributes | None = None

    @property
    def cache_seconds(self) -> float:
        return parse_duration(self.defaultCacheDuration or "0s")

    def is_refused_without_account(self, pod: Pod) -> bool:
        """Whether a pod for which no token was made gets nothing: it has no account though one is
        required, or its account lacks an annotation."""
        attributes = self.tokenAttributes
        return attributes is not None and bool(
            pod.spec.serviceAccountName or attributes.requireServiceAccount
        )


class _File(msgspec.Struct, forbid_unknown_fields=True):
    apiVersion: str = ""
    kind: str = ""
    providers: list[ProviderConfig] = []


def load_providers(path: Path, programs: Path) -> list[ProviderConfig]:
    """The providers of a file, or of all files of a directory in the order of their names; raises
    `BadProviderConfig`."""
    if not programs.is_dir():
        raise BadProviderConfig(f"plugin binary directory {programs} did not exist")
    providers: list[ProviderConfig] = []
    for file in _files(path):
        for each in _read(file):
            if any(each.name == other.name for other in providers):
                raise BadProviderConfig(
                    f'duplicate provider name "{each.name}" found in configuration file(s)'
                )
            providers.append(each)
    found = problems(providers)
    if found:
        raise BadProviderConfig(
            f"failed to validate credential provider config: {'; '.join(found)}"
        )
    for each in providers:
        if not os.access(programs / each.name, os.X_OK):
            raise BadProviderConfig(
                f"plugin binary executable {programs / each.name} did not exist"
            )
    return providers


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise BadProviderConfig(f'unable to access path "{path}": no such file or directory')
    if not path.is_dir():
        return [path]
    found = sorted(
        each for each in path.iterdir() if each.suffix in (".json", ".yaml", ".yml")
        and each.is_file()
    )  # fmt: skip
    if not found:
        raise BadProviderConfig(f'no configuration files found in directory "{path}"')
    return found


def _read(file: Path) -> list[ProviderConfig]:
    import yaml

    try:
        document = yaml.safe_load(file.read_bytes())
        decoded = msgspec.convert(document, _File)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise BadProviderConfig(f'error decoding config "{file}": {error}') from error
    if decoded.apiVersion not in _CONFIG_VERSIONS or decoded.kind != "CredentialProviderConfig":
        raise BadProviderConfig(
            f'error decoding config "{file}": no kind "{decoded.kind}" is registered for version '
            f'"{decoded.apiVersion}"'
        )
    return decoded.providers


def problems(providers: Sequence[ProviderConfig]) -> list[str]:
    """What is wrong with the providers."""
    found = (
        [] if providers else ["providers: Required value: at least 1 item in plugins is required"]
    )
    for each in providers:
        found += [f"providers.{problem}" for problem in _problems(each)]
    return found


def _problems(provider: ProviderConfig) -> list[str]:
    found = []
    name = provider.name
    for is_bad, what in (
        ("/" in name, "provider name cannot contain '/'"),
        (" " in name, "provider name cannot contain spaces"),
        (name == ".", "provider name cannot be '.'"),
        (name == "..", "provider name cannot be '..'"),
    ):
        if is_bad:
            found.append(f'name: Invalid value: "{name}": {what}')
    if not name:
        found.append("name: Required value")
    if not provider.apiVersion:
        found.append("apiVersion: Required value")
    elif provider.apiVersion not in _GROUP_VERSIONS:
        found.append(f'apiVersion: Unsupported value: "{provider.apiVersion}": supported values: '
                     + ", ".join(f'"{each}"' for each in _GROUP_VERSIONS))  # fmt: skip
    if not provider.matchImages:
        found.append("matchImages: Required value: at least 1 item in matchImages is required")
    if provider.defaultCacheDuration is None:
        found.append("defaultCacheDuration: Required value")
    else:
        try:
            if provider.cache_seconds < 0:
                found.append("defaultCacheDuration: Invalid value: "
                             "must be greater than or equal to 0")  # fmt: skip
        except ValueError as error:
            found.append(f"defaultCacheDuration: Invalid value: {error}")
    if provider.tokenAttributes is not None:
        found += [
            f"tokenAttributes.{each}"
            for each in _token_problems(provider, provider.tokenAttributes)
        ]
    return found


def _token_problems(provider: ProviderConfig, attributes: TokenAttributes) -> list[str]:
    found = []
    if not attributes.serviceAccountTokenAudience:
        found.append("serviceAccountTokenAudience: Required value")
    if attributes.requireServiceAccount is None:
        found.append("requireServiceAccount: Required value")
    if provider.apiVersion != _GROUP_VERSIONS[0]:
        found.append(f"apiVersion: Forbidden: tokenAttributes is only supported for "
                     f"{_GROUP_VERSIONS[0]} API version")  # fmt: skip
    required = attributes.requiredServiceAccountAnnotationKeys
    optional = attributes.optionalServiceAccountAnnotationKeys
    if required and attributes.requireServiceAccount is False:
        found.append(
            "requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be "
            "false when requiredServiceAccountAnnotationKeys is set"
        )
    for field, keys in (("required", required), ("optional", optional)):
        place = f"{field}ServiceAccountAnnotationKeys"
        for key, times in Counter(keys).items():
            found += [f'{place}: Invalid value: "{key}": {each}'
                      for each in qualified_name(key.lower())]  # fmt: skip
            if times > 1:
                found.append(f'{place}: Duplicate value: "{key}"')
    if both := sorted({*required} & {*optional}):
        found.append(f"Invalid value: {both}: annotation keys cannot be both required and optional")
    if attributes.cacheType not in _CACHE_TYPES:
        kind = "Unsupported value" if attributes.cacheType else "Required value"
        found.append(f'cacheType: {kind}: "{attributes.cacheType}": supported values: '
                     + ", ".join(f'"{each}"' for each in _CACHE_TYPES))  # fmt: skip
    return found
