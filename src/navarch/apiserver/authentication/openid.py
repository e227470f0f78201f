"""The issuer's OpenID Connect discovery documents: by them others verify our tokens."""

from __future__ import annotations

import msgspec

from navarch.apiserver.authentication.keys import KeyRing


def openid_configuration(issuer: str, jwks_uri: str, keys: KeyRing) -> bytes:
    return msgspec.json.encode(
        {
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": keys.algorithms(),
        }
    )


def jwks(keys: KeyRing) -> bytes:
    return msgspec.json.encode(keys.to_jwks())
