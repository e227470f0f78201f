"""Kubeconfig files: one per component, and the user's own, into which a cluster is merged.

The user's file is theirs: entries of other clusters, unknown fields and the order of things are
kept, it is replaced as a whole, and the same lock file as kubectl's is held meanwhile
(`config.lock`, created exclusively), so neither loses the other's change. With several files in
KUBECONFIG the rules are kubectl's: an entry is changed where it is; a new one goes to the first
file that exists, else to the last one named.
"""

from __future__ import annotations

import base64
import os
import pwd
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from navarch.cluster.profile import ClusterError, Paths, Profile, update_file, write_file

Config = dict[str, Any]
SECTIONS = ("clusters", "contexts", "users")


def component_files(profile: Profile, paths: Paths) -> dict[Path, Config]:
    """Each component's kubeconfig. Certificates are named by path, so a renewal needs no change
    here; a node's files lie below the node's own directory, the only one it can see."""
    pki = paths.pki
    authority = pki / "ca.crt"
    files = {
        paths.kubeconfig(user): _by_path(profile.server, authority, pki / user)
        for user in ("controllers", "scheduler")
    }
    if profile.simulated:
        files[paths.kubeconfig("simulated")] = _by_path(
            profile.server, authority, pki / "simulated"
        )
    files[paths.kubeconfig("admin")] = embedded(profile, paths)
    for node in profile.node_names():
        directory = paths.node(node)
        for user in ("kubelet", "proxy", "ingress", "gateway"):
            files[directory / f"{user}.conf"] = _by_path(
                profile.node_server, directory / "pki" / "ca.crt", directory / "pki" / user
            )
    return files


def _by_path(server: str, authority: Path, pair: Path) -> Config:
    return by_files(server, str(authority), f"{pair}.crt", f"{pair}.key")


def by_files(server: str, authority: str, certificate: str, key: str) -> Config:
    """A component's kubeconfig that names the files of its credentials."""
    return _config(
        "navarch",
        {"server": server, "certificate-authority": authority},
        {"client-certificate": certificate, "client-key": key},
    )


def _config(name: str, cluster: Mapping[str, str], user: Mapping[str, str]) -> Config:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": dict(cluster)}],
        "users": [{"name": name, "user": dict(user)}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def embedded(profile: Profile, paths: Paths) -> Config:
    """The administrator's kubeconfig, complete in itself so that it can be copied."""

    return for_user(
        profile,
        paths,
        profile.name,
        {
            "client-certificate-data": _encoded(paths.pki / "admin.crt"),
            "client-key-data": _encoded(paths.pki / "admin.key"),
        },
    )


def for_user(profile: Profile, paths: Paths, name: str, credentials: Mapping[str, str]) -> Config:
    """A kubeconfig whose entries are called `name`, with the credentials given."""
    authority = _encoded(paths.pki / "ca.crt")
    cluster = {"server": profile.server, "certificate-authority-data": authority}
    return _config(name, cluster, credentials)


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def write_component_files(profile: Profile, paths: Paths) -> None:
    """Bring every component's kubeconfig up to date. Only what differs is written."""
    for path, config in component_files(profile, paths).items():
        write(path, config)


def write(path: Path, config: Config) -> None:
    """Bring a file of ours to this content."""
    update_file(path, _dump(config))


def published_authority(paths: Paths, node: str) -> None:
    """Copy the authority's certificate to where the node can see it."""
    update_file(paths.node(node) / "pki" / "ca.crt", (paths.pki / "ca.crt").read_bytes(), 0o644)


def user_files(environ: Mapping[str, str] | None = None) -> list[Path]:
    """The files kubectl would read: KUBECONFIG's, or the one in the home directory. Under sudo
    that is the directory of whoever typed the command, since they will type kubectl, too."""
    environ = os.environ if environ is None else environ
    named = [Path(entry) for entry in environ.get("KUBECONFIG", "").split(os.pathsep) if entry]
    return named or [_user_home(environ) / ".kube" / "config"]


def _user_home(environ: Mapping[str, str]) -> Path:
    identity = environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and identity.isdigit():
        try:
            return Path(pwd.getpwuid(int(identity)).pw_dir)
        except KeyError:
            pass
    return Path(environ.get("HOME") or Path.home())


def merge(profile: Profile, paths: Paths, files: Sequence[Path], *, switch: bool = True) -> Path:
    """Put the cluster into the user's kubeconfig and make it the current context. Returns the
    file that was changed."""
    return add(embedded(profile, paths), files, switch=switch)


def add(addition: Config, files: Sequence[Path], *, switch: bool = True) -> Path:
    """Put a kubeconfig of one cluster into the user's."""
    name = addition["current-context"]
    target = _home_of(name, files)
    with _locked(target):
        config = merged(_load(target), addition, switch=switch)
        _store(target, config)
    if switch:
        _switch_in_earlier_files(files, target, name)
    return target


def merged(config: Config, addition: Config, *, switch: bool) -> Config:
    """`config` with the entries of `addition` put in place of those of the same name."""
    result = dict(config) or {"apiVersion": "v1", "kind": "Config", "preferences": {}}
    for section in SECTIONS:
        names = {entry["name"] for entry in addition[section]}
        existing = list(result.get(section) or [])
        kept = [entry for entry in existing if entry.get("name") not in names]
        old = {entry.get("name"): entry for entry in existing}
        kept += [_with_namespace(entry, old.get(entry["name"])) for entry in addition[section]]
        result[section] = kept
    if switch or not result.get("current-context"):
        result["current-context"] = addition["current-context"]
    return result


def _with_namespace(entry: Config, old: Config | None) -> Config:
    """Keep the namespace the user chose for the context."""
    namespace = ((old or {}).get("context") or {}).get("namespace")
    if "context" not in entry or not namespace:
        return entry
    return {**entry, "context": {**entry["context"], "namespace": namespace}}


def remove(name: str, files: Sequence[Path]) -> bool:
    """Take the cluster out of the user's kubeconfig. A file left without entries that this
    project has made goes away. Returns whether anything was there."""
    changed = False
    for path in files:
        if not path.is_file():
            continue
        with _locked(path):
            config = _load(path)
            reduced = without(config, name)
            if reduced == config:
                continue
            changed = True
            if any(reduced.get(section) for section in SECTIONS):
                _store(path, reduced)
            else:
                path.unlink()
    return changed


def without(config: Config, name: str) -> Config:
    """`config` less the entries called `name`."""
    result = dict(config)
    for section in SECTIONS:
        if section in result:
            result[section] = [
                entry for entry in result[section] or [] if entry.get("name") != name
            ]
    if result.get("current-context") == name:
        result["current-context"] = ""
    return result if any(result.get(key) != config.get(key) for key in result) else config


def context_state(profile: Profile, files: Sequence[Path]) -> str:
    """How the user's kubeconfig stands to the cluster, in minikube's words."""
    for path in files:
        try:
            config = _load(path)
        except ClusterError:
            continue
        for entry in config.get("clusters") or []:
            if entry.get("name") == profile.name:
                server = (entry.get("cluster") or {}).get("server")
                return "Configured" if server == profile.server else "Misconfigured"
    return "Misconfigured"


def _home_of(name: str, files: Sequence[Path]) -> Path:
    existing = [path for path in files if path.is_file()]
    for path in existing:
        if any(entry.get("name") == name for entry in _load(path).get("contexts") or []):
            return path
    return existing[0] if existing else files[-1]


def _switch_in_earlier_files(files: Sequence[Path], target: Path, name: str) -> None:
    """The first file with a current context wins, so one before the target must be told."""
    for path in files:
        if path == target:
            return
        if path.is_file() and _load(path).get("current-context"):
            with _locked(path):
                _store(path, {**_load(path), "current-context": name})
            return


def _load(path: Path) -> Config:
    import yaml

    try:
        config = safe_loader()(path.read_bytes()).get_single_data()
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, PermissionError) as error:
        raise ClusterError(
            f"{path} cannot be read: {error}", "Mend it, or set KUBECONFIG to another file."
        ) from error
    if config is None:
        return {}
    if not isinstance(config, dict) or not all(
        isinstance(entries := config.get(section) or [], list)
        and all(isinstance(entry, dict) for entry in entries)
        for section in SECTIONS
    ):
        raise ClusterError(f"{path} is not a kubeconfig", "Set KUBECONFIG to another file.")
    return config


def safe_loader() -> Any:
    """libyaml's parser where it is built in: ten times faster."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _dump(config: Config) -> bytes:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(config, Dumper=dumper, sort_keys=False, default_flow_style=False)
    return text.encode()


def _store(path: Path, config: Config) -> None:
    """Replace the file, keeping its owner: under sudo it may belong to the user. A symbolic link
    stays one, and its target is replaced."""
    target = path.resolve()
    exists = target.exists()
    owner = (target if exists else target.parent).stat()
    write_file(target, _dump(config), (owner.st_mode & 0o777) if exists else 0o600)
    if os.geteuid() == 0:
        os.chown(target, owner.st_uid, owner.st_gid)


def _make_directory(directory: Path) -> None:
    """Create `directory` as a child of its nearest ancestor, with that one's owner."""
    missing = [directory, *directory.parents]
    missing = missing[: next(i for i, entry in enumerate(missing) if entry.exists())]
    for entry in reversed(missing):
        entry.mkdir(mode=0o750)
        if os.geteuid() == 0:
            owner = entry.parent.stat()
            os.chown(entry, owner.st_uid, owner.st_gid)


@contextmanager
def _locked(path: Path, timeout: float = 5.0) -> Iterator[None]:
    lock = path.with_name(f"{path.name}.lock")
    _make_directory(path.parent)
    deadline = time.monotonic() + timeout
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{path} is locked", f"If no kubectl is running, remove {lock}."
                ) from None
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def render(config: Config) -> str:
    """A kubeconfig as YAML text, for printing."""
    return _dump(config).decode()
