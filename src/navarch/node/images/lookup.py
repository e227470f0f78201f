"""Gathers what a pod can show a registry: its Secrets, the node's own configuration, providers.

In this order, as upstream does: whatever the pod brings goes before what the node has for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from navarch.api.types.core_v1 import Pod, Secret
from navarch.client.batches import together
from navarch.client.clock import Clock

from ..events import PodEvents
from ..objects import Objects
from ..settings import NodeOptions
from .credentials import BrokenCredentials, Keyring, TrackedCredentials, auths_of, keyring_of
from .names import ImageName

if TYPE_CHECKING:
    from .providers import Accounts

log = logging.getLogger(__name__)


class Provider(Protocol):
    """A credential provider plug-in."""

    async def lookup(self, pod: Pod, image: ImageName) -> list[TrackedCredentials]: ...


class CredentialSources:
    """All sources of credentials on this node."""

    def __init__(
        self, node_configuration: Path | None = None, providers: Sequence[Provider] = ()
    ) -> None:
        self._node_configuration, self._providers = node_configuration, providers

    async def lookup(
        self, pod: Pod, image: ImageName, secrets: Sequence[Secret]
    ) -> list[TrackedCredentials]:
        """What to try for the image, in order; raises `BrokenCredentials` for the pod's own."""
        found = keyring_of(secrets).lookup(image)
        found += (await asyncio.to_thread(self._of_node)).lookup(image)
        for provider in self._providers:
            found += await provider.lookup(pod, image)
        return found

    def _of_node(self) -> Keyring:
        """The docker configuration of the node (`config.json` in the agent's directory), for all
        pods. Read anew each time: it is small, pulls are rare, and tokens in it are renewed."""
        keyring = Keyring()
        if self._node_configuration is not None:
            try:
                keyring.add(auths_of(self._node_configuration.read_bytes()))
            except FileNotFoundError:
                pass
            except (BrokenCredentials, OSError) as error:
                log.warning("%s: %s", self._node_configuration, error)
        return keyring


def credential_sources(options: NodeOptions, accounts: Accounts, clock: Clock) -> CredentialSources:
    """The sources that the node is configured with; raises `BadProviderConfig`."""
    providers: list[Provider] = []
    if options.image_credential_provider_config is not None:
        from .provider_config import BadProviderConfig, load_providers
        from .providers import CredentialProvider

        programs = options.image_credential_provider_bin_dir
        if programs is None:
            raise BadProviderConfig("credential providers need the directory of their programs")
        providers += [
            CredentialProvider(each, programs, accounts, clock)
            for each in load_providers(options.image_credential_provider_config, programs)
        ]
    return CredentialSources(options.root_directory / "config.json", providers)


async def pull_secrets(pod: Pod, objects: Objects, events: PodEvents) -> list[Secret]:
    """The Secrets a pod names for pulls (admission adds its service account's). One that is not
    there is told of; the image may be had without."""
    names = [each.name for each in pod.spec.imagePullSecrets if each.name]
    found = await together(
        *(objects.secret(pod.metadata.namespace, name, fresh=False) for name in names)
    )
    missing = [name for name, secret in zip(names, found, strict=True) if secret is None]
    if missing:
        text = (
            f"Unable to retrieve some image pull secrets ({', '.join(missing)}); "
            "attempting to pull the image may not succeed."
        )
        events.pod(pod, "Warning", "FailedToRetrieveImagePullSecret", text)
    return [each for each in found if each is not None]
