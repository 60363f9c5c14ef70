"""llama-swap's groups as devices of llmux: places that stand for who may run beside whom.

Pure. In llama-swap a model that is loaded unloads others; in llmux models are awake together if their needs fit. So
each device here is a place with room for a few units, and two models that llama-swap never lets run together need more
of some place than it has. What that cannot say: in llama-swap a model may unload another one which may then be loaded
beside it (`one_way`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

DEFAULT = "(default)"
"""llama-swap's own name for the group of all models that are in none."""


@dataclass(frozen=True, slots=True)
class Group:
    """Models, and llama-swap's rules for them: `swap`, one of them runs at a time; `exclusive`, loading one of them
    unloads all other groups; `persistent`, but never this one."""

    name: str
    members: tuple[str, ...]
    swap: bool = True
    exclusive: bool = True
    persistent: bool = False

    @property
    def alone(self) -> bool:
        """Whether its members never run beside those of another such group."""
        return self.exclusive and not self.persistent

    @property
    def together(self) -> bool:
        """Whether members run beside each other."""
        return not self.swap and len(self.members) > 1


@dataclass(frozen=True, slots=True)
class Places:
    """`devices` is None where one model runs at a time, as it does without any. `needs` has every model then, and
    `pinned` those that nothing ever unloads."""

    devices: dict[str, int] | None
    needs: dict[str, dict[str, int]]
    pinned: tuple[str, ...]


def read_groups(data: Any, models: Iterable[str]) -> list[Group]:
    """The groups of a file, and one more with the models that are in none.

    Raises:
        ValueError: they are none that llama-swap would take.
    """
    free = dict.fromkeys(models)
    groups = []
    for name, given in (data if isinstance(data, dict) else {}).items():
        group = given if isinstance(given, dict) else {}
        members = tuple(map(str, group.get("members") or ()))
        for member in members:
            if member not in free:
                raise ValueError(f"groups.{name}: {member!r} is no model, or is in two groups")
            del free[member]
        groups.append(
            Group(
                str(name),
                members,
                swap=group.get("swap") is not False,
                exclusive=group.get("exclusive") is not False,
                persistent=group.get("persistent") is True,
            )
        )
    return [*groups, *([Group(DEFAULT, tuple(free))] if free else [])]


def unloads(loaded: Group, other: Group) -> bool:
    """Does llama-swap unload the models of the group `other` when it loads one of `loaded`?"""
    return loaded.exclusive and not other.persistent


def left_awake(order: Iterable[str], groups: Iterable[Group]) -> list[str]:
    """The models that run in the end if llama-swap loads them in this order."""
    group_of = {member: group for group in groups for member in group.members}
    awake: list[str] = []
    for model in order:
        group = group_of[model]
        awake = [
            other
            for other in awake
            if other != model and (not group.swap if group_of[other] is group else not unloads(group, group_of[other]))
        ]
        awake.append(model)
    return awake


def one_way(groups: Iterable[Group]) -> Iterator[tuple[Group, Group]]:
    """Groups of which the first unloads the second, although the second may be loaded beside the first."""
    for first, second in permutations(groups, 2):
        if unloads(first, second) and not unloads(second, first):
            yield first, second


def places(groups: list[Group], sleepers: Mapping[str, bool]) -> Places:
    """Devices and needs with which the same models run together. `sleepers` tells which sleep when they are idle: those
    cannot be pinned, which would keep them awake then, too."""
    models = [member for group in groups for member in group.members]
    alone = [group for group in groups if group.alone]
    free = [group for group in groups if not group.alone]
    together = sorted((group for group in alone if group.together), key=lambda group: -len(group.members))
    if len(models) == 1 or not (free or together):
        return Places(None, {}, ())
    names = _Names()
    devices: dict[str, int] = {}
    needs: dict[str, dict[str, int]] = {model: {} for model in models}
    if alone:
        _share(alone, together, names, devices, needs)
    for group in free:
        if group.swap and len(group.members) > 1:
            place = names.new(group.name)
            devices[place] = 1
            for member in group.members:
                needs[member][place] = 1
    if not devices:  # nobody is in anybody's way; llmux wants a device all the same
        devices[names.new("place")] = 1
    pinned = [
        member
        for group in free
        if group.persistent and (group.together or len(group.members) == 1)
        for member in group.members
        if not sleepers[member]
    ]
    return Places(devices, needs, tuple(pinned))


def _share(
    alone: list[Group], together: list[Group], names: _Names, devices: dict[str, int], needs: dict[str, dict[str, int]]
) -> None:
    """Places for groups of which one runs at a time.

    The members of the largest group that run together take a unit each of one place that has as many, and everybody
    else all of it. That leaves the members of the other such groups: each has a place of its own to itself, of which
    everybody takes something but those whom it runs with.
    """
    largest = together[0] if together else None
    room = len(largest.members) if largest else 1
    main = names.new("place")
    devices[main] = room
    own = {member: names.new(f"place-{member}") for group in together[1:] for member in group.members}
    devices |= dict.fromkeys(own.values(), room)
    for group in alone:
        for member in group.members:
            if not group.together:
                needs[member] = dict.fromkeys([main, *own.values()], room)
                continue
            others = {place: 1 for owner, place in own.items() if owner not in group.members}
            mine = {main: 1} if group is largest else {own[member]: room}
            needs[member] = others | mine


class _Names:
    """Names of devices, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def new(self, wanted: str) -> str:
        name = base = re.sub(r"[^A-Za-z0-9_.:-]+", "-", wanted).strip("-") or "place"
        number = 1
        while name in self._given:
            number += 1
            name = f"{base}-{number}"
        self._given.add(name)
        return name
