"""Metrics: the contract's names and labels, what each fact does to them, and what clients cannot do to them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmux.hooks import HookResult
from llmux.messages import (
    AbortRequests,
    Effect,
    Grant,
    Hook,
    ModelDied,
    ModelLeftAwake,
    ModelState,
    Outcome,
    PolicyFault,
    Refusal,
    Reject,
    SetTimer,
    SleepFailed,
    StateChanged,
    SwitchDrained,
    SwitchEnded,
    SwitchStarted,
)
from llmux.snapshot import STALLED_AFTER_SECS, DeviceSnapshot, ModelSnapshot, Snapshot
from llmux.telemetry import Telemetry

MODELS = ("a", "b")
QUIET = Snapshot(
    models=tuple(ModelSnapshot(name, ModelState.ASLEEP) for name in MODELS),
    devices=(DeviceSnapshot("default", capacity=1),),
    seconds_since_last_event=0.0,
    work_pending=False,
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(telemetry: Telemetry, snapshot: Snapshot = QUIET) -> Samples:
    """Every sample of a scrape; fails if the text cannot be parsed or says one thing twice."""
    samples: Samples = {}
    for family in text_string_to_metric_families(telemetry.render(snapshot).decode()):
        assert family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset((label.rstrip("_"), value) for label, value in labels.items())


def every_fact() -> list[Effect]:
    return [
        StateChanged("a", ModelState.ASLEEP, ModelState.WAKING, "wanted"),
        SwitchStarted(1, None, "a", (), ("default",)),
        SwitchEnded(1, None, "a", "success", duration=2.0, sleep=0.0, wake=2.0, cost=2.0),
        SwitchStarted(2, "a", "b", ("a",), ("default",)),
        SwitchDrained(2, "a", "b", duration=0.5, aborted=0),
        ModelLeftAwake("a", duration=100.0),
        SwitchEnded(2, "a", "b", "success", duration=4.0, sleep=1.0, wake=2.5, cost=3.5),
        SwitchEnded(3, "b", "a", "failure", duration=9.0, sleep=1.0, wake=8.0, detail="exit code 1"),
        SwitchEnded(4, "b", "a", "cancelled", duration=0.1, sleep=0.0, wake=0.0),
        SleepFailed("a", "b", "exit code 2", lost=True),
        ModelDied("b", "exit code 1"),
        PolicyFault("mine", "asked for the moon"),
        Reject(7, "a", Refusal.WAIT_TIMEOUT, "too long", waited=30.0),
        AbortRequests("a", (1, 2, 3), "drain deadline"),
        Grant(9, "a", waited=0.1, switched=False),
        SetTimer("x", at=1.0),
    ]


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(MODELS)


@pytest.fixture
def told() -> Telemetry:
    """A telemetry that has heard of everything that can happen."""
    telemetry = Telemetry(MODELS)
    for effect in every_fact():
        telemetry.fact(0.0, effect)
    telemetry.hook_ended("a", Hook.WAKE, HookResult(Outcome.FAILED, 1.0, exit_code=3, stderr="no memory"))
    telemetry.queue_waited("a", 0.02)
    telemetry.request_done("a", 200, 0.3)
    telemetry.request_done("a", 502, 0.4)
    return telemetry


def test_the_contracts_names_and_labels(told: Telemetry) -> None:
    contract = {
        "llmux_switch_total": {"from", "to", "result"},
        "llmux_switch_duration_seconds": {"from", "to"},
        "llmux_switch_drain_duration_seconds": {"from", "to"},
        "llmux_model_active_duration_seconds": {"model"},
        "llmux_switch_cost_ema_seconds": {"from", "to"},
        "llmux_request_queue_depth": {"model"},
        "llmux_request_queue_wait_seconds": {"model"},
        "llmux_model_in_flight": {"model"},
        "llmux_requests_total": {"model", "status"},
        "llmux_request_duration_seconds": {"model", "status"},
        "llmux_hook_duration_seconds": {"model", "hook"},
        "llmux_hook_failures_total": {"model", "hook"},
    }
    labels: dict[str, set[str]] = {}
    for name, pairs in read(told):
        if not name.endswith("_bucket"):
            family = name.removesuffix("_sum").removesuffix("_count")
            labels.setdefault(family, set()).update(label for label, _ in pairs)
    assert {name: labels.get(name) for name in contract} == contract


def test_no_created_series(told: Telemetry) -> None:
    assert not [name for name, _ in read(told) if name.endswith("_created")]


def test_switches(told: Telemetry) -> None:
    samples = read(told)
    assert samples[key("llmux_switch_total", from_="idle", to="a", result="success")] == 1
    assert samples[key("llmux_switch_total", from_="a", to="b", result="success")] == 1
    assert samples[key("llmux_switch_total", from_="b", to="a", result="failure")] == 1
    assert samples[key("llmux_switch_total", from_="b", to="a", result="cancelled")] == 1
    assert samples[key("llmux_switch_duration_seconds_sum", from_="a", to="b")] == 4.0
    assert samples[key("llmux_switch_duration_seconds_count", from_="a", to="b")] == 1
    assert samples[key("llmux_switch_drain_duration_seconds_sum", from_="a", to="b")] == 0.5
    assert samples[key("llmux_model_active_duration_seconds_sum", model="a")] == 100.0
    assert samples[key("llmux_switch_cost_ema_seconds", from_="a", to="b")] == 3.5
    assert key("llmux_switch_duration_seconds_sum", from_="b", to="a") not in samples
    assert key("llmux_switch_cost_ema_seconds", from_="b", to="a") not in samples


def test_what_goes_wrong_is_counted(told: Telemetry) -> None:
    samples = read(told)
    assert samples[key("llmux_rejected_requests_total", model="a", reason="queue_timeout")] == 1
    assert samples[key("llmux_aborted_requests_total", model="a")] == 3
    assert samples[key("llmux_model_deaths_total", model="b")] == 1
    assert samples[key("llmux_model_deaths_total", model="a")] == 0
    assert samples[key("llmux_policy_faults_total")] == 1
    assert samples[key("llmux_hook_failures_total", model="a", hook="wake")] == 1
    assert samples[key("llmux_hook_failures_total", model="b", hook="sleep")] == 0


def test_every_effect_may_come(telemetry: Telemetry) -> None:
    telemetry.fact(0.0, Grant(1, "a", waited=1.0, switched=True))
    assert key("llmux_request_duration_seconds_count", model="a", status="200") not in read(telemetry)


def test_requests(telemetry: Telemetry) -> None:
    for seconds in (0.004, 0.005, 0.2, 5000.0):
        telemetry.request_done("a", 200, seconds)
    telemetry.request_done("a", 404, 0.1)
    telemetry.queue_waited("b", 2.0)
    samples = read(telemetry)
    assert samples[key("llmux_requests_total", model="a", status="200")] == 4
    assert samples[key("llmux_requests_total", model="a", status="404")] == 1
    assert samples[key("llmux_request_duration_seconds_sum", model="a", status="200")] == pytest.approx(5000.209)
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in samples.items()
        if name == "llmux_request_duration_seconds_bucket" and ("status", "200") in labels
    }
    assert buckets[0.005] == 2  # a bucket's bound is its own
    assert buckets[0.25] == 3
    assert buckets[600.0] == 3
    assert buckets[math.inf] == 4
    assert list(buckets.values()) == sorted(buckets.values())
    assert samples[key("llmux_request_queue_wait_seconds_sum", model="b")] == 2.0
    assert samples[key("llmux_request_queue_wait_seconds_count", model="a")] == 0


def test_every_model_has_its_series_from_the_start(telemetry: Telemetry) -> None:
    samples = read(telemetry)
    for model in MODELS:
        assert samples[key("llmux_request_queue_depth", model=model)] == 0
        assert samples[key("llmux_model_in_flight", model=model)] == 0
        assert samples[key("llmux_oldest_waiter_seconds", model=model)] == 0
        for hook in Hook:
            assert samples[key("llmux_hook_failures_total", model=model, hook=hook)] == 0


def test_gauges_are_those_of_the_snapshot(telemetry: Telemetry) -> None:
    snapshot = Snapshot(
        models=(
            ModelSnapshot("a", ModelState.LOST, devices=("gpu0",)),
            ModelSnapshot("b", ModelState.ASLEEP, waiting=4, in_flight=2, oldest_waiter_age=STALLED_AFTER_SECS + 1),
        ),
        devices=(DeviceSnapshot("gpu0", 1, used=1, lost=True), DeviceSnapshot("gpu1", 1)),
        seconds_since_last_event=6.0,
        work_pending=False,
    )
    samples = read(telemetry, snapshot)
    assert samples[key("llmux_request_queue_depth", model="b")] == 4
    assert samples[key("llmux_model_in_flight", model="b")] == 2
    assert samples[key("llmux_oldest_waiter_seconds", model="b")] == STALLED_AFTER_SECS + 1
    assert samples[key("llmux_device_lost", device="gpu0")] == 1
    assert samples[key("llmux_device_lost", device="gpu1")] == 0
    assert samples[key("llmux_scheduler_stalled")] == 1
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in samples.items()
        if name == "llmux_model_state" and ("model", "a") in labels
    }
    assert states == {state: float(state == "lost") for state in ModelState}


def test_build_info(telemetry: Telemetry) -> None:
    (labels,) = [labels for name, labels in read(telemetry) if name == "llmux_build_info"]
    assert dict(labels)["version"][0].isdigit()


@pytest.mark.fault(67)
def test_unknown_models_and_odd_statuses_make_no_series(telemetry: Telemetry) -> None:
    telemetry.request_done(None, 404, 0.001)
    telemetry.request_done("a", 600, 0.1)
    before = read(telemetry)
    for number in range(10_000):
        telemetry.request_done(f"model-{number}", 404, 0.001)
    for status in range(600, 1000):
        telemetry.request_done("a", status, 0.1)
    telemetry.fact(0.0, Reject(1, "nobody", Refusal.MODEL_NOT_FOUND, "", waited=0.0))
    after = read(telemetry)
    assert after.keys() == before.keys()
    assert after[key("llmux_unmatched_requests_total", status="404")] == 10_001
    assert after[key("llmux_requests_total", model="a", status="other")] == 401


def test_names_are_escaped(telemetry: Telemetry) -> None:
    odd = 'org/"big"\\one {x="y"} é'
    telemetry = Telemetry([odd])
    telemetry.request_done(odd, 200, 0.1)
    assert read(telemetry, Snapshot((), (), 0.0, work_pending=False))[
        key("llmux_requests_total", model=odd, status="200")
    ]


@pytest.mark.parametrize(
    ("hook", "outcome", "failures"),
    [
        (Hook.WAKE, Outcome.OK, 0),
        (Hook.WAKE, Outcome.FAILED, 1),
        (Hook.SLEEP, Outcome.TIMEOUT, 1),
        (Hook.SLEEP, Outcome.ERROR, 1),
        (Hook.WAKE, Outcome.CANCELLED, 0),
        (Hook.ALIVE, Outcome.FAILED, 0),  # "no" is an answer
        (Hook.ALIVE, Outcome.TIMEOUT, 1),
    ],
)
def test_hooks(telemetry: Telemetry, hook: Hook, outcome: Outcome, failures: int) -> None:
    telemetry.hook_ended("a", hook, HookResult(outcome, duration=1.25))
    samples = read(telemetry)
    assert samples[key("llmux_hook_failures_total", model="a", hook=hook)] == failures
    assert samples[key("llmux_hook_duration_seconds_count", model="a", hook=hook)] == 1
    assert samples[key("llmux_hook_duration_seconds_sum", model="a", hook=hook)] == 1.25


def test_two_applications_do_not_share_series() -> None:
    first, second = Telemetry(MODELS), Telemetry(MODELS)
    first.request_done("a", 200, 0.1)
    labels: dict[str, Any] = {"model": "a", "status": "200"}
    assert key("llmux_requests_total", **labels) in read(first)
    assert key("llmux_requests_total", **labels) not in read(second)
