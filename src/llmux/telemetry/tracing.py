"""OpenTelemetry traces of requests and switches. Needs the extra ``otel``; imported only where traces are wanted.

A request for a model is a server span, its wait for the model and its relay two spans below it; the relay's is what
the backend is told of, in ``traceparent``. A switch is a trace of its own, with a span for each hook, as it serves many
requests: the waits for it are linked to it. Names of attributes are those of OpenTelemetry's semantic conventions
(HTTP, GenAI) where these have one, and begin ``llmux.`` otherwise. Prompts, answers, queries and keys are in none.

Spans are handed to OpenTelemetry's own thread, which sends them away: nothing here waits for a collector.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from llmux.messages import Hook, HookEnded, Outcome, RunHook, SwitchDrained, SwitchEnded, SwitchStarted
from llmux.records import Record
from llmux.version import version

CLOSE_SECS: Final = 3.0
"""How long the last spans may take to be sent when llmux stops, in seconds."""

_RECENT: Final = 8
"""So many switches to each model are remembered for the requests that waited for them."""

_OPERATIONS: Final = {
    "chat/completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "api/chat": "chat",
    "completions": "text_completion",
    "api/generate": "text_completion",
    "embeddings": "embeddings",
    "api/embed": "embeddings",
}
"""The well-known values of ``gen_ai.operation.name``, by how a path ends."""

Attributes = dict[str, AttributeValue]


def provider() -> tuple[trace.TracerProvider, bool]:
    """Where spans go, and whether it is llmux's own: an application that llmux is part of, and that has set up
    OpenTelemetry, keeps its own. Else they go where the environment variables ``OTEL_...`` say, by OTLP over HTTP."""
    there = trace.get_tracer_provider()
    if not isinstance(there, trace.ProxyTracerProvider):
        return there, False
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "llmux"}))
    if SERVICE_VERSION not in resource.attributes:
        resource = resource.merge(Resource({SERVICE_VERSION: version()}))
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made, True


class _Trace:
    """The spans of one request."""

    __slots__ = ("context", "server", "upstream")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.server: Span | None = None
        self.upstream: Span | None = None


class _Switch:
    """A switch, for those who may have waited for it."""

    __slots__ = ("context", "ended_ns", "started_ns")

    def __init__(self, context: SpanContext, started_ns: int) -> None:
        self.context = context
        self.started_ns = started_ns
        self.ended_ns: int | None = None


class Tracing:
    """Makes the spans. Implements `llmux.records.Scribe`; `watch` is for `Driver.subscribe`.

    Args:
        provider: where they go.
        ours: nobody else uses it, so that it is shut down in the end.
    """

    def __init__(self, provider: trace.TracerProvider, *, ours: bool) -> None:
        self._provider = provider
        self._ours = ours
        self._tracer = provider.get_tracer("llmux", version())
        self._fields = frozenset(name.lower().encode() for name in propagate.get_global_textmap().fields)
        self._switches: dict[int, tuple[Span, _Switch, str]] = {}  # by id, those under way
        self._hooks: dict[int, Span] = {}  # by run
        self._recent: dict[str, deque[_Switch]] = {}  # by the model that they were to
        self._told: dict[type, Callable[[Any], None]] = {
            SwitchStarted: self._switch_started,
            SwitchDrained: self._switch_drained,
            SwitchEnded: self._switch_ended,
            RunHook: self._hook_started,
            HookEnded: self._hook_ended,
        }

    def close(self) -> None:
        """Send what there is, for `CLOSE_SECS` at most. Blocks."""
        for span in [*self._hooks.values(), *(span for span, _, _ in self._switches.values())]:
            span.end()
        end = getattr(self._provider, "shutdown" if self._ours else "force_flush", None)
        if end is not None:
            ending = threading.Thread(target=end, name="llmux-tracing", daemon=True)
            ending.start()
            ending.join(CLOSE_SECS)

    # --- requests ----------------------------------------------------------------------------------------------------

    def begun(self, record: Record, lines: Sequence[bytes]) -> None:
        """See `Scribe`. Takes up what the client says of its own trace."""
        carrier: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            if name.lower() in self._fields:
                carrier.setdefault(name.lower().decode("latin-1"), []).append(value.strip().decode("latin-1"))
        # Without the empty context, a trace that happens to be current where llmux was started would count.
        record.trace = _Trace(propagate.extract(carrier, Context()) if carrier else Context())

    def forwarded(self, record: Record, lines: Sequence[bytes], backend: str) -> Sequence[bytes]:
        """See `Scribe`. What the client said of its trace gives way to what the backend is to say it is part of."""
        known: _Trace = record.trace
        if known.upstream is not None:
            known.upstream.end()
        above = trace.set_span_in_context(self._server(record), known.context)
        known.upstream = self._tracer.start_span(
            f"upstream {record.model}", above, SpanKind.CLIENT, _backend(backend) | _asked(record)
        )
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(known.upstream, known.context))
        kept = [line for line in lines if line.partition(b":")[0].lower() not in self._fields]
        return kept + [f"{name}: {value}".encode("latin-1") for name, value in carrier.items()]

    def done(self, record: Record) -> None:
        """See `Scribe`."""
        known: _Trace | None = record.trace
        if known is None or record.for_control:
            return
        server = self._server(record)
        if known.upstream is not None:
            self._end_upstream(record, known.upstream)
        server.set_attribute("http.response.status_code", record.status)
        server.set_attribute("llmux.bytes", record.sent)
        if record.key is not None:
            server.set_attribute("llmux.key", record.key)
        if record.tokens is not None:
            server.set_attributes(_usage(record.tokens))
        if record.ended_early is not None:
            server.set_attribute("llmux.ended_early", record.ended_early)
        why = record.error or (str(record.status) if record.status >= 500 else None)
        if why is not None:
            server.set_attribute("error.type", why)
        if record.status >= 500 or (record.ended_early is not None and record.error is not None):
            server.set_status(Status(StatusCode.ERROR))
        server.end(record.at_ns + int(record.duration * 1e9))
        record.trace = None

    def _server(self, record: Record) -> Span:
        """The span of the whole request, and below it that of its wait, if it had to wait: both begin in the past."""
        known: _Trace = record.trace
        if known.server is not None:
            return known.server
        attributes: Attributes = {
            "http.request.method": record.method,
            "url.path": record.path,
            "client.address": record.client,
        } | _asked(record)
        if record.request_id is not None:
            attributes["llmux.request_id"] = record.request_id
        name = record.method if record.model is None else f"{record.method} {record.model}"
        known.server = server = self._tracer.start_span(
            name, known.context, SpanKind.SERVER, attributes, start_time=record.at_ns
        )
        if record.queued:
            links = [Link(switch) for switch in self._switches_of(record)]
            queue = self._tracer.start_span(
                f"queue {record.model}",
                trace.set_span_in_context(server, known.context),
                attributes={"llmux.switched": record.switched},
                links=links,
                start_time=record.at_ns,
            )
            queue.end(record.queue_ended_ns)
        context = server.get_span_context()
        record.trace_id = trace.format_trace_id(context.trace_id) if context.is_valid else None
        return server

    def _end_upstream(self, record: Record, span: Span) -> None:
        if record.backend_status:
            span.set_attribute("http.response.status_code", record.backend_status)
            if record.first_byte is not None:
                span.add_event("first_byte", timestamp=record.at_ns + int(record.first_byte * 1e9))
        if record.tokens is not None:
            span.set_attributes(_usage(record.tokens))
        why = record.error or (str(record.backend_status) if record.backend_status >= 400 else None)
        if why is not None:
            span.set_attribute("error.type", why)
            span.set_status(Status(StatusCode.ERROR))
        span.end(record.relayed_ns or None)

    def _switches_of(self, record: Record) -> list[SpanContext]:
        """The switches to its model that were under way while it waited."""
        found = self._recent.get(record.model or "", ())
        return [
            switch.context
            for switch in found
            if switch.started_ns <= record.queue_ended_ns
            and (switch.ended_ns is None or switch.ended_ns >= record.at_ns)
        ]

    # --- switches ----------------------------------------------------------------------------------------------------

    def watch(self, now: float, message: object) -> None:
        """Take note of an event or effect of the core. Called as it happens, before requests are granted for it."""
        tell = self._told.get(type(message))
        if tell is not None:
            tell(message)

    def _switch_started(self, switch: SwitchStarted) -> None:
        started_ns = time.time_ns()
        attributes: Attributes = {
            "llmux.switch.to": switch.to_model,
            "llmux.switch.cause": switch.cause,
            "llmux.switch.victims": switch.victims,
            "llmux.switch.devices": switch.devices,
        }
        if switch.from_model is not None:
            attributes["llmux.switch.from"] = switch.from_model
        span = self._tracer.start_span(
            f"switch to {switch.to_model}", Context(), attributes=attributes, start_time=started_ns
        )
        known = _Switch(span.get_span_context(), started_ns)
        self._switches[switch.switch_id] = span, known, switch.to_model
        self._recent.setdefault(switch.to_model, deque(maxlen=_RECENT)).append(known)

    def _switch_drained(self, drained: SwitchDrained) -> None:
        found = self._switches.get(drained.switch_id)
        if found is not None:
            found[0].add_event("drained", {"llmux.model": drained.from_model, "llmux.aborted": drained.aborted})

    def _switch_ended(self, ended: SwitchEnded) -> None:
        found = self._switches.pop(ended.switch_id, None)
        if found is None:
            return
        span, known, _ = found
        known.ended_ns = time.time_ns()
        span.set_attribute("llmux.switch.result", ended.result)
        if ended.result == "failure":
            span.set_status(Status(StatusCode.ERROR, ended.detail))
        span.end(known.ended_ns)

    def _hook_started(self, run: RunHook) -> None:
        if run.hook is Hook.ALIVE:  # asked again and again, and part of nothing
            return
        above = Context()
        for span, _, to_model in self._switches.values():
            if to_model == run.to_model:
                above = trace.set_span_in_context(span, above)
        attributes: Attributes = {"llmux.hook": str(run.hook), "llmux.model": run.model, "llmux.devices": run.devices}
        self._hooks[run.run_id] = self._tracer.start_span(f"{run.hook} {run.model}", above, attributes=attributes)

    def _hook_ended(self, ended: HookEnded) -> None:
        span = self._hooks.pop(ended.run_id, None)
        if span is None:
            return
        span.set_attribute("llmux.hook.outcome", str(ended.outcome))
        if ended.exit_code is not None:
            span.set_attribute("process.exit.code", ended.exit_code)
        if ended.outcome is not Outcome.OK:
            span.set_status(Status(StatusCode.ERROR, ended.detail))
        span.end()


def _asked(record: Record) -> Attributes:
    attributes: Attributes = {"http.request.method": record.method}
    if record.model is not None:
        attributes["gen_ai.request.model"] = record.model
        for end, operation in _OPERATIONS.items():
            if record.path.endswith("/" + end):
                attributes["gen_ai.operation.name"] = operation
                break
    return attributes


def _usage(tokens: tuple[int, int]) -> Attributes:
    return {"gen_ai.usage.input_tokens": tokens[0], "gen_ai.usage.output_tokens": tokens[1]}


def _backend(address: str) -> Attributes:
    parts = urlsplit(address)
    if parts.scheme == "unix":
        return {"server.address": parts.path}
    attributes: Attributes = {"server.address": parts.hostname or ""}
    if (port := parts.port or {"http": 80, "https": 443}.get(parts.scheme)) is not None:
        attributes["server.port"] = port
    return attributes
