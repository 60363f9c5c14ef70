"""Clients that go away, and requests that must end: grants are given back, once, and backends are freed."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from llmux.errors import RequestAbortedError
from llmux.gateway import CLIENT_GONE
from tests.gateway.peers import OK, PATIENCE, RawClient, Rig, TruncatedError, chat, get, rig, until

pytestmark = pytest.mark.anyio

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: 1\n\n\r\n"


async def leave(client: RawClient, how: str) -> None:
    if how == "reset":
        client.reset()
    else:
        client.writer.write_eof()


HOW = pytest.mark.parametrize("how", ["reset", "half-close"])


@pytest.mark.fault(24, 27)
@HOW
async def test_while_queued(how: str) -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        client, other = await gateway.client(), await gateway.client()
        await client.send(chat())
        await until(lambda: gateway.scheduler.waiting)
        await other.send(chat())
        await until(lambda: len(gateway.scheduler.waiting) == 2)
        await leave(client, how)
        await until(lambda: gateway.scheduler.lefts == [1])
        gateway.scheduler.grant()
        assert (await other.receive()).status == 200
        assert gateway.scheduler.finishes == [2]
        assert gateway.observer.done == [("m", CLIENT_GONE), ("m", 200)]
        assert len(gateway.backend.requests) == 1
        if how == "half-close":
            with pytest.raises(ConnectionResetError):
                await client.rest()


@pytest.mark.fault(24, 27)
@HOW
async def test_while_queued_with_a_request_pipelined_behind(how: str) -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        await client.send(chat() + chat())
        await until(lambda: gateway.scheduler.waiting)
        await leave(client, how)
        await until(lambda: gateway.scheduler.lefts == [1])
        await until(lambda: gateway.gateway.connections == 0)
        assert len(gateway.scheduler.arrivals) == 1


@pytest.mark.fault(26, 27)
@HOW
async def test_before_the_first_token(how: str) -> None:
    async with rig() as gateway:
        gateway.backend.play(b"")
        client = await gateway.client()
        await client.send(chat())
        await until(lambda: gateway.backend.requests)
        await leave(client, how)
        async with asyncio.timeout(PATIENCE):
            await gateway.backend.connections[0].lost.wait()
        await until(lambda: gateway.scheduler.finishes == [1])
        assert gateway.observer.done == [("m", CLIENT_GONE)]


@pytest.mark.fault(26, 27)
@HOW
async def test_amid_a_stream(how: str) -> None:
    async with rig() as gateway:
        gateway.backend.play(SSE + EVENT, OK)
        client = await gateway.client()
        await client.send(chat())
        await client.read_until(EVENT)
        await leave(client, how)
        async with asyncio.timeout(PATIENCE):
            await gateway.backend.connections[0].lost.wait()
        await until(lambda: gateway.scheduler.finishes == [1])
        assert gateway.observer.done == [("m", 200)]
        assert gateway.scheduler.failures == []
        assert (await gateway.ask(chat())).status == 200
        assert len(gateway.backend.connections) == 2, "the stream's connection is not used again"


@pytest.mark.fault(25)
async def test_while_connecting() -> None:
    """The attempt is cancelled, and whatever came of it is closed."""
    async with rig() as gateway:
        gateway.scheduler.hold = True
        for _ in range(5):
            client = await gateway.client()
            await client.send(chat())
            await until(lambda: gateway.scheduler.waiting)
            gateway.scheduler.grant()
            client.reset()
            # Both the connection to the backend and the reset are on their way; which comes first is not settled.
            await until(lambda: gateway.gateway.connections == 0)
        await until(lambda: not gateway.backend.live)
        assert gateway.scheduler.finishes == [1, 2, 3, 4, 5]


@pytest.mark.fault(25)
async def test_while_connecting_to_nobody_who_answers() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        await client.send(chat())
        await until(lambda: gateway.scheduler.waiting)
        (requester,) = gateway.scheduler.waiting.values()
        gateway.scheduler.grant()
        requester.aborted(RequestAbortedError("before the connection was made"))
        assert gateway.scheduler.finishes == [1]
        assert (await client.receive()).status == 503
        await until(lambda: not gateway.backend.live)
        assert gateway.backend.requests == []


@pytest.mark.fault(25, 26)
@pytest.mark.parametrize("step", range(12))
async def test_at_every_turn_of_the_loop(step: int) -> None:
    """A reset some turns after the request, wherever that finds it."""
    async with rig() as gateway:
        gateway.backend.play(SSE + EVENT + b"0\r\n\r\n")
        for _ in range(4):
            client = await gateway.client()
            await until(lambda: gateway.gateway.connections == 1)
            client.writer.write(chat())
            for _ in range(step):
                await asyncio.sleep(0)
            client.reset()
            await until(lambda: gateway.gateway.connections == 0)
        await gateway.idle()
        assert len(gateway.observer.done) == len(gateway.scheduler.arrivals)
        assert (await gateway.ask(chat())).body == b"data: 1\n\n"


async def test_after_the_response_the_backend_connection_is_kept() -> None:
    async with rig() as gateway:
        for _ in range(3):
            client = await gateway.client()
            await client.send(chat())
            assert (await client.receive()).status == 200
            client.reset()
            await until(lambda: gateway.gateway.connections == 0)
        assert len(gateway.backend.connections) == 1


@pytest.mark.fault(27)
async def test_idle_half_close_is_a_plain_end() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(chat())
        assert (await client.receive()).status == 200
        client.writer.write_eof()
        assert await client.rest() == b""


# --- requests that must end ---


async def test_abort_before_the_head() -> None:
    async with rig() as gateway:
        gateway.backend.play(b"", OK)
        client = await gateway.client()
        await client.send(chat())
        await until(lambda: gateway.backend.requests)
        gateway.scheduler.abort("drain deadline")
        assert gateway.scheduler.finishes == [1], "at once"
        answer = await client.receive()
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert "drain deadline" in json.loads(answer.body)["error"]["message"]
        await gateway.backend.connections[0].lost.wait()
        await client.send(chat())
        assert (await client.receive()).status == 200


async def test_abort_amid_an_event_stream() -> None:
    async with rig() as gateway:
        gateway.backend.play(SSE + EVENT)
        client = await gateway.client()
        await client.send(chat())
        assert await client.read_until(EVENT) == SSE + EVENT
        gateway.scheduler.abort("drain deadline")
        assert gateway.scheduler.finishes == [1]
        rest = await client.rest()
        assert b"drain deadline" in rest
        assert not rest.endswith(b"0\r\n\r\n")
        await gateway.backend.connections[0].lost.wait()


async def test_abort_amid_another_response() -> None:
    async with rig() as gateway:
        gateway.backend.play(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        client = await gateway.client()
        await client.send(chat())
        await client.read_until(b"half")
        gateway.scheduler.abort("shutdown")
        assert gateway.scheduler.finishes == [1]
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await gateway.backend.connections[0].lost.wait()
        assert gateway.scheduler.failures == []


async def big_response_to_a_client_that_does_not_read(gateway: Rig, size: int) -> RawClient:
    body = b"x" * size
    gateway.backend.play(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), OK)
    client = await gateway.client(receive_buffer=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a full transport
    await client.send(chat())
    await until(lambda: gateway.backend.connections and gateway.backend.connections[0].paused)
    return client


@pytest.mark.fault(15)
async def test_backpressure_and_a_grant_held_to_the_last_byte() -> None:
    size = 30_000_000
    async with rig() as gateway:
        client = await big_response_to_a_client_that_does_not_read(gateway, size)
        backend = gateway.backend.connections[0].transport
        unsent = -1
        while backend.get_write_buffer_size() != unsent:  # until every buffer on the way is full
            unsent = backend.get_write_buffer_size()
            await asyncio.sleep(0.1)
        assert unsent > size // 2, "the gateway does not read what it cannot pass on"
        assert gateway.scheduler.granted
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # it is a full transport
        answer = await client.receive()
        assert len(answer.body) == size
        await until(lambda: gateway.scheduler.finishes == [1])
        await client.send(chat())
        assert (await client.receive()).status == 200
        assert len(gateway.backend.connections) == 1


@pytest.mark.fault(15)
@pytest.mark.parametrize("how", ["client", "scheduler"])
async def test_end_of_a_response_that_nobody_reads(how: str) -> None:
    async with rig() as gateway:
        client = await big_response_to_a_client_that_does_not_read(gateway, 30_000_000)
        if how == "client":
            client.reset()
        else:
            gateway.scheduler.abort("shutdown")
            assert gateway.scheduler.finishes == [1]
        await until(lambda: gateway.scheduler.finishes == [1])
        await gateway.backend.connections[0].lost.wait()


@pytest.mark.fault(15, 27)
@pytest.mark.parametrize("how", ["reads on", "is aborted", "leaves", "half-closes and reads on"])
async def test_while_the_last_bytes_drain(how: str) -> None:
    """The backend is done and its connection free, but the client has not taken all of the response yet."""
    size = 60_000
    small = socket.socket()
    small.bind(("127.0.0.1", 0))
    small.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # accepted connections inherit it
    async with rig() as gateway:
        await gateway.gateway.start(sockets=[small])
        gateway.backend.play(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, b"x" * size), OK)
        client = await RawClient.open(small.getsockname()[1], receive_buffer=2048)
        gateway.clients.append(client)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a full transport
        await client.send(chat())
        await until(lambda: gateway.gateway._shared.pools["m"].idle)
        assert (await gateway.ask(chat())).status == 200
        assert len(gateway.backend.connections) == 1, "the first response is all read, its connection used again"
        assert gateway.scheduler.finishes == [2]
        assert list(gateway.scheduler.granted) == [1]
        if how == "is aborted":
            gateway.scheduler.abort("drain deadline")
            assert gateway.scheduler.finishes == [2, 1]
        elif how == "leaves":
            client.reset()
        elif how.startswith("half-closes"):
            client.writer.write_eof()
        if how != "leaves":
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # it is a full transport
        if how == "is aborted":
            with pytest.raises(TruncatedError):
                await client.receive()
        elif how != "leaves":
            assert len((await client.receive()).body) == size
        await until(lambda: gateway.scheduler.finishes == [2, 1])
        assert len(gateway.backend.live) == 1


@pytest.mark.fault(25)
async def test_get_and_post_interleaved_on_many_connections() -> None:
    async with rig() as gateway:

        async def one(number: int) -> None:
            client = await gateway.client()
            for turn in range(10):
                if (number + turn) % 4 == 0:
                    await client.send(chat()[: 20 + number * 5])
                    client.reset()
                    client = await gateway.client()
                await client.send(chat() if turn % 2 else get(b"/upstream/m/x"))
                assert (await client.receive()).status == 200

        await asyncio.gather(*(one(number) for number in range(20)))
        await gateway.idle()
        assert len(gateway.scheduler.finishes) == 200
