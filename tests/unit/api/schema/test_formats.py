"""The formats of strings in custom resources."""

from __future__ import annotations

import pytest

from navarch.api.schema.formats import has_format


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
        ("byte", "QUI=", "QUI"),
        ("byte", "QUI=", ""),
        ("ipv4", "01.2.3.04", "1.2.3.400"),
        ("ssn", "123 45 6789", "123456789"),
        ("cidr", "10.0.0.1/8", "10.0.0.1"),
        ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
        ("date", "2024-02-29", "2023-02-29"),
        ("date", "2024-02-29", "20240229"),
        ("date-time", "2024-02-29T10:20:30.5Z", "2024-02-29"),
        ("datetime", "2024-02-29T10:20:30+01:00", "2024-02-29 10:20"),
        ("duration", "1h30m", "1x"),
        ("duration", "2 days", "days"),
        ("email", "a@b.example", "a"),
        ("hexcolor", "#FFaa00", "#FFaa0"),
        ("hostname", "a.b.example", "-a.example"),
        ("ipv4", "1.2.3.4", "::1"),
        ("ipv6", "::1", "1.2.3.4"),
        ("isbn", "0321751043", "0321751044"),
        ("isbn13", "978-0321751041", "978-0321751042"),
        ("k8s-long-name", "a.b", "A.b"),
        ("k8s-short-name", "a-b", "a.b"),
        ("mac", "01:23:45:67:89:ab", "01:23"),
        ("mac", "0123.4567.89ab", "01:23-45:67:89:ab"),
        ("email", "A Name <a@b.example>", "A Name <a>"),
        ("date-time", "2024-02-29t10:20:30z", "2024-02-29t10:20"),
        ("rgbcolor", "rgb(255, 0, 12)", "rgb(256,0,0)"),
        ("ssn", "123-45-6789", "12-345-6789"),
        ("uri", "https://h.example/a", "a"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
        ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
    ],
)
def test_formats(name: str, good: str, bad: str) -> None:
    assert has_format(good, name)
    assert not has_format(bad, name)


def test_other_formats_check_nothing() -> None:
    assert has_format("anything", "int-or-string")
