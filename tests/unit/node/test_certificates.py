"""When a node renews its certificates, and what it asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from navarch.controllers.csr_checks import problem_for, read
from navarch.node import certificates
from navarch.node.certificates import Wanted

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("chance", "days"), [(0.0, 70), (0.5, 80), (1.0, 90)])
def test_renewal_is_long_before_the_end(chance: float, days: int) -> None:
    found = certificates.renewal_time(BEGIN, BEGIN + timedelta(days=100), chance)
    assert found == BEGIN + timedelta(days=days)


FILE = Path("/nowhere/pair.pem")


@pytest.mark.parametrize(
    "wanted",
    [
        certificates.node_client("n1", FILE, FILE),
        certificates.node_serving("n1", ["10.0.0.1", "fd00::1"], FILE, FILE),
        certificates.proxy_client(FILE, FILE),
    ],
)
def test_a_request_is_one_the_signer_grants(wanted: Wanted) -> None:
    key, pem = certificates.signing_request(wanted)
    asked = read(x509.load_pem_x509_csr(pem))
    assert problem_for(wanted.signer, asked, wanted.usages) == ""
    assert asked.common_name == wanted.common_name
    assert asked.ip_addresses == wanted.addresses
    assert b"PRIVATE KEY" in key


def test_pairs_are_stored_whole_and_for_their_owner_alone(tmp_path: Path) -> None:
    one = certificates.proxy_client(tmp_path / "pair.pem", tmp_path / "pair.pem")
    certificates.store(one, b"CERTIFICATE", b"KEY")
    assert (tmp_path / "pair.pem").read_bytes() == b"CERTIFICATEKEY"
    two = certificates.proxy_client(tmp_path / "a.crt", tmp_path / "a.key")
    certificates.store(two, b"CERTIFICATE", b"KEY")
    assert (tmp_path / "a.key").read_bytes() == b"KEY"
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.iterdir())
    assert {file.name for file in tmp_path.iterdir()} == {"pair.pem", "a.crt", "a.key"}


def test_what_is_missing_or_broken_is_due_at_once(tmp_path: Path) -> None:
    file = tmp_path / "pair.pem"
    assert certificates.due_at(certificates.proxy_client(file, file), 0.5) is None
    file.write_text("nonsense")
    assert certificates.due_at(certificates.proxy_client(file, file), 0.5) is None
