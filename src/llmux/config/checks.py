"""What no single field of a configuration can tell: names that collide, and models that never fit.

Pure. Works on what it is given, so that the loader can also ask it about a file that has other faults.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmux.config.sizes import format_size

#: Looked through for room beside pinned models; a configuration in which it matters has dozens of pinned models.
_MOST_WAYS = 4096

Location = tuple[str | int, ...]
Fault = tuple[Location, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """The parts of one model that concern the others."""

    aliases: list[str]
    needs: dict[str, int] | int | None
    pinned: bool = False


def find_faults(claims: Mapping[str, Claim], devices: Mapping[str, int] | None) -> Iterator[Fault]:
    """Every collision of names, and every need that the devices can never meet, with its place."""
    yield from alias_faults(claims)
    for name, claim in claims.items():
        yield from _needs_faults(name, claim.needs, devices)
    yield from pinned_faults(claims, devices)


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


def placements(needs: dict[str, int] | int | None, devices: Mapping[str, int]) -> tuple[dict[str, int], ...]:
    """The ways to meet a need, each as bytes per device, in the order of the devices; none that is beyond a device."""
    if needs is None:
        return (dict(devices),)
    if isinstance(needs, int):
        return tuple({device: needs} for device, size in devices.items() if needs <= size)
    return (dict(needs),) if all(amount <= devices.get(device, -1) for device, amount in needs.items()) else ()


def pinned_faults(claims: Mapping[str, Claim], devices: Mapping[str, int] | None) -> Iterator[Fault]:
    """Models that could never be woken, since pinned ones that are awake may be where they would have to go.

    Which device a pinned model gets is decided when it is woken, so every model must fit beside the other pinned ones
    wherever they are.
    """
    pinned = [name for name, claim in claims.items() if claim.pinned]
    if not pinned:
        return
    if devices is None:
        if len(claims) > 1:
            for name in pinned:
                yield ("models", name, "pinned"), "needs `devices`: without them, no other model could ever be woken"
        return
    ways = {name: placements(claim.needs, devices) for name, claim in claims.items()}
    for name in claims:
        if not ways[name]:
            continue  # it never fits at all, which is told where its needs are
        others = [other for other in pinned if other != name and ways[other]]
        if any(not _fits_somewhere(ways[name], free) for free in _left_by([ways[other] for other in others], devices)):
            joined = ", ".join(others)
            yield (
                ("models", name, "pinned") if claims[name].pinned else ("models", name),
                f"could never be woken once the pinned models ({joined}) are awake where their needs let them be; pin "
                "fewer, or name their devices, as in `needs: {gpu0: 10GiB}`",
            )


def _fits_somewhere(ways: Sequence[Mapping[str, int]], free: Mapping[str, int]) -> bool:
    return any(all(amount <= free[device] for device, amount in way.items()) for way in ways)


def _left_by(pinned: Sequence[Sequence[Mapping[str, int]]], devices: Mapping[str, int]) -> list[dict[str, int]]:
    """What pinned models may leave free, for every way in which they can be awake together. Those that find no room
    are left out: that is a fault of its own. Of very many ways, `_MOST_WAYS` that leave least on the first devices."""
    states = {tuple(devices.values())}
    for ways in pinned:
        after = set()
        for state in states:
            free = dict(zip(devices, state, strict=True))
            fitting = [way for way in ways if _fits_somewhere([way], free)]
            after |= {tuple(free[device] - way.get(device, 0) for device in devices) for way in fitting} or {state}
        states = set(sorted(after)[:_MOST_WAYS])
    return [dict(zip(devices, state, strict=True)) for state in sorted(states)]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The end of a message about the unknown `word`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(known)}"
