"""Addresses, URLs and versions are read as Go reads them, with Go's complaints."""

from __future__ import annotations

import pytest

from navarch.api.cel.library.addresses import AddressError, parse_address, parse_prefix
from navarch.api.cel.library.formatting import format_text
from navarch.api.cel.library.go_url import UrlError, parse_url
from navarch.api.cel.library.versions import (
    VersionError,
    parse_tolerant,
    parse_version,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::", "::"),
        ("2001:DB8:0:0:1::1", "2001:db8:0:0:1::1"),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert int(parse_address(text)[0]) == int(parse_address(expected)[0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "unable to parse IP"),
        ("abc", "unable to parse IP"),
        ("010.0.0.1", "IPv4 field has octet with leading zero"),
        ("1.2.3", "IPv4 address too short"),
        ("1.2.3.4.5", "IPv4 address too long"),
        ("1.2.3.256", "IPv4 field has value >255"),
        ("1..2.3", 'IPv4 field must have at least one digit (at ".2.3")'),
        ("1.2.3.", 'IPv4 field must have at least one digit (at ".")'),
        ("1.2.3.x", 'unexpected character (at "x")'),
        ("1::2::3", 'multiple :: in address (at ":3")'),
        ("1:2", "address string too short"),
        ("12345::", 'each group must have 4 or less digits (at "12345::")'),
        ("1:2:3:4:5:6:7:8:9", 'trailing garbage after address (at "9")'),
        ("1:", 'colon must be followed by more characters (at ":")'),
        ("fe80::1%", "zone must be a non-empty string"),
        ("1:2:3:4:5:6:7::8", "the :: must expand to at least one field of zeros"),
    ],
)
def test_bad_addresses(text: str, why: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert str(caught.value) == f'ParseAddr("{text}"): {why}'


def test_prefixes() -> None:
    assert str(parse_prefix("10.1.2.3/8").masked()) == "10.0.0.0/8"
    assert parse_prefix("10.0.0.0/8").covers(parse_prefix("10.2.0.0/16"))
    assert not parse_prefix("10.2.0.0/16").covers(parse_prefix("10.0.0.0/8"))
    assert not parse_prefix("0.0.0.0/0").covers(parse_prefix("::/0"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.0", "no '/'"),
        ("10.0.0.0/33", "prefix length out of range"),
        ("10.0.0.0/08", 'bad bits after slash: "08"'),
        ("10.0.0.0/+8", 'bad bits after slash: "+8"'),
        ("fe80::1%a/64", "IPv6 zones cannot be present in a prefix"),
        ("x/8", 'ParseAddr("x"): unable to parse IP'),
    ],
)
def test_bad_prefixes(text: str, why: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_prefix(text)
    assert str(caught.value) == f'netip.ParsePrefix("{text}"): {why}'


@pytest.mark.parametrize(
    ("text", "parts", "printed"),
    [
        (
            "https://u:p@h.example:8443/a b?x=1&x=2",
            ("https", "h.example:8443", "h.example", "8443", "/a%20b"),
            "https://u:p@h.example:8443/a%20b?x=1&x=2",
        ),
        ("/p/%41?", ("", "", "", "", "/p/%41"), "/p/%41?"),
        ("https://[::1]:80/", ("https", "[::1]:80", "::1", "80", "/"), "https://[::1]:80/"),
        ("MAILTO:x@y", ("mailto", "", "", "", ""), "mailto:x@y"),
        ("/p#frag", ("", "", "", "", "/p"), "/p#frag"),
        (
            "http://é.example/é",
            ("http", "é.example", "é.example", "", "/%C3%A9"),
            "http://%C3%A9.example/%C3%A9",
        ),
    ],
)
def test_urls(text: str, parts: tuple[str, ...], printed: str | None) -> None:
    url = parse_url(text)
    found = (url.scheme, url.host, url.hostname, url.port, url.escaped_path())
    assert tuple(each.decode() for each in found) == parts
    assert printed is None or str(url) == printed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("../r", "invalid URI for request"),
        ("", "empty url"),
        ("http://a b/", 'invalid character " " in host name'),
        ("http://h:x/", 'invalid port ":x" after host'),
        ("/%zz", 'invalid URL escape "%zz"'),
        ("http://[::1", "missing ']' in host"),
        ("http://[zz]/", 'invalid host: ParseAddr("zz"): unable to parse IP'),
        ("http://h\x7f", "net/url: invalid control character in URL"),
        (":foo", "missing protocol scheme"),
    ],
)
def test_bad_urls(text: str, why: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse_url(text)
    assert str(caught.value).endswith(why)


def test_queries_are_unescaped() -> None:
    values = parse_url("/?a=1&a=b+c%21&;x=1&bad=%zz&empty").query_values()
    assert values == {"a": ["1", "b c!"], "empty": [""]}


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("1.2.3-rc.1", "1.2.3"),
        ("1.2.3-rc.1", "1.2.3-rc.1.1"),
        ("1.2.3-1", "1.2.3-a"),
        ("1.9.0", "1.10.0"),
    ],
)
def test_order_of_versions(smaller: str, larger: str) -> None:
    assert parse_version(smaller) < parse_version(larger)


def test_tolerant_versions() -> None:
    assert parse_tolerant("v01.2") == parse_version("1.2.0+build.7")
    with pytest.raises(VersionError, match="short version cannot contain"):
        parse_tolerant("1.2-rc")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Version string empty"),
        ("v1.2.3", 'Invalid character(s) found in major number "v1"'),
        ("1.2", "No Major.Minor.Patch elements found"),
        ("1.02.3", 'Minor number must not contain leading zeroes "02"'),
        ("1.2.3-", "Prerelease is empty"),
        ("1.2.3-01", 'Numeric PreRelease version must not contain leading zeroes "01"'),
        ("1.2.3-é", 'Invalid character(s) found in prerelease "é"'),
        ("1.2.3+", "Build meta data is empty"),
    ],
)
def test_bad_versions(text: str, why: str) -> None:
    with pytest.raises(VersionError) as caught:
        parse_version(text)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("%d/%s/%.2f/%x", [3, True, 3.14159, 255], "3/true/3.14/ff"),
        ("%s %s", ["a", ["b", 1.5, None]], 'a ["b", 1.500000, null]'),
        ("%s", [{"k": 2.5, "a": b"x"}], '{"a":b"x", "k":2.500000}'),
        ("100%% %b %o %X", [5, 8, "k"], "100% 101 10 6B"),
        ("%f", [1234.5], "1,234.500000"),
    ],
)
def test_format(text: str, values: list[object], expected: str) -> None:
    assert format_text(text, values) == expected
