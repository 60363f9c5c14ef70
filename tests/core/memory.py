"""Who really holds which memory, by what hooks have done; the core's own books are not asked.

The core only knows devices by their names. Here a device stays the same one when it is renamed, and what was taken of
it stays taken, whatever a configuration says since, until a hook has freed it.
"""

from __future__ import annotations

from llmux.core import IMPLICIT_DEVICE, CoreSettings
from llmux.messages import Hook, Outcome, RunHook


class Memory:
    """The memory of a machine that `settings` describe. A wake that does not fit fails the test."""

    def __init__(self, settings: CoreSettings) -> None:
        self.held: dict[str, dict[str, int]] = {}
        self._settings = settings
        self._specs = {spec.name: spec for spec in settings.models}

    def configured(self, settings: CoreSettings) -> None:
        """The file says this now. Who holds memory holds it on: by another name, where devices were not named before,
        or are not any more."""
        before, self._settings = self._settings, settings
        self._specs |= {spec.name: spec for spec in settings.models}
        configured = {spec.name for spec in settings.models}
        if IMPLICIT_DEVICE in settings.devices and IMPLICIT_DEVICE not in before.devices:
            self.held = {m: {IMPLICIT_DEVICE: 1} if any(h.values()) else {} for m, h in self.held.items()}
        elif IMPLICIT_DEVICE in before.devices and IMPLICIT_DEVICE not in settings.devices:
            for model, held in self.held.items():
                if any(held.values()):  # one that was removed may be anywhere
                    placements = self._specs[model].placements
                    self.held[model] = dict(placements[0] if model in configured else settings.devices)

    def renamed(self, old: str, new: str) -> None:
        """To be said before the configuration that does it."""
        for held in self.held.values():
            if old in held:
                held[new] = held.pop(old)

    def begins(self, run: RunHook) -> None:
        """A hook begins: a wake takes what it needs at once."""
        if run.hook is not Hook.WAKE:
            return
        before = self.held.get(run.model)
        # One that begins as the configuration changes may be placed by the old one.
        ways = [placement for placement in self._specs[run.model].placements if placement.keys() == set(run.devices)]
        takes = dict(ways[0]) if ways else dict(before or {})
        if before is not None:
            used = {device for device, amount in before.items() if amount}
            assert used <= set(run.devices), f"{run.model} is woken on {run.devices} while it holds {before}"
            takes = {device: max(amount, before.get(device, 0)) for device, amount in takes.items()}
        self.held[run.model] = takes
        for device, amount in takes.items():
            total = sum(held.get(device, 0) for held in self.held.values())
            assert not amount or total <= self._settings.devices[device], (
                f"out of memory: {run.model} is woken on {device}, and it is held as {self.held}"
            )

    def ended(self, run: RunHook, outcome: Outcome, *, says_no: bool, asleep: bool) -> None:
        """A hook has ended. `says_no`: it was executed, and exited with something else than 0. `asleep`: its model is
        on its way there, or nobody knows."""
        model, ok = run.model, outcome is Outcome.OK
        if run.hook is Hook.ALIVE and not says_no:
            spec = self._specs[model]
            self.held.setdefault(model, dict(spec.placements[0]))  # it was there before llmux
        elif asleep and ok and (run.hook is Hook.VERIFY or (run.hook is Hook.SLEEP and not self._specs[model].verify)):
            self.freed(model)

    def freed(self, model: str) -> None:
        self.held.pop(model, None)
