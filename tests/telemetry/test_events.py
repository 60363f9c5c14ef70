"""Log events: the contract's names and fields, at levels that let an operator sleep."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmux import logs
from llmux.hooks import HookResult
from llmux.messages import (
    AbortRequests,
    DrainChanged,
    Effect,
    Hook,
    LastSleeps,
    ModelDied,
    ModelIdle,
    ModelStarved,
    ModelState,
    Outcome,
    PinChanged,
    PolicyFault,
    PreloadSkipped,
    Refusal,
    Reject,
    Released,
    Resumed,
    SleepFailed,
    StateChanged,
    SwitchEnded,
    SwitchStarted,
)
from llmux.telemetry import Telemetry

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def events() -> Iterator[Read]:
    """All that was logged so far, at any level."""
    stream = io.StringIO()
    logs.configure(level=10, fmt="json", stream=stream)

    def read() -> list[dict[str, Any]]:
        logs.flush()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield read
    logs.shutdown()


FACTS: list[tuple[Effect, str, str, dict[str, Any]]] = [
    (SwitchStarted(1, None, "a", (), ("d",)), "info", "switch_started", {"from": "idle", "to": "a", "cause": "demand"}),
    (
        SwitchStarted(2, "a", "b", ("a",), ("d",), "preload"),
        "info",
        "switch_started",
        {"from": "a", "to": "b", "cause": "preload"},
    ),
    (ModelIdle("a", 60.5), "info", "model_idle", {"model": "a", "idle_secs": 60.5}),
    (PreloadSkipped("a", "no room"), "warning", "preload_skipped", {"model": "a", "error": "no room"}),
    (
        SwitchEnded(1, None, "a", "success", duration=2.5, sleep=0.0, wake=2.0, cost=2.0),
        "info",
        "model_activated",
        {"model": "a", "from": "idle", "duration_secs": 2.5},
    ),
    (
        SwitchEnded(2, "a", "b", "failure", duration=2.5, sleep=0.0, wake=2.0, detail="exit code 1"),
        "error",
        "switch_failed",
        {"model": "b", "from": "a", "error": "exit code 1"},
    ),
    (
        SwitchEnded(3, "a", "b", "cancelled", duration=0.5, sleep=0.0, wake=0.0, detail="nobody waits"),
        "info",
        "switch_cancelled",
        {"model": "b", "from": "a", "detail": "nobody waits"},
    ),
    (
        SleepFailed("a", "b", "exit code 2", lost=True),
        "error",
        "sleep_hook_failed",
        {"model": "a", "to": "b", "error": "exit code 2", "lost": True},
    ),
    (SleepFailed("a", None, "hung", lost=False), "error", "sleep_hook_failed", {"model": "a", "to": "idle"}),
    (
        Reject(1, "a", Refusal.WAIT_TIMEOUT, "", waited=30.001),
        "warning",
        "request_timeout",
        {"model": "a", "timeout_secs": 30.0},
    ),
    (
        Reject(1, "a", Refusal.QUEUE_FULL, "", waited=0.0),
        "debug",
        "request_rejected",
        {"model": "a", "reason": "queue_full"},
    ),
    (AbortRequests("a", (1, 2), "drain"), "warning", "requests_aborted", {"model": "a", "count": 2, "reason": "drain"}),
    (ModelDied("a", "exit code 7"), "error", "model_died", {"model": "a", "error": "exit code 7"}),
    (Released(False), "warning", "released", {"requests": "held"}),
    (Released(True), "warning", "released", {"requests": "refused"}),
    (Resumed(), "info", "resumed", {}),
    (DrainChanged("a", True), "info", "drain_ordered", {"model": "a"}),
    (DrainChanged("a", False), "info", "drain_lifted", {"model": "a"}),
    (PinChanged("a", True), "info", "model_pinned", {"model": "a"}),
    (PinChanged("a", False), "info", "model_unpinned", {"model": "a"}),
    (PolicyFault("mine", "raised"), "error", "policy_fault", {"policy": "mine", "error": "raised"}),
    (
        ModelStarved("mine", "a", 700.25),
        "error",
        "model_starved",
        {"policy": "mine", "model": "a", "waited_secs": 700.25},
    ),
    (
        StateChanged("a", ModelState.ASLEEP, ModelState.WAKING, "wanted"),
        "debug",
        "state_changed",
        {"model": "a", "from": "asleep", "to": "waking", "cause": "wanted"},
    ),
    (
        StateChanged("a", ModelState.SLEEPING, ModelState.LOST, "sleep failed"),
        "error",
        "model_lost",
        {"model": "a", "cause": "sleep failed"},
    ),
    (LastSleeps(("a", "b"), 120.0), "info", "exit_sleeps", {"models": "a, b", "at_most_secs": 120.0}),
]


@pytest.mark.parametrize(("fact", "level", "name", "fields"), FACTS)
def test_facts(events: Read, fact: Effect, level: str, name: str, fields: dict[str, Any]) -> None:
    Telemetry(["a", "b"], request_timeout_secs=30.0).fact(0.0, fact)
    (event,) = events()
    assert event["event"] == name
    assert event["level"] == level
    assert fields.items() <= event.items()


def test_a_lost_model_is_told_of_with_its_place_and_the_time_of_the_next_look(events: Read) -> None:
    telemetry = Telemetry(["a"], lost_place=lambda model: (("gpu0", "gpu1"), 9.5))
    telemetry.fact(0.0, StateChanged("a", ModelState.SLEEPING, ModelState.LOST, "sleep failed"))
    (event,) = events()
    assert (event["devices"], event["next_look_secs"]) == ("gpu0, gpu1", 9.5)


def test_the_timeout_is_what_was_waited_where_none_is_configured(events: Read) -> None:
    Telemetry(["a"]).fact(0.0, Reject(1, "a", Refusal.WAIT_TIMEOUT, "", waited=12.5))
    assert events()[0]["timeout_secs"] == 12.5


HOOKS: list[tuple[Hook, HookResult, str, str, dict[str, Any]]] = [
    (Hook.WAKE, HookResult(Outcome.OK, 1.5, exit_code=0), "info", "hook_completed", {}),
    (Hook.ALIVE, HookResult(Outcome.OK, 1.5, exit_code=0), "debug", "hook_completed", {}),
    (Hook.ALIVE, HookResult(Outcome.FAILED, 1.5, exit_code=1), "debug", "hook_failed", {"exit_code": 1}),
    (
        Hook.SLEEP,
        HookResult(Outcome.FAILED, 1.5, exit_code=3, stderr="boom\n"),
        "warning",
        "hook_failed",
        {"exit_code": 3, "stderr": "boom", "outcome": "failed"},
    ),
    (
        Hook.SLEEP,
        HookResult(Outcome.TIMEOUT, 1.5, exit_code=None, survivors=(41, 42), detail="ended by force"),
        "warning",
        "hook_failed",
        {"exit_code": -1, "outcome": "timeout", "survivors": [41, 42], "detail": "ended by force"},
    ),
    (Hook.WAKE, HookResult(Outcome.CANCELLED, 1.5), "info", "hook_cancelled", {}),
]


@pytest.mark.parametrize(("hook", "result", "level", "name", "fields"), HOOKS)
def test_hooks(events: Read, hook: Hook, result: HookResult, level: str, name: str, fields: dict[str, Any]) -> None:
    Telemetry(["a"]).hook_ended("a", hook, result)
    (event,) = events()
    assert event["event"] == name
    assert event["level"] == level
    assert {"model": "a", "hook": hook.value, "duration_secs": 1.5, **fields}.items() <= event.items()


def test_of_a_long_stderr_the_end_is_kept(events: Read) -> None:
    result = HookResult(Outcome.FAILED, 1.0, exit_code=1, stderr="x" * 50_000 + "CUDA out of memory\n")
    Telemetry(["a"]).hook_ended("a", Hook.WAKE, result)
    stderr = events()[0]["stderr"]
    assert stderr.endswith("CUDA out of memory")
    assert len(stderr) <= 2000


@pytest.mark.fault(39)
def test_who_holds_a_hooks_output_is_told_of_once(events: Read) -> None:
    telemetry = Telemetry(["a", "b"])
    for model in ("a", "a", "b", "a"):
        telemetry.hook_output_held(model, Hook.WAKE)
    told = events()
    assert [(event["event"], event["level"], event["model"]) for event in told] == [
        ("hook_output_held", "warning", "a"),
        ("hook_output_held", "warning", "b"),
    ]


def test_hook_output_is_for_debugging(events: Read) -> None:
    Telemetry(["a"]).hook_output("a", Hook.WAKE, "loading weights")
    (event,) = events()
    assert (event["event"], event["level"], event["line"]) == ("hook_output", "debug", "loading weights")
