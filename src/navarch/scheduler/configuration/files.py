"""KubeSchedulerConfiguration files: read, completed, checked.

Read strictly, as upstream's scheduler does: what KubeletConfiguration files are only warned of
(unknown fields, duplicate keys) is an error here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from navarch.api.component_config import ConfigurationError, aggregated, typed, unknown_fields

from .arguments import ARGUMENTS, Arguments, NodeResourcesFitArgs
from .checks import problems
from .types import (
    API_VERSION,
    GROUP,
    KEPT_ZEROS,
    KIND,
    KubeSchedulerConfiguration,
    KubeSchedulerProfile,
    PluginConfig,
)

KINDS = {KIND, *(kind.__name__ for kind in ARGUMENTS.values())}


def load(path: Path) -> KubeSchedulerConfiguration:
    """The configuration in force. Raises ConfigurationError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ConfigurationError(f"open {path}: {reason}") from error
    return parse(data)


def named_fields(path: Path) -> frozenset[str]:
    """The fields that a usable file sets."""
    from navarch.api.schema.yaml_body import parse_yaml

    return frozenset(parse_yaml(path.read_bytes()).value)


def parse(data: bytes) -> KubeSchedulerConfiguration:
    """The same from a file's contents."""
    configuration = completed(_decode(data))
    if text := aggregated(problems(configuration)):
        raise ConfigurationError(text)
    return configuration


def _decode(data: bytes) -> KubeSchedulerConfiguration:
    from navarch.api.schema.yaml_body import YamlError, parse_yaml

    try:
        parsed = parse_yaml(data)
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"error converting YAML to JSON: {error}") from error
    document = parsed.value
    if not isinstance(document, dict):
        raise ConfigurationError("Object 'Kind' is missing")
    shown = data.decode(errors="replace")
    for name, given in (("Kind", document.get("kind")), ("apiVersion", document.get("apiVersion"))):
        if not given:
            raise ConfigurationError(f"Object '{name}' is missing in '{shown}'")
    version, kind = str(document["apiVersion"]), str(document["kind"])
    _check_registered(version, kind)
    if kind != KIND:
        raise ConfigurationError(
            f"couldn't decode as KubeSchedulerConfiguration, got {version}, Kind={kind}: "
        )
    strict = []
    if parsed.duplicates:
        lines = "\n  ".join(parsed.duplicates)
        strict.append(f"yaml: unmarshal errors:\n  {lines}")
    strict += _unknown(document, KubeSchedulerConfiguration)
    configuration = typed(document, KubeSchedulerConfiguration, KEPT_ZEROS)
    strict += _decode_arguments(configuration)
    if strict:
        raise ConfigurationError(f"strict decoding error: {', '.join(strict)}")
    return configuration


def _check_registered(version: str, kind: str) -> None:
    if version != API_VERSION or kind not in KINDS:
        raise ConfigurationError(
            f'no kind "{kind}" is registered for version "{version}" in scheme '
            '"pkg/scheduler/apis/config/scheme/scheme.go"'
        )


def _unknown(document: dict[str, Any], kind: type) -> Iterator[str]:
    return (f'unknown field "{name}"' for name in unknown_fields(document, kind))


def _decode_arguments(configuration: KubeSchedulerConfiguration) -> Iterator[str]:
    """Puts the arguments that are plain data into their types; what only strictness minds is told
    at the end."""
    for number, profile in enumerate(configuration.profiles):
        for index, each in enumerate(profile.pluginConfig):
            if each.name not in ARGUMENTS:
                continue  # of a plugin that is not upstream's, or that has no arguments
            where = f"decoding .profiles[{number}].pluginConfig[{index}]: "
            about = f"decoding args for plugin {each.name}: "
            try:
                unknown = list(_unknown(*_arguments_document(each.name, each.args)))
                each.args = typed(each.args, ARGUMENTS[each.name], KEPT_ZEROS)
            except _OtherKind as error:
                raise ConfigurationError(f"{where}{error}") from error
            except ConfigurationError as error:
                raise ConfigurationError(f"{where}{about}{error}") from error
            if unknown:
                text = f"strict decoding error: {', '.join(unknown)}"
                yield f"{where}strict decoding error: {about}{text}"


class _OtherKind(ConfigurationError):
    """Arguments of another plugin."""


def _arguments_document(name: str, args: Any) -> tuple[dict[str, Any], type[Arguments]]:
    if args is None:
        raise ConfigurationError(
            "couldn't get version/kind; json parse error: unexpected end of JSON input"
        )
    if not isinstance(args, dict):
        raise ConfigurationError(
            "couldn't get version/kind; json parse error: json: cannot unmarshal "
            f"{_json_kind(args)} into Go value of type struct {{ APIVersion string "
            '"json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }'
        )
    expected = ARGUMENTS[name]
    version = str(args.get("apiVersion") or API_VERSION)
    kind = str(args.get("kind") or expected.__name__)
    _check_registered(version, kind)
    if kind != expected.__name__:
        raise _OtherKind(
            f"args for plugin {name} were not of type {expected.__name__}.{GROUP}, got "
            f"{kind}.{GROUP}"
        )
    return args, expected


def _json_kind(value: Any) -> str:
    kinds = {str: "string", bool: "bool", list: "array"}
    return kinds.get(type(value), "number")


def completed(configuration: KubeSchedulerConfiguration) -> KubeSchedulerConfiguration:
    """With the defaults that depend on other fields."""
    profiles = configuration.profiles
    if not profiles:
        profiles.append(KubeSchedulerProfile())
    if len(profiles) == 1 and profiles[0].schedulerName is None:
        profiles[0].schedulerName = "default-scheduler"
    for profile in profiles:
        known = {each.name for each in profile.pluginConfig}
        for name, kind in sorted(ARGUMENTS.items()):
            if name not in known:
                profile.pluginConfig.append(PluginConfig(name=name, args=kind()))
    ignored = tuple(
        resource.name
        for extender in configuration.extenders
        for resource in extender.managedResources
        if resource.ignoredByScheduler
    )
    if ignored:
        _ignore(configuration, ignored)
    return configuration


def _ignore(configuration: KubeSchedulerConfiguration, resources: tuple[str, ...]) -> None:
    """What an extender looks after is no business of NodeResourcesFit; the extenders' word goes
    over that of the profile."""
    for profile in configuration.profiles:
        for each in profile.pluginConfig:
            if isinstance(each.args, NodeResourcesFitArgs):
                each.args = msgspec.structs.replace(each.args, ignoredResources=resources)
