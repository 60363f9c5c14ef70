"""Whether memory is free: what the verify hook is asked for after a sleep hook has succeeded.

Pure; part of the core. Memory may come free later than the sleep hook ends, so a no is asked about again and again, for
as long as the verify hook's deadline allows. All that this room does is ask and judge the answers; what follows from
them is for `Switching`.
"""

from __future__ import annotations

import enum

from llmux.core.ledger import Ledger, Model, Purpose
from llmux.messages import Hook, HookEnded, Outcome


class Verdict(enum.Enum):
    """FREE: the memory is. HELD: it was not within the deadline. UNKNOWN: it is asked about again."""

    FREE = enum.auto()
    HELD = enum.auto()
    UNKNOWN = enum.auto()


class Verifying:
    """Asks verify hooks, one at a time for each model."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def begin(self, model: Model, now: float) -> None:
        """The sleep hook of `model` has just succeeded."""
        model.verify_began = now
        model.verify_asked = 0
        self.ask(model, now)

    def ask(self, model: Model, now: float) -> None:
        """Ask, for what is left of the deadline."""
        deadline = self._deadline(model)
        left = None if deadline is None else max(0.0, deadline - now)
        self._ledger.run_hook(model, Hook.VERIFY, Purpose.VERIFY, left)

    def verdict(self, model: Model, result: HookEnded, now: float) -> Verdict:
        """What an answer means. UNKNOWN sets a timer, after which `ask` is due."""
        if result.outcome is Outcome.OK:
            return Verdict.FREE
        if result.outcome in (Outcome.TIMEOUT, Outcome.CANCELLED):
            return Verdict.HELD
        settings, deadline = self._ledger.settings, self._deadline(model)
        pause = min(settings.verify_pause_base * 2.0 ** min(model.verify_asked, 30), settings.verify_pause_cap)
        model.verify_asked += 1
        if deadline is not None and now + pause >= deadline:
            return Verdict.HELD
        self._ledger.set_timer(f"verify:{model.name}", now + pause)
        return Verdict.UNKNOWN

    @staticmethod
    def _deadline(model: Model) -> float | None:
        timeout = model.spec.verify_timeout
        return None if timeout is None else model.verify_began + timeout
