"""How the API server reaches webhooks: `clientConfig`, and the versions of reviews they speak."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from navarch.api import names
from navarch.api.pem import pem_blocks
from navarch.api.validation.common import dns1123_subdomain
from navarch.api.validation.fields import Field

REVIEW_VERSIONS = ("v1", "v1beta1")


def check_review_versions(versions: Field) -> None:
    if not versions:
        versions.required(f"must specify one of {', '.join(REVIEW_VERSIONS)}")
        return
    seen: set[str] = set()
    for version in versions:
        if version.value in seen:
            version.invalid("duplicate version")
        else:
            version.check(names.dns1035_label)
        seen.add(version.value)
    if not seen & set(REVIEW_VERSIONS):
        versions.invalid(f"must include at least one of {', '.join(REVIEW_VERSIONS)}")


def is_ca_bundle(bundle: str) -> bool:
    """Whether base64 holds certificates in PEM."""
    try:
        text = base64.b64decode(bundle, validate=True).decode()
    except ValueError:
        return False
    return any(block.type == "CERTIFICATE" for block in pem_blocks(text))


def check_client(client: Field) -> None:
    url, service = client["url"], client["service"]
    if url.is_set == service.is_set:
        client.required("exactly one of url or service is required")
    elif url.is_set:
        _check_url(url)
    else:
        for field in service.each("name", "namespace"):
            field.present()
        port = service.at("port", service.get("port", 443) or 0)
        if problems := names.port_number(port.value):
            port.invalid(f"port is not valid: {', '.join(problems)}")
        _check_path(service["path"])


def _check_url(url: Field) -> None:
    form = "; desired format: https://host[/path]"
    if url.value.startswith(":"):
        problem = f'parse "{url.value}": missing protocol scheme'
        url.required(f"url must be a valid URL: {problem}{form}")
        return
    try:
        parts = urlsplit(url.value)
        host = parts.hostname
    except ValueError as error:
        url.required(f"url must be a valid URL: {error}{form}")
        return
    if parts.scheme != "https":
        url.showing(parts.scheme).invalid(f"'https' is the only allowed URL scheme{form}")
    if not host:
        url.showing("").invalid(f"host must be specified{form}")
    if parts.username is not None:
        url.showing(parts.netloc.rpartition("@")[0]).invalid(
            "user information is not permitted in the URL"
        )
    if parts.fragment:
        url.showing(parts.fragment).invalid("fragments are not permitted in the URL")
    if parts.query:
        url.showing(parts.query).invalid("query parameters are not permitted in the URL")


def _check_path(path: Field) -> None:
    if path.value in (None, "", "/"):
        return
    if not path.value.startswith("/"):
        path.invalid("must start with a '/'")
    for index, step in enumerate(path.value[1:].removesuffix("/").split("/")):
        if not step:
            path.invalid(f"segment[{index}] may not be empty")
        else:
            path.problems(f"segment[{index}]: {text}" for text in dns1123_subdomain(step))
