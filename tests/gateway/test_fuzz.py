"""Whole requests and responses, cut up anywhere, through a real gateway: what arrives is what was sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.peers import BackendConnection, RawClient, Received, rig
from tests.wire.messages import BODIES, FIELDS, Body, framed, splits

CONTENTS = BODIES.map(lambda raw: b'{"model": "m", "x": "' + raw.hex().encode() + b'"}')


@st.composite
def exchanges(draw: st.DrawFn) -> list[tuple[bytes, list[tuple[str, bytes]], Body, bytes, Body]]:
    """Requests to pipeline, and what the backend answers to each."""
    count = draw(st.integers(1, 4))
    return [
        (
            draw(st.sampled_from([b"/v1/a", b"/v1/b?c=d", b"/"])),
            draw(FIELDS),
            draw(framed(CONTENTS)),
            b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in draw(FIELDS)),
            draw(framed()),
        )
        for _ in range(count)
    ]


async def check(sent: list[Any], arrivals: list[bytes], departures: list[list[bytes]]) -> None:
    async with rig() as gateway:
        answering: list[asyncio.Task[None]] = []

        async def answer(connection: Any, pieces: list[bytes]) -> None:
            for piece in pieces:
                connection.write(piece)
                await asyncio.sleep(0)

        left = list(departures)
        gateway.backend.script = lambda connection, _: answering.append(
            asyncio.ensure_future(answer(connection, left.pop(0)))
        )
        client = await gateway.client()
        sending = asyncio.ensure_future(client.send(*arrivals))
        for number, (target, fields, body, _, response) in enumerate(sent):
            got = await client.receive()
            assert got.status == 200
            assert got.body == response.content
            request = gateway.backend.requests[number]
            assert request.target == target.decode()
            assert request.body == body.content
            own = [(name, value.encode("latin-1")) for name, value in request.headers if name.startswith("x-t-")]
            assert own == [(name.lower(), value) for name, value in fields]
        await sending
        await asyncio.gather(*answering)
        assert len(gateway.backend.requests) == len(sent)
        assert len(gateway.backend.connections) == 1
        assert len(gateway.scheduler.finishes) == len(sent)


@pytest.mark.fault(3, 4)
@pytest.mark.parametrize("runner", [uvloop.run, asyncio.run])
@settings(max_examples=60)
@given(data=st.data(), sent=exchanges())
def test_pipelined_exchanges_survive_any_split(runner: Any, data: st.DataObject, sent: list[Any]) -> None:
    wire = b"".join(
        b"POST %b HTTP/1.1\r\nHost: x\r\n%b%b\r\n%b"
        % (target, b"".join(b"%b: %b\r\n" % (n.encode(), v) for n, v in fields), body.fields, body.wire)
        for target, fields, body, _, _ in sent
    )
    departures = [
        data.draw(splits(b"HTTP/1.1 200 OK\r\n" + lines + body.fields + b"\r\n" + body.wire))
        for *_, lines, body in sent
    ]
    runner(check(sent, data.draw(splits(wire)), departures))


async def leave(request: bytes, response: bytes, sent: int, answered: int, turns: int) -> None:
    async with rig() as gateway:
        gateway.backend.play(response[:answered])
        client = await gateway.client()
        client.writer.write(request[:sent])
        for _ in range(turns):
            await asyncio.sleep(0)
        client.reset()
        gateway.backend.play(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await gateway.idle()
        following = await RawClient.open(gateway.port)
        gateway.clients.append(following)
        await following.send(request)
        assert (await following.receive()).body in (b"ok", b"hello")


@pytest.mark.fault(24, 25, 26)
@pytest.mark.parametrize("runner", [uvloop.run, asyncio.run])
@settings(max_examples=60)
@given(sent=st.integers(1, 200), answered=st.integers(0, 200), turns=st.integers(0, 30))
def test_leaving_at_any_point(runner: Any, sent: int, answered: int, turns: int) -> None:
    """The rig looks at the books: every grant given back once, nothing left in memory."""
    body = b'{"model": "m"}'
    request = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    runner(leave(request, response, sent, answered, turns))


async def answer_or_close(ends: list[str], methods: list[bytes]) -> None:
    async with rig() as gateway:
        left = list(ends)

        def script(connection: BackendConnection, request: Received) -> None:
            how = left.pop(0) if left else "answer"
            if how in ("answer", "answer and close"):
                connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            if how in ("close", "answer and close"):
                connection.close()
            elif how == "reset":
                connection.reset()

        gateway.backend.script = script
        client = await gateway.client()
        for number, method in enumerate(methods):
            await client.send(b"%b /upstream/m/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % (method, number))
            answer = await client.receive(method.decode())
            asked = [request for request in gateway.backend.requests if request.target == f"/{number}"]
            assert answer.status in (200, 502)
            assert len(asked) <= (1 if method == b"POST" else 2), "a POST may have been carried out, so never again"
            assert answer.status == 502 or asked


@pytest.mark.fault(29, 33)
@pytest.mark.parametrize("runner", [uvloop.run, asyncio.run])
@settings(max_examples=40, derandomize=True)
@given(
    ends=st.lists(st.sampled_from(["answer", "answer and close", "close", "reset"]), max_size=12),
    methods=st.lists(st.sampled_from([b"GET", b"POST", b"HEAD"]), min_size=1, max_size=6),
)
def test_a_backend_that_closes_when_it_likes(runner: Any, ends: list[str], methods: list[bytes]) -> None:
    """Before its answer, or after it while its connection is in the pool: 200 or 502, and never a POST sent twice."""
    runner(answer_or_close(ends, methods))
