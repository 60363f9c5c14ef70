"""Which models could be awake together, from what they need and what there is. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from llmux.core.devices import fits

Placements = Mapping[str, Sequence[Mapping[str, int]]]

STEPS = 20_000
"""How many arrangements are tried before the answer counts as long enough."""


@dataclass(frozen=True, slots=True)
class Company:
    """`sets`: the largest sets of models that fit together, each with where each model would be. `apart`: pairs of
    which never both are awake. `complete` is false where there are too many sets to name them all."""

    sets: tuple[dict[str, tuple[str, ...]], ...]
    apart: tuple[tuple[str, str], ...]
    complete: bool


class _TooManyError(Exception):
    pass


class _Search:
    def __init__(self, placements: Placements, capacity: Mapping[str, int]) -> None:
        self.names = list(placements)
        self._placements = placements
        self._capacity = dict(capacity)
        self._steps = STEPS
        self.found: list[dict[str, tuple[str, ...]]] = []

    def place(self, names: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
        """Where the models would be, were all of these awake; None where they do not fit."""
        return self._place(names, self._capacity)

    def _place(self, names: Sequence[str], free: Mapping[str, int]) -> dict[str, tuple[str, ...]] | None:
        if not names:
            return {}
        self._steps -= 1
        if self._steps < 0:
            raise _TooManyError
        for placement in self._placements[names[0]]:
            if fits(placement, free):
                left = {device: amount - placement.get(device, 0) for device, amount in free.items()}
                rest = self._place(names[1:], left)
                if rest is not None:
                    return {names[0]: tuple(placement)} | rest
        return None

    def grow(self, chosen: list[str], index: int) -> None:
        """Find every set that has `chosen`, and of the models from `index` on whatever fits, and cannot be larger."""
        whole = self.place(chosen + self.names[index:])
        if whole is not None:
            others = [name for name in self.names[:index] if name not in chosen]
            if all(self.place([*whole, name]) is None for name in others):
                self.found.append({name: whole[name] for name in self.names if name in whole})
            return
        if self.place([*chosen, self.names[index]]) is not None:
            self.grow([*chosen, self.names[index]], index + 1)
        self.grow(chosen, index + 1)


def together(placements: Placements, capacity: Mapping[str, int]) -> Company:
    """Which of the models fit together on devices of that `capacity`, given the ways to place each of them."""
    search = _Search(placements, capacity)
    complete = True
    try:
        search.grow([], 0)
    except _TooManyError:
        complete = False
    apart = []
    for one, other in combinations(placements, 2):
        if _Search(placements, capacity).place([one, other]) is None:
            apart.append((one, other))
    return Company(tuple(search.found), tuple(apart), complete)
