"""What no single field of a configuration can tell: names that collide, and models that never fit.

Pure. Works on what it is given, so that the loader can also ask it about a file that has other faults.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from llmux.config.sizes import format_size

Location = tuple[str | int, ...]
Fault = tuple[Location, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """The parts of one model that concern the others."""

    aliases: list[str]
    needs: dict[str, int] | int | None


def find_faults(claims: Mapping[str, Claim], devices: Mapping[str, int] | None) -> Iterator[Fault]:
    """Every collision of names, and every need that the devices can never meet, with its place."""
    yield from alias_faults(claims)
    for name, claim in claims.items():
        yield from _needs_faults(name, claim.needs, devices)


def alias_faults(claims: Mapping[str, Claim]) -> Iterator[Fault]:
    """Aliases that mean two things."""
    owners: dict[str, str] = {}
    for name, claim in claims.items():
        for index, alias in enumerate(claim.aliases):
            place = ("models", name, "aliases", index)
            if alias == name:
                yield place, f"{alias!r} is the model's own name"
            elif alias in claims:
                yield place, f"{alias!r} is the name of another model"
            elif alias in owners:
                owner = "this model" if owners[alias] == name else f"model {owners[alias]!r}"
                yield place, f"{alias!r} is already an alias of {owner}"
            owners.setdefault(alias, name)


def _needs_faults(name: str, needs: dict[str, int] | int | None, devices: Mapping[str, int] | None) -> Iterator[Fault]:
    if needs is None:
        return
    place = ("models", name, "needs")
    if devices is None:
        yield place, "means nothing without devices: declare them at the top level, as in `devices: {gpu0: 24GiB}`"
    elif isinstance(needs, int):
        roomiest = max(devices, key=lambda device: devices[device])
        if needs > devices[roomiest]:
            yield (
                place,
                f"can never fit: it needs {format_size(needs)} on one device, and the largest, {roomiest}, has "
                f"{format_size(devices[roomiest])}",
            )
    else:
        for device, amount in needs.items():
            if device not in devices:
                yield (*place, device), f"unknown device{did_you_mean(device, devices)}"
            elif amount > devices[device]:
                yield (
                    (*place, device),
                    f"can never fit: it needs {format_size(amount)}, and {device} has {format_size(devices[device])}",
                )


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The end of a message about the unknown `word`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(known)}"
