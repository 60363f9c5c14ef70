"""Backends that are away, die, hang or talk nonsense: an honest status, or an end that nobody takes for a whole one."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
import uvicorn

from llmux import Config, ModelConfig
from llmux.addresses import BackendAddress
from llmux.app import gateway_settings
from llmux.gateway import GatewaySettings, Timeouts
from llmux.gateway.gateway import SWEEP_SECONDS
from tests.gateway.peers import (
    OK,
    BackendConnection,
    FakeBackend,
    Received,
    TruncatedError,
    chat,
    ending_with,
    get,
    rig,
    until,
)
from tests.ports import nobodys_port

pytestmark = pytest.mark.anyio

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
SSE = CHUNKED + b"Content-Type: text/event-stream; charset=utf-8\r\n\r\n"


@pytest.mark.fault(28)
async def test_refused_connection() -> None:
    with nobodys_port() as port:
        async with rig(address=BackendAddress.local(port)) as gateway:
            client = await gateway.client()
            for _ in range(2):
                await client.send(chat())
                answer = await client.receive()
                assert answer.status == 502
                assert json.loads(answer.body)["error"]["code"] == "backend_error"
            assert gateway.scheduler.failures == ["m", "m"]
            assert gateway.observer.done == [("m", 502), ("m", 502)]


@pytest.mark.fault(28)
async def test_missing_unix_socket_and_unknown_host() -> None:
    for address in (
        BackendAddress(unix_path="/nonexistent/socket"),
        BackendAddress(host="x" * 64 + ".invalid", port=1),
    ):
        async with rig(address=address) as gateway:
            assert (await gateway.ask(chat())).status == 502
            assert gateway.scheduler.failures == ["m"]


@pytest.mark.fault(29)
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_death_before_the_head(how: str, before: bytes) -> None:
    async with rig() as gateway:

        def die(connection: BackendConnection, request: Received) -> None:
            if before:
                connection.write(before)
            getattr(connection, how)()

        gateway.backend.script = die
        for request in (chat(), get(b"/upstream/m/x")):
            client = await gateway.client()
            await client.send(request)
            assert (await client.receive()).status == 502
        assert len(gateway.backend.requests) == 2, "nothing is sent again on a connection that was new"
        assert gateway.scheduler.failures == ["m", "m"]


MALFORMED = [
    b"what?\r\n\r\n",
    b"HTTP/2 200 OK\r\n\r\n",
    b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 99 X\r\n\r\n",
    b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 2000 X\r\n\r\n",
    b"HTTP/1.1  200 X\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX y: a\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
]


@pytest.mark.fault(32)
@pytest.mark.parametrize("response", MALFORMED)
async def test_malformed_response(response: bytes) -> None:
    async with rig() as gateway:
        gateway.backend.play(response)
        client = await gateway.client()
        for _ in range(2):
            await client.send(chat())
            answer = await client.receive()
            assert (answer.status, answer.header("connection")) == (502, None)
        await until(lambda: not gateway.backend.live)
        assert len(gateway.backend.connections) == 2
        assert gateway.scheduler.failures == []


@pytest.mark.fault(30, 32)
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        CHUNKED + b"\r\n5\r\nhello\r\n",
        CHUNKED + b"\r\n5\r\nhel",
        CHUNKED + b"\r\n5\r\nhello\r\n0\r\n",
        CHUNKED + b"Content-Type: text/event-stream\r\n\r\n9\r\ndata: 1\n",
    ],
)
async def test_death_amid_a_response_is_never_a_clean_end(how: str, start: bytes) -> None:
    async with rig() as gateway:
        gateway.backend.play(lambda connection, _: connection.write(start))
        client = await gateway.client()
        await client.send(chat())
        await client.read_until(b"\r\n\r\n")
        getattr(gateway.backend.connections[0], how)()
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert gateway.scheduler.failures == ["m"]
        assert gateway.observer.done == [("m", 200)]


@pytest.mark.fault(30)
async def test_a_reset_amid_a_response_without_length_is_passed_on() -> None:
    """Its end is the connection's, so a plain close would look like a whole response."""
    for request in (chat(), b'POST / HTTP/1.0\r\nContent-Length: 14\r\n\r\n{"model": "m"}'):
        async with rig() as gateway:
            gateway.backend.play(lambda connection, _: connection.write(b"HTTP/1.1 200 OK\r\n\r\nhalf"))
            client = await gateway.client()
            await client.send(request)
            await client.read_until(b"half")
            gateway.backend.connections[0].reset()
            with pytest.raises(ConnectionResetError):
                await client.rest()


@pytest.mark.fault(30)
async def test_http10_client_of_a_chunked_response_that_ends_early() -> None:
    async with rig() as gateway:
        gateway.backend.play(lambda connection, _: connection.write(CHUNKED + b"\r\n4\r\nhalf\r\n"))
        client = await gateway.client()
        await client.send(b'POST / HTTP/1.0\r\nContent-Length: 14\r\n\r\n{"model": "m"}')
        await client.read_until(b"half")
        gateway.backend.connections[0].close()
        with pytest.raises(ConnectionResetError):
            await client.rest()


@pytest.mark.fault(30)
@pytest.mark.parametrize("events", [b"", b"9\r\ndata: 1\n\n\r\n", b"8\r\ndata: 1\n\r\n"])
async def test_an_event_stream_that_ends_early_says_so(events: bytes) -> None:
    async with rig() as gateway:
        gateway.backend.play(lambda connection, _: connection.write(SSE + events))
        client = await gateway.client()
        await client.send(chat())
        await client.read_until(events or b"\r\n\r\n")
        client._rest = SSE + events
        gateway.backend.connections[0].close()
        with pytest.raises(TruncatedError) as ended:
            await client.receive()
        *_, event, empty = ended.value.body.decode().split("\n\n")
        assert empty == ""
        error = json.loads(event.strip().removeprefix("data: "))["error"]
        assert error["code"] == "backend_error"
        assert "in the middle" in error["message"]
        assert await client.rest() == b"", "closed, with the chunks unfinished"


@pytest.mark.fault(30, 32)
@pytest.mark.parametrize(
    ("start", "rest"),
    [(CHUNKED + b"\r\n5\r\nhello\r\n", b"zzz\r\n"), (CHUNKED + b"\r\n5\r\nhello\r\n", b"5\r\nhelloXX")],
)
async def test_nonsense_amid_a_response(start: bytes, rest: bytes) -> None:
    async with rig() as gateway:
        gateway.backend.play(lambda connection, _: connection.write(start))
        client = await gateway.client()
        await client.send(chat())
        await client.read_until(b"hello\r\n")
        gateway.backend.connections[0].write(rest)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await until(lambda: not gateway.backend.live)


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    "response",
    [
        OK + b"excess",
        OK + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + OK,
        b"HTTP/1.1 204 No Content\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nbody",
    ],
)
async def test_bytes_after_a_response_are_dropped_with_their_connection(response: bytes) -> None:
    patient = GatewaySettings(upstream_idle_seconds=3600.0)  # a connection that is kept is not closed soon
    async with rig(settings=patient) as gateway:
        gateway.backend.play(response)
        client = await gateway.client()
        for count in (1, 2):
            await client.send(chat())
            answer = await client.receive()
            assert answer.body in (b"{}", b"")
            assert len(gateway.backend.connections) == count
            await until(lambda: not gateway.backend.live)
        await client.close()
        assert await client.rest() == b""


@pytest.mark.fault(32, 33)
async def test_bytes_on_an_idle_connection_are_not_the_next_answer() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(chat())
        assert (await client.receive()).status == 200
        gateway.backend.connections[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        await until(lambda: not gateway.backend.live)
        await client.send(chat())
        assert (await client.receive()).body == b"{}"
        assert len(gateway.backend.connections) == 2


@pytest.mark.fault(33)
@pytest.mark.parametrize("header", [b"Connection: close\r\n", b""])
async def test_connections_that_the_backend_will_close_are_not_kept(header: bytes) -> None:
    version = b"HTTP/1.1" if header else b"HTTP/1.0"
    async with rig() as gateway:
        gateway.backend.play(version + b" 200 OK\r\n" + header + b"Content-Length: 2\r\n\r\n{}")
        client = await gateway.client()
        for count in (1, 2):
            await client.send(chat())
            answer = await client.receive()
            assert (answer.body, answer.header("connection"), answer.http_version) == (b"{}", None, "1.1")
            assert len(gateway.backend.connections) == count
            await until(lambda: not gateway.backend.live)


async def test_http10_keep_alive_of_a_backend() -> None:
    async with rig() as gateway:
        gateway.backend.play(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\n{}")
        client = await gateway.client()
        for _ in range(2):
            await client.send(chat())
            assert (await client.receive()).body == b"{}"
        assert len(gateway.backend.connections) == 1


@pytest.mark.fault(33)
async def test_an_idle_connection_that_the_backend_closed_is_not_used() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(chat())
        assert (await client.receive()).status == 200
        gateway.backend.connections[0].close()
        await until(lambda: not gateway.backend.live)
        await client.send(chat())
        assert (await client.receive()).status == 200
        assert gateway.scheduler.failures == []


@pytest.mark.fault(33)
async def test_an_idle_connection_is_given_up_before_vllm_would_close_it() -> None:
    """With the limit that nobody has set: vLLM's uvicorn closes a connection that is idle for so long."""
    theirs = uvicorn.Config("none", log_config=None).timeout_keep_alive
    settings = gateway_settings(Config(models={"m": ModelConfig(port=1, wake="w", sleep="s", alive="a")}))
    async with rig(settings=settings) as gateway:
        client = await gateway.client()
        for idle, connections in ((0.0, 1), (1.0, 1), (theirs - SWEEP_SECONDS, 2)):
            pool = gateway.gateway._shared.pools["m"]
            for connection in pool._idle:
                connection.idle_since -= idle  # as if so much time had passed
            await client.send(chat())
            assert (await client.receive()).status == 200
            assert len(gateway.backend.connections) == connections


@pytest.mark.fault(29, 33)
@pytest.mark.parametrize(
    ("request_", "method", "sent", "status"),
    [
        (get(b"/upstream/m/x"), "GET", 3, 200),
        (get(b"/upstream/m/x", method=b"HEAD"), "HEAD", 3, 200),
        (chat(path=b"/x", method=b"OPTIONS"), "OPTIONS", 3, 200),
        (chat(), "POST", 2, 502),
        (chat(method=b"PUT"), "PUT", 2, 502),
        (get(b"/upstream/m/x", method=b"DELETE"), "DELETE", 2, 502),
    ],
)
async def test_only_safe_requests_are_sent_again(request_: bytes, method: str, sent: int, status: int) -> None:
    """A used connection that ends without a byte may have been stale, or the request may have been carried out."""
    async with rig() as gateway:
        gateway.backend.play(OK, lambda connection, _: connection.reset(), OK)
        client = await gateway.client()
        await client.send(chat())
        assert (await client.receive()).status == 200
        await client.send(request_)
        assert (await client.receive(method)).status == status
        assert len(gateway.backend.requests) == sent
        assert gateway.scheduler.failures == ([] if status == 200 else ["m"])


@pytest.mark.fault(29, 33)
async def test_a_request_is_sent_again_once_only() -> None:
    async with rig() as gateway:
        gateway.backend.play(OK, lambda connection, _: connection.reset())
        client = await gateway.client()
        await client.send(chat())
        assert (await client.receive()).status == 200
        await client.send(get(b"/upstream/m/x"))
        assert (await client.receive()).status == 502
        assert len(gateway.backend.requests) == 3


@pytest.mark.fault(29, 33)
async def test_nothing_is_sent_again_once_a_byte_was_answered() -> None:
    async with rig() as gateway:
        gateway.backend.play(OK, ending_with(b"H"))
        client = await gateway.client()
        await client.send(chat())
        assert (await client.receive()).status == 200
        await client.send(get(b"/upstream/m/x"))
        assert (await client.receive()).status == 502
        assert len(gateway.backend.requests) == 2


@pytest.mark.fault(33)
async def test_close_backend_closes_idle_connections_now_and_busy_ones_later() -> None:
    async with rig() as gateway:
        first, second = await gateway.client(), await gateway.client()
        gateway.backend.play(lambda c, _: c.write(OK[:-1]), OK, OK)
        await first.send(chat())
        await until(lambda: gateway.backend.requests)
        await second.send(chat())
        assert (await second.receive()).status == 200
        busy, idle = gateway.backend.connections
        gateway.gateway.close_backend("m")
        await idle.lost.wait()
        assert not busy.lost.is_set()
        busy.write(OK[-1:])
        assert (await first.receive()).body == b"{}"
        await busy.lost.wait()
        await first.send(chat())
        assert (await first.receive()).status == 200
        await first.send(chat())
        assert (await first.receive()).status == 200
        assert len(gateway.backend.connections) == 3, "pooled again"
        gateway.gateway.close_backend("nobody")


@pytest.mark.fault(28, 33)
async def test_a_backend_that_restarts_is_found_again() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(chat())
        assert (await client.receive()).status == 200
        port = gateway.backend.address.port
        await gateway.backend.stop()
        await client.send(chat())
        assert (await client.receive()).status == 502
        await gateway.backend.start(port=port)
        await client.send(chat())
        assert (await client.receive()).status == 200


async def test_an_early_answer_to_a_large_request() -> None:
    """The backend refuses before it has read the request: its answer counts, its connection is of no more use."""
    async with rig() as gateway:

        def refuse(connection: BackendConnection) -> None:
            if len(gateway.backend.connections) == len(refused):
                return
            refused.append(connection)
            connection.transport.pause_reading()
            connection.write(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")

        refused: list[BackendConnection] = []
        gateway.backend.on_bytes = refuse
        client = await gateway.client()
        await client.send(chat(b'{"model": "m", "x": "' + b"x" * 20_000_000 + b'"}'))
        answer = await client.receive()
        assert (answer.status, answer.body) == (413, b"no")
        await until(lambda: not gateway.gateway.buffered_bytes)
        gateway.backend.connections[0].transport.resume_reading()
        await until(lambda: not gateway.backend.live)


# --- hanging ----------------------------------------------------------------------------------------------------------

HASTY = GatewaySettings(timeouts=Timeouts(connect=0.2, response=0.2, between_bytes=0.2))


@pytest.mark.fault(31)
async def test_a_backend_that_accepts_no_connection() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):  # fill its backlog, so that the next handshake hangs
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        async with rig(settings=HASTY, address=BackendAddress.local(listener.getsockname()[1])) as gateway:
            answer = await gateway.ask(chat())
            assert answer.status == 504
            assert "connection" in json.loads(answer.body)["error"]["message"]
            assert gateway.scheduler.failures == ["m"]
        for filler in fillers:
            filler.close()


@pytest.mark.fault(31)
@pytest.mark.parametrize(("start", "says"), [(b"", "begin to respond"), (b"HTTP/1.1 200 OK\r\nX", "head")])
async def test_a_backend_that_does_not_answer(start: bytes, says: str) -> None:
    async with rig(settings=HASTY, steady=True) as gateway:
        gateway.backend.play(start)
        client = await gateway.client()
        await client.send(chat())
        answer = await client.receive()
        assert (answer.status, answer.header("connection")) == (504, None)
        assert says in json.loads(answer.body)["error"]["message"]
        await until(lambda: not gateway.backend.live)
        assert gateway.observer.done == [("m", 504)]


async def test_an_operators_order_may_take_longer_than_a_backend_may() -> None:
    """The control plane answers an order when a drain and two hooks are over."""
    control = FakeBackend()
    await control.start()
    try:
        async with rig(settings=HASTY, control=control.address, steady=True) as gateway:
            orders: list[BackendConnection] = []
            control.play(lambda c, _: orders.append(c))
            gateway.backend.play(b"")
            operator = await gateway.client()
            await operator.send(get(b"/admin/v1/models/m/switch", method=b"POST"))
            await until(lambda: bool(orders))
            assert (await gateway.ask(chat())).status == 504  # it came later, and its time is over
            orders[0].write(OK)
            assert (await operator.receive()).status == 200
    finally:
        await control.stop()


@pytest.mark.fault(31)
async def test_a_backend_that_falls_silent() -> None:
    async with rig(settings=HASTY, steady=True) as gateway:
        gateway.backend.play(lambda c, _: c.write(OK[:-1]), lambda c, _: c.write(SSE))
        client = await gateway.client()
        await client.send(chat())
        with pytest.raises(TruncatedError) as ended:
            await client.receive()
        assert ended.value.body == b"{"
        client = await gateway.client()
        await client.send(chat())
        with pytest.raises(TruncatedError) as ended:
            await client.receive()
        assert b"backend_timeout" in ended.value.body
        assert b"silent for 0.2 s amid its response" in ended.value.body
        await until(lambda: not gateway.backend.live)


@pytest.mark.fault(31)
async def test_a_slow_but_steady_backend_is_let_be() -> None:
    async with rig(settings=HASTY, steady=True) as gateway:

        async def drip(connection: BackendConnection) -> None:
            connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
            for _ in range(12):
                await asyncio.sleep(0.08)
                connection.write(b".")

        tasks = []
        gateway.backend.script = lambda connection, _: tasks.append(asyncio.ensure_future(drip(connection)))
        assert (await gateway.ask(chat())).body == b"." * 12
        await tasks[0]


@pytest.mark.fault(29)
async def test_many_clients_of_a_dying_backend() -> None:
    async with rig() as gateway:
        gateway.backend.play(lambda connection, _: connection.reset())
        clients = [await gateway.client() for _ in range(30)]
        for client in clients:
            await client.send(chat())
        assert {(await client.receive()).status for client in clients} == {502}
        assert len(gateway.scheduler.finishes) == 30


@pytest.mark.fault(8, 9)
async def test_backends_do_not_see_each_other() -> None:
    """Row 8: a second backend on another port never gets anything it was not asked for."""
    stranger = FakeBackend()
    await stranger.start()
    async with rig() as gateway:
        target = f"http://127.0.0.1:{stranger.address.port}/upstream/m/x".encode()
        assert (await gateway.ask(get(target), "GET")).status == 200
        body = b'{"model": "m", "api_base": "http://127.0.0.1:%d"}' % stranger.address.port
        assert (await gateway.ask(chat(body))).status == 200
        assert len(gateway.backend.requests) == 2
        assert stranger.connections == []
    await stranger.stop()
