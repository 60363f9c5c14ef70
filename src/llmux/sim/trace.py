"""Traces: who asked for which model when, and for how much. Pure; reads lines, not files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass

HEADER = ("arrival_s", "model", "prompt_tokens", "output_tokens")


class TraceError(ValueError):
    """A trace that cannot be read; the message has the line."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: `at` in seconds from the start of the trace."""

    at: float
    model: str
    prompt_tokens: int
    output_tokens: int


def parse_trace(lines: Iterable[str]) -> list[Arrival]:
    """Read CSV with the columns arrival_s, model, prompt_tokens, output_tokens (in any order; others are ignored).

    The arrivals come back in the order of time, and those of the same time in the order of the file.

    Raises:
        TraceError: a column is missing, or a value is not what it should be.
    """
    reader = csv.reader(lines)
    header = next(reader, None)
    missing = [column for column in HEADER if column not in (header or ())]
    if header is None or missing:
        raise TraceError(f"line 1: the header lacks {', '.join(missing)}")
    at, model, prompt, output = (header.index(column) for column in HEADER)
    arrivals: list[Arrival] = []
    for row in reader:
        if not row:
            continue
        try:
            arrival = Arrival(float(row[at]), row[model], int(row[prompt]), int(row[output]))
        except (IndexError, ValueError) as error:
            raise TraceError(f"line {reader.line_num}: {error}") from error
        if not math.isfinite(arrival.at) or min(arrival.at, arrival.prompt_tokens, arrival.output_tokens) < 0:
            raise TraceError(f"line {reader.line_num}: times and token counts must not be negative or infinite")
        arrivals.append(arrival)
    arrivals.sort(key=lambda arrival: arrival.at)
    return arrivals
