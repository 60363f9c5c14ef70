"""Streamed requests that wait for long: their stream begins, comments keep it alive, and whatever the backend does then
goes on from there, or is told by an event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from llmux.access import Access, Origins
from llmux.errors import HookFailedError, ShuttingDownError
from llmux.gateway import CLIENT_GONE, GatewaySettings, Timeouts
from llmux.gateway.keepalive import Keepalives, KeptStream, Promise
from llmux.messages import Prospects
from llmux.wire.request import Request
from llmux.wire.sse import Dialect
from tests.gateway.peers import (
    OK,
    Answer,
    BackendConnection,
    FakeScheduler,
    RawClient,
    Received,
    Rig,
    TruncatedError,
    chat,
    ending_with,
    rig,
    until,
)

pytestmark = pytest.mark.anyio

SOON = GatewaySettings(waiting_keepalive={"m": 0.01})
STREAM = b'{"model": "m", "stream": true}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
EVENTS = b"data: 1\n\ndata: [DONE]\n\n"
COMMENT = b": waiting for m, 0 ahead, about 14 s\n\n"
WAITED = b": x-llmux-wait-ms: 500\n: x-llmux-switched: true\n\n"


@pytest.fixture(autouse=True)
def _ticking_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmux.gateway.gateway.SWEEP_SECONDS", 0.02)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def answer(content: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\nContent-Length: %d\r\n\r\n" % len(content)
    return head + content


def said(body: bytes) -> bytes:
    """What of a stream is no comment."""
    return b"".join(event + b"\n\n" for event in body.split(b"\n\n")[:-1] if not event.startswith(b":"))


async def kept(gateway: Rig, request: bytes) -> RawClient:
    """A client whose request waits, and that has got the head and the first comment."""
    gateway.scheduler.hold = True
    client = await gateway.client()
    await client.send(request)
    first = await client.read_until(b"about 14 s\n\n")
    client.unread(first)
    return client


async def late(gateway: Rig, request: bytes) -> Answer:
    """What comes of a request that is granted once its stream has begun."""
    client = await kept(gateway, request)
    gateway.scheduler.grant()
    return await client.receive()


FRAMINGS = pytest.mark.parametrize(
    "script",
    [
        answer(EVENTS, b"text/event-stream"),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(EVENTS[:3], EVENTS[3:]) + b"0\r\nX-Trailer: t\r\n\r\n",
        ending_with(HEAD + b"\r\n" + EVENTS),
        ending_with(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENTS),
    ],
    ids=["length", "chunked", "until close", "HTTP/1.0"],
)


@FRAMINGS
async def test_the_backends_events_follow_the_comments(
    script: bytes | Callable[[BackendConnection, Received], object],
) -> None:
    async with rig(settings=SOON) as gateway:
        gateway.backend.play(script)
        client = await kept(gateway, chat(STREAM))
        client.unread(await client.read_until(b": waiting for m, 0 ahead"))  # another one
        gateway.scheduler.grant()
        got = (await client.receive()).body
        assert said(got) == EVENTS
        assert got.count(WAITED) == 1
        assert got.index(WAITED) < got.index(b"data: 1")
        # The connection goes on.
        gateway.scheduler.hold = False
        gateway.backend.play(OK)
        await client.send(chat())
        assert (await client.receive()).body == b"{}"
        assert gateway.observer.done == [("m", 200), ("m", 200)]


async def test_those_who_are_held_are_told_so() -> None:
    async with rig(settings=SOON) as gateway:
        gateway.scheduler.hold, gateway.scheduler.held = True, "llmux is released"
        client = await gateway.client()
        await client.send(chat(STREAM))
        await client.read_until(b": waiting for m, 0 ahead, held: llmux is released\n\n")


def test_a_promise_is_counted_down_and_given_up_once_it_does_not_hold() -> None:
    promise = Promise()
    assert promise.holds(9.0, False, 100.0)
    assert promise.holds(6.0, False, 103.0)
    assert promise.holds(7.0, False, 103.0)  # as good as an estimate is
    assert not promise.holds(7.0, False, 104.0)  # it moves off as fast as it is neared
    assert not promise.holds(7.0, False, 200.0)
    assert promise.holds(3.0, True, 201.0)  # what has begun is another matter
    assert not promise.holds(3.0, True, 204.0)
    assert not promise.holds(0.0, True, 204.0)


def test_a_promise_may_come_true_sooner_but_no_later_than_it_was_told_last() -> None:
    promise = Promise()
    assert promise.holds(100.0, False, 0.0)
    assert promise.holds(20.0, False, 1.0)
    assert not promise.holds(40.0, False, 2.0)
    assert promise.holds(10.0, False, 3.0)


def test_the_same_estimate_is_not_told_again_and_again() -> None:
    now = 1000.0
    kept = KeptStream(Request(), Dialect.OPENAI, keep_alive=True)

    def comment(seconds: float, **more: Any) -> bytes:
        prospects = Prospects({7: 0}, seconds, why="a is kept awake", **more)
        return kept.still_waiting("b", prospects, 7, 0.0, now)

    assert comment(9.0) == b": waiting for b, 0 ahead, about 9 s\n\n"
    now += 5.0
    assert [comment(9.0) for _ in range(3)] == [b": waiting for b, 0 ahead: a is kept awake\n\n"] * 3
    assert comment(3.0, at_most=True) == b": waiting for b, 0 ahead, at most about 3 s: a is kept awake\n\n"
    assert comment(9.0, held="b is drained") == b": waiting for b, 0 ahead, held: b is drained\n\n"


async def test_the_head_is_that_of_an_event_stream() -> None:
    async with rig(settings=SOON) as gateway:
        gateway.backend.play(answer(EVENTS, b"text/event-stream"))
        got = await late(gateway, chat(STREAM))
        assert got.status == 200
        assert got.header("content-type") == "text/event-stream; charset=utf-8"
        assert got.header("transfer-encoding") == "chunked"
        assert got.header("x-llmux-wait-ms") is None  # it is not over when the head is written
        assert got.body.startswith(COMMENT)


@FRAMINGS
async def test_a_client_of_http_1_0_gets_it_without_chunks(
    script: bytes | Callable[[BackendConnection, Received], object],
) -> None:
    async with rig(settings=SOON) as gateway:
        gateway.backend.play(script)
        request = chat(STREAM, b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
        client = await kept(gateway, request)
        gateway.scheduler.grant()
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert b"Transfer-Encoding" not in head
        assert body.startswith(COMMENT)
        assert said(body) == EVENTS


async def test_the_backend_is_not_asked_to_compress() -> None:
    async with rig(settings=SOON) as gateway:
        gateway.backend.play(answer(EVENTS, b"text/event-stream"))
        await late(gateway, chat(STREAM, b"Accept-Encoding: gzip", b"X-Other: kept"))
        (request,) = gateway.backend.requests
        assert request.header("accept-encoding") is None
        assert request.header("x-other") == "kept"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (chat(b'{"model": "m"}'), "not streamed"),
        (chat(b'{"model": "m", "stream": false}'), "not streamed"),
        (chat(b'{"model": "m", "stream": true, "stream": false}'), "the last one counts"),
        (chat(b'{"model": "m", "options": {"stream": true}}'), "not of the request"),
        (chat(STREAM, path=b"/api/chat"), "Ollama's lines of JSON have no comments"),
        (chat(STREAM, method=b"PUT"), "not known what that means"),
    ],
)
async def test_others_wait_for_their_answer(request_: bytes, why: str) -> None:
    async with rig(settings=SOON) as gateway:
        gateway.scheduler.hold = True
        other, client = await gateway.client(), await gateway.client()
        await client.send(request_)
        await until(lambda: len(gateway.scheduler.waiting) == 1)
        await other.send(chat(STREAM))
        await other.read_until(b"1 ahead, about 14 s\n\n")  # by now, the first one was looked at too
        gateway.scheduler.grant()
        got = await client.receive()
        assert got.body == b"{}", why
        assert got.header("x-llmux-wait-ms") == "500"
        assert got.header("x-llmux-switched") == "true"
        await other.close()


async def test_none_where_the_configuration_wants_none() -> None:
    async with rig(settings=GatewaySettings(waiting_keepalive={"m": 0.0, "other": 0.01})) as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        await client.send(chat(STREAM))
        await until(lambda: gateway.scheduler.waiting)
        gateway.scheduler.refuse(HookFailedError("no", retry_after=3))
        got = await client.receive()
        assert got.status == 503
        assert got.header("retry-after") == "3"
        assert got.header("x-llmux-wait-ms") is not None


@pytest.mark.fault(37)
@pytest.mark.parametrize(
    ("path", "event"),
    [
        (b"/v1/chat/completions", None),
        (b"/v1/messages", b"error"),
        (b"/v1/responses", b"error"),
        (b"/upstream/m/v1/messages", b"error"),
    ],
)
async def test_a_wake_that_fails_is_told_in_the_apis_own_form(path: bytes, event: bytes | None) -> None:
    async with rig(settings=SOON) as gateway:
        client = await kept(gateway, chat(STREAM, path=path))
        gateway.scheduler.refuse(HookFailedError("wake hook of m failed", retry_after=3))
        told = said((await client.receive()).body)
        lines = told.removesuffix(b"\n\n").split(b"\n")
        assert lines[:-1] == ([] if event is None else [b"event: " + event])
        assert json.loads(lines[-1].removeprefix(b"data: "))["error"]["message"] == "wake hook of m failed"
        assert gateway.observer.done == [("m", 503)]
        # Nothing of the model was relayed, and the end is clean: the connection goes on.
        gateway.scheduler.hold = False
        await client.send(chat())
        assert (await client.receive()).status == 200


@pytest.mark.parametrize("http", [b"HTTP/1.1", b"HTTP/1.0"])
@pytest.mark.parametrize(
    ("script", "message", "status"),
    [
        (answer(b'{"error": {"message": "too long"}}', status=b"400 Bad Request"), "too long", 400),
        (answer(b"<html>", b"text/html", b"500 Oh"), "the backend answered with status 500", 500),
        (answer(b"", b"text/html", b"503 Oh"), "the backend answered with status 503", 503),
        (OK, "the backend answered with no event stream (status 200)", 502),
        (ending_with(b""), "the backend closed the connection before it answered", 502),
        (ending_with(b"HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\n{"), "the backend closed the connection", 502),
        (b"nonsense\r\n\r\n", "the backend's response is malformed", 502),
        (
            answer(EVENTS, b"text/event-stream\r\nContent-Encoding: gzip"),
            "the backend answered in a content coding that was not asked for (status 200)",
            502,
        ),
        (
            answer(b'"' + b"x" * 200_000, status=b"400 Bad Request"),
            "the backend answered with status 400",
            400,
        ),
    ],
)
async def test_a_backend_that_answers_with_something_else(
    script: bytes | Callable[[BackendConnection, Received], object], message: str, status: int, http: bytes
) -> None:
    async with rig(settings=SOON) as gateway:
        gateway.backend.play(script)
        got = await late(gateway, chat(STREAM).replace(b"HTTP/1.1", http))
        (told,) = said(got.body).split(b"\n\n")[:-1]
        assert json.loads(told.removeprefix(b"data: "))["error"]["message"].startswith(message)
        assert gateway.observer.done == [("m", status)]
        assert gateway.scheduler.finishes == [1]


@pytest.mark.fault(30)
async def test_a_stream_that_breaks_off_has_no_clean_end() -> None:
    async with rig(settings=SOON) as gateway:
        gateway.backend.play(ending_with(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"data: 1\n\nda")))
        client = await kept(gateway, chat(STREAM, path=b"/v1/messages"))
        gateway.scheduler.grant()
        with pytest.raises(TruncatedError) as broken:
            await client.receive()
        told = broken.value.body.split(b"data: 1\n\nda\n\n")[1]
        assert told.startswith(b"event: error\ndata: ")
        assert gateway.observer.done == [("m", 200)]


async def test_a_request_that_is_ended_before_the_backend_answers() -> None:
    async with rig(settings=SOON) as gateway:
        gateway.backend.play(b"")
        client = await kept(gateway, chat(STREAM))
        gateway.scheduler.grant()
        await until(lambda: gateway.backend.requests)
        gateway.scheduler.abort("an operator cancelled it")
        told = said((await client.receive()).body)
        assert b"an operator cancelled it" in told


async def test_stopping_tells_them() -> None:
    async with rig(settings=SOON) as gateway:
        client = await kept(gateway, chat(STREAM))
        gateway.gateway.stop_accepting()
        gateway.scheduler.refuse(ShuttingDownError("llmux is shutting down"))
        body = await client.rest()
        assert b'"code":"shutting_down"' in body
        assert body.endswith(b"0\r\n\r\n")


@pytest.mark.fault(24)
@pytest.mark.parametrize("how", ["reset", "half-close"])
async def test_a_client_that_leaves_is_noticed(how: str) -> None:
    async with rig(settings=SOON) as gateway:
        client = await kept(gateway, chat(STREAM))
        client.reset() if how == "reset" else client.writer.write_eof()
        await until(lambda: gateway.scheduler.lefts == [1])
        assert gateway.observer.done == [("m", CLIENT_GONE)]


async def test_a_page_of_another_site_may_read_it() -> None:
    async with rig(settings=SOON, access=Access(origins=Origins(["https://chat.example"]))) as gateway:
        gateway.backend.play(answer(EVENTS, b"text/event-stream"))
        got = await late(gateway, chat(STREAM, b"Origin: https://chat.example"))
        assert got.header("access-control-allow-origin") == "https://chat.example"
        assert "X-Llmux-Wait-Ms" in (got.header("access-control-expose-headers") or "")


async def test_the_deadline_of_a_silent_backend_is_told() -> None:
    settings = GatewaySettings(waiting_keepalive={"m": 0.01}, timeouts=Timeouts(response=0.05))
    async with rig(settings=settings) as gateway:
        gateway.backend.play(b"")
        got = await late(gateway, chat(STREAM))
        assert b'"code":"backend_timeout"' in said(got.body)
        assert gateway.observer.done == [("m", 504)]


# --- the ticker -------------------------------------------------------------------------------------------------------


class Waiter:
    def __init__(self, log: list[str], name: str, size: int = 0) -> None:
        self.log, self.name, self.size = log, name, size

    def keep_alive_due(self, now: float) -> int:
        self.log.append(self.name)
        return self.size


async def test_many_get_their_comments_in_turns_and_in_order() -> None:
    loop = asyncio.get_running_loop()
    keepalives = Keepalives(loop, FakeScheduler())
    log: list[str] = []
    waiters = [Waiter(log, str(number)) for number in range(100)]
    for waiter in waiters:
        keepalives.watch(waiter, 1000.0, loop.time() - 1000.0)
    keepalives.forget(waiters[7])
    keepalives.tick()
    assert len(log) < 50
    keepalives.tick()  # while it is still at it
    assert len(log) < 50
    await until(lambda: len(log) == 99)
    assert log == [waiter.name for waiter in waiters if waiter is not waiters[7]]
    keepalives.tick()
    assert len(log) == 99  # the next ones are due in 1000 s


async def test_who_cannot_be_kept_alive_is_asked_once_and_large_bodies_take_turns() -> None:
    loop = asyncio.get_running_loop()
    keepalives = Keepalives(loop, FakeScheduler())
    log: list[str] = []
    for number in range(10):
        keepalives.watch(Waiter(log, str(number), 1 << 20 if number < 5 else -1), 0.0001, loop.time() - 1.0)
    keepalives.tick()
    assert log == ["0", "1"]
    await until(lambda: "9" in log)
    while log.count("0") < 2:
        keepalives.tick()
        await asyncio.sleep(0.001)
    assert log.count("9") == 1


async def test_places_are_worked_out_once_for_all() -> None:
    asked: list[str] = []

    class Scheduler(FakeScheduler):
        def prospects(self, model: str) -> Prospects:
            asked.append(model)
            return Prospects({5: 3}, 4.0, 2, 1.5)

    keepalives = Keepalives(asyncio.get_running_loop(), Scheduler())
    prospects, age = keepalives.prospects("m", 100.0)
    assert (prospects.of(5), age) == ((3, 7.0), 0.0)  # two of the four get on at once
    prospects, age = keepalives.prospects("m", 100.9)
    assert (prospects.of(6), round(age, 3)) == ((0, 4.0), 0.9)
    assert asked == ["m"]
    keepalives.prospects("m", 101.1)
    assert asked == ["m", "m"]
