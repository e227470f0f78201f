"""Who may use an image that is on the node already (KEP-2535). Pure.

By default only images that the agent has pulled itself are guarded: a pod gets them if the image
was open to all, or if the pod brings a Secret or a service account that has opened it before.
Otherwise the pod must pull, which asks the registry anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum

from .credentials import TrackedCredentials
from .names import without_tag
from .records import PullCredentials, PulledRecord, used

RECORDED_SECRETS_LIMIT = 100
"""A record does not grow for ever where Secrets come and go; beyond this pods ask the registry."""


class Policy(Enum):
    """`imagePullCredentialsVerificationPolicy`."""

    NEVER = "NeverVerify"
    NEVER_PRELOADED = "NeverVerifyPreloadedImages"
    NEVER_ALLOWLISTED = "NeverVerifyAllowlistedImages"
    ALWAYS = "AlwaysVerify"


def requires_verification(
    policy: Policy, allowlist: Collection[str], image: str, is_known: bool
) -> bool:
    """Whether anybody is asked for credentials for the image at all."""
    if policy is Policy.NEVER_ALLOWLISTED:
        name = without_tag(image)
        return not any(
            name.startswith(entry[:-1]) if entry.endswith("/*") else name == entry
            for entry in allowlist
        )
    return policy is Policy.ALWAYS or (policy is Policy.NEVER_PRELOADED and is_known)


def allowlist_problem(entry: str) -> str:
    """What is wrong with an entry of `preloadedImagesVerificationAllowlist`; "" if nothing is."""
    if entry != entry.strip():
        return f"leading/trailing spaces are not allowed: {entry}"
    bare = entry.removesuffix("*") if entry.endswith("/*") else entry
    if not bare:
        return f"the supplied pattern is too short: {entry}"
    if "*" in bare:
        return f"not a valid wildcard pattern, only patterns ending with '/*' are allowed: {entry}"
    if bare == "/":
        return "at least registry hostname is required"
    if bare == entry and without_tag(entry) != entry:
        return f"neither tag nor digest is accepted in an image reference: {entry}"
    return ""


def recorded(record: PulledRecord | None, image: str) -> PullCredentials:
    """What is known to open the image under this name."""
    if record is None:
        return PullCredentials()
    return record.credentialMapping.get(without_tag(image), PullCredentials())


def opens(
    known: PullCredentials, offered: Iterable[TrackedCredentials]
) -> tuple[bool, PullCredentials]:
    """Whether one of the pod's credentials has opened the image before, and what to record of it:
    the same password in another Secret, or the same Secret with another password."""
    few = len(known.kubernetesSecrets) < RECORDED_SECRETS_LIMIT
    for each in offered:
        if each.source is None:
            continue  # the node's own: whoever was let in by them is let in by all pods
        mine = used(each.source, each.hash)
        for secret in mine.kubernetesSecrets:
            identity = (secret.namespace, secret.name, secret.uid)
            for old in known.kubernetesSecrets:
                is_same = identity == (old.namespace, old.name, old.uid)
                has_hash = secret.credentialHash == old.credentialHash
                if has_hash or (is_same and few):
                    news = mine if few and not (is_same and has_hash) else PullCredentials()
                    return True, news
        if set(mine.kubernetesServiceAccounts) & set(known.kubernetesServiceAccounts):
            return True, PullCredentials()
    return False, PullCredentials()
