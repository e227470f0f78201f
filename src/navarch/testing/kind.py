"""`kind`, with Navarch behind it: the command that test suites call to get a cluster.

It takes the subcommands and flags of kind (https://kind.sigs.k8s.io/docs/user/quick-start) that
pytest-kind, pytest-kubernetes and shell scripts use, prints what kind prints where scripts read it,
and keeps to its exit codes. NAVARCH_KIND says what a cluster is made of: `real` (a profile with
real nodes and containers; needs root) or `memory` (a process with everything in memory and
simulated nodes: ready in a second, and no containers run).

Install it under the name `kind`: `navarch-kind install DIRECTORY`, with the directory on the PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from navarch import KUBERNETES_VERSION, __version__
from navarch.cluster import kubeconfig, processes, profile
from navarch.cluster.profile import ClusterError, Paths
from navarch.testing import kind_config
from navarch.testing.kind_config import Config, ConfigError

MODE_VARIABLE = "NAVARCH_KIND"
NAME_VARIABLE = "KIND_CLUSTER_NAME"
DEFAULT_NAME = "kind"
RECORD = "kind.json"
"""Marks a profile's directory as one of ours: nodes' names as kind says them, and the mode."""
START_SECONDS = 120.0
SAVERS = ("docker", "podman", "nerdctl")


class KindError(Exception):
    """Ends the command: its message goes after ERROR, the exit code is 1."""


class Say:
    """kind's progress: on standard error, nothing with --quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def step(self, text: str) -> None:
        self(f" • {text} ...")

    def note(self, text: str) -> None:
        self(f"   {text}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace, Say], None] = options.run
    try:
        run(options, Say(options.quiet))
    except (KindError, ConfigError, ClusterError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        if advice := getattr(error, "advice", ""):
            print(advice, file=sys.stderr)
        return 1
    return 0


def install(directory: Path) -> Path:
    """Put an executable `kind` into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "kind"
    target.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m navarch.testing.kind "$@"\n')
    target.chmod(0o755)
    return target


# ---- clusters


def clusters() -> dict[str, dict[str, Any]]:
    """The clusters made by this command and what is noted of them. Those in memory whose process
    has ended are gone: what is left of them is removed."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(profile.home().glob(f"*/{RECORD}")):
        record = json.loads(file.read_bytes())
        name = file.parent.name
        if record["mode"] == "memory" and _process(profile.paths_of(name)) is None:
            shutil.rmtree(file.parent)
        else:
            found[name] = record
    return found


def _record(name: str) -> dict[str, Any]:
    record = clusters().get(name)
    if record is None:
        raise KindError(
            f'could not locate any control plane nodes for cluster named "{name}". Use the --name '
            "option to select a different cluster"
        )
    return record


def _process(paths: Paths) -> processes.ProcessId | None:
    return processes.read_pid_file(paths.run / "cluster.pid")


def create_cluster(options: argparse.Namespace, say: Say) -> None:
    config = _config(options.config)
    name = options.name or config.name or os.environ.get(NAME_VARIABLE) or DEFAULT_NAME
    profile.check_name(name)
    if name in clusters():
        raise KindError(
            f'failed to create cluster: node(s) already exist for a cluster with the name "{name}"'
        )
    if profile.load(name) is not None:
        raise KindError(f'failed to create cluster: navarch has a profile "{name}"')
    mode = os.environ.get(MODE_VARIABLE) or "real"
    if mode not in MAKERS:
        raise KindError(f"{MODE_VARIABLE} is {mode!r}, neither {' nor '.join(MAKERS)}")
    say(f'Creating cluster "{name}" ...')
    if options.image:
        say.note(f"image {options.image}: every cluster is Kubernetes v{KUBERNETES_VERSION}")
    try:
        MAKERS[mode](name, config, say)
    except BaseException:
        if not options.retain:
            _delete(name, say)
        raise
    target = kubeconfig.add(_kubeconfig(name), _files(options.kubeconfig))
    os.chmod(target, 0o600)
    say(f'Set kubectl context to "kind-{name}"')


def _config(source: str) -> Config:
    if not source:
        return Config()
    return kind_config.parse(sys.stdin.read() if source == "-" else Path(source).read_text())


def _note(name: str, mode: str, config: Config) -> Paths:
    paths = profile.paths_of(name)
    paths.create()
    nodes = [node.name for node in config.nodes(name)]
    profile.write_json(paths.root / RECORD, {"mode": mode, "nodes": nodes})
    return paths


def _make_real(name: str, config: Config, say: Say) -> None:
    """A profile. Its nodes keep Navarch's names, which are those of its machines."""
    from navarch.cluster import api, start

    nodes = config.nodes(name)
    with _own_kubeconfig(name):
        made = start.start(start.StartRequest(name, nodes=len(nodes)), say)
    paths = _note(name, "real", config)
    server = api.Api(made, paths)
    try:
        for node, wanted in zip(made.node_names(), nodes, strict=True):
            server.merge(f"/api/v1/nodes/{node}", {"metadata": {"labels": dict(wanted.labels)}})
    finally:
        server.close()


def _make_memory(name: str, config: Config, say: Say) -> None:
    """A process that outlives this command."""
    paths = profile.paths_of(name)
    paths.create()
    say.step("Starting a control plane in memory")
    command = [sys.executable, "-P", "-m", "navarch.testing"]
    command += ["--kubeconfig", str(paths.kubeconfig("admin"))]
    command += ["--pid-file", str(paths.run / "cluster.pid")]
    for node in config.nodes(name):
        fields = {"name": node.name, "labels": node.labels, "taints": node.taints}
        command += ["--node", json.dumps(fields)]
    log = paths.logs / "cluster.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    processes.wait_until(
        lambda: paths.kubeconfig("admin").is_file() or process.poll() is not None, START_SECONDS
    )
    if not paths.kubeconfig("admin").is_file():
        process.kill()
        lines = log.read_text(errors="replace").splitlines()[-20:]
        raise KindError("\n".join(["failed to create cluster:", *lines]))
    _note(name, "memory", config)


MAKERS: dict[str, Callable[[str, Config, Say], None]] = {"real": _make_real, "memory": _make_memory}


@contextmanager
def _own_kubeconfig(name: str) -> Iterator[None]:
    """`navarch start` and `delete` write the user's kubeconfig under Navarch's names; kind's names
    are what the user wants."""
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(profile.paths_of(name).root / "kubeconfig")
    try:
        yield
    finally:
        del os.environ["KUBECONFIG"]
        if before is not None:
            os.environ["KUBECONFIG"] = before


def _kubeconfig(name: str) -> dict[str, Any]:
    """The administrator's, with everything called kind-NAME."""
    import yaml

    config = yaml.safe_load(profile.paths_of(name).kubeconfig("admin").read_bytes())
    (cluster,), (user,) = config["clusters"], config["users"]
    called = f"kind-{name}"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{**cluster, "name": called}],
        "users": [{**user, "name": called}],
        "contexts": [{"name": called, "context": {"cluster": called, "user": called}}],
        "current-context": called,
    }


def _files(given: str) -> list[Path]:
    return [Path(given)] if given else kubeconfig.user_files()


def delete_cluster(options: argparse.Namespace, say: Say) -> None:
    _forget(_name(options), options.kubeconfig, say)


def delete_clusters(options: argparse.Namespace, say: Say) -> None:
    names = list(clusters()) if options.all else options.names
    for name in names:
        _forget(name, options.kubeconfig, say)
    say(f"Deleted clusters: {json.dumps(names)}")


def _forget(name: str, file: str, say: Say) -> None:
    """A cluster that does not exist is deleted already, but may have left its context."""
    say(f'Deleting cluster "{name}" ...')
    kubeconfig.remove(f"kind-{name}", _files(file))
    if name in clusters():
        _delete(name, say)


def _delete(name: str, say: Say) -> None:
    from navarch.cluster import stop

    paths = profile.paths_of(name)
    process = _process(paths)
    if process is not None:
        processes.end([process.pid], 10.0)
    with _own_kubeconfig(name):
        stop.delete(name, say)


# ---- what is there


def get_clusters(options: argparse.Namespace, say: Say) -> None:
    found = clusters()
    if not found:
        say("No kind clusters found.")
    for name in found:
        print(name)


def get_nodes(options: argparse.Namespace, say: Say) -> None:
    for name in clusters() if options.all_clusters else [_name(options)]:
        found = profile.load(name)
        names = found.node_names() if found else _record(name)["nodes"]
        print("\n".join(names))


def get_kubeconfig(options: argparse.Namespace, say: Say) -> None:
    name = _name(options)
    _record(name)
    print(kubeconfig.render(_kubeconfig(name)), end="")


def export_kubeconfig(options: argparse.Namespace, say: Say) -> None:
    name = _name(options)
    _record(name)
    kubeconfig.add(_kubeconfig(name), _files(options.kubeconfig))
    say(f'Set kubectl context to "kind-{name}"')


def export_logs(options: argparse.Namespace, say: Say) -> None:
    name = _name(options)
    _record(name)
    target = Path(options.directory or tempfile.mkdtemp(prefix="kind-logs-"))
    shutil.copytree(profile.paths_of(name).logs, target, dirs_exist_ok=True)
    say(f'Exporting logs for cluster "{name}" to:')
    print(target)


def load_docker_image(options: argparse.Namespace, say: Say) -> None:
    """From whatever keeps images on this machine."""
    name = _name(options)
    record = _record(name)
    if record["mode"] == "memory":
        return say("The nodes are simulated and need no images.")
    saver = next(filter(shutil.which, SAVERS), "")
    for image in options.sources:
        with tempfile.TemporaryDirectory() as directory:
            archive = Path(directory) / "image.tar"
            command = [saver, "save", "-o", str(archive), image]
            if not saver or subprocess.run(command, capture_output=True).returncode:
                raise KindError(f'image: "{image}" not present locally')
            _load(name, archive, say)


def load_image_archive(options: argparse.Namespace, say: Say) -> None:
    name = _name(options)
    record = _record(name)
    for source in map(Path, options.sources):
        if not source.is_file():
            raise KindError(f"stat {source}: no such file or directory")
        if record["mode"] == "memory":
            say("The nodes are simulated and need no images.")
        else:
            _load(name, source, say)


def _load(name: str, archive: Path, say: Say) -> None:
    from navarch.cluster import images

    found = profile.load(name)
    assert found is not None
    for image in images.load(images.running_nodes(found, profile.paths_of(name)), archive):
        say(f'Image: "{image}" loaded into every node of "{name}"')


def show_version(options: argparse.Namespace, say: Say) -> None:
    print(f"kind v0.31.0+navarch.{__version__} python{sys.version_info[0]}.{sys.version_info[1]}")


def install_shim(options: argparse.Namespace, say: Say) -> None:
    print(install(Path(options.directory)))


# ---- the command line


def _name(options: argparse.Namespace) -> str:
    return options.name or os.environ.get(NAME_VARIABLE) or DEFAULT_NAME


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-q", "--quiet", action="store_true", default=False)
    shared.add_argument("-v", "--verbosity", type=int, default=0)
    named = argparse.ArgumentParser(add_help=False, parents=[shared])
    named.add_argument("-n", "--name", default="")
    filed = argparse.ArgumentParser(add_help=False)
    filed.add_argument("--kubeconfig", default="")
    parser = argparse.ArgumentParser("kind", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"kind version 0.31.0 {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def group(name: str) -> Any:
        return commands.add_parser(name).add_subparsers(required=True, metavar="WHAT")

    def command(where: Any, names: str, run: object, *parents: argparse.ArgumentParser) -> Any:
        first, *others = names.split()
        made = where.add_parser(first, aliases=others, parents=list(parents))
        made.set_defaults(run=run)
        return made

    create = command(group("create"), "cluster", create_cluster, named, filed)
    create.add_argument("--config", default="")
    create.add_argument("--image", default="")
    create.add_argument("--retain", action="store_true")
    create.add_argument("--wait", default="", help="accepted: the cluster is always waited for")
    delete = group("delete")
    command(delete, "cluster", delete_cluster, named, filed)
    several = command(delete, "clusters", delete_clusters, shared, filed)
    several.add_argument("names", nargs="*")
    several.add_argument("-A", "--all", action="store_true")
    get = group("get")
    command(get, "clusters", get_clusters, shared)
    nodes = command(get, "nodes", get_nodes, named)
    nodes.add_argument("-A", "--all-clusters", action="store_true")
    command(get, "kubeconfig", get_kubeconfig, named).add_argument(
        "--internal", action="store_true", help="accepted: the address is the same"
    )
    export = group("export")
    command(export, "kubeconfig", export_kubeconfig, named, filed)
    command(export, "logs", export_logs, named).add_argument("directory", nargs="?")
    load = group("load")
    for name, run in (("docker-image", load_docker_image), ("image-archive", load_image_archive)):
        images = command(load, name, run, named)
        images.add_argument("sources", nargs="+")
        images.add_argument("--nodes", help="accepted: every node gets the image")
    command(commands, "version", show_version, shared)
    command(commands, "install", install_shim, shared).add_argument("directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
