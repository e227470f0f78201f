"""The files of the group apiserver.config.k8s.io and their like: YAML documents that are checked as
a whole, for what an administrator believes to be configured must be. A field that nobody knows is
an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

VERSIONS = tuple(f"apiserver.config.k8s.io/{each}" for each in ("v1", "v1beta1", "v1alpha1"))


class ConfigurationError(ValueError):
    """A file that cannot be used, and why."""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a file."""


S = TypeVar("S", bound=Strict)


def read_configuration(
    path: Path, kind: type[S], what: str, problems: Callable[[S], Iterable[str]]
) -> S:
    """A file's content, in which `problems` finds nothing wrong. Raises ConfigurationError."""
    import yaml

    try:
        config = msgspec.convert(yaml.safe_load(path.read_bytes()), kind)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path} is not {what}: {error}") from None
    if found := list(problems(config)):
        raise ConfigurationError(f"{path}: {'; '.join(found)}")
    return config
