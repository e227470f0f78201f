"""How the proxy hands its transactions to nft."""

from pathlib import Path

import pytest

from navarch.network.proxy.kernel import LinuxKernel, NftError

TRANSACTION = "add table ip kube-proxy\n" * 20_000


def stand_in(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = directory / "nft"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


async def test_a_transaction_is_whole_before_nft_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a proxy that is killed meanwhile leaves no half of one."""
    seen, text = tmp_path / "seen", tmp_path / "text"
    script = f"stat -L -c %s /dev/stdin > {seen}; cat /dev/stdin > {text}"
    stand_in(tmp_path, script, monkeypatch)
    await LinuxKernel().apply(TRANSACTION)
    assert seen.read_text().strip() == str(len(TRANSACTION))
    assert text.read_text() == TRANSACTION


async def test_what_nft_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "echo no such table >&2; exit 1", monkeypatch)
    with pytest.raises(NftError, match="no such table"):
        await LinuxKernel().apply(TRANSACTION)
