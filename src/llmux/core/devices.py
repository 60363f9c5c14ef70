"""Who fits where: from needs, claims and candidates for eviction to a placement and its victims.

Pure functions over plain data; nothing here knows of states, queues or time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from llmux.core.settings import Placement


def free_after(capacity: Mapping[str, int], claims: Iterable[Placement]) -> dict[str, int]:
    """What is left of each device once `claims` are taken from it; negative where more is claimed than there is."""
    left = dict(capacity)
    for claim in claims:
        for device, amount in claim.items():
            left[device] -= amount
    return left


def fits(placement: Placement, free: Mapping[str, int]) -> bool:
    """Whether `free` has all that `placement` asks for."""
    return all(amount <= free[device] for device, amount in placement.items())


def choose_victims(
    placement: Placement, free: Mapping[str, int], candidates: Sequence[tuple[str, Placement]]
) -> tuple[str, ...] | None:
    """The first of `candidates`, in their order, that together make room for `placement`; None if all of them do not.

    A candidate that turns out not to be needed, because a later one frees all it would have, is left out.
    """
    short = {device: amount - free[device] for device, amount in placement.items() if amount > free[device]}
    taken: list[tuple[str, Placement]] = []
    missing = dict(short)
    for name, claim in candidates:
        if not missing:
            break
        if missing.keys().isdisjoint(claim):
            continue
        taken.append((name, claim))
        missing = _still_missing(short, taken)
    if missing:
        return None
    if len(taken) == 1:
        return (taken[0][0],)
    for victim in list(taken):
        without = [other for other in taken if other is not victim]
        if not _still_missing(short, without):
            taken = without
    return tuple(name for name, _ in taken)


def _still_missing(short: Mapping[str, int], taken: Collection[tuple[str, Placement]]) -> dict[str, int]:
    missing = {device: amount - sum(claim.get(device, 0) for _, claim in taken) for device, amount in short.items()}
    return {device: amount for device, amount in missing.items() if amount > 0}
