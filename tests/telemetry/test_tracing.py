"""Traces of real requests through real sockets and hooks, as OpenTelemetry's SDK and a collector get them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmux import Config, Switcher, build_app
from llmux.errors import ConfigError
from llmux.telemetry import tracing
from llmux.testing import Fault, SimulatedBackend

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"


def question(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "private"}], **more}


@dataclass
class World:
    client: httpx.AsyncClient
    switcher: Switcher
    backend: SimulatedBackend
    exporter: InMemorySpanExporter

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    async def span(self, name: str) -> ReadableSpan:
        async with asyncio.timeout(20):
            while not (found := self.spans(name)):  # noqa: ASYNC110  (spans end a little after their answer came)
                await asyncio.sleep(0.005)
        (span,) = found
        return span

    def headers(self) -> dict[str, str]:
        """What the backend was sent last."""
        chats = [request for request in self.backend.requests if request.path == PATH]
        return dict(chats[-1].headers)


@pytest.fixture(autouse=True)
def no_exporter_lives_on() -> Iterator[None]:
    """An exporter that retries draws from `random`, and what is drawn elsewhere meanwhile cannot be repeated."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("Otel"):
            thread.join(30)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """OpenTelemetry as an application has it that llmux is part of."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


@contextlib.asynccontextmanager
async def world(exporter: InMemorySpanExporter, wake: str = "true", **config: Any) -> AsyncIterator[World]:
    backend = SimulatedBackend(["a", "b"], tokens=4, tokens_per_second=1e5)
    async with backend.serving() as (_, port):
        hooks = {"port": port, "wake": wake, "sleep": "true", "alive": "false"}
        models = {"a": hooks, "b": hooks}
        app, switcher = await build_app(Config.model_validate({"models": models, "tracing": True, **config}))
        async with (
            app.serving(port=0) as (host, listening),
            httpx.AsyncClient(base_url=f"http://{host}:{listening}", timeout=30) as client,
        ):
            yield World(client, switcher, backend, exporter)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def within(inner: ReadableSpan, outer: ReadableSpan) -> bool:
    times = inner.start_time, inner.end_time, outer.start_time, outer.end_time
    assert None not in times
    return (outer.start_time or 0) <= (inner.start_time or 0) <= (inner.end_time or 0) <= (outer.end_time or 0)


async def test_a_request_that_waits_for_a_switch(exporter: InMemorySpanExporter) -> None:
    async with world(exporter) as here:
        answer = await here.client.post(PATH, params={"q": "private"}, json=question("a"))
        assert answer.status_code == 200
        server = await here.span("POST a")
        (queue,), (upstream,) = here.spans("queue a"), here.spans("upstream a")
        switch = await here.span("switch to a")
        (wake,) = here.spans("wake a")
        sent = here.headers()["traceparent"]
        assert not here.spans("alive a")
    assert server.kind is SpanKind.SERVER
    assert parent(server) is None
    assert parent(queue) == parent(upstream) == ids(server)
    assert within(queue, server)
    assert (queue.end_time or 0) <= (upstream.start_time or 0)
    told = attributes(server)
    assert told["http.request.method"] == "POST"
    assert (told["url.path"], told["client.address"]) == (PATH, "127.0.0.1")
    assert (told["http.response.status_code"], told["gen_ai.request.model"]) == (200, "a")
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (1, 4)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["llmux.request_id"] == 1
    assert server.status.status_code is StatusCode.UNSET

    assert upstream.kind is SpanKind.CLIENT
    assert attributes(upstream)["server.address"] == "127.0.0.1"
    assert f"127.0.0.1:{attributes(upstream)['server.port']}" == here.headers()["host"]
    assert attributes(upstream)["http.response.status_code"] == 200
    assert [event.name for event in upstream.events] == ["first_byte"]
    assert sent[:53] == f"00-{ids(upstream)[0]:032x}-{ids(upstream)[1]:016x}-"

    assert parent(switch) is None
    assert ids(switch)[0] != ids(server)[0]
    assert parent(wake) == ids(switch)
    assert within(wake, switch)
    assert [(link.context.trace_id, link.context.span_id) for link in queue.links] == [ids(switch)]
    assert (attributes(switch)["llmux.switch.cause"], attributes(switch)["llmux.switch.result"]) == (
        "demand",
        "success",
    )
    assert attributes(wake)["llmux.hook.outcome"] == "ok"
    assert "private" not in "".join(span.to_json() for span in exporter.get_finished_spans())


async def test_a_switch_from_one_to_another_has_both_hooks(exporter: InMemorySpanExporter) -> None:
    async with world(exporter) as here:
        for model in "ab":
            assert (await here.client.post(PATH, json=question(model))).status_code == 200
        switch = await here.span("switch to b")
        (sleep,), (wake,) = here.spans("sleep a"), here.spans("wake b")
        (queue,) = here.spans("queue b")
    assert parent(sleep) == parent(wake) == ids(switch)
    assert attributes(switch)["llmux.switch.from"] == "a"
    assert attributes(switch)["llmux.switch.victims"] == ("a",)
    assert [event.name for event in switch.events] == ["drained"]
    assert [link.context.span_id for link in queue.links] == [ids(switch)[1]]


async def test_a_request_of_an_awake_model_has_no_queue(exporter: InMemorySpanExporter) -> None:
    async with world(exporter) as here:
        await here.client.post(PATH, json=question("a"))
        await here.span("POST a")
        exporter.clear()
        await here.client.post(PATH, json=question("a", stream=True))
        await here.span("POST a")
        assert {span.name for span in exporter.get_finished_spans()} == {"POST a", "upstream a"}


async def test_the_context_of_the_client_is_taken_up_and_passed_on_anew(exporter: InMemorySpanExporter) -> None:
    said = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "user=me", "x-other": "stays"}
    async with world(exporter) as here:
        await here.client.post(PATH, json=question("a"), headers=said)
        server, upstream = await here.span("POST a"), await here.span("upstream a")
        sent = here.headers()
    assert parent(server) == (TRACE, PARENT)
    assert sent["traceparent"] == f"00-{TRACE:032x}-{ids(upstream)[1]:016x}-01"
    assert (sent["tracestate"], sent["baggage"], sent["x-other"]) == ("vendor=1", "user=me", "stays")


async def test_what_the_client_does_not_want_traced_is_not(exporter: InMemorySpanExporter) -> None:
    async with world(exporter) as here:
        await here.client.post(PATH, json=question("a"), headers={"traceparent": TRACEPARENT[:-1] + "0"})
        await here.span("switch to a")
        sent = here.headers()["traceparent"]
        assert not here.spans("POST a")
    assert sent[:36] == TRACEPARENT[:36]
    assert sent[-3:] == "-00"


@pytest.mark.parametrize("nonsense", ["00-0-0-01", "x", TRACEPARENT + "\u00e9"])
async def test_nonsense_begins_a_trace_of_its_own(exporter: InMemorySpanExporter, nonsense: str) -> None:
    async with world(exporter) as here:
        await here.client.post(PATH, json=question("a"), headers={b"traceparent": nonsense.encode()})
        server, upstream = await here.span("POST a"), await here.span("upstream a")
        sent = here.headers()["traceparent"]
    assert parent(server) is None
    assert sent[:53] == f"00-{ids(server)[0]:032x}-{ids(upstream)[1]:016x}-"


async def test_without_the_knob_the_fields_pass_untouched(exporter: InMemorySpanExporter) -> None:
    async with world(exporter, tracing=False) as here:
        said = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
        await here.client.post(PATH, json=question("a"), headers=said)
        sent = here.headers()
    assert {name: sent[name] for name in said} == said
    assert not exporter.get_finished_spans()


async def test_a_wake_that_fails(exporter: InMemorySpanExporter) -> None:
    async with world(exporter, wake="exit 3") as here:
        assert (await here.client.post(PATH, json=question("a"))).status_code == 503
        server, switch = await here.span("POST a"), await here.span("switch to a")
        wakes, (queue,) = here.spans("wake a"), here.spans("queue a")
        assert not here.spans("upstream a")
    assert server.status.status_code is switch.status.status_code is StatusCode.ERROR
    assert attributes(server)["error.type"] == "hook_failed"
    assert attributes(switch)["llmux.switch.result"] == "failure"
    assert {attributes(wake)["process.exit.code"] for wake in wakes} == {3}
    assert all(wake.status.status_code is StatusCode.ERROR for wake in wakes)
    assert ids(switch)[1] in [link.context.span_id for link in queue.links]


async def test_a_backend_that_fails(exporter: InMemorySpanExporter) -> None:
    async with world(exporter) as here:
        here.backend.fail(Fault("status", status=500, path=PATH))
        assert (await here.client.post(PATH, json=question("a"))).status_code == 500
        server, upstream = await here.span("POST a"), await here.span("upstream a")
    for span in (server, upstream):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "500"


async def test_an_unknown_model_and_the_control_plane(exporter: InMemorySpanExporter) -> None:
    async with world(exporter) as here:
        assert (await here.client.get("/health")).status_code == 200
        assert (await here.client.post(PATH, json=question("nobody"))).status_code == 404
        server = await here.span("POST")
        assert exporter.get_finished_spans() == (server,)
    assert attributes(server)["error.type"] == "model_not_found"
    assert "gen_ai.request.model" not in attributes(server)
    assert server.status.status_code is StatusCode.UNSET  # a client's own mistake


async def test_the_access_log_names_the_trace(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    async with world(exporter, access_log=str(path)) as here:
        await here.client.post(PATH, json=question("a"))
        server = await here.span("POST a")
    assert f'"trace_id":"{ids(server)[0]:032x}"' in path.read_text()


# --- a collector ----------------------------------------------------------------------------------------------------


async def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTLP over HTTP, set up by the standard environment variables, and the last spans sent when llmux stops."""
    got: list[ExportTraceServiceRequest] = []
    paths: list[bytes] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        paths.append(head.split()[1])
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        got.append(ExportTraceServiceRequest.FromString(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    def names() -> set[str]:
        """Of all spans so far. They may come in several requests."""
        return {
            span.name
            for request in got
            for resources in request.resource_spans
            for scope in resources.scope_spans
            for span in scope.spans
        }

    async with await asyncio.start_server(collect, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        async with world(InMemorySpanExporter()) as here:
            await here.client.post(PATH, json=question("a"))
        async with asyncio.timeout(20):
            while not names() >= {"POST a", "queue a", "upstream a", "switch to a", "wake a"}:  # noqa: ASYNC110  (what is waited for is what another task appends)
                await asyncio.sleep(0.005)
    resource = {item.key: item.value.string_value for item in got[0].resource_spans[0].resource.attributes}
    assert (resource["service.name"], resource["deployment.environment"]) == ("llmux", "test")
    assert set(paths) == {b"/v1/traces"}


async def test_a_collector_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[asyncio.StreamWriter] = []
    closed = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await closed.wait()
        writer.close()

    monkeypatch.setattr(tracing, "CLOSE_SECS", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")  # or its thread lives on for a while
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        async with world(InMemorySpanExporter()) as here:
            async with asyncio.timeout(20):
                while not held:
                    assert (await here.client.post(PATH, json=question("a"))).status_code == 200
            assert (await here.client.post(PATH, json=question("a"))).status_code == 200
        assert held  # llmux has stopped, and nobody has answered
        closed.set()


async def test_the_name_of_the_service_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gpubox")
    made, ours = await asyncio.to_thread(tracing.provider)
    assert isinstance(made, TracerProvider)
    assert ours
    assert made.resource.attributes["service.name"] == "gpubox"
    await asyncio.to_thread(made.shutdown)


# --- when it cannot be had ------------------------------------------------------------------------------------------


async def test_without_the_extra_it_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llmux.telemetry.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"tracing: needs OpenTelemetry: pip install 'llmux-server\[otel\]'"):
        await build_app(Config.model_validate({"models": {}, "tracing": True}))


async def test_a_bad_environment_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000000")
    with pytest.raises(ConfigError, match="tracing: OpenTelemetry cannot be set up from the environment"):
        await build_app(Config.model_validate({"models": {}, "tracing": True}))


def test_nothing_of_it_is_imported_where_nobody_wants_it() -> None:
    code = "import sys, llmux.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
