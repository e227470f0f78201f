"""What extension API servers authenticate clients by: a ConfigMap, of a name that they know.

It tells them the authority of users, that of front proxies and the headers these speak
in. Several API servers may each have their own: what is there already is joined with ours, expired
certificates aside, and a value that somebody removed or garbled comes back with the next turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from navarch.api.errors import ApiError
from navarch.apiserver.bootstrap import Access
from navarch.apiserver.contracts import Object
from navarch.apiserver.options import ServerOptions

NAMESPACE, NAME = "kube-system", "extension-apiserver-authentication"
_BUNDLES = ("client-ca-file", "requestheader-client-ca-file")


def trust_data(options: ServerOptions) -> dict[str, str]:
    """Our own part of the ConfigMap's data."""
    data: dict[str, str] = {}
    if options.client_ca is not None:
        data["client-ca-file"] = options.client_ca.read_text()
    if options.requestheader_client_ca_file is None:
        return data
    data["requestheader-client-ca-file"] = options.requestheader_client_ca_file.read_text()
    lists = {
        "username-headers": options.requestheader_username_headers,
        "uid-headers": options.requestheader_uid_headers,
        "group-headers": options.requestheader_group_headers,
        "extra-headers-prefix": options.requestheader_extra_headers_prefix,
        "allowed-names": options.requestheader_allowed_names,
    }
    for name, values in lists.items():
        data[f"requestheader-{name}"] = json.dumps(list(values), separators=(",", ":"))
    return data


def joined(found: Mapping[str, str], ours: Mapping[str, str], now: datetime) -> dict[str, str]:
    """The data that serves us and those who wrote `found`; keys we do not know stay."""
    result = dict(found)
    for key, value in ours.items():
        before = found.get(key, "")
        join = _joined_bundles if key in _BUNDLES else _joined_lists
        result[key] = value if before in ("", value) else join(before, value, now)
    return result


def _joined_bundles(found: str, ours: str, now: datetime) -> str:
    kept: list[bytes] = []
    for text in (found, ours):
        try:
            certificates = x509.load_pem_x509_certificates(text.encode())
        except ValueError:
            continue
        for each in certificates:
            pem = each.public_bytes(Encoding.PEM)
            if each.not_valid_after_utc > now and pem not in kept:
                kept.append(pem)
    return b"".join(kept).decode()


def _joined_lists(found: str, ours: str, _: datetime) -> str:
    own: list[str] = json.loads(ours)
    try:
        values = json.loads(found)
    except ValueError:
        return ours
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        return ours
    if not own or not values:
        return ours
    return json.dumps(
        [*values, *(each for each in own if each not in values)], separators=(",", ":")
    )


class TrustKeeper:
    """Keeps the ConfigMap as it has to be."""

    def __init__(self, access: Access, options: ServerOptions) -> None:
        self._access = access
        self._options = options

    async def turn(self) -> None:
        ours = trust_data(self._options)
        found = self._access.lookup.get("configmaps", NAMESPACE, NAME)
        data = joined((found or {}).get("data") or {}, ours, datetime.now(UTC))
        try:
            if found is None:
                await self._access.create("configmaps", _config_map(data))
            elif data != (found.get("data") or {}):
                await self._access.replace("configmaps", {**found, "data": data})
        except ApiError as error:
            # Another API server was quicker, or the namespace is missing: the next turn sees it.
            if not (error.is_conflict or error.is_already_exists or error.status == 404):
                raise


def _config_map(data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": data,
    }
