"""Which servers are believed: the same that a Go program believes."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from tests.certificates import Authority, Pair

from navarch.api.trust import trusting


def handshake(client: ssl.SSLContext, pair: Pair, name: str) -> None:
    """Between two ends in memory; raises what the client thinks of the server."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=name),
        server.wrap_bio(up, down, server_side=True),
    ]
    while ends:
        for end in [*ends]:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def test_certificates_without_the_authoritys_identifier(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.issue("server", address="127.0.0.1")
    handshake(trusting(authority.file.read_text()), server, "127.0.0.1")
    handshake(trusting(file=authority.file), server, "127.0.0.1")


def test_a_servers_own_certificate_is_an_anchor(tmp_path: Path) -> None:
    server = Authority(tmp_path).issue("server", address="127.0.0.1")
    handshake(trusting(file=server.certificate), server, "127.0.0.1")


@pytest.mark.parametrize("name", ["127.0.0.2", "server"])
def test_names_count_only_among_the_alternatives(tmp_path: Path, name: str) -> None:
    authority = Authority(tmp_path)
    server = authority.issue("server", address="127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(trusting(file=authority.file), server, name)


def test_strangers_are_not_believed(tmp_path: Path) -> None:
    server = Authority(tmp_path, "other").issue("server", address="127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(trusting(file=Authority(tmp_path).file), server, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(trusting(), server, "127.0.0.1")
