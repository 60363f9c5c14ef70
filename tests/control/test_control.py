"""The control plane over its real server and socket."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from llmux.control import ModelEntry, build_control, control_server
from llmux.messages import ModelState
from llmux.snapshot import STALLED_AFTER_SECS, DeviceSnapshot, ModelSnapshot, Snapshot
from llmux.telemetry import Telemetry
from llmux.upstream import Dial

pytestmark = pytest.mark.anyio

READY = Snapshot(
    models=(
        ModelSnapshot("small", ModelState.AWAKE, in_flight=2, devices=("gpu0",)),
        ModelSnapshot("org/big:q4", ModelState.ASLEEP, waiting=3, oldest_waiter_age=1.5),
    ),
    devices=(DeviceSnapshot("gpu0", capacity=24, used=10), DeviceSnapshot("gpu1", capacity=24)),
    seconds_since_last_event=0.25,
    work_pending=True,
)


class View:
    """The rest of llmux, in so far as the control plane sees it."""

    def __init__(self) -> None:
        self.now = READY

    def models(self) -> list[ModelEntry]:
        said = {"context_length": 8192, "capabilities": ["completion", "tools"], "details": {"family": "llama"}}
        return [ModelEntry("small", ("gpt-4o-mini", "tiny/one"), said), ModelEntry("org/big:q4")]

    def snapshot(self) -> Snapshot:
        return self.now


@asynccontextmanager
async def client_of(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with control_server(lambda: app) as dial, at_a_path(dial) as path:
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
            yield client


@asynccontextmanager
async def at_a_path(dial: Dial) -> AsyncIterator[str]:
    """For clients that need an address: whoever connects to the path is put through."""

    async def put_through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_unix_connection(sock=dial())
        with contextlib.suppress(OSError):
            await asyncio.gather(pump(reader, theirs[1]), pump(theirs[0], writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        async with await asyncio.start_unix_server(put_through, f"{folder}/control.sock"):
            yield f"{folder}/control.sock"


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(["small", "org/big:q4"])


@pytest.fixture
async def client(view: View, telemetry: Telemetry) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(build_control(view, telemetry)) as client:
        yield client


async def test_models_are_listed_by_id_and_owned_by_llmux(client: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/models"):
        answer = (await client.get(path)).json()
        assert answer["object"] == "list"
        assert [model["id"] for model in answer["data"]] == ["org/big:q4", "small"]
        for model in answer["data"]:
            assert set(model) == {"id", "object", "created", "owned_by", "state", "aliases", "metadata"}
            assert (model["object"], model["owned_by"]) == ("model", "llmux")
            assert isinstance(model["created"], int)
            assert model["created"] > 1_700_000_000


async def test_one_model_is_found_by_name_and_alias(client: httpx.AsyncClient) -> None:
    names = {
        "small": "small",
        "gpt-4o-mini": "small",
        "tiny/one": "small",
        "org/big:q4": "org/big:q4",
        "org%2Fbig%3Aq4": "org/big:q4",
    }
    for name, meant in names.items():
        for prefix in ("/v1/models", "/models"):
            response = await client.get(f"{prefix}/{name}")
            assert (response.status_code, response.json()["id"]) == (200, meant), name


async def test_an_unknown_model_is_not_found(client: httpx.AsyncClient) -> None:
    for name in ("SMALL", "small%20", "nope", "small/", "%1b[2J", "..%2f"):
        response = await client.get(f"/v1/models/{name}")
        assert response.status_code == 404, name
        error = response.json()["error"]
        assert error["message"].startswith("Model not found: ")
        assert error["message"].isprintable()
        assert (error["type"], error["param"], error["code"]) == ("llmux_error", "model", "model_not_found")


async def test_an_unknown_path_names_no_model(client: httpx.AsyncClient) -> None:
    for path in ("/v1", "/v1/../secret", "/healthz", "/health/", "/v2/models"):
        response = await client.get(path)
        assert response.status_code == 404, path
        assert response.headers["content-type"] == "application/json"
        assert response.json()["error"]["message"].startswith("No model specified in request")


async def test_other_methods_are_refused(client: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/v1/models/small", "/metrics", "/health", "/ready"):
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            response = await client.request(method, path)
            assert response.status_code == 405, (method, path)
            assert {allowed.strip() for allowed in response.headers["allow"].split(",")} == {"GET", "HEAD"}
            assert response.json()["error"]["code"] == "method_not_allowed"


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/models", "/v1/models/small", "/v1/models/no", "/metrics", "/health", "/ready"):
        get, head = await client.get(path), await client.head(path)
        assert head.content == b"", path
        assert head.status_code == get.status_code
        assert head.headers["content-type"] == get.headers["content-type"]
        if path != "/metrics":  # the figures of the process change from one to the next
            assert head.headers["content-length"] == get.headers["content-length"]


async def test_metrics_can_be_parsed_and_show_the_snapshot(client: httpx.AsyncClient, telemetry: Telemetry) -> None:
    telemetry.request_done("small", 200, 0.2)
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["llmux_request_queue_depth", ("model", "org/big:q4")] == 3
    assert samples["llmux_model_in_flight", ("model", "small")] == 2
    assert samples["llmux_requests_total", ("model", "small"), ("status", "200")] == 1
    assert samples["llmux_tasks",] >= 1
    if sys.platform == "linux":
        assert samples["process_resident_memory_bytes",] > 0


async def test_health_says_that_the_process_lives(client: httpx.AsyncClient, view: View) -> None:
    view.now = Snapshot((), (), 1e6, work_pending=False, stopping=True)
    response = await client.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert response.json()["version"]


async def test_ready_shows_how_the_scheduler_is_doing(client: httpx.AsyncClient) -> None:
    response = await client.get("/ready")
    assert response.status_code == 200
    answer = response.json()
    assert answer["ready"] is True
    assert answer["reasons"] == []
    assert answer["oldest_waiter_secs"] == 1.5
    assert answer["last_event_secs"] == 0.25
    assert answer["devices"][0] == {
        "name": "gpu0", "capacity": 24, "used": 10, "lost": False, "lost_models": [], "promised": 0, "promised_to": [],
    }  # fmt: skip
    assert answer["models"][1]["name"] == "org/big:q4"
    assert answer["models"][1]["state"] == "asleep"
    assert answer["models"][1]["waiting"] == 3


def waiting(age: float) -> tuple[ModelSnapshot, ...]:
    return (ModelSnapshot("small", ModelState.ASLEEP, waiting=1, oldest_waiter_age=age),)


LONG = STALLED_AFTER_SECS + 1


async def test_not_ready(client: httpx.AsyncClient, view: View) -> None:
    stalled = "requests wait and nothing is under way for them"
    cases = [
        (Snapshot((), (), 0.0, work_pending=False, stopping=True), "stopping"),
        (Snapshot((), (DeviceSnapshot("gpu1", 1, lost=True),), 0.0, work_pending=True), "device lost: gpu1"),
        (Snapshot(waiting(LONG), (), LONG, work_pending=False), stalled),
        # Other models' traffic makes events, but serves nobody who waits here.
        (Snapshot(waiting(LONG), (), 0.0, work_pending=False), stalled),
    ]
    for view.now, reason in cases:
        response = await client.get("/ready")
        assert response.status_code == 503, reason
        assert response.json()["ready"] is False
        assert response.json()["reasons"] == [reason]


async def test_ready_while_work_is_under_way_or_nobody_waits(client: httpx.AsyncClient, view: View) -> None:
    cases = {
        "a long wake": Snapshot(waiting(500.0), (), 400.0, work_pending=True),
        "a short wait": Snapshot(waiting(STALLED_AFTER_SECS - 1), (), 0.0, work_pending=False),
        "a quiet night": Snapshot((), (), 1e6, work_pending=False),
    }
    for name, view.now in cases.items():
        assert (await client.get("/ready")).status_code == 200, name


async def test_a_bug_is_answered_in_the_error_shape(
    client: httpx.AsyncClient, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Snapshot:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(view, "snapshot", broken)
    response = await client.get("/ready")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text


# --- the server ------------------------------------------------------------------------------------------------------


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def test_it_has_no_address_that_anybody_could_connect_to_or_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with control_server(lambda: Starlette(routes=[Route("/", hello)])) as dial:
        for _ in range(2):
            with dial() as sock:
                assert (sock.family, sock.getsockname(), sock.getpeername()) == (socket.AF_UNIX, "", "")
                reader, writer = await asyncio.open_unix_connection(sock=sock)
                writer.write(b"GET / HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n")
                assert (await reader.read()).endswith(b"hello")
                writer.close()
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        dial()


async def test_what_comes_before_the_application_is_loaded_waits_for_it() -> None:
    connected = threading.Event()

    def load() -> Starlette:
        assert connected.wait(30)
        return Starlette(routes=[Route("/", hello)])

    async with control_server(load) as dial:
        reader, writer = await asyncio.open_unix_connection(sock=dial())
        writer.write(b"GET / HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n")
        connected.set()
        assert (await reader.read()).endswith(b"hello")
        writer.close()


async def test_leaving_while_the_application_loads() -> None:
    async with asyncio.timeout(30):
        async with control_server(Starlette):
            pass


async def test_an_application_that_cannot_be_loaded_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Starlette:
        raise ImportError("no starlette here")

    async with control_server(broken) as dial:
        early, writer = await asyncio.open_unix_connection(sock=dial())
        assert await early.read() == b"", "whoever came too early is told, too"
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            dial()
    (record,) = caplog.records
    assert "control_plane_failed" in record.getMessage()


async def test_two_servers_in_one_process_do_not_meet(view: View) -> None:
    async with (
        client_of(build_control(view, Telemetry(["small"]))) as first,
        client_of(Starlette(routes=[Route("/", hello)])) as second,
    ):
        assert (await first.get("/")).text == "llmux is running\n"
        assert (await second.get("/")).text == "hello"


async def test_signal_handlers_are_left_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with control_server(Starlette):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_an_answer_that_never_ends_does_not_hold_up_the_stop() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: Request) -> Response:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Response()

    async with asyncio.timeout(30):
        async with control_server(lambda: Starlette(routes=[Route("/", hang)])) as dial:
            _, writer = await asyncio.open_unix_connection(sock=dial())
            writer.write(b"GET / HTTP/1.1\r\nHost: control\r\n\r\n")
            await began.wait()
        await cancelled.wait()
        writer.close()


def test_it_works_on_a_plain_asyncio_loop(view: View) -> None:
    async def main() -> int:
        async with client_of(build_control(view, Telemetry(["small"]))) as client:
            return (await client.get("/ready")).status_code

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) == 200


def test_listening_does_not_wait_for_the_web_framework() -> None:
    script = "import sys; from llmux.control import control_server; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], check=True, text=True, capture_output=True)
    assert not {"starlette", "uvicorn", "anyio", "prometheus_client"} & set(result.stdout.split())


async def test_without_a_dashboard_the_root_sends_nobody_there(client: httpx.AsyncClient) -> None:
    answer = await client.get("/", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.text) == (200, "llmux is running\n")
    assert (await client.head("/")).status_code == 200
    assert (await client.post("/")).status_code == 405
