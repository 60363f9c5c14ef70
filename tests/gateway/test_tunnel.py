"""WebSockets through the gateway: a real client, a real server, and peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from llmux.access import Access, Key, Keyring, digest_of
from llmux.addresses import BackendAddress
from llmux.errors import HookFailedError, LlmuxError, RequestAbortedError, RequestCancelledError
from llmux.gateway import Backend, GatewaySettings, Timeouts
from llmux.wire.websocket import accept_of, close_frame
from tests.gateway.peers import PATIENCE, FakeBackend, Rig, get, rig, until

pytestmark = pytest.mark.anyio

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (b"Upgrade: websocket", b"Connection: keep-alive, Upgrade", b"Sec-WebSocket-Version: 13")
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_of(KEY) + b"\r\nX-More: 1\r\n\r\n"
)

Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def server(handler: Handler = echo, **options: Any) -> AsyncIterator[tuple[Server, BackendAddress]]:
    async with serve(handler, "127.0.0.1", 0, **options) as made:
        yield made, BackendAddress.local(made.sockets[0].getsockname()[1])


@contextlib.asynccontextmanager
async def open_to(made: Rig, path: str = "/upstream/m/v1/realtime", **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{made.port}{path}", open_timeout=PATIENCE, proxy=None, **options) as client:
        yield client


def handshake(path: bytes = b"/upstream/m/x", *more: bytes) -> bytes:
    return get(path, *HANDSHAKE, b"Sec-WebSocket-Key: " + KEY, *more)


async def test_messages_go_both_ways_and_are_in_flight() -> None:
    async with server(compression="deflate") as (_, address), rig(address=address) as gateway:
        for path in ("/upstream/m/v1/realtime", "/v1/realtime?model=m"):
            async with open_to(gateway, path) as client:
                for message in ("hello", b"\x00\xff", "", "x" * 100_000):
                    await client.send(message)
                    assert await client.recv() == message
                assert len(gateway.scheduler.granted) == 1
            await gateway.idle()
        assert gateway.observer.done == [("m", 101), ("m", 101)]
        assert gateway.scheduler.verdicts == []


async def test_the_handshake_waits_for_its_model() -> None:
    async with server() as (made, address), rig(address=address) as gateway:
        gateway.scheduler.hold = True
        stack = contextlib.AsyncExitStack()
        opening = asyncio.create_task(stack.enter_async_context(open_to(gateway)))
        await until(lambda: gateway.scheduler.waiting)
        assert not made.connections
        ((number, requester),) = gateway.scheduler.waiting.items()
        del gateway.scheduler.waiting[number]
        gateway.scheduler.granted[number] = requester
        requester.granted(1.0, True)
        async with stack:
            client = await opening
            assert client.response is not None
            told = {name: client.response.headers[name] for name in ("x-llmux-wait-ms", "x-llmux-switched")}
            assert told == {"x-llmux-wait-ms": "1000", "x-llmux-switched": "true"}
            await client.send("hello")
            assert await client.recv() == "hello"


async def test_the_backend_hears_path_query_name_and_protocols() -> None:
    seen: list[tuple[str, str | None, list[str]]] = []

    async def handler(connection: ServerConnection) -> None:
        request = connection.request
        assert request is not None
        seen.append((request.path, connection.subprotocol, request.headers.get_all("X-Forwarded-For")))

    options: Any = {"subprotocols": ["realtime"]}
    async with server(handler, **options) as (_, address), rig(address=address, send_model_as="org/real") as gateway:
        async with open_to(gateway, "/v1/realtime?model=alias&x=1", **options) as client:
            assert client.subprotocol == "realtime"
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1000
        async with open_to(gateway, "/upstream/m/a/b?c", **options):
            pass
    assert seen == [
        ("/v1/realtime?model=org%2Freal&x=1", "realtime", ["127.0.0.1"]),
        ("/a/b?c", "realtime", ["127.0.0.1"]),
    ]


async def test_the_closing_handshake_passes_from_either_side() -> None:
    codes: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        if await connection.recv() == "leave me":
            await connection.close(4001, "as you wish")
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with server(handler) as (_, address), rig(address=address) as gateway:
        async with open_to(gateway) as client:
            await client.send("leave me")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")
        async with open_to(gateway) as client:
            await client.send("stay")
            await client.close(4002)
        await until(lambda: len(codes) == 2)
    assert codes == [4001, 4002]


async def test_a_client_that_just_goes_is_gone_for_the_backend_too() -> None:
    gone = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        gone.set()

    async with server(handler) as (_, address), rig(address=address) as gateway:
        for leave in ("close", "abort"):
            gone.clear()
            async with open_to(gateway) as client:
                getattr(client.transport, leave)()
                async with asyncio.timeout(PATIENCE):
                    await gone.wait()
            await gateway.idle()


async def test_neither_side_is_read_from_faster_than_the_other_reads() -> None:
    """Far more is on offer than the sockets of both ways can hold (some 10 MiB each), and llmux's own memory does not
    grow with it."""
    pieces, size = 64, 1 << 20
    listen = asyncio.Event()
    echoed = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal echoed
        await listen.wait()
        async for message in connection:
            await connection.send(message)
            echoed += 1

    plain: dict[str, Any] = {"compression": None, "max_size": None, "max_queue": 1, "ping_interval": None}
    async with (
        server(handler, **plain) as (_, address),
        rig(address=address) as gateway,
        open_to(gateway, **plain) as client,
        asyncio.timeout(2 * PATIENCE),
    ):

        async def send() -> None:
            for _ in range(pieces):
                await client.send(bytes(size))

        sending = asyncio.create_task(send())
        try:
            await until(lambda: gateway.gateway.buffered_bytes)
            await asyncio.wait({sending}, timeout=1)  # more than it takes where nothing holds it back
            assert not sending.done(), "the server does not listen"
            assert gateway.gateway.buffered_bytes < size
            listen.set()
            before = -1
            while echoed > before:
                before = echoed
                await asyncio.wait({sending}, timeout=0.5)
            assert echoed < pieces, "the client does not listen"
            assert gateway.gateway.buffered_bytes < 2 * size
            for _ in range(pieces):
                assert len(await client.recv()) == size
            await sending
        finally:
            listen.set()
            sending.cancel()


@pytest.mark.parametrize("status", [400, 403, 404, 426, 500])
async def test_an_answer_that_is_no_switch_is_relayed(status: int) -> None:
    async def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(status, "because")

    async with server(process_request=refuse) as (_, address), rig(address=address) as gateway:
        with pytest.raises(InvalidStatus) as error:
            async with open_to(gateway):
                pass
        assert error.value.response.status_code == status
        assert error.value.response.body == b"because"
        await gateway.idle()
        assert gateway.observer.done == [("m", status)]


@pytest.mark.fault(6)
@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
async def test_what_follows_a_handshake_that_was_refused_is_never_read(status: bytes) -> None:
    backend = FakeBackend()
    backend.script = lambda connection, _: connection.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)
    await backend.start()
    async with rig(backend=backend) as gateway:
        client = await gateway.client()
        await client.send(handshake() + get(b"/upstream/m/smuggled"))
        answer = await client.receive("GET")
        assert answer.header("connection") == "close"
        assert await client.rest() == b""
        assert [request.target for request in backend.requests] == ["/x"]
        await until(lambda: all(connection.lost.is_set() for connection in backend.connections))


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    "answer",
    [
        SWITCH.replace(accept_of(KEY), accept_of(b"another")),
        SWITCH.replace(b"Sec-WebSocket-Accept", b"X-Accept"),
        SWITCH.replace(b"X-More: 1", b"Sec-WebSocket-Accept: " + accept_of(KEY)),
        SWITCH.replace(b"WebSocket\r\n", b"h2c\r\n"),
        SWITCH.replace(b"Connection: Upgrade", b"Connection: keep-alive"),
        SWITCH.replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
async def test_a_switch_that_does_not_answer_the_client_is_a_502(answer: bytes) -> None:
    backend = FakeBackend()
    backend.script = lambda connection, _: connection.write(answer)
    await backend.start()
    async with rig(backend=backend) as gateway:
        assert (await gateway.ask(handshake(), "GET")).status == 502


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    "request_",
    [
        get(b"/upstream/m/x", *HANDSHAKE),
        handshake(b"/upstream/m/x", b"Sec-WebSocket-Key: " + KEY),
        handshake(b"/upstream/m/x", b"Content-Length: 0"),
        handshake(b"/upstream/m/x", b"Transfer-Encoding: chunked"),
        handshake(b"/upstream/m/x", b"Upgrade: h2c"),
        handshake(b"/upstream/m/x", b"Connection: Sec-WebSocket-Key"),
        handshake(b"/upstream/m/x", b"Connection: close"),
        handshake().replace(b"Version: 13", b"Version: 8"),
        handshake().replace(KEY, KEY[:-4]),
        handshake().replace(KEY, b"not base64!"),
        handshake().replace(b"GET", b"POST", 1),
        handshake().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        handshake().replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
        handshake(b"/health?x=1"),
        handshake(b"/ui"),
    ],
)
async def test_only_a_proper_handshake_for_a_model_is_relayed(request_: bytes) -> None:
    control = FakeBackend()
    await control.start()
    async with rig(control=control.address) as gateway:
        client = await gateway.client()
        await client.send(request_)
        answer = await client.receive("GET")
        assert answer.status == 501
        assert gateway.backend.connections == []
        assert control.connections == []
    await control.stop()


async def test_bytes_that_come_with_the_switch_are_relayed() -> None:
    async with rig() as gateway:
        backend = gateway.backend

        def script(connection: Any, _: Any) -> None:
            backend.on_bytes = lambda one: one.write(b"heard") if one.raw.endswith(b"again") else None
            connection.write(SWITCH + b"early")

        backend.script = script
        client = await gateway.client()
        await client.send(handshake() + b"at once")
        head = await client.read_until(b"\r\n\r\n")
        assert b"HTTP/1.1 101 Switching Protocols\r\n" in head
        assert b"X-More: 1\r\n" in head
        assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert await client.read_until(b"early") == b"early"
        (connection,) = backend.connections
        await until(lambda: connection.raw.endswith(b"\r\n\r\nat once"))
        await client.send(b"again")
        assert await client.read_until(b"heard") == b"heard"
        connection.close()
        assert await client.rest() == b""


async def test_silence_ends_it_and_nobody_is_blamed() -> None:
    settings = GatewaySettings(timeouts=Timeouts(between_bytes=0.3))
    quiet: dict[str, Any] = {"ping_interval": None}
    async with server(**quiet) as (_, address), rig(address=address, settings=settings, steady=True) as gateway:
        async with open_to(gateway, **quiet) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1001
            assert client.close_reason == "nothing came through the WebSocket for 0.3 s"
        await gateway.idle()
        assert gateway.scheduler.verdicts == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(RequestAbortedError("the drain took too long"), 1012), (RequestCancelledError(), 1001)],
    ids=["drain", "operator"],
)
@pytest.mark.parametrize("compression", ["deflate", None])
async def test_whom_llmux_cuts_off_is_told_why(error: LlmuxError, code: int, compression: str | None) -> None:
    async with server(compression=compression) as (_, address), rig(address=address) as gateway:
        async with open_to(gateway) as client:
            for message in ("hello", "x" * 200_000, b"\x00" * 300):
                await client.send(message)
                assert await client.recv() == message
            (requester,) = gateway.scheduler.granted.values()
            requester.aborted(error)
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, error.message)
        await gateway.idle()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", True),
        (b"\x81\x01a", True),
        (b"\x01\x01a", True),  # amid a message, but between its frames
        (b"\x81", False),
        (b"\x81\x7e\x01", False),
        (b"\x81\x05a", False),
        (b"\x88\x02\x03\xe8", False),  # the backend closes it already
    ],
)
async def test_nothing_is_put_amid_a_frame_or_behind_the_last(sent: bytes, told: bool) -> None:
    async with rig() as gateway:
        gateway.backend.play(SWITCH + sent)
        client = await gateway.client()
        await client.send(handshake())
        await client.read_until(b"\r\n\r\n" + sent)
        (requester,) = gateway.scheduler.granted.values()
        requester.aborted(RequestAbortedError("it was time"))
        rest = await client.rest()
        assert rest == (close_frame(1012, "the request was ended: it was time") if told else b"")


async def test_a_drain_that_took_too_long_closes_it() -> None:
    gone = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        gone.set()

    async with server(handler) as (_, address), rig(address=address) as gateway, open_to(gateway) as client:
        (requester,) = gateway.scheduler.granted.values()
        requester.aborted(RequestAbortedError("the drain took too long"))
        with pytest.raises(ConnectionClosed):
            await client.recv()
        async with asyncio.timeout(PATIENCE):
            await gone.wait()


async def test_keys_and_pages_of_other_sites() -> None:
    access = Access(keys=Keyring([Key("one", digest_of(b"secret"), frozenset({"m"}))]))
    other = {"other": Backend("other", BackendAddress.local(1))}
    async with server() as (_, address):
        async with rig(address=address, access=access, others=other) as gateway:
            for path, key, status in (
                ("/upstream/m/x", None, 401),
                ("/upstream/m/x", "wrong", 401),
                ("/upstream/other/x", "secret", 403),
            ):
                fields = {} if key is None else {"Authorization": f"Bearer {key}"}
                with pytest.raises(InvalidStatus) as error:
                    async with open_to(gateway, path, additional_headers=fields):
                        pass
                assert error.value.response.status_code == status
            async with open_to(gateway, additional_headers={"Authorization": "Bearer secret"}) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
        async with rig(address=address) as gateway:
            with pytest.raises(InvalidStatus) as error:
                async with open_to(gateway, origin=websockets.Origin("https://evil.test")):
                    pass
            assert error.value.response.status_code == 403
            async with open_to(gateway, origin=websockets.Origin(f"http://127.0.0.1:{gateway.port}")):
                pass


PAGE = ["realtime", "openai-insecure-api-key.secret", "openai-beta.realtime-v1"]
"""What OpenAI's client offers in a browser, where it cannot set the field for the key."""


@pytest.mark.parametrize("forwarded", [False, True])
async def test_a_page_shows_its_key_among_the_protocols(forwarded: bool) -> None:
    seen: list[list[str]] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers.get_all("Sec-WebSocket-Protocol"))

    forward_to = frozenset({"m"}) if forwarded else frozenset()
    access = Access(keys=Keyring([Key("one", digest_of(b"secret"))]), forward_to=forward_to)
    protocols: Any = {"subprotocols": ["realtime"]}
    async with server(handler, **protocols) as (_, address), rig(address=address, access=access) as gateway:
        page = websockets.Origin("https://app.test")  # who shows a key is not asked for the page
        async with open_to(gateway, subprotocols=PAGE, origin=page) as client:
            assert client.subprotocol == "realtime"
        for offered, status in (
            (["realtime", "openai-insecure-api-key.wrong"], 401),
            (["realtime", "openai-insecure-api-key."], 401),
            (["openai-insecure-api-key.secret", "openai-insecure-api-key.secret"], 400),
        ):
            with pytest.raises(InvalidStatus) as error:
                async with open_to(gateway, subprotocols=offered):
                    pass
            assert error.value.response.status_code == status
    kept = ["realtime, openai-beta.realtime-v1"]
    assert seen == [[*kept, "openai-insecure-api-key.secret"] if forwarded else kept]


async def test_without_keys_the_protocols_pass_as_they_came() -> None:
    seen: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.extend(connection.request.headers.get_all("Sec-WebSocket-Protocol"))

    protocols: Any = {"subprotocols": ["openai-insecure-api-key.secret"]}
    async with server(handler, **protocols) as (_, address), rig(address=address) as gateway:
        async with open_to(gateway, subprotocols=["openai-insecure-api-key.secret"]) as client:
            assert client.subprotocol == "openai-insecure-api-key.secret"
        async with open_to(gateway, subprotocols=PAGE) as client:
            assert client.subprotocol == "openai-insecure-api-key.secret"
    assert seen[0] == "openai-insecure-api-key.secret"
    assert sorted(", ".join(seen[1:]).split(", ")) == sorted(PAGE)


async def test_a_model_that_cannot_be_woken_refuses_it() -> None:
    async with rig() as gateway:
        gateway.scheduler.refuse_with = HookFailedError("the wake failed", retry_after=3)
        with pytest.raises(InvalidStatus) as error:
            async with open_to(gateway):
                pass
        assert error.value.response.status_code == 503
        assert error.value.response.headers["Retry-After"] == "3"
