"""Asks the policy, and goes by what it says only if that can be done.

Pure; part of the core. A policy may be a third party's code: whatever it raises or returns must neither stop the
scheduler nor be passed over in silence. What cannot be done is a fault: it is told, and fifo decides in its place. To
keep somebody waiting can always be done, so that is the policy's business, and is told where it goes on for very long.
"""

from __future__ import annotations

from numbers import Real

from llmux.core.ledger import Ledger
from llmux.core.planning import Planner
from llmux.messages import ModelStarved, PolicyFault
from llmux.policy.base import Blocked, Plan, Stay, SwitchPolicy, SwitchTo, waiting_since
from llmux.policy.fifo import FifoPolicy

#: Sooner than this, in seconds, is at once; a policy may ask for that so many times in a row.
_AT_ONCE = 1e-3
_MOST_AT_ONCE = 1000

#: Somebody has waited for too long after the policy's stated limit, or this many seconds where it states none, and then
#: at least this many more, or so many times what switching to every model takes. No built-in policy comes near it.
_UNSTATED = 600.0
_LEAST_MARGIN = 60.0
_TOURS = 10.0

#: Whether anybody has is looked at again after that many seconds.
_LOOK_AGAIN = 30.0


class Counsel:
    """Between the core and its policy.

    Args:
        ledger: the books.
        planner: over these books; the policy's view.
        policy: see `replaced`.
    """

    def __init__(self, ledger: Ledger, planner: Planner, policy: SwitchPolicy) -> None:
        self.policy = policy
        self._ledger = ledger
        self._planner = planner
        self._fallback = FifoPolicy()
        self._fault = ""
        self._woken_at = float("-inf")  # when the policy was last asked because it wanted to be
        self._at_once = 0  # how many times in a row that was at once
        self.starved = False  # whether it was told that somebody waits for too long
        self._look_at = float("-inf")  # when to look whether somebody does

    def replaced(self, policy: SwitchPolicy) -> None:
        """Ask `policy` from now on, of which nothing is known yet."""
        self.policy = policy
        self._fault = ""
        self._at_once = 0
        self.starved = False

    def woken(self, now: float) -> None:
        """The time has come at which the policy wanted to be asked again."""
        self._at_once = self._at_once + 1 if now - self._woken_at < _AT_ONCE else 0
        self._woken_at = now

    def ask(self, now: float) -> Plan | None:
        """A switch to begin now. None to begin none; then the time to ask again, if there is one, is arranged."""
        try:
            decision = self._checked(self.policy.decide(self._planner, now), now)
        except KeyboardInterrupt:
            raise  # a person's, who wants a simulation to end; a live llmux gets signals instead
        except BaseException as error:  # a policy's own SystemExit, say, is no reason to exit
            self._tell(error)
            decision = self._checked(self._fallback.decide(self._planner, now), now)
        if isinstance(decision, Plan):
            return decision
        if not self.starved and (now >= self._look_at or decision is None):
            decision = self._look(decision, now)
        if decision is not None:
            self._ledger.set_timer("recheck", decision)
        return None

    def _tell(self, error: BaseException) -> None:
        fault = f"{type(error).__name__}: {error}"
        if fault != self._fault:
            self._fault = fault
            self._ledger.out.append(PolicyFault(self.policy.name, fault))

    def _checked(self, decision: object, now: float) -> Plan | float | None:
        """A plan that can begin now, or the time to ask again; None if only an event can change the answer.

        What it raises says nothing of the present time, so that the same fault is the same text.
        """
        if isinstance(decision, Stay):
            return self._checked_time(decision.recheck_at, now)
        if not isinstance(decision, SwitchTo):
            raise TypeError(f"a policy returns Stay or SwitchTo, not {decision!r}")
        if decision.model not in self._ledger.models:
            raise ValueError(f"there is no model {decision.model!r}")
        if decision.model not in self._ledger.waiting_models:
            raise ValueError(f"nobody waits for {decision.model}")
        if decision.plan is not None:
            if decision.plan.model != decision.model or not self._planner.sound(decision.plan):
                raise ValueError(f"the plan for {decision.model} cannot begin now: {decision.plan}")
            return decision.plan
        plan = self._planner.plan(decision.model)
        if isinstance(plan, Blocked):
            raise ValueError(f"a switch to {decision.model} cannot begin now")
        return plan

    def _checked_time(self, at: object, now: float) -> float | None:
        if at is None:
            return None
        if not isinstance(at, float):
            if not isinstance(at, Real):
                raise TypeError(f"recheck_at of Stay is a time in seconds or None, not {at!r}")
            at = float(at)
        if not at > now:
            raise ValueError(f"recheck_at of Stay must be later than now{'' if at == at else ', and is NaN'}")
        if at - now < _AT_ONCE and self._at_once >= _MOST_AT_ONCE:
            raise ValueError("recheck_at of Stay is now or next to it, time and again")
        return at if at < float("inf") else None

    def _look(self, recheck: float | None, now: float) -> float | None:
        """Tell, once, if the policy keeps somebody waiting for far too long without need. Gives `recheck`; or, where
        nothing need happen before, the time to look again."""
        self._look_at = now + _LOOK_AGAIN
        waiting = self._planner.waiting()
        if not waiting or (recheck is None and self._ledger.switches):
            return recheck
        model = min(waiting, key=waiting_since)
        stated = getattr(self.policy, "max_wait_secs", None)
        due_at = waiting_since(model) + (stated if isinstance(stated, int | float) and stated >= 0 else _UNSTATED)
        if recheck is not None and now < due_at + _LEAST_MARGIN:
            return recheck  # nearly always, and more need not be known
        due_at += max(_LEAST_MARGIN, _TOURS * self._tour())
        if now < due_at:
            later = recheck is not None or isinstance(self._planner.plan(model.name), Blocked)
            return recheck if later else due_at
        if isinstance(self._planner.plan(model.name), Plan):
            self.starved = True
            self._ledger.out.append(ModelStarved(self.policy.name, model.name, now - waiting_since(model)))
        return recheck

    def _tour(self) -> float:
        """Seconds to switch to every model, as measured now."""
        costs, tour = self._ledger.costs, 0.0
        for name, model in self._ledger.models.items():
            drain = costs.drain(name)
            tour += costs.expected_sleep(name) + costs.expected_wake(name) + self._ledger.settings.min_active
            tour += drain if drain is not None else (model.service_time or 0.0)
        return tour
