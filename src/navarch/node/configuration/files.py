"""KubeletConfiguration files: read, merged, completed.

What upstream's kubelet does with `--config` and `--config-dir`: what strictness finds (unknown
fields, duplicate keys) is a warning, what cannot be read is an error, drop-in files are merge
patches in the order of their paths, defaults come last, and the whole is validated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from navarch.api.component_config import (
    ConfigurationError,
    aggregated,
    typed,
    unknown_fields,
    without_unset,
)

from ..settings import EVICTION_HARD
from .checks import problems
from .types import API_VERSION, KEPT_ZEROS, KIND, KubeletConfiguration

PATHS = (
    "staticPodPath",
    "tlsCertFile",
    "tlsPrivateKeyFile",
    "authentication.x509.clientCAFile",
    "resolvConf",
)
"""Files, which a configuration may name relative to itself."""


def load(config: Path | None, directory: Path | None) -> tuple[KubeletConfiguration, list[str]]:
    """The configuration in force, and what is odd about its files. Raises ConfigurationError."""
    warnings: list[str] = []
    document: dict[str, Any] = {}
    if config is not None:
        try:
            document, found = _read(config)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"failed to load kubelet config file, path: {config}, error: failed to load "
                f"Kubelet config file {config}, error {error}"
            ) from None
        warnings += found
        _resolve(document, config.parent)
    if directory is not None:
        document = _with_drop_ins(document, directory, warnings)
    configuration = _complete(document)
    if text := aggregated(problems(configuration)):
        raise ConfigurationError(
            f"failed to validate kubelet configuration, error: {text}, path: {config or directory}"
        )
    return configuration, warnings


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """One file as plain data, and what strict decoding has against it."""
    from navarch.api.schema.yaml_body import YamlError, parse_yaml

    try:
        data = path.read_bytes()
    except OSError as error:
        reason = f"open {path}: {(error.strerror or '').lower()}"
        raise ConfigurationError(
            f'failed to read kubelet config file "{path}", error: {reason}'
        ) from error
    if not data:
        raise ConfigurationError(f'kubelet config file "{path}" was empty')
    try:
        parsed = parse_yaml(data)
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"failed to decode: {error}") from error
    document = parsed.value
    if not isinstance(document, dict):
        raise ConfigurationError("failed to decode: Object 'Kind' is missing")
    version, kind = document.get("apiVersion") or "", document.get("kind") or ""
    for name, given in (("Kind", kind), ("apiVersion", version)):
        if not given:
            raise ConfigurationError(f"failed to decode: Object '{name}' is missing in the file")
    if (version, kind) != (API_VERSION, KIND):
        raise ConfigurationError(
            f'failed to decode: no kind "{kind}" is registered for version "{version}" in scheme '
            '"kubelet configuration"'
        )
    unknown = [f'unknown field "{name}"' for name in unknown_fields(document, KubeletConfiguration)]
    odd = [*parsed.duplicates, *unknown]
    _typed(document)
    if odd:
        return document, [
            f"{path}: strict decoding error: {', '.join(odd)}; it is read without these"
        ]
    return document, []


def _with_drop_ins(base: dict[str, Any], directory: Path, warnings: list[str]) -> dict[str, Any]:
    where = (
        "failed to merge kubelet configs: failed to walk through kubelet dropin directory "
        f'"{directory}": '
    )
    if not directory.is_dir():
        raise ConfigurationError(f"{where}lstat {directory}: no such file or directory")
    for path in sorted(directory.rglob("*"), key=lambda each: each.parts):
        if path.is_dir():
            continue
        if path.suffix != ".conf":
            warnings.append(f"{path} is no drop-in file: only *.conf are read")
            continue
        try:
            document, found = _read(path)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{where}failed to load kubelet dropin file, path: {path}, error: {error}"
            ) from None
        warnings += found
        base = _merged(base, document)
    return base


def _merged(base: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7396."""
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value) if isinstance(value, dict) else value
    return result


def _files(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The files a document names: the field's path, and where and under which name it stands."""
    for path in PATHS:
        *parents, name = path.split(".")
        place = document
        for each in parents:
            place = place.get(each) or {}
        if place.get(name):
            yield path, place, name


def _resolve(document: dict[str, Any], directory: Path) -> None:
    for _, place, name in _files(document):
        place[name] = str(directory.absolute() / place[name])


def relative_paths(config: Path) -> list[str]:
    """The fields that name files relative to the configuration. Raises ConfigurationError."""
    document, _ = _read(config)
    return [path for path, place, name in _files(document) if not place[name].startswith("/")]


def named_fields(config: Path) -> frozenset[str]:
    """The fields that a file sets. Raises ConfigurationError."""
    return frozenset(_read(config)[0])


def _typed(document: Mapping[str, Any]) -> KubeletConfiguration:
    try:
        return typed(document, KubeletConfiguration, KEPT_ZEROS)
    except ConfigurationError as error:
        raise ConfigurationError(f"failed to decode: {error}") from error


def _complete(document: Mapping[str, Any]) -> KubeletConfiguration:
    """With the defaults that depend on other fields."""
    result = _typed(document)
    given = without_unset(document, KubeletConfiguration, KEPT_ZEROS)
    if "nodeStatusUpdateFrequency" in given and "nodeStatusReportFrequency" not in given:
        result.nodeStatusReportFrequency = result.nodeStatusUpdateFrequency
    if result.serializeImagePulls is None:
        result.serializeImagePulls = (result.maxParallelImagePulls or 0) < 2
    if result.evictionHard is None:
        result.evictionHard = dict(EVICTION_HARD)
    elif result.mergeDefaultEvictionSettings:
        result.evictionHard = {**EVICTION_HARD, **result.evictionHard}
    result.podPidsLimit = max(result.podPidsLimit, -1)
    # Upstream's defaults for these refuse most people's own machines; only their own word counts.
    result.failSwapOn = document.get("failSwapOn") is True
    result.failCgroupV1 = document.get("failCgroupV1") is True
    return result
