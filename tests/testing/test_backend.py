from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from llmux.testing import Fault, SimulatedBackend, _dialects
from llmux.testing.backend import answer_text

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
FAST = 1e6


@asynccontextmanager
async def client_of(backend: SimulatedBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        backend.serving() as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=20, trust_env=False) as client,
    ):
        yield client


def question(model: str = "alpha", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "how are you"}], **more}


async def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_a_chat_in_one_piece() -> None:
    async with client_of(SimulatedBackend("alpha", tokens_per_second=FAST, tokens=7)) as client:
        answer = (await client.post(CHAT, json=question())).json()
    assert answer["model"] == "alpha"
    assert answer["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "alpha heard: how are you 1 2"},
        "finish_reason": "stop",
    }
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_a_streamed_chat_comes_token_by_token_and_says_what_it_cost(limit: str) -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, tokens=9)
    async with client_of(backend) as client:
        asked = {**question(stream=True, stream_options={"include_usage": True}), limit: 4}
        async with client.stream("POST", CHAT, json=asked) as response:
            assert response.headers["content-type"] == "text/event-stream"
            *chunks, usage = await events(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant"}
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks[1:-1]]
    assert pieces == ["alpha", " heard:", " how", " are"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert backend.requests[0].tokens_sent == 4


async def test_plain_completions_streamed_and_whole() -> None:
    async with client_of(SimulatedBackend("alpha", tokens_per_second=FAST, tokens=5)) as client:
        asked = {"model": "alpha", "prompt": "one two"}
        whole = (await client.post("/v1/completions", json=asked)).json()
        async with client.stream("POST", "/v1/completions", json={**asked, "stream": True}) as response:
            chunks = await events(response)
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"] == answer_text("alpha", "one two", 5) == "alpha heard: one two 1"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]


async def test_the_official_client_gets_along_with_it() -> None:
    backend = SimulatedBackend(["alpha", "beta"], tokens_per_second=FAST, tokens=6)
    async with backend.serving() as (host, port):  # noqa: SIM117  # the second needs the first one's port
        async with openai.AsyncOpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == ["alpha", "beta"]
            stream = await client.chat.completions.create(
                model="beta", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == "beta heard: hello 1 2 3"
            embedded = await client.embeddings.create(model="beta", input=["a", "b", "a"])
            first, second, third = (item.embedding for item in embedded.data)
            assert first == third != second
            heard = await client.audio.transcriptions.create(model="beta", file=("speech.wav", b"\x00\xff" * 500))
            assert heard.text == "beta heard 1000 bytes of speech.wav"
    assert [record.model for record in backend.requests if record.model] == ["beta", "beta", "beta"]


async def test_a_model_of_another_server_is_refused_only_by_the_strict() -> None:
    async with client_of(SimulatedBackend("alpha", tokens_per_second=FAST, strict_model=True)) as client:
        assert (await client.post(CHAT, json=question("beta"))).status_code == 404
        assert (await client.post(CHAT, json=question("alpha"))).status_code == 200
    async with client_of(SimulatedBackend("alpha", tokens_per_second=FAST)) as client:
        assert (await client.post(CHAT, json=question("beta"))).json()["model"] == "beta"


async def test_it_is_unavailable_while_it_loads() -> None:
    backend = SimulatedBackend("alpha", load_secs=3600.0)
    async with client_of(backend) as client:
        assert (await client.get("/health")).status_code == 503
        assert (await client.post(CHAT, json=question())).status_code == 503
        assert backend.loading
        assert [record.outcome for record in backend.requests] == ["failed"]
    backend.load_secs = 0.0
    async with client_of(backend) as client:
        assert (await client.get("/health")).status_code == 200


async def test_sleep_mode_is_like_that_of_vllm() -> None:
    async with client_of(SimulatedBackend("alpha", tokens_per_second=FAST, sleep_mode=True)) as client:
        assert (await client.post("/sleep?level=1")).status_code == 200
        assert (await client.get("/is_sleeping")).json() == {"is_sleeping": True}
        assert (await client.get("/health")).status_code == 200
        assert (await client.post(CHAT, json=question())).status_code == 503
        assert (await client.post("/wake_up")).status_code == 200
        assert (await client.post(CHAT, json=question())).status_code == 200
    async with client_of(SimulatedBackend("alpha")) as client:
        assert (await client.post("/sleep")).status_code == 404


async def test_streams_share_the_batch_speed() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=1e9, batch_tokens_per_second=80.0, tokens=100_000)

    def sent() -> int:
        return sum(record.tokens_sent for record in backend.requests)

    async with client_of(backend) as client:
        began = asyncio.get_running_loop().time()
        streams = [asyncio.create_task(client.post(CHAT, json=question(stream=True))) for _ in range(4)]
        await backend.wait_until(lambda: backend.active == 4 and sent() >= 16, timeout=60)
        took, tokens = asyncio.get_running_loop().time() - began, sent()
        for stream in streams:
            stream.cancel()
        await backend.wait_until(lambda: backend.active == 0, timeout=60)
    assert backend.most_active == 4
    assert took >= tokens / 80.0 / 2  # 80 a second; half of it, as they were not all begun at one moment


async def test_beyond_the_batch_answers_wait_for_a_place_in_turn() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, batch=2)
    backend.fail(Fault("hang", after=2, count=2))
    async with client_of(backend) as client:
        hanging = [asyncio.create_task(client.post(CHAT, json=question(stream=True))) for _ in range(2)]
        await backend.wait_until(lambda: backend.active == 2)
        waiting = [asyncio.create_task(client.post(CHAT, json=question(number=number))) for number in range(2)]
        await backend.wait_until(lambda: len(backend.requests) == 4)
        assert [record.began is None for record in backend.requests] == [False, False, True, True]
        for task in hanging:
            task.cancel()
        assert [(await task).status_code for task in waiting] == [200, 200]
    began = [record.began for record in backend.requests]
    assert began == sorted(began, key=lambda at: at or 0.0)
    assert backend.most_active == 2


async def test_a_fuller_batch_is_slower_for_everybody_and_so_is_a_longer_prompt() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=40.0, batch=4, full_batch_tokens_per_second=10.0)
    slowness = []
    for backend.active in (0, 1, 2, 4):
        slowness.append(backend.slowness)
    assert slowness == [1.0, 1.0, 2.0, 4.0]
    patient = SimulatedBackend("alpha", tokens_per_second=FAST, prompt_tokens_per_second=20.0)
    async with client_of(patient) as client:
        began = asyncio.get_running_loop().time()
        await client.post(CHAT, json=question())
        assert asyncio.get_running_loop().time() - began >= 3 / 20  # "how are you"


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"full_batch_tokens_per_second": 10.0},
        {"batch": 2, "full_batch_tokens_per_second": 51.0},
        {"prompt_tokens_per_second": 0.0},
    ],
)
async def test_a_batch_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="batch"):
        SimulatedBackend("alpha", tokens_per_second=50.0, **wrong)


async def test_the_last_requests_are_kept_as_they_came() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, record_last=2)
    async with client_of(backend) as client:
        for number in range(3):
            body = json.dumps(question(n=number)).encode()
            await client.post(f"{CHAT}?n={number}", content=body, headers={"X-Number": str(number)})
        await client.get("/health")
        shown = (await client.get("/_requests")).json()
    assert [record.query for record in backend.requests] == ["n=1", "n=2"]
    assert backend.requests[-1].body == body
    assert backend.requests[-1].header("X-Number") == "2"
    assert backend.requests[-1].header("x-absent") is None
    assert backend.counts == {CHAT: 3, "/health": 1, "/_requests": 1}
    assert [record["query"] for record in shown["requests"]] == ["n=1", "n=2"]


async def test_a_client_that_leaves_in_mid_stream_is_noticed() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=20.0, tokens=100_000)
    async with client_of(backend) as client:
        async with client.stream("POST", CHAT, json=question(stream=True)):
            await backend.wait_until(lambda: backend.requests[0].tokens_sent > 0)
        await backend.wait_until(lambda: backend.requests[0].outcome == "disconnected")
    assert backend.active == 0


async def test_a_client_that_leaves_while_it_waits_for_a_whole_answer_is_noticed() -> None:
    backend = SimulatedBackend("alpha", first_token_secs=3600.0)
    async with client_of(backend) as client:
        asking = asyncio.create_task(client.post(CHAT, json=question()))
        await backend.wait_until(lambda: backend.active == 1)
        asking.cancel()
        await backend.wait_until(lambda: backend.requests[0].outcome == "disconnected")


async def test_waiting_for_what_does_not_come_ends() -> None:
    with pytest.raises(TimeoutError):
        await SimulatedBackend().wait_until(lambda: False, timeout=0.01)


async def test_a_scripted_status_lasts_for_as_many_requests_as_asked() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, faults=[Fault("status", status=500, count=2)])
    async with client_of(backend) as client:
        assert (await client.get("/v1/models")).status_code == 200
        statuses = [(await client.post(CHAT, json=question())).status_code for _ in range(3)]
    assert statuses == [500, 500, 200]
    assert [record.outcome for record in backend.requests[1:]] == ["failed", "failed", "answered"]


async def test_faults_are_scripted_over_http_too() -> None:
    async with client_of(SimulatedBackend("alpha", tokens_per_second=FAST)) as client:
        fault = {"kind": "status", "status": 418, "path": "/health"}
        assert (await client.post("/_script", json=[fault, fault])).json() == {"faults_to_come": 2}
        assert (await client.post(CHAT, json=question())).status_code == 200
        statuses = [(await client.get("/health")).status_code for _ in range(3)]
        assert statuses == [418, 418, 200]
        assert (await client.post("/_script", json={"kind": "explode"})).status_code == 400
        assert (await client.post("/_script", json={"kind": "die", "aftr": 3})).status_code == 400


@pytest.mark.parametrize("stream", [True, False])
async def test_dying_before_the_head(stream: bool) -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, faults=[Fault("die")])
    async with client_of(backend) as client:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await client.post(CHAT, json=question(stream=stream))
        assert (await client.post(CHAT, json=question())).status_code == 200
    assert [record.outcome for record in backend.requests] == ["failed", "answered"]


async def test_dying_in_mid_stream_is_not_a_clean_end() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, faults=[Fault("die", after=3)])
    async with client_of(backend) as client, client.stream("POST", CHAT, json=question(stream=True)) as response:
        assert response.status_code == 200
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await response.aread()
    assert backend.requests[0].tokens_sent == 3
    assert backend.requests[0].outcome == "failed"


async def test_dying_in_the_middle_of_a_body() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, faults=[Fault("die", after=3)])
    async with client_of(backend) as client, client.stream("POST", CHAT, json=question()) as response:
        assert int(response.headers["content-length"]) > 100
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await response.aread()


@pytest.mark.parametrize("after", [None, 2])
async def test_hanging_lasts_until_the_client_leaves(after: int | None) -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, faults=[Fault("hang", after=after)])
    async with client_of(backend) as client:
        asking = asyncio.create_task(client.post(CHAT, json=question(stream=True)))
        await backend.wait_until(lambda: len(backend.requests) == 1)
        await backend.wait_until(lambda: backend.requests[0].tokens_sent == (after or 0))
        assert not asking.done()
        asking.cancel()
        await backend.wait_until(lambda: backend.requests[0].outcome == "disconnected")


async def test_malformed_answers_are_not_http() -> None:
    backend = SimulatedBackend("alpha", faults=[Fault("malformed", delay_secs=0.01)])
    async with client_of(backend) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(CHAT, json=question())
    assert backend.requests[0].outcome == "failed"


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/responses"])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"model": "alpha", "max_tokens": ' + b"9" * 5000 + b"}", marks=pytest.mark.fault(21)),
        pytest.param(b"[" * 100_000, marks=pytest.mark.fault(19)),
        b'{"model": ',
        b"[1]",
        b"\xff",
    ],
    ids=["digits", "depth", "cut", "list", "bytes"],
)
async def test_a_body_that_cannot_be_read_is_the_clients_fault(path: str, body: bytes) -> None:
    async with client_of(SimulatedBackend("alpha", tokens_per_second=FAST)) as client:
        answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "simulated"
        assert (await client.post(CHAT, json=question())).status_code == 200


async def test_slowness_is_only_late_and_recovery_forgets_what_was_to_come() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, faults=[Fault("slow", delay_secs=0.2)])
    async with client_of(backend) as client:
        began = asyncio.get_running_loop().time()
        assert (await client.post(CHAT, json=question())).status_code == 200
        assert asyncio.get_running_loop().time() - began >= 0.2
        backend.fail(Fault("status", count=99))
        backend.recover()
        assert (await client.post(CHAT, json=question())).status_code == 200


async def test_it_stops_at_once_with_streams_under_way() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=1.0, tokens=100_000)
    async with backend.serving() as (host, port):
        client = httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=20, trust_env=False)
        stream = client.stream("POST", CHAT, json=question(stream=True))
        response = await stream.__aenter__()
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await response.aread()
    await client.aclose()
    assert backend.active == 0


async def test_a_taken_port_is_an_oserror() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with SimulatedBackend().serving(port=taken.getsockname()[1]):
            pytest.fail("it listens on a port that is taken")


async def test_idle_connections_are_closed_after_their_time() -> None:
    async with SimulatedBackend("alpha", keep_alive_secs=0.05).serving() as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            answer = await reader.read(-1)
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()


def test_a_backend_needs_a_name_and_a_speed() -> None:
    with pytest.raises(ValueError, match="speeds above 0"):
        SimulatedBackend("alpha", tokens_per_second=0)
    with pytest.raises(ValueError, match="needs a model"):
        SimulatedBackend([])


# --- bodies that are not what is expected -----------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", *_dialects._HANDLERS])
async def test_what_is_no_question_is_a_400(path: str, body: bytes) -> None:
    async with client_of(SimulatedBackend()) as client:
        answer = await client.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "asked", "needed"),
    [
        ("/rerank", {"query": "a"}, "documents"),
        ("/v1/score", {"text_1": "a"}, "text_2"),
        ("/v1/responses", {}, "input"),
        ("/v1/messages", {"max_tokens": 1}, "messages"),
        ("/tokenize", {}, "prompt"),
        ("/api/embed", {}, "input"),
    ],
)
async def test_what_is_missing_is_named_in_the_apis_own_form(path: str, asked: dict[str, Any], needed: str) -> None:
    async with client_of(SimulatedBackend()) as client:
        answer = await client.post(path, json=asked)
    error = answer.json()["error"]
    message = error if path.startswith("/api/") else error["message"]
    assert (answer.status_code, message) == (400, f"`{needed}` is needed.")
    assert (answer.json().get("type") == "error") is (path == "/v1/messages")


@pytest.mark.parametrize("asked", [{"max_tokens": "x"}, {"stream_options": 3, "stream": True}, {"messages": [3]}])
async def test_nonsense_is_a_400_too(asked: dict[str, Any]) -> None:
    async with client_of(SimulatedBackend()) as client:
        assert (await client.post(CHAT, json=question() | asked)).status_code == 400
        assert (await client.post(CHAT, json=question())).status_code == 200


# --- realtime ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def session(backend: SimulatedBackend, **headers: str) -> AsyncIterator[ClientConnection]:
    async with (
        backend.serving() as (host, port),
        connect(f"ws://{host}:{port}/v1/realtime?model=alpha", additional_headers=headers, proxy=None) as socket,
    ):
        yield socket


async def heard(socket: ClientConnection, last: str) -> list[dict[str, Any]]:
    """What comes until an event of that type."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != last:
        events.append(json.loads(await asyncio.wait_for(socket.recv(), 20)))
    return events


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


@pytest.mark.parametrize(
    ("headers", "name"), [({}, "response.output_text"), ({"OpenAI-Beta": "realtime=v1"}, "response.text")]
)
async def test_a_realtime_session(headers: dict[str, str], name: str) -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=FAST, tokens=6)
    async with session(backend, **headers) as socket:
        (created,) = await heard(socket, "session.created")
        assert created["session"]["model"] == "alpha"
        for event in (
            {"type": "session.update", "session": {"output_modalities": ["text"]}},
            {"type": "input_audio_buffer.append", "audio": ""},
            {"type": "conversation.item.create", "item": message("how are you")},
            {"type": "response.create"},
        ):
            await socket.send(json.dumps(event))
        events = await heard(socket, "response.done")
        kinds = [event["type"] for event in events]
        assert kinds[:3] == ["session.updated", "conversation.item.added", "response.created"]
        assert kinds[3:] == [f"{name}.delta"] * 6 + [f"{name}.done", "response.done"]
        said = "".join(event["delta"] for event in events if event["type"] == f"{name}.delta")
        assert said == events[-2]["text"] == answer_text("alpha", "how are you", 6)
        assert events[-1]["response"]["usage"]["output_tokens"] == 6
        assert len({event["event_id"] for event in events}) == len(events)
    await backend.wait_until(lambda: backend.requests[-1].outcome == "answered")
    assert (backend.requests[-1].path, backend.requests[-1].query) == ("/v1/realtime", "model=alpha")


@pytest.mark.parametrize("sent", ["{", "[]", "{}", '{"type": "dance"}', '{"type": "session.update", "session": 3}'])
async def test_what_a_session_does_not_understand_is_an_error_event(sent: str) -> None:
    async with session(SimulatedBackend("alpha", tokens_per_second=FAST)) as socket:
        await socket.send(sent)
        assert (await heard(socket, "error"))[-1]["error"]["type"] == "invalid_request_error"
        await socket.send(json.dumps({"type": "response.create", "response": {"input": [message("hi")]}}))
        assert (await heard(socket, "response.done"))[-1]["response"]["status"] == "completed"


@pytest.mark.parametrize(
    ("backend", "status"),
    [(SimulatedBackend("alpha", load_secs=60), 503), (SimulatedBackend("other", strict_model=True), 404)],
)
async def test_a_session_that_cannot_be_is_refused(backend: SimulatedBackend, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with session(backend):
            pass
    assert refused.value.response.status_code == status


async def test_an_ordinary_request_is_told_that_this_is_for_websockets() -> None:
    async with client_of(SimulatedBackend()) as client:
        answer = await client.get("/v1/realtime")
    assert answer.status_code == 426
    assert "websockets" in answer.json()["error"]["message"]


async def test_sessions_end_with_the_backend() -> None:
    backend = SimulatedBackend("alpha")
    async with contextlib.AsyncExitStack() as stack:
        host, port = await stack.enter_async_context(backend.serving())
        async with connect(f"ws://{host}:{port}/v1/realtime", proxy=None) as socket:
            await heard(socket, "session.created")
            await stack.aclose()
            with pytest.raises(ConnectionClosed):
                await socket.recv()
