"""The image service (CRI) of a cluster's nodes, asked from outside.

A node's runtime listens on a socket in the node's own `/run`, which the host reaches through the
runtime's entry in /proc. So no program has to be run in the node, and a password is on no command
line.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from navarch.cluster import processes
from navarch.cluster.containerd import SOCKET
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError, Paths
from navarch.node.cri.client import CriRuntime
from navarch.node.cri.values import Credentials, ImageRecord, RuntimeFailure
from navarch.node.images.credentials import BrokenCredentials, Keyring, auths_of
from navarch.node.images.names import ImageName, parse_image_name

T = TypeVar("T")
HELPER_SECONDS = 60


def list_images(paths: Paths, nodes: Sequence[Pins]) -> list[ImageRecord]:
    """The images of all nodes, each once with all its names, by their first names."""
    listed = _on_each(paths, nodes, lambda runtime: runtime.images())
    images: dict[str, ImageRecord] = {}
    for image in (image for of_node in listed for image in of_node):
        known = images.get(image.id, image)
        images[image.id] = replace(
            image,
            tags=tuple(sorted({*known.tags, *image.tags})),
            digests=tuple(sorted({*known.digests, *image.digests})),
        )
    return sorted(images.values(), key=lambda image: (*image.tags, *image.digests, image.id))


def pull(paths: Paths, nodes: Sequence[Pins], name: str, credentials: Credentials | None) -> None:
    """Pull an image from its registry into every node, at the same time."""
    _on_each(paths, nodes, lambda runtime: runtime.pull(name, credentials))


def _on_each(
    paths: Paths, nodes: Sequence[Pins], action: Callable[[CriRuntime], Awaitable[T]]
) -> list[T]:
    async def on_one(pins: Pins) -> T:
        process = processes.read_pid_file(paths.run / f"containerd-{pins.node}.pid")
        if process is None:
            raise ClusterError(f"node {pins.node} is not running", "Start it: navarch start")
        address = f"unix:///proc/{process.pid}/root{SOCKET}"
        async with CriRuntime(address) as runtime:
            try:
                return await action(runtime)
            except RuntimeFailure as failure:
                text = failure.details if isinstance(failure.details, str) else failure.message
                raise ClusterError(
                    f"node {pins.node}: {text}",
                    "A registry that wants a password: navarch image pull --username NAME "
                    "--password-stdin, or: docker login"
                    if "auth" in text or "401" in text
                    else "See the node's log: navarch logs --file containerd",
                ) from failure

    async def on_all() -> list[T | BaseException]:
        return await asyncio.gather(*(on_one(pins) for pins in nodes), return_exceptions=True)

    # What fails on one node is done on the others nevertheless.
    done: list[T] = []
    for outcome in asyncio.run(on_all()):
        if isinstance(outcome, BaseException):
            raise outcome
        done.append(outcome)
    return done


def own_credentials(name: str) -> Credentials | None:
    """What the user's own docker configuration says of an image's registry: an entry, or a helper
    program that keeps the passwords. None if it says nothing."""
    directory = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    path = directory / "config.json"
    image = parse_image_name(name)
    try:
        document = path.read_bytes()
    except OSError:
        return None
    try:
        auths = auths_of(document)
        helper = _helper(document, image)
        if helper:
            return _ask_helper(helper, image)
        keyring = Keyring()
        keyring.add({key: each for key, each in auths.items() if each})
    except BrokenCredentials as problem:
        raise ClusterError(f"{path}: {problem}", "Log in again: docker login") from problem
    found = keyring.lookup(image)
    return found[0].credentials if found else None


def _server(image: ImageName) -> str:
    """A registry as docker's configuration names it."""
    hub = image.registry == "docker.io"
    return "https://index.docker.io/v1/" if hub else image.registry


def _helper(document: bytes, image: ImageName) -> str:
    settings = json.loads(document)
    helpers = settings.get("credHelpers") or {}
    found = helpers.get(_server(image)) or settings.get("credsStore") or ""
    return found if isinstance(found, str) and "/" not in found else ""


def _ask_helper(helper: str, image: ImageName) -> Credentials | None:
    """https://github.com/docker/docker-credential-helpers: the server on standard input."""
    try:
        answer = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=_server(image).encode(),
            capture_output=True,
            timeout=HELPER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"docker-credential-{helper}: {error}") from error
    if answer.returncode != 0:
        return None  # it has nothing for this server
    try:
        found = json.loads(answer.stdout)
        username, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError):
        raise ClusterError(f"docker-credential-{helper} answered what cannot be read") from None
    if username == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(username=username, password=secret)
