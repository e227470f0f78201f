"""Environment files, and containers that write bad ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from navarch.node.env_files import FILE_LIMIT, UNREADABLE, parse_env_file, read_env_file


@pytest.mark.parametrize(
    ("text", "values", "is_whole"),
    [
        pytest.param("", {}, True, id="empty"),
        pytest.param("A='1'\n\tB='2'\n  C='3'", {"A": "1", "B": "2", "C": "3"}, True, id="three"),
        pytest.param("# a\n\n  # b\nA='x' # c\n \n", {"A": "x"}, True, id="comments and blanks"),
        pytest.param("A='a=#$B\\n'", {"A": "a=#$B\\n"}, True, id="nothing means anything inside"),
        pytest.param("A='one\ntwo\n'\nB='x'", {"A": "one\ntwo\n", "B": "x"}, True, id="lines"),
        pytest.param("A=''\nB= 'x'\n", {"A": "", "B": ""}, True, id="empty values"),
        pytest.param("A='1'\nA='2'", {"A": "1"}, True, id="the first counts"),
        pytest.param("A.b-c='1'", {"A.b-c": "1"}, True, id="lax names"),
        pytest.param("A='1'\r\nB='2'\r\n", {"A": "1", "B": "2"}, True, id="foreign line ends"),
        pytest.param("A='1'\nB = '2'", {"A": "1"}, False, id="space before the equals sign"),
        pytest.param("='1'", {}, False, id="no name"),
        pytest.param("A='1'\nno sense\nB='2'", {"A": "1"}, False, id="no equals sign"),
        pytest.param("A=1", {}, False, id="no quotes"),
        pytest.param('A="1"', {}, False, id="double quotes"),
        pytest.param("A='1''2'", {}, False, id="two values"),
        pytest.param("A='1' B", {}, False, id="something behind the value"),
        pytest.param("A='1\nB='2'", {}, False, id="not closed, and a further quote"),
        pytest.param("A='1\n", {}, False, id="not closed"),
    ],
)
def test_parsing(text: str, values: dict[str, str], is_whole: bool) -> None:
    assert parse_env_file(text) == (values, is_whole)


def test_reading(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "sub").mkdir(parents=True)
    (volume / "sub" / "good").write_text("A='1'")
    (volume / "link").symlink_to("sub/good")
    (tmp_path / "secret").write_text("A='stolen'")
    (volume / "out").symlink_to("../secret")
    (volume / "absolute").symlink_to(tmp_path / "secret")
    (volume / "large").write_text("A='" + "x" * FILE_LIMIT + "'")
    (volume / "noise").write_bytes(b"A='\xff'")
    os.mkfifo(volume / "fifo")
    assert read_env_file(volume, "sub/good").values == {"A": "1"}
    assert read_env_file(volume, "link").values == {"A": "1"}
    assert read_env_file(volume, "noise").values == {"A": "\udcff"}
    for bad in ("out", "absolute", "large", "fifo", "sub", "missing"):
        assert read_env_file(volume, bad) is UNREADABLE, bad
