"""Break-even: keep serving while letting one more request in costs the others less than turning it away costs it."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from llmux.policy.base import Decision, ModelView, Stay, View
from llmux.policy.bounded import BoundedPolicy, Candidate, drain_time, service_time

#: How the worth of a running batch grows with it. Tuned; 1 is what exponential service times would give.
_BATCH_EXPONENT = 1.4

#: Requests per second that every model is taken to get besides those that were counted, so that a model which gets
#: next to none does not count for ever so much: one per window of the measured rates.
_SELDOM = 1 / 300

#: Up to this ratio of their rates, a second of waiting counts the same for two models; beyond it, for the rarer one,
#: more by the excess to this power. Tuned, on two models: without it the rarer one's requests would wait three times as
#: long as under fifo where it is asked for a twentieth as often, and everybody together next to nothing less.
_ALIKE = 4.0
_RARE_EXPONENT = 1.1

#: How often a model that lingers is looked at again, in parts of an absence.
_LOOKS_PER_ABSENCE = 4


class BreakEvenPolicy(BoundedPolicy):
    """Weighs, for the awake model i with f requests in flight, and the best waiting model j:

    - one more request lengthens the stay of i by about s(i) / (f + 1), as it is served together with the f others, and
      each of the W requests that i keeps out waits that much longer;
    - turned away, it waits for one absence of i: O(i, j) = C(i, j) + C(j, i) + s(i) + s(j), or longer: i is back soon
      if it is in more demand than j, and later if in less. So each of the W counts r ** 0.25 * sqrt(w(r)), where r is
      λ(i) / λ(its model).

    i stops taking requests, drains and gives way when W * s(i) >= patience * O(i, j) * (f + 1) ** 1.4. The exponent is
    tuned: 1 is the exact cost for exponential service times, more of it values a large batch, which takes long to
    gather again.

    w(r) is what a second of waiting for the rarer of two models counts, against one for the other: 1 up to four times
    the demand, then (r / 4) ** 1.1, and 1 / w(1 / r) seen from the rarer one. With w = 1, where everybody counts alike,
    the rule stays near the best policy for two models (`bench/optimum.py`), which weighs by the fourth root too.

    An idle model gives way too, unless both are in demand, when it lingers for more to come together for j: until
    n(j) + λ(j) * C(i, j) >= linger * (C(i, j) + C(j, i)) * sqrt(λ(i) * λ(j) / w(r)). Where many requests come per
    switch, the rarer model should be away for L = (C(i, j) + C(j, i)) * sqrt(λ(i) / (w * λ(j))), as in the economic
    order quantity (Harris 1913): switches cost λ(i) * (C(i, j) + C(j, i)) ** 2 / 2 of waiting per L, and j's requests
    wait for w * λ(j) * L / 2 at any time. Until then λ(j) * L of them come together.

    The best j has the largest sqrt(H(j) * n(j)) / (0.5 + C(i, j) + drain(j)): waiting accumulated, and people helped,
    per second that it takes. s, C, drain and λ (requests per second) are measured; n waits, H is their waiting in
    request-seconds. O(waiting models) per decision.

    Args:
        max_wait_secs: see `llmux.policy.bounded`.
        patience: the more of it, the longer a busy model stays.
        linger: the more of it, the longer an idle model does; 0 never lingers.

    Raises:
        ValueError: an argument is negative.
    """

    name = "break-even"

    #: More than others have: it leaves by itself when enough are kept out. With fewer, the mean wait is longer where
    #: one model is asked for much more than the other; with more, nobody waits less.
    tours = 6.0

    def __init__(self, max_wait_secs: float | None = None, patience: float = 0.75, linger: float = 1.0) -> None:
        super().__init__(max_wait_secs)
        if not (patience >= 0 and linger >= 0):
            raise ValueError(f"patience and linger must be at least 0, not {patience} and {linger}")
        self.patience = patience
        self.linger = linger
        # The last time that everybody stayed: until when, for whom, in what states, and per victim the least absence
        # that it would have cost it, less its own service time.
        self._quiet_until = float("-inf")
        self._quiet_for: tuple[object, ...] = ()
        self._rests: dict[str, float] = {}

    def decide(self, view: View, now: float) -> Decision:
        # Most events change little while a busy model stays: then the answer is the last one, and no plans are needed.
        waiting = view.waiting()
        situation = (*[model.state for model in view.models()], *[model.name for model in waiting])
        if now < self._quiet_until and situation == self._quiet_for:
            for name, rest in self._rests.items():
                victim = view.model(name)
                service = service_time(victim)
                if not victim.in_flight:
                    break
                if _pressure(victim, waiting, now) * service >= self._worth(victim, rest + service):
                    break
            else:
                return Stay(self._quiet_until)
        self._rests.clear()
        decision = super().decide(view, now)
        self._quiet_until = float("-inf")
        if isinstance(decision, Stay) and decision.recheck_at is not None and self._rests and not self.held_back:
            self._quiet_until, self._quiet_for = decision.recheck_at, situation
        return decision

    def _worth(self, victim: ModelView, absence: float) -> float:
        """What the requests that `victim` has in flight weigh, in request-seconds."""
        batch: float = (victim.in_flight + 1) ** _BATCH_EXPONENT
        return self.patience * absence * batch

    def choose(self, view: View, candidates: Sequence[Candidate], now: float) -> Candidate | float:
        kept_out: dict[str, list[ModelView]] = {}
        for candidate in candidates:
            for victim in candidate.victims:
                kept_out.setdefault(victim.name, []).append(candidate.model)
        if len(candidates) > 1:
            candidates = sorted(candidates, key=lambda candidate: self._merit(view, candidate, now), reverse=True)
        absences: list[list[float]] = []
        for candidate in candidates:
            absences.append([])
            for victim in candidate.victims:
                absence = self._absence(view, victim, candidate.model)
                absences[-1].append(absence)
                rest = absence - service_time(victim)
                self._rests[victim.name] = min(rest, self._rests.get(victim.name, rest))
        staying: set[str] = set()
        recheck = float("inf")
        for candidate, its_absences in zip(candidates, absences, strict=True):
            if staying and any(victim.name in staying for victim in candidate.victims):
                continue  # it stays for the best of those that want its room, so also for the others
            for victim, absence in zip(candidate.victims, its_absences, strict=True):
                again = self._stays(view, victim, candidate.model, absence, kept_out[victim.name], now)
                if again is not None:
                    staying.add(victim.name)
                    recheck = min(recheck, again)
                    break
            else:
                return candidate
        return recheck

    def _merit(self, view: View, candidate: Candidate, now: float) -> float:
        model = candidate.model
        cost = max([view.expected_cost(victim.name, model.name) for victim in candidate.victims])
        demand = sqrt(max(0.0, model.accumulated_wait(now)) * model.waiting)
        return demand / (0.5 + cost + drain_time(view, model))

    def _stays(
        self, view: View, victim: ModelView, target: ModelView, absence: float, kept_out: list[ModelView], now: float
    ) -> float | None:
        """None if `victim` should give way to `target`; else when to ask again."""
        if victim.in_flight:
            pressure = _pressure(victim, kept_out, now) * service_time(victim)
            return None if pressure >= self._worth(victim, absence) else float("inf")
        coming, missed = target.arrival_rate(now), victim.arrival_rate(now)
        there, back = view.expected_cost(victim.name, target.name), view.expected_cost(target.name, victim.name)
        ratio = (missed + _SELDOM) / (coming + _SELDOM)
        gathered = self.linger * (there + back) * sqrt(missed * coming / _rare(ratio))
        if target.waiting + coming * there >= gathered:
            return None
        return now + absence / _LOOKS_PER_ABSENCE

    def _absence(self, view: View, victim: ModelView, target: ModelView) -> float:
        there, back = view.expected_cost(victim.name, target.name), view.expected_cost(target.name, victim.name)
        return there + back + service_time(victim) + service_time(target)


def _pressure(victim: ModelView, kept_out: Sequence[ModelView], now: float) -> float:
    """The requests that `victim` keeps out, each counted the more the seldomer its model is asked for."""
    rate = victim.arrival_rate(now) + _SELDOM
    pressure = 0.0
    for model in kept_out:
        ratio = rate / (model.arrival_rate(now) + _SELDOM)
        pressure += model.waiting * sqrt(sqrt(ratio) * _rare(ratio))
    return pressure


def _rare(ratio: float) -> float:
    """What a second of waiting for a model counts to one that is asked for `ratio` times as often."""
    if ratio > _ALIKE:
        return float((ratio / _ALIKE) ** _RARE_EXPONENT)
    if ratio < 1 / _ALIKE:
        return float((ratio * _ALIKE) ** _RARE_EXPONENT)
    return 1.0
