"""Who fits where: from needs, claims and candidates for eviction to a placement and its victims.

Pure functions over plain data; nothing here knows of states, queues or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

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
    for device, amount in placement.items():  # noqa: SIM110  (asked too often for a generator)
        if amount > free[device]:
            return False
    return True


def covers(claim: Placement, placement: Placement, free: Mapping[str, int]) -> bool:
    """Whether `placement` would fit once `claim` is given back."""
    for device, amount in placement.items():  # noqa: SIM110  (asked too often for a generator)
        if amount > free[device] + claim.get(device, 0):
            return False
    return True


#: With more candidates than this, the cheapest victims are sought greedily.
EXACT = 12


class Candidate(NamedTuple):
    """A model that could be put to sleep, what that would free, and what it would cost (any unit, not negative)."""

    name: str
    claim: Placement
    cost: float


def choose_victims(
    placement: Placement, free: Mapping[str, int], candidates: Sequence[Candidate]
) -> tuple[str, ...] | None:
    """Those of `candidates` that together make room for `placement` at the least cost, none of them needlessly; None
    if all of them together do not. Among equals, the earlier candidates.

    Exact for up to `EXACT` candidates that hold any of what is short, by branch and bound; with more, the better of
    what two greedy orders give, cheapest first and cheapest per amount first.
    """
    short = {device: amount - free[device] for device, amount in placement.items() if amount > free[device]}
    if not short:
        return ()
    useful = [candidate for candidate in candidates if not short.keys().isdisjoint(candidate.claim)]
    useful.sort(key=lambda candidate: candidate.cost)  # stable: the order given decides among equals
    best = _greedy(short, useful)
    if best is None:
        return None
    if len(useful) > EXACT:
        dense = sorted(useful, key=lambda candidate: candidate.cost / _covered(short, candidate.claim))
        other = _greedy(short, dense)
        if other is not None and _cost(other) < _cost(best):
            best = other
    elif len(useful) > 1:
        best = _search(short, useful, best)
    return tuple([candidate.name for candidate in best])


def _greedy(short: Mapping[str, int], candidates: Sequence[Candidate]) -> list[Candidate] | None:
    """Take one after the other while something is missing; then leave out who turned out not to be needed, the last
    taken being the dearest."""
    taken: list[Candidate] = []
    missing = dict(short)
    for candidate in candidates:
        if not missing:
            break
        if not missing.keys().isdisjoint(candidate.claim):
            taken.append(candidate)
            missing = _less(missing, candidate.claim)
    if missing:
        return None
    for candidate in sorted(taken, key=lambda candidate: -candidate.cost):
        without = [other for other in taken if other is not candidate]
        if len(taken) > 1 and _enough(short, without):
            taken = without
    return taken


def _search(short: Mapping[str, int], candidates: Sequence[Candidate], bound: list[Candidate]) -> list[Candidate]:
    """The cheapest sufficient set, which `bound` is one of; depth first, cheapest candidates first."""
    best, least = bound, (_cost(bound), len(bound))
    stack: list[tuple[int, float, dict[str, int], list[Candidate]]] = [(0, 0.0, dict(short), [])]
    while stack:
        place, cost, missing, taken = stack.pop()
        if place == len(candidates):
            continue
        candidate = candidates[place]
        total = cost + candidate.cost
        if (total, len(taken) + 1) >= least:
            continue  # and so with all that come later: they cost as much or more
        stack.append((place + 1, cost, missing, taken))
        if not missing.keys().isdisjoint(candidate.claim):
            left = _less(missing, candidate.claim)
            if left:
                stack.append((place + 1, total, left, [*taken, candidate]))
            else:
                best, least = [*taken, candidate], (total, len(taken) + 1)
    return best


def _less(missing: Mapping[str, int], claim: Placement) -> dict[str, int]:
    return {device: rest for device, amount in missing.items() if (rest := amount - claim.get(device, 0)) > 0}


def _enough(short: Mapping[str, int], taken: Sequence[Candidate]) -> bool:
    return all(sum([c.claim.get(device, 0) for c in taken]) >= amount for device, amount in short.items())


def _covered(short: Mapping[str, int], claim: Placement) -> float:
    """How much of what is short `claim` would free: the sum of its shares of each device's shortage."""
    return sum([min(1.0, claim.get(device, 0) / amount) for device, amount in short.items()]) or 1e-9


def _cost(taken: Sequence[Candidate]) -> float:
    return sum([candidate.cost for candidate in taken])
