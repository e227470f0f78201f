"""Quantities: what parses, to what value, how it is printed, and that hostile input is cheap."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.api.quantity import (
    FORMAT_WRONG,
    SUFFIX_WRONG,
    Format,
    Quantity,
    QuantityError,
    canonical,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "nanos", "printed"),
    [
        ("0", 0, "0"),
        ("0Gi", 0, "0"),
        ("0m", 0, "0"),
        ("-0", 0, "0"),
        ("1", 10**9, "1"),
        ("1000m", 10**9, "1"),
        ("0.5", 5 * 10**8, "500m"),
        ("0.05", 5 * 10**7, "50m"),
        ("1500m", 15 * 10**8, "1500m"),
        ("1.5", 15 * 10**8, "1500m"),
        ("1000", 10**12, "1k"),
        ("1000000", 10**15, "1M"),
        ("100k", 10**14, "100k"),
        ("300T", 3 * 10**23, "300T"),
        ("1E", 10**27, "1E"),
        ("12E", 12 * 10**27, "12E"),
        ("100.035k", 100035 * 10**9, "100.035k"),
        ("100.0350k", 100035 * 10**9, "100035"),
        ("1.500", 15 * 10**8, "1.500"),
        ("5n", 5, "5n"),
        ("4u", 4000, "4u"),
        ("1024Mi", 2**30 * 10**9, "1Gi"),
        ("1025Mi", 1025 * 2**20 * 10**9, "1025Mi"),
        ("0.5Gi", 2**29 * 10**9, "512Mi"),
        ("1Ki", 1024 * 10**9, "1Ki"),
        ("0.5Ki", 512 * 10**9, "512"),
        ("100.035Ki", 102435840 * 10**6, "102435840m"),
        ("3Ei", 3 * 2**60 * 10**9, "3Ei"),
        ("1e3", 10**12, "1e3"),
        ("1E3", 10**12, "1E3"),
        ("1.2e3", 12 * 10**11, "1200"),
        ("1.3E+6", 13 * 10**14, "1300e3"),
        ("1e-3", 10**6, "1e-3"),
        ("100e1", 10**12, "1e3"),
        ("-1.5Gi", -(3 * 2**29) * 10**9, "-1536Mi"),
        ("-500m", -5 * 10**8, "-500m"),
        ("1.", 10**9, "1."),
        (".001", 10**6, "1m"),
        ("1.G", 10**18, "1.G"),
        ("-", 0, "0"),
        (".", 0, "0"),
    ],
)
def test_parse_and_print(text: str, nanos: int, printed: str) -> None:
    quantity = parse_quantity(text)
    assert quantity.nanos == nanos
    assert str(quantity) == printed


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("3.001n", 4),
        ("1.1E-9", 2),
        ("0.0000000001", 1),
        ("0.00000012345", 124),
        ("0.000000000001Ki", 2),
        ("-0.9n", -1),
    ],
)
def test_too_fine_values_are_rounded_away_from_zero(text: str, nanos: int) -> None:
    assert parse_quantity(text).nanos == nanos


@pytest.mark.parametrize("text", ["9Ei", "9223372036854775807Ki", "9999999999999999999Ei"])
def test_binary_values_are_capped(text: str) -> None:
    assert parse_quantity(text).value() == 2**63 - 1


def test_a_small_binary_fraction_becomes_decimal() -> None:
    assert parse_quantity("0.0001Ki").format is Format.DECIMAL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", FORMAT_WRONG),
        ("1zz", FORMAT_WRONG),
        ("aoeu", FORMAT_WRONG),
        (" 1", FORMAT_WRONG),
        ("1 ", FORMAT_WRONG),
        ("1\n", FORMAT_WRONG),
        ("1.1.M", FORMAT_WRONG),
        ("1+1.0M", FORMAT_WRONG),
        ("0.1mi", SUFFIX_WRONG),
        ("1i", SUFFIX_WRONG),
        ("-3.01e-", SUFFIX_WRONG),
        ("1e", SUFFIX_WRONG),
        ("1KI", FORMAT_WRONG),
        ("1m5", SUFFIX_WRONG),
        ("\u0661", FORMAT_WRONG),
    ],
)
def test_what_is_no_quantity(text: str, message: str) -> None:
    with pytest.raises(QuantityError) as error:
        parse_quantity(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "text",
    ["1e999999999", "1e-999999999", "1E" + "9" * 5000, "9" * 2_000_000, "1." + "0" * 2_000_000],
    ids=["exponent", "negative-exponent", "long-exponent", "digits", "places"],
)
def test_hostile_values_are_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(QuantityError):
        parse_quantity(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("text", "value", "milli"),
    [("1.1", 2, 1100), ("-1.1", -2, -1100), ("100u", 1, 1), ("2Ki", 2048, 2048000)],
)
def test_integers_are_rounded_away_from_zero(text: str, value: int, milli: int) -> None:
    quantity = parse_quantity(text)
    assert (quantity.value(), quantity.milli_value()) == (value, milli)


def test_rounding_to_milli_keeps_what_is_exact() -> None:
    assert str(parse_quantity("100u").round_up(-3)) == "1m"
    assert parse_quantity("1.500").round_up(-3).text == "1.500"


def test_arithmetic_keeps_the_format_of_the_first_nonzero_part() -> None:
    gibi, milli = parse_quantity("1Gi"), parse_quantity("500m")
    assert str(gibi + parse_quantity("1Gi")) == "2Gi"
    assert str(parse_quantity("0") + gibi) == "1Gi"
    assert str(milli + milli) == "1"
    assert str(gibi - gibi) == "0"
    assert str(-milli) == "-500m"
    assert str(milli * 3) == "1500m"
    assert parse_quantity("1024Mi") == gibi
    assert milli < parse_quantity("1") <= gibi
    assert float(milli) == 0.5
    assert hash(parse_quantity("1000m")) == hash(parse_quantity("1"))
    assert parse_quantity("-1").sign() == -1
    assert parse_quantity("0m").is_zero()
    assert Quantity.of(2) == parse_quantity("2000m")


quantities = st.from_regex(
    r"[+-]?[0-9]{1,12}(\.[0-9]{0,6})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?",
    fullmatch=True,
)


@given(quantities)
def test_the_canonical_form_is_stable_and_keeps_the_value(text: str) -> None:
    quantity = parse_quantity(text)
    printed = canonical(text)
    assert parse_quantity(printed) == quantity
    assert canonical(printed) == printed


@given(quantities, quantities)
def test_addition_is_exact(left: str, right: str) -> None:
    one, other = parse_quantity(left), parse_quantity(right)
    assert (one + other) - other == one
    assert (one + other) == (other + one)


@given(st.text(max_size=20))
def test_any_text_either_parses_or_is_refused_by_name(text: str) -> None:
    try:
        assert parse_quantity(text) is not None
    except QuantityError as error:
        assert str(error)
