"""How the API server reaches webhooks: `clientConfig`, and the versions of reviews they speak."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from navarch.api import names
from navarch.api.pem import pem_blocks
from navarch.api.validation.common import Errors, Object, dns1123_subdomain

REVIEW_VERSIONS = ("v1", "v1beta1")


def check_review_versions(errors: Errors, path: str, versions: list[str]) -> None:
    if not versions:
        errors.required(path, f"must specify one of {', '.join(REVIEW_VERSIONS)}")
        return
    for index, version in enumerate(versions):
        if version in versions[:index]:
            errors.invalid(f"{path}[{index}]", version, "duplicate version")
            continue
        errors.check(f"{path}[{index}]", version, names.dns1035_label)
    if not any(version in REVIEW_VERSIONS for version in versions):
        errors.invalid(path, versions, f"must include at least one of {', '.join(REVIEW_VERSIONS)}")


def is_ca_bundle(bundle: str) -> bool:
    """Whether base64 holds certificates in PEM."""
    try:
        text = base64.b64decode(bundle, validate=True).decode()
    except ValueError:
        return False
    return any(block.type == "CERTIFICATE" for block in pem_blocks(text))


def check_client(errors: Errors, path: str, client: Object) -> None:
    url, service = client.get("url"), client.get("service")
    if (url is None) == (service is None):
        errors.required(path, "exactly one of url or service is required")
    elif url is not None:
        _check_url(errors, f"{path}.url", url)
    else:
        assert service is not None
        for field in ("name", "namespace"):
            errors.present(f"{path}.service.{field}", service.get(field))
        port = service.get("port", 443)
        if problems := names.port_number(port or 0):
            detail = f"port is not valid: {', '.join(problems)}"
            errors.invalid(f"{path}.service.port", port or 0, detail)
        target = service.get("path")
        if target is not None:
            _check_path(errors, f"{path}.service.path", target)


def _check_url(errors: Errors, path: str, url: str) -> None:
    form = "; desired format: https://host[/path]"
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        errors.required(path, f"url must be a valid URL: {error}{form}")
        return
    if parts.scheme != "https":
        errors.invalid(path, parts.scheme, f"'https' is the only allowed URL scheme{form}")
    if not host:
        errors.invalid(path, "", f"host must be specified{form}")
    if parts.username is not None:
        errors.invalid(path, parts.username, "user information is not permitted in the URL")
    if parts.fragment:
        errors.invalid(path, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        errors.invalid(path, parts.query, "query parameters are not permitted in the URL")


def _check_path(errors: Errors, path: str, target: str) -> None:
    if target in ("", "/"):
        return
    if not target.startswith("/"):
        errors.invalid(path, target, "must start with a '/'")
    for index, step in enumerate(target[1:].removesuffix("/").split("/")):
        if not step:
            errors.invalid(path, target, f"segment[{index}] may not be empty")
        else:
            problems = dns1123_subdomain(step)
            errors.problems(path, target, (f"segment[{index}]: {text}" for text in problems))
