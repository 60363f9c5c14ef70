"""Amounts of memory as people write them: ``24GiB``, ``500MB``, ``10 GiB``, ``1.5GB`` or a plain number of bytes.

Pure. May import nothing of llmux.
"""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
MAX_SIZE = 2**63 - 1
SIZE_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,19})? *(B|[kKMGT]B|[KMGT]iB)?$"
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def parse_size(value: int | str) -> int:
    """Bytes, from a number of them or from text; KB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024.

    Raises:
        ValueError: with a message that says what is wrong with `value`.
    """
    size = value if isinstance(value, int) else _parse(value)
    if size < 1:
        raise ValueError("must be more than 0 bytes")
    if size > MAX_SIZE:
        raise ValueError("is more bytes than anything has")
    return size


def _parse(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(text) > 40:
        raise ValueError(f"must be a size such as 24GiB, 500MB or a number of bytes, not {text[:40]!r}")
    number, unit = match.groups()
    scale = _UNITS.get(unit or "B")
    if scale is None:
        raise ValueError(f"has the unknown unit {unit!r}{_suggest(unit)}")
    size = Decimal(number) * scale
    if size != size.to_integral_value():
        raise ValueError(f"must be a whole number of bytes, not {text!r}")
    return int(size)


def _suggest(unit: str) -> str:
    prefix = unit[0].upper()
    if prefix in "KMGT":
        power = "KMGT".index(prefix) + 1
        return f": write {prefix}iB (1024^{power} bytes) or {prefix}B (1000^{power} bytes)"
    return ": known are KB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024)"


def format_size(size: int) -> str:
    """`size` bytes in the largest unit in which it is exact: ``24GiB``, ``500MB``, ``1234B``."""
    for unit, scale in sorted(_UNITS.items(), key=lambda item: -item[1]):
        if unit != "kB" and size >= scale and size % scale == 0:
            return f"{size // scale}{unit}"
    return f"{size}B"
