"""What happened, told to operators: the driver's facts and the gateway's requests become metrics and log events.

May touch the metrics of its own application and the log, nothing else. It must never raise into those who tell it
things, never wait, and never make a series for a name that a client made up. `request_done` and `queue_waited` are
called for every request and do no more than a few look-ups.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from llmux import logs
from llmux.hooks import HookResult, Orphan
from llmux.messages import (
    NOT_EXECUTED,
    AbortRequests,
    DrainChanged,
    Effect,
    Hook,
    LastSleeps,
    ModelDied,
    ModelIdle,
    ModelLeftAwake,
    ModelRemoved,
    ModelStarved,
    ModelState,
    Outcome,
    PinChanged,
    PolicyFault,
    PreloadSkipped,
    ProbesEnded,
    Refusal,
    Reject,
    Released,
    Resumed,
    SleepFailed,
    StateChanged,
    SwitchDrained,
    SwitchEnded,
    SwitchStarted,
)
from llmux.snapshot import Snapshot, Usage
from llmux.telemetry.metrics import Metrics, gauges
from llmux.telemetry.series import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of what `Telemetry.render` gives."""

IDLE = "idle"
"""What 2.4.0 calls the absence of a model, in labels and log fields."""

STDERR_LIMIT = 2000
"""How much of the end of a failed hook's stderr is logged, in characters."""

log = logs.get_logger("llmux")


class Telemetry:
    """The metrics of one application. Each application has its own; there may be several in one process.

    `models` are all configured names. `request_timeout_secs` is only repeated in the log. `limits` are the names of the
    gateway's limits, `usage` says how far they are reached. `lost_place` says of a lost model which devices it may hold
    memory of, and in how many seconds it is looked at again; None: not before llmux is started anew.
    """

    def __init__(
        self,
        models: Iterable[str],
        *,
        request_timeout_secs: float | None = None,
        limits: Iterable[str] = (),
        usage: Callable[[], Usage] = Usage,
        lost_place: Callable[[str], tuple[Iterable[str], float | None]] = lambda model: ((), None),
    ) -> None:
        self._models = set(models)
        self._request_timeout_secs = request_timeout_secs
        self._usage = usage
        self._lost_place = lost_place
        self._metrics = Metrics(sorted(self._models))
        for limit in limits:
            self._metrics.limit_hits.increase(limit, by=0)
        self._durations: dict[tuple[str | None, int], Histogram] = {}
        self._waits = {model: self._metrics.queue_wait_seconds.of(model) for model in self._models}
        self._lost: set[str] = set()
        self._held: set[tuple[str, Hook]] = set()
        self.config_taken()
        self._facts: dict[type, Callable[[Any], None]] = {
            Reject: self._rejected,
            AbortRequests: self._requests_aborted,
            ProbesEnded: self._probes_ended,
            StateChanged: self._state_changed,
            SwitchStarted: self._switch_started,
            SwitchDrained: self._switch_drained,
            SwitchEnded: self._switch_ended,
            ModelLeftAwake: self._left_awake,
            ModelIdle: self._model_idle,
            PreloadSkipped: self._preload_skipped,
            SleepFailed: self._sleep_failed,
            ModelDied: self._model_died,
            ModelRemoved: self._model_removed,
            PolicyFault: self._policy_fault,
            ModelStarved: self._model_starved,
            Released: self._released,
            Resumed: self._resumed,
            DrainChanged: self._drain_changed,
            PinChanged: self._pin_changed,
            LastSleeps: self._last_sleeps,
        }

    # --- what the configuration says -----------------------------------------------------------------------------

    def reconfigure(self, models: Iterable[str], *, request_timeout_secs: float | None) -> None:
        """There are these models now. The series of those that are no more go once the driver says that they are
        gone; a model's that is new begin."""
        self._request_timeout_secs = request_timeout_secs
        for model in sorted(set(models) - self._models):
            self._models.add(model)
            self._metrics.add(model)
            self._waits[model] = self._metrics.queue_wait_seconds.of(model)

    def config_taken(self) -> None:
        """A configuration without a fault is in use."""
        self._metrics.reload_good.put(1)
        self._metrics.reloaded_at.put(time.time())

    def config_refused(self) -> None:
        """The configuration could not be read again; the old one is in use."""
        self._metrics.reload_good.put(0)

    def costs_known(self, pairs: Iterable[tuple[str | None, str, float]]) -> None:
        """What pairs of models cost to switch, in seconds, is known from an earlier run."""
        for from_model, to_model, seconds in pairs:
            self._metrics.switch_cost.put(seconds, from_model or IDLE, to_model)

    # --- what the gateway tells ----------------------------------------------------------------------------------

    def request_done(self, model: str | None, status: int, seconds_to_first_byte: float) -> None:
        """A request was answered with `status`. `model` is None, or any name at all, if none was found for it."""
        duration = self._durations.get((model, status))
        if duration is not None:
            duration.observe(seconds_to_first_byte)
        elif model in self._models:
            duration = self._metrics.request_seconds.of(model, _status(status))
            self._durations[model, status] = duration
            duration.observe(seconds_to_first_byte)
        else:
            self._metrics.unmatched.increase(_status(status))

    def queue_waited(self, model: str, seconds: float) -> None:
        """A request for `model`, a configured name, was granted `seconds` after it arrived."""
        self._waits[model].observe(seconds)

    def tokens_used(self, model: str, prompt: int, answer: int) -> None:
        """A response of `model`, a configured name or one that was, has taken so many tokens."""
        if model in self._models:
            counted = self._metrics.tokens.values  # both are there from the start: `Metrics.add`
            counted[model, "input"] += prompt
            counted[model, "output"] += answer

    def limit_hit(self, limit: str) -> None:
        """A limit of the gateway was reached; `limit` is one of the names that it was made with."""
        self._metrics.limit_hits.increase(limit)

    # --- what the driver tells -----------------------------------------------------------------------------------

    def fact(self, now: float, effect: Effect) -> None:
        """Something happened in the core. Whatever is not worth telling about is ignored, so all effects may come.

        `now` is what every listener of the driver is given; here the log has its own, wall-clock time.
        """
        tell = self._facts.get(type(effect))
        if tell is not None:
            tell(effect)

    def hook_ended(self, model: str, hook: Hook, result: HookResult) -> None:
        """A hook's run is over, or a canary's.

        The exit status of alive and verify hooks is an answer, not a failure: it is not counted as one, and logged at
        debug; unless it is a shell's word for a command that could not be executed, which is an answer to nothing.
        """
        self._metrics.hook_seconds.of(model, hook).observe(result.duration)
        fields: dict[str, Any] = {"model": model, "hook": str(hook), "duration_secs": result.duration}
        if result.outcome is Outcome.OK:
            if result.backend is not None:
                fields["backend"] = str(result.backend)
            tell = log.debug if hook is Hook.ALIVE else log.info
            tell("hook_completed", **fields)
            return
        if result.survivors:
            fields["survivors"] = result.survivors
        if result.outcome is Outcome.CANCELLED:
            log.info("hook_cancelled", **fields)
            return
        fields["outcome"] = str(result.outcome)
        fields["exit_code"] = -1 if result.exit_code is None else result.exit_code
        fields["detail"] = result.detail
        printed = result.output or result.stderr  # many a script gives its reason on stdout
        fields["stderr"] = printed.strip()[-STDERR_LIMIT:]
        answered = result.outcome is Outcome.FAILED and result.exit_code not in NOT_EXECUTED
        if answered and hook in (Hook.ALIVE, Hook.VERIFY):
            log.debug("hook_failed", **fields)
        else:
            self._metrics.hook_failures.increase(model, hook)
            log.warning("hook_failed", **fields)

    def hook_output(self, model: str, hook: Hook, line: str) -> None:
        """A hook, or a daemon that it left behind, wrote a line to either of its outputs."""
        log.debug("hook_output", model=model, hook=str(hook), line=line)

    def hook_left_running(self, orphan: Orphan) -> None:
        """A hook of a llmux that is no more was still running, and was ended."""
        log.warning(
            "hook_left_running",
            model=orphan.model,
            hook=str(orphan.hook),
            pid=orphan.pid,
            survivors=list(orphan.survivors),
            message="an earlier llmux was killed while this hook ran: it was ended, and its model may hold memory",
        )

    def hook_output_held(self, model: str, hook: Hook) -> None:
        """Somebody whom a hook left behind still holds the hook's output."""
        if (model, hook) not in self._held:  # once is enough: a model is woken again and again
            self._held.add((model, hook))
            log.warning(
                "hook_output_held",
                model=model,
                hook=str(hook),
                message="what this hook has started writes to llmux, and gets SIGPIPE once llmux has ended: let the "
                "hook start it with its output in a file, as in `setsid server >server.log 2>&1 </dev/null &`",
            )

    def hook_start_delayed(self, model: str, hook: Hook, reason: str) -> None:
        """The system has no room for a hook now; it is started as soon as there is."""
        log.error("hook_start_delayed", model=model, hook=str(hook), error=reason)

    # --- what an operator reads ----------------------------------------------------------------------------------

    def render(self, snapshot: Snapshot, *, tasks: int = 0) -> bytes:
        """All metrics in the Prometheus text format (`CONTENT_TYPE`); the gauges are those of `snapshot` and of what
        `usage` says.

        `tasks` is how many tasks the event loop has.

        Takes milliseconds where there are many models. It may run in a thread beside the loop that counts.
        """
        # The first scrape pays for prometheus-client's import (40 ms), not the start.
        from llmux.telemetry.exposition import exposition

        seen = gauges(snapshot, self._usage(), log_dropped=logs.dropped(), tasks=tasks)
        return exposition([*seen, *self._metrics.series()])

    # --- facts ---------------------------------------------------------------------------------------------------

    def _rejected(self, effect: Reject) -> None:
        if effect.model in self._models:
            self._metrics.rejected.increase(effect.model, effect.reason)
        if effect.reason is Refusal.WAIT_TIMEOUT:
            timeout = self._request_timeout_secs
            log.warning(
                "request_timeout", model=effect.model, timeout_secs=effect.waited if timeout is None else timeout
            )
        else:
            log.debug("request_rejected", model=effect.model, reason=str(effect.reason), detail=effect.detail)

    def _requests_aborted(self, effect: AbortRequests) -> None:
        count = len(effect.request_ids)
        self._metrics.aborted.increase(effect.model, by=count)
        log.warning("requests_aborted", model=effect.model, count=count, reason=effect.reason)

    def _probes_ended(self, effect: ProbesEnded) -> None:
        log.info("models_found", awake=", ".join(effect.found))

    def _state_changed(self, effect: StateChanged) -> None:
        fields = {"model": effect.model, "from": str(effect.old), "to": str(effect.new), "cause": effect.cause}
        if effect.new is ModelState.LOST:
            self._lost.add(effect.model)
            devices, look_at = self._lost_place(effect.model)
            log.error("model_lost", **fields, devices=", ".join(devices), next_look_secs=look_at)
        elif effect.model in self._lost and effect.new is not ModelState.SLEEPING:
            self._lost.discard(effect.model)
            log.info("model_found_again", **fields)
        else:
            log.debug("state_changed", **fields)

    def _switch_started(self, effect: SwitchStarted) -> None:
        log.info("switch_started", **{"from": effect.from_model or IDLE, "to": effect.to_model, "cause": effect.cause})

    def _switch_drained(self, effect: SwitchDrained) -> None:
        self._metrics.drain_seconds.of(effect.from_model, effect.to_model).observe(effect.duration)

    def _switch_ended(self, effect: SwitchEnded) -> None:
        from_model = effect.from_model or IDLE
        fields = {"model": effect.to_model, "from": from_model}
        self._metrics.switches.increase(from_model, effect.to_model, effect.result)
        match effect.result:
            case "success":
                self._metrics.switch_seconds.of(from_model, effect.to_model).observe(effect.duration)
                if effect.cost is not None:
                    self._metrics.switch_cost.put(effect.cost, from_model, effect.to_model)
                log.info(
                    "model_activated",
                    **fields,
                    duration_secs=effect.duration,
                    sleep_secs=effect.sleep,
                    wake_secs=effect.wake,
                )
            case "cancelled":
                log.info("switch_cancelled", **fields, detail=effect.detail)
            case _:
                log.error("switch_failed", **fields, error=effect.detail)

    def _left_awake(self, effect: ModelLeftAwake) -> None:
        self._metrics.active_seconds.of(effect.model).observe(effect.duration)

    def _model_idle(self, effect: ModelIdle) -> None:
        self._metrics.idle_sleeps.increase(effect.model)
        log.info("model_idle", model=effect.model, idle_secs=effect.duration)

    def _preload_skipped(self, effect: PreloadSkipped) -> None:
        log.warning("preload_skipped", model=effect.model, error=effect.detail)

    def _sleep_failed(self, effect: SleepFailed) -> None:
        log.error(
            "sleep_hook_failed", model=effect.model, to=effect.to_model or IDLE, error=effect.detail, lost=effect.lost
        )

    def _model_died(self, effect: ModelDied) -> None:
        self._metrics.deaths.increase(effect.model)
        log.error("model_died", model=effect.model, error=effect.detail)

    def _model_removed(self, effect: ModelRemoved) -> None:
        self._models.discard(effect.model)
        self._lost.discard(effect.model)
        self._waits.pop(effect.model, None)
        for key in [key for key in self._durations if key[0] == effect.model]:
            del self._durations[key]
        self._metrics.forget(effect.model)
        log.info("model_removed", model=effect.model)

    def _released(self, effect: Released) -> None:
        log.warning("released", requests="refused" if effect.refuse else "held")

    def _resumed(self, effect: Resumed) -> None:
        log.info("resumed")

    def _drain_changed(self, effect: DrainChanged) -> None:
        if effect.drained:
            log.info("drain_ordered", model=effect.model)
        else:
            log.info("drain_lifted", model=effect.model)

    def _pin_changed(self, effect: PinChanged) -> None:
        if effect.pinned:
            log.info("model_pinned", model=effect.model)
        else:
            log.info("model_unpinned", model=effect.model)

    def _last_sleeps(self, effect: LastSleeps) -> None:
        log.info("exit_sleeps", models=", ".join(effect.models), at_most_secs=effect.within)

    def _policy_fault(self, effect: PolicyFault) -> None:
        self._metrics.policy_faults.increase()
        log.error("policy_fault", policy=effect.policy, error=effect.detail)

    def _model_starved(self, effect: ModelStarved) -> None:
        log.error("model_starved", policy=effect.policy, model=effect.model, waited_secs=round(effect.waited, 3))


def _status(status: int) -> str:
    """A backend may answer with any three digits; those that HTTP has no class for share one series."""
    return str(status) if 100 <= status <= 599 else "other"
