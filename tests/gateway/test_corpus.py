"""The corpus of malformed and ambiguous messages, as raw bytes through a real gateway.

A message is either refused, or what comes out at the other end is, to a second and strict parser, exactly the message
that llmux read. Whatever it was, nothing of it is found in the message that comes after it.
"""

from __future__ import annotations

import contextlib

import h11
import pytest

from tests.gateway.peers import BackendConnection, RawClient, Received, TruncatedError, chat, rig, until
from tests.wire.corpus import requests, responses
from tests.wire.corpus.cases import Case, Message

pytestmark = pytest.mark.anyio

REQUESTS = [
    pytest.param(case, id=case.name, marks=pytest.mark.fault(*case.rows, *([4] if case.status else [])))
    for case in requests.CASES
]
SECOND = b"POST /upstream/m/second HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


def strictly(raw: bytes) -> list[Received]:
    """All requests in `raw`, of which nothing may be left over."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(raw)
    read: list[Received] = []
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            read.append(Received(event.method.decode(), event.target.decode(), fields, b""))
        elif isinstance(event, h11.Data):
            read[-1].body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert not list(event.headers), "llmux sends no trailers"
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            parser.start_next_cycle()
        else:
            assert event is h11.NEED_DATA, event
            assert parser.trailing_data == (b"", False)
            return read


def test_the_second_parser_can_object() -> None:
    with pytest.raises(h11.RemoteProtocolError):
        strictly(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
    with pytest.raises(AssertionError):
        strictly(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /rest")
    assert [request.target for request in strictly(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" * 2 % (b"a", b"b"))] == [
        "/a",
        "/b",
    ]


@pytest.mark.parametrize("case", REQUESTS)
async def test_requests(case: Case) -> None:
    async with rig() as gateway:
        client = await gateway.client()
        with contextlib.suppress(ConnectionError):  # it may be refused before all of it was sent
            await client.send(case.wire + (b"" if case.unfinished else SECOND))
        if case.status:
            answer = await client.receive()
            assert (answer.status, answer.header("connection")) == (case.status, "close"), case.why
            assert await client.rest() == b"", "what follows an error is never parsed (row 4)"
            assert gateway.backend.connections == []
            assert gateway.scheduler.arrivals == []
            assert gateway.observer.done == [(None, case.status)]
            return
        expected = [*case.messages]
        if not (case.closes or case.unfinished):
            expected.append(Message("POST", "/second", b"{}"))
        for message in expected:
            assert (await client.receive(message.method)).status == 200, case.why
        if case.unfinished:
            client.writer.write_eof()
        if case.closes or case.unfinished:
            assert await client.rest() == b""
        await gateway.idle()
        got = [request for connection in gateway.backend.connections for request in strictly(bytes(connection.raw))]
        assert [(r.method, r.target, r.body) for r in got] == [(m.method, m.target, m.body) for m in expected], case.why
        for request, message in zip(got, expected, strict=True):
            for name, value in message.fields:
                assert request.all(name) == [value]
            for name in message.absent:
                assert request.all(name) == []
            assert request.all("host") == [gateway.backend.address.host_header]
            assert len(request.all("content-length")) <= 1
            assert request.all("transfer-encoding") == []


@pytest.mark.fault(30, 32)
@pytest.mark.parametrize("case", responses.CASES, ids=lambda case: case.name)
async def test_responses(case: responses.Case) -> None:
    async with rig() as gateway:

        def answer_badly(connection: BackendConnection, request: Received) -> None:
            connection.write(case.wire)
            if case.ends:
                connection.close()

        gateway.backend.play(answer_badly, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
        client = await gateway.client()
        await client.send(chat(path=b"/upstream/m/x", method=case.method.encode()))
        if case.cut:
            with contextlib.suppress(TruncatedError):
                answer = await client.receive(case.method)
                assert answer.status == 502, "head and fault came in one piece, so that it could still be told"
        else:
            answer = await client.receive(case.method)
            if case.whole is None:
                assert answer.status == case.status, case.why
            else:
                assert (answer.status, answer.body) == (case.whole.status, case.whole.body), case.why
                for name, value in case.whole.fields:
                    assert answer.header(name) == value
                for name in case.whole.absent:
                    assert answer.header(name) is None
            if answer.header("connection") == "close":
                assert await client.rest() == b""
                client = await gateway.client()
        if case.cut:
            client = await gateway.client()
        await second(client)
        await client.close()
        assert await client.rest() == b"", "nothing is left over"
        await until(lambda: len(gateway.scheduler.finishes) == 2)


@pytest.mark.fault(30, 32)
@pytest.mark.parametrize("case", [case for case in responses.CASES if case.cut], ids=lambda case: case.name)
async def test_responses_whose_head_was_passed_on(case: responses.Case) -> None:
    head, end, rest = case.wire.partition(b"\r\n\r\n")
    async with rig() as gateway:
        gateway.backend.play(head + end, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
        client = await gateway.client()
        await client.send(chat(path=b"/upstream/m/x"))
        await client.read_until(b"\r\n\r\n")
        (connection,) = gateway.backend.connections
        connection.write(rest)
        if case.ends:
            connection.close()
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await second(await gateway.client())


async def second(client: RawClient) -> None:
    await client.send(chat(path=b"/upstream/m/second"))
    answer = await client.receive()
    assert (answer.status, answer.body) == (200, b"second"), "the next answer is the next request's"


def test_there_are_enough_malformed_responses() -> None:
    names = [case.name for case in responses.CASES]
    assert len(set(names)) == len(names) >= 60
    for case in responses.CASES:
        assert bool(case.status) + (case.whole is not None) + case.cut == 1, case.name
