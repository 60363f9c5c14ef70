"""Several clients, several requests each, all of it cut, mutated and re-chunked: framing never drifts, and nothing of
one request is ever found in another.

Every request carries a marker of its own in its target, in a field and in its body; its backend answers with the marker
that it was asked with. LLMUX_FUZZ=N runs N examples of each test with new random ones; else they are few and always the
same.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from typing import Any

import h11
import pytest
import uvloop
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from llmux.errors import BackendError, LlmuxError
from llmux.wire.request import RequestReader
from llmux.wire.response import ResponseReader
from tests.gateway.peers import BackendConnection, RawClient, Received, Rig, TruncatedError, rig
from tests.gateway.test_corpus import strictly
from tests.wire.messages import Body, splits

EXAMPLES = int(os.environ.get("LLMUX_FUZZ", "0"))
FUZZ = settings(
    max_examples=EXAMPLES or 25,
    derandomize=not EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LOOPS = pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
MARKER = re.compile(rb"mark-(\d+)-(\d+)-")


def marks(raw: bytes) -> set[tuple[int, int]]:
    """The markers in `raw`, each as the number of its client and that of its request."""
    return {(int(client), int(number)) for client, number in MARKER.findall(raw)}


@st.composite
def bodies(draw: st.DrawFn, mark: bytes) -> Body:
    """A body with `mark` in it, with a length or in chunks."""
    content = mark * draw(st.integers(0, 3)) + draw(st.sampled_from([b"", b"\r\n", b"0\r\n\r\n", b"x" * 50]))
    if draw(st.booleans()):
        return Body(content, content, b"Content-Length: %d\r\n" % len(content))
    wire, at = b"", 0
    while at < len(content):
        size = draw(st.integers(1, len(content) - at))
        wire += b"%x\r\n%b\r\n" % (size, content[at : at + size])
        at += size
    return Body(content, wire + b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n")


@dataclass(frozen=True)
class Ask:
    mark: bytes
    method: bytes
    body: Body | None
    answer: Body

    @property
    def wire(self) -> bytes:
        fields, body = (self.body.fields, self.body.wire) if self.body else (b"", b"")
        return b"%b /upstream/m/%b HTTP/1.1\r\nHost: a\r\nX-Mark: %b\r\n%b\r\n%b" % (
            self.method,
            self.mark,
            self.mark,
            fields,
            body,
        )


@st.composite
def asks(draw: st.DrawFn, client: int) -> list[Ask]:
    """What one client pipelines."""
    made = []
    for number in range(draw(st.integers(1, 4))):
        mark = b"mark-%d-%d-" % (client, number)
        method = draw(st.sampled_from([b"POST", b"GET", b"HEAD", b"PUT"]))
        body = None if method in (b"GET", b"HEAD") else draw(bodies(mark))
        made.append(Ask(mark, method, body, draw(bodies(mark))))
    return made


CLIENTS = st.integers(1, 4).flatmap(lambda count: st.tuples(*(asks(client) for client in range(count))))


async def write(connection: BackendConnection, pieces: list[bytes]) -> None:
    for piece in pieces:
        if connection.transport.is_closing():  # llmux has had enough of it
            return
        connection.write(piece)
        await asyncio.sleep(0)


class Answers:
    """The script of a backend: each request gets the answer of the `Ask` whose marker its target has."""

    def __init__(self, gateway: Rig) -> None:
        self.by_mark: dict[str, list[bytes]] = {}
        self.tasks: list[asyncio.Task[None]] = []
        gateway.backend.script = self

    def __call__(self, connection: BackendConnection, request: Received) -> None:
        pieces = self.by_mark.get(request.target.strip("/"))
        if pieces is None:  # a target that was mutated: tell what marks there were in all of it
            seen = f"{request.target} {request.headers}".encode() + request.body
            echo = b" ".join(sorted(set(re.findall(rb"mark-\d+-\d+-", seen))))
            pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(echo), echo)]
            if request.method == "HEAD":
                pieces = [b"HTTP/1.1 200 OK\r\n\r\n"]
        self.tasks.append(asyncio.ensure_future(write(connection, pieces)))


def answer_pieces(data: st.DataObject, ask: Ask) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nX-Mark: %b\r\n%b\r\n" % (ask.mark, ask.answer.fields)
    return data.draw(splits(head if ask.method == b"HEAD" else head + ask.answer.wire))


@pytest.mark.fault(3, 4)
@LOOPS
@FUZZ
@given(data=st.data(), clients=CLIENTS)
def test_interleaved_clients_get_their_own_answers(
    run: Any, data: st.DataObject, clients: tuple[list[Ask], ...]
) -> None:
    arrivals = [data.draw(splits(b"".join(ask.wire for ask in asked))) for asked in clients]
    departures = {ask.mark.decode(): answer_pieces(data, ask) for asked in clients for ask in asked}

    async def check() -> None:
        async with rig() as gateway:
            answers = Answers(gateway)
            answers.by_mark = departures

            async def one(asked: list[Ask], pieces: list[bytes]) -> None:
                client = await gateway.client()
                sending = asyncio.ensure_future(client.send(*pieces))
                for ask in asked:
                    answer = await client.receive(ask.method.decode())
                    assert (answer.status, answer.header("x-mark")) == (200, ask.mark.decode())
                    assert answer.body == (b"" if ask.method == b"HEAD" else ask.answer.content)
                await sending
                await client.close()
                assert await client.rest() == b""

            await asyncio.gather(*(one(*pair) for pair in zip(clients, arrivals, strict=True)))
            await asyncio.gather(*answers.tasks)
            seen = {}
            for connection in gateway.backend.connections:
                for request in strictly(bytes(connection.raw)):
                    seen[request.target] = (request.method, request.header("x-mark"), request.body)
            assert seen == {
                f"/{ask.mark.decode()}": (
                    ask.method.decode(),
                    ask.mark.decode(),
                    ask.body.content if ask.body else b"",
                )
                for asked in clients
                for ask in asked
            }

    run(check())


JUNK = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b":", b"\0", b"\t", b"0", b"5", b"\r\n\r\n", b"0\r\n\r\n"]),
    st.sampled_from([b"GET / HTTP/1.1\r\n", b"Connection: close\r\n", b"X: y\r\n"]),
    st.sampled_from([b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]),
)


@st.composite
def mutated(draw: st.DrawFn, wire: bytes) -> bytes:
    """`wire` with up to three things put in, taken out, changed or said twice."""
    made = bytearray(wire)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(made)))
        size = draw(st.integers(1, 20))
        junk = draw(JUNK)
        how = draw(st.sampled_from(["put in", "take out", "change", "say twice"]))
        if how == "put in":
            made[at:at] = junk
        elif how == "take out":
            del made[at : at + size]
        elif how == "change":
            made[at : at + len(junk)] = junk
        else:
            made[at:at] = made[at : at + size]
    return bytes(made)


@dataclass
class Reading:
    """What the reader by itself makes of a client's bytes: the requests, and the status of the error that ends them."""

    requests: list[tuple[bytes, bytes, bytes]]
    status: int
    closes: bool


def read(wire: bytes) -> Reading:
    reader = RequestReader(max_head_bytes=65_536, max_body_bytes=1 << 20)
    reading = Reading([], 0, False)
    try:
        while wire:
            wire = reader.feed(wire)
            if reader.complete:
                request = reader.request
                reading.requests.append((request.method, request.path + request.query, bytes(request.body)))
                if not request.keep_alive:
                    reading.closes = True
                    return reading
                reader.reset()
    except LlmuxError as error:
        reading.status = error.status
    return reading


@pytest.mark.fault(1, 2, 3, 4)
@LOOPS
@FUZZ
@given(data=st.data(), clients=CLIENTS)
def test_mutated_requests_are_refused_or_read_alike_by_both(
    run: Any, data: st.DataObject, clients: tuple[list[Ask], ...]
) -> None:
    """One answer for each request that was read, in order, and one for the error; the backend reads the same requests;
    none has anything of another client's; nobody hangs; and no 5xx but 501."""
    wires = [data.draw(mutated(b"".join(ask.wire for ask in asked))) for asked in clients]
    arrivals = [data.draw(splits(wire)) for wire in wires]
    departures = {ask.mark.decode(): answer_pieces(data, ask) for asked in clients for ask in asked}
    note(f"{wires}")

    async def check() -> None:
        async with rig() as gateway:
            answers = Answers(gateway)
            answers.by_mark = departures

            async def one(number: int, pieces: list[bytes]) -> None:
                reading = read(b"".join(pieces))
                client = await gateway.client()
                sending = asyncio.ensure_future(client.send(*pieces))
                for method, _, _ in reading.requests:
                    answer = await client.receive(method.decode())
                    assert answer.status < 500 or answer.status == 501
                    assert {of for of, _ in marks(f"{answer.headers}".encode() + answer.body)} <= {number}
                if reading.status:
                    assert (await client.receive()).status == reading.status
                await asyncio.gather(sending, return_exceptions=True)
                if not (reading.status or reading.closes):
                    client.writer.write_eof()
                assert await client.rest() == b""

            await asyncio.gather(*(one(*pair) for pair in enumerate(arrivals)))
            await asyncio.gather(*answers.tasks)
            seen = []
            for connection in gateway.backend.connections:
                for request in strictly(bytes(connection.raw)):
                    whole = f"{request.target} {request.headers}".encode() + request.body
                    assert len({client for client, _ in marks(whole)}) <= 1
                    seen.append((request.method.encode(), request.target.encode(), request.body))
            expected = [
                (method, path.removeprefix(b"/upstream/m").removeprefix(b"?") or b"/", body)
                for wire in wires
                for method, path, body in read(wire).requests
                if path.startswith(b"/upstream/m/") or (path == b"/upstream/m" and method not in (b"GET", b"HEAD"))
            ]
            assert sorted(seen) == sorted(expected)

    run(check())


def waits_for_more(wire: bytes, *, to_head: bool) -> bool:
    """Is `wire` the beginning of a response? (A backend that closed after a whole one would be another fault.)"""
    reader = ResponseReader(to_head=to_head)
    try:
        reader.feed(wire) if wire else None
    except BackendError:
        return False
    return not reader.complete


def as_a_client_reads(wire: bytes, method: bytes) -> tuple[int, bytes] | None:
    """What h11 reads out of a backend's bytes, and its closing after them; None for no whole response."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    parser.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    parser.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        parser.receive_data(wire)
        parser.receive_data(b"")
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None
    return status, body


@pytest.mark.fault(30, 32, 33)
@LOOPS
@FUZZ
@given(data=st.data(), clients=CLIENTS)
def test_mutated_responses_are_refused_cut_or_read_alike_by_both(
    run: Any, data: st.DataObject, clients: tuple[list[Ask], ...]
) -> None:
    """Half of the responses are mutated; those that then lack something end with their connection. A client gets 502,
    an end that it takes for none, or what h11 reads out of the backend's bytes. The rest arrive as they were sent."""
    departures: dict[str, bytes] = {}
    damaged: set[bytes] = set()
    heads = {ask.mark for asked in clients for ask in asked if ask.method == b"HEAD"}
    for ask in (ask for asked in clients for ask in asked):
        head = b"HTTP/1.1 200 OK\r\nX-Mark: %b\r\n%b\r\n" % (ask.mark, ask.answer.fields)
        wire = head if ask.method == b"HEAD" else head + ask.answer.wire
        if data.draw(st.booleans()):
            damaged.add(ask.mark)
            wire = data.draw(mutated(wire))
        departures[ask.mark.decode()] = wire
    cuts = {mark: data.draw(splits(wire)) for mark, wire in departures.items()}
    note(f"{departures}")

    async def check() -> None:
        async with rig() as gateway:
            answering: list[asyncio.Task[None]] = []

            async def answer(connection: BackendConnection, mark: str) -> None:
                await write(connection, cuts[mark])
                if waits_for_more(departures[mark], to_head=mark.encode() in heads):
                    connection.close()

            gateway.backend.script = lambda connection, request: answering.append(
                asyncio.ensure_future(answer(connection, request.target.strip("/")))
            )

            async def one(number: int, asked: list[Ask]) -> None:
                client = await gateway.client()
                for ask in asked:
                    await client.send(ask.wire)
                    try:
                        got = await client.receive(ask.method.decode())
                    except TruncatedError:
                        assert ask.mark in damaged
                        client = await gateway.client()
                        continue
                    assert {of for of, _ in marks(f"{got.headers}".encode() + got.body)} <= {number}
                    if ask.mark not in damaged:
                        assert (got.status, got.header("x-mark")) == (200, ask.mark.decode())
                        assert got.body == (b"" if ask.method == b"HEAD" else ask.answer.content)
                    elif got.header("content-type") == "application/json":
                        assert got.status == 502
                    else:
                        read = as_a_client_reads(departures[ask.mark.decode()], ask.method)
                        assert read is None or read == (got.status, got.body)
                    if got.header("connection") == "close":
                        await assert_ended(client)
                        client = await gateway.client()
                await client.close()
                await assert_ended(client)

            await asyncio.gather(*(one(*pair) for pair in enumerate(clients)))
            await asyncio.gather(*answering)

    run(check())


async def assert_ended(client: RawClient) -> None:
    assert await client.rest() == b"", "nothing is left over"
