"""Sizes: what is read, what is refused and why."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.config import format_size, parse_size
from llmux.config.sizes import MAX_SIZE, SIZE_PATTERN

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("10 GiB", 10 * 2**30),
        (" 500MB ", 500 * 10**6),
        ("1.5GB", 1_500_000_000),
        ("0.5KiB", 512),
        ("2kB", 2000),
        ("1234", 1234),
        ("1234B", 1234),
        (1234, 1234),
        ("0.1GB", 100_000_000),
    ],
)
def test_sizes_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a size such as 24GiB, 500MB or a number of bytes, not ''"),
        ("lots", "must be a size such as 24GiB, 500MB or a number of bytes, not 'lots'"),
        ("-1GB", "must be a size such as 24GiB, 500MB or a number of bytes, not '-1GB'"),
        ("1e9", "must be a size such as 24GiB"),
        ("٣GiB", "must be a size such as"),
        ("24G", "has the unknown unit 'G': write GiB (1024^3 bytes) or GB (1000^3 bytes)"),
        ("24Gi", "has the unknown unit 'Gi': write GiB (1024^3 bytes) or GB (1000^3 bytes)"),
        ("24gb", "has the unknown unit 'gb': write GiB (1024^3 bytes) or GB (1000^3 bytes)"),
        ("24PB", "has the unknown unit 'PB': known are"),
        ("0GiB", "must be more than 0 bytes"),
        (0, "must be more than 0 bytes"),
        (-5, "must be more than 0 bytes"),
        ("0.3B", "must be a whole number of bytes, not '0.3B'"),
        ("9999999999TB", "is more bytes than anything has"),
        ("9" * 100_000, "must be a size such as"),
    ],
)
def test_what_is_no_size(text: str | int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_size(text)
    assert len(str(caught.value)) < 200


@given(st.integers(1, 2**20), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_number_times_unit(number: int, unit: str, space: str) -> None:
    text = f"{number}{space}{unit}"
    assert parse_size(text) == number * UNITS[unit]
    assert re.search(SIZE_PATTERN, text)


@given(st.integers(1, MAX_SIZE) | st.builds(lambda n, u: n * UNITS[u], st.integers(1, 999), st.sampled_from(["GiB"])))
def test_what_is_written_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_written_in_the_largest_exact_unit() -> None:
    sizes = [24 * 2**30, 500 * 10**6, 1234, 2**40, 1, 0]
    assert [format_size(size) for size in sizes] == ["24GiB", "500MB", "1234B", "1TiB", "1B", "0B"]


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert 0 < size <= MAX_SIZE
