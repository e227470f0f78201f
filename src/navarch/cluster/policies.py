"""Files that the user hands over at the start: what is audited and encrypted, how kubelets and
the scheduler work.

They are checked, then copied into the profile's directory, because a cluster must start again when
the user's own file has gone. A flag that is not given leaves things as they are; `off` ends them.
Encryption cannot simply end while encrypted values are there: first write everything anew with the
`identity` provider in front.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from navarch.cluster.profile import ClusterError, Paths, write_file

OFF = "off"


def audit_policy(paths: Paths) -> Path:
    return paths.root / "audit-policy.yaml"


def encryption_config(paths: Paths) -> Path:
    return paths.root / "encryption-config.yaml"


def kubelet_config(paths: Paths) -> Path:
    return paths.root / "kubelet-config.yaml"


def scheduler_config(paths: Paths) -> Path:
    return paths.root / "scheduler-config.yaml"


def adopt(
    paths: Paths,
    audit: str | None,
    encryption: str | None,
    kubelet: str | None = None,
    scheduler: str | None = None,
) -> None:
    """Take the files over, all or none. Raises ClusterError when one cannot be used."""
    if encryption == OFF and encryption_config(paths).is_file():
        raise ClusterError(
            "encryption cannot be turned off while values are encrypted",
            "Start with a configuration whose first provider is identity, then write every secret "
            "anew: kubectl get secrets -A -o json | kubectl replace -f -",
        )
    wanted = (
        (audit, audit_policy(paths), _check_audit),
        (encryption, encryption_config(paths), _check_encryption),
        (kubelet, kubelet_config(paths), _check_kubelet),
        (scheduler, scheduler_config(paths), _check_scheduler),
    )
    contents = [
        (target, b"" if given == OFF else _read(given, check))
        for given, target, check in wanted
        if given is not None
    ]
    for target, content in contents:
        paths.create()
        if content:
            write_file(target, content)
        else:
            target.unlink(missing_ok=True)


def _read(given: str, check: Callable[[Path], object]) -> bytes:
    source = Path(given).expanduser()
    try:
        check(source)
        return source.read_bytes()
    except (OSError, ValueError) as error:
        raise ClusterError(str(error), "Mend the file and start again.") from error


def _check_audit(path: Path) -> object:
    from navarch.apiserver.audit.policy import load_policy

    return load_policy(path)


def _check_encryption(path: Path) -> object:
    from navarch.apiserver.encryption.config import load_chains

    return load_chains(path)


def _check_scheduler(path: Path) -> object:
    from navarch.scheduler.configuration.files import load
    from navarch.scheduler.profiles import make_profile

    return [make_profile(profile) for profile in load(path).profiles]


def _check_kubelet(path: Path) -> object:
    from navarch.api.component_config import ConfigurationError
    from navarch.node.configuration.files import load, relative_paths

    if relative := relative_paths(path):
        raise ConfigurationError(f"{path}: {', '.join(relative)} must be absolute")
    return load(path, None)
