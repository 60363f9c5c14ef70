"""All metrics of one application: their names, labels, help texts and buckets.

The first twelve are a contract: names and labels are those of llmux 2.4.0, whose summaries are histograms here, with
the same ``_sum`` and ``_count``. Every label value comes from the configuration or from an enumeration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from llmux.messages import Hook, ModelState
from llmux.snapshot import Snapshot, Usage
from llmux.telemetry.series import Counters, Gauges, Histograms, Series
from llmux.version import version

SWITCH_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
REQUEST_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ACTIVE_BOUNDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0)


class Metrics:
    """The series that are counted as things happen. Times are in seconds."""

    def __init__(self, models: Iterable[str]) -> None:
        pair = ("from", "to")
        self.switches = Counters("llmux_switch", "Switches of models that ended, by how they ended.", (*pair, "result"))
        self.switch_seconds = Histograms(
            "llmux_switch_duration_seconds",
            "Wall time of successful switches: drain, sleep and wake.",
            pair,
            SWITCH_BOUNDS,
        )
        self.drain_seconds = Histograms(
            "llmux_switch_drain_duration_seconds",
            "Time that switches waited for requests in flight to end.",
            pair,
            SWITCH_BOUNDS,
        )
        self.active_seconds = Histograms(
            "llmux_model_active_duration_seconds",
            "Time from a model's waking up to the end of its being awake.",
            ("model",),
            ACTIVE_BOUNDS,
        )
        self.switch_cost = Gauges(
            "llmux_switch_cost_ema_seconds", "Moving average of sleep plus wake time of a pair of models.", pair
        )
        self.queue_wait_seconds = Histograms(
            "llmux_request_queue_wait_seconds",
            "Time from a request's arrival to its being forwarded.",
            ("model",),
            REQUEST_BOUNDS,
        )
        self.requests = Counters("llmux_requests", "Requests answered, by status.", ("model", "status"))
        self.request_seconds = Histograms(
            "llmux_request_duration_seconds",
            "Time from a request's arrival to the first byte of its answer.",
            ("model", "status"),
            REQUEST_BOUNDS,
        )
        self.hook_seconds = Histograms(
            "llmux_hook_duration_seconds", "Run time of hooks and canaries.", ("model", "hook"), SWITCH_BOUNDS
        )
        self.hook_failures = Counters(
            "llmux_hook_failures",
            "Wake and sleep hooks and canaries that failed, and hooks of any kind that hung or could not be started.",
            ("model", "hook"),
        )
        # Not in 2.4.0:
        self.unmatched = Counters(
            "llmux_unmatched_requests", "Requests answered that were for no configured model.", ("status",)
        )
        self.rejected = Counters(
            "llmux_rejected_requests", "Requests that the scheduler refused, by reason.", ("model", "reason")
        )
        self.aborted = Counters("llmux_aborted_requests", "Requests in flight that were ended by force.", ("model",))
        self.deaths = Counters(
            "llmux_model_deaths", "Awake models found dead, or taken out because their backends failed.", ("model",)
        )
        self.idle_sleeps = Counters(
            "llmux_idle_sleeps", "Models put to sleep because nobody had asked for them.", ("model",)
        )
        # The values of `type` are those of OpenTelemetry's gen_ai.token.type.
        self.tokens = Counters("llmux_tokens", "Tokens that answers said they took.", ("model", "type"))
        self.limit_hits = Counters(
            "llmux_limit_hits", "Requests and clients turned away or ended because a limit was reached.", ("limit",)
        )
        self.policy_faults = Counters("llmux_policy_faults", "Decisions of the policy that could not be used.")
        self.policy_faults.increase(by=0)
        self.reload_good = Gauges(
            "llmux_config_last_reload_successful", "1 if the configuration was last read without a fault, else 0."
        )
        self.reloaded_at = Gauges(
            "llmux_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was taken over, in seconds since 1970.",
        )
        for model in models:
            self.add(model)

    def add(self, model: str) -> None:
        """Begin the series of a model whose first increase should show in a rate."""
        self.queue_wait_seconds.of(model)
        self.aborted.increase(model, by=0)
        self.deaths.increase(model, by=0)
        self.idle_sleeps.increase(model, by=0)
        for kind in ("input", "output"):
            self.tokens.increase(model, kind, by=0)
        for hook in Hook:
            self.hook_failures.increase(model, hook, by=0)

    def forget(self, model: str) -> None:
        """Drop every series of a model that is no more. O(series)."""
        for series in vars(self).values():
            series.forget(model)

    def series(self) -> Iterator[Series]:
        """All of them."""
        # The number of requests is the number of their durations: what is counted once cannot disagree.
        durations = self.request_seconds.children.copy()
        self.requests.values = {labels: sum(tuple(child.counts)) for labels, child in durations.items()}
        yield from vars(self).values()


def gauges(snapshot: Snapshot, usage: Usage, *, log_dropped: int, tasks: int) -> Iterator[Series]:
    """The series that are read off when scraped."""
    depth = Gauges("llmux_request_queue_depth", "Requests that wait for their model now.", ("model",))
    in_flight = Gauges("llmux_model_in_flight", "Requests that a model is serving now.", ("model",))
    oldest = Gauges(
        "llmux_oldest_waiter_seconds", "For how long the oldest waiting request has waited; 0 if none.", ("model",)
    )
    state = Gauges("llmux_model_state", "1 for the state that a model is in, 0 for the others.", ("model", "state"))
    pinned = Gauges("llmux_model_pinned", "1 while a model is not put to sleep for others.", ("model",))
    drained = Gauges("llmux_model_drained", "1 while an operator has a model drained.", ("model",))
    for model in snapshot.models:
        pinned.put(model.pinned, model.name)
        drained.put(model.drained, model.name)
        depth.put(model.waiting, model.name)
        in_flight.put(model.in_flight, model.name)
        oldest.put(model.oldest_waiter_age or 0.0, model.name)
        for one in ModelState:
            state.put(one is model.state, model.name, one)
    lost = Gauges("llmux_device_lost", "1 while nobody knows who holds the device's memory.", ("device",))
    for device in snapshot.devices:
        lost.put(device.lost, device.name)
    stalled = Gauges("llmux_scheduler_stalled", "1 while requests wait and nothing under way will ever serve them.")
    stalled.put(snapshot.stalled)
    released = Gauges("llmux_released", "1 while an operator has the devices, and nothing is woken.")
    released.put(snapshot.released is not None)
    switch_age = Gauges("llmux_switch_age_seconds", "For how long the oldest switch has been under way; 0 if none is.")
    switch_age.put(max((switch.since_secs for switch in snapshot.switches), default=0.0))
    build = Gauges("llmux_build_info", "Always 1; the version is in the label.", ("version",))
    build.put(1, version())
    dropped = Counters("llmux_log_dropped", "Log lines that could not be written.")
    dropped.increase(by=log_dropped)
    running = Gauges("llmux_tasks", "Tasks of the event loop. They must not grow in number with time.")
    running.put(tasks)
    gaps = Counters("llmux_event_log_dropped", "Events that are missing in the event log, which could not be written.")
    gaps.increase(by=usage.event_log_dropped)
    unlogged = Counters("llmux_access_log_dropped", "Requests that are missing in the access log's file.")
    unlogged.increase(by=usage.access_log_dropped)
    clients = Gauges("llmux_client_connections", "Connections of clients now.")
    clients.put(usage.connections)
    most_clients = Gauges("llmux_client_connections_limit", "Connections of clients that there may be.")
    most_clients.put(math.inf if usage.most_connections is None else usage.most_connections)
    buffered = Gauges("llmux_buffered_bytes", "Bytes of requests, and of answers left unread, in memory now.")
    buffered.put(usage.buffered_bytes)
    most_buffered = Gauges("llmux_buffered_bytes_limit", "Bytes of requests that there may be in memory.")
    most_buffered.put(usage.most_buffered_bytes)
    secrets = Gauges(
        "llmux_secrets_last_reload_successful",
        "1 if the files with keys and the certificate were last read without a fault, else 0.",
    )
    secrets.put(usage.secrets_good)
    expiry = Gauges(
        "llmux_tls_certificate_not_after_timestamp_seconds",
        "Until when the certificate that is shown is valid, in seconds since 1970; +Inf without TLS.",
    )
    expiry.put(math.inf if usage.certificate_not_after is None else usage.certificate_not_after)
    yield from (
        depth,
        in_flight,
        oldest,
        state,
        pinned,
        drained,
        lost,
        stalled,
        released,
        switch_age,
        build,
        dropped,
        running,
        gaps,
        unlogged,
    )
    yield from (clients, most_clients, buffered, most_buffered, secrets, expiry)
