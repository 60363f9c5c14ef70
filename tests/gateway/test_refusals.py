"""Requests that are not, or not quite: one error, a closed connection, and nothing of it reaches a backend."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sys
import tracemalloc

import pytest

from llmux.addresses import in_networks, parse_network
from llmux.gateway import GatewaySettings
from tests.gateway.peers import PATIENCE, RawClient, chat, get, rig, until

pytestmark = pytest.mark.anyio

HOST = b"Host: x\r\n"
SECOND = chat(path=b"/second")

MALFORMED = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client hello", 400),
    (b"GARBAGE\r\n\r\n", 400),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    (b"SOURCE / ICE/1.0\r\n" + HOST + b"\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: \x01b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X y: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b": a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X\x80: a\r\n\r\n", 400),
    (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET foo HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET ftp://a/b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5 5\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5_0\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999999\r\n\r\nhello", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", 400),
    (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 501),
    (b"TRACE /upstream/m/ HTTP/1.1\r\nHost: example.org\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 501),
    (
        b"GET / HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
        501,
    ),
]


@pytest.mark.fault(1, 2, 3, 4, 6)
@pytest.mark.parametrize(("request_", "status"), MALFORMED)
async def test_malformed_requests(request_: bytes, status: int) -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(request_ + SECOND)
        answer = await client.receive()
        assert answer.status == status
        assert answer.header("connection") == "close"
        assert json.loads(answer.body)["error"]["type"] == "llmux_error"
        assert await client.rest() == b"", "what follows an error is never parsed"
        assert gateway.backend.connections == []
        assert gateway.scheduler.arrivals == []
        assert gateway.observer.done == [(None, status)]


@pytest.mark.fault(4)
async def test_an_error_after_a_good_request_comes_after_its_answer() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(chat() + b"GARBAGE\r\n\r\n" + SECOND)
        assert [(await client.receive()).status, (await client.receive()).status] == [200, 400]
        assert await client.rest() == b""
        assert [request.target for request in gateway.backend.requests] == ["/v1/chat/completions"]


@pytest.mark.fault(2, 4)
async def test_a_body_cannot_be_read_as_a_request() -> None:
    inner = b'{"model": "m", "x": "\\r\\n"}' + b" " * 5
    smuggled = b'{"model": "m"}\r\n\r\nPOST /evil HTTP/1.1\r\nHost: x\r\n\r\n'
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(chat(inner))
        assert (await client.receive()).status == 200
        await client.send(chat(smuggled))
        assert (await client.receive()).status == 400, "that is not JSON"
        await client.send(chat(smuggled, path=b"/upstream/m/v1"))
        assert (await client.receive()).status == 200
        assert [request.target for request in gateway.backend.requests] == ["/v1/chat/completions", "/v1"]


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://evil.test:81/upstream/m/a?b", "/a?b", "evil.test:81"),
        (b"HTTPS://evil.test/upstream/m/", "/", "evil.test"),
        (b"/upstream/m//evil.test/x", "//evil.test/x", "llmux.test"),
        (b"/upstream/m/../../etc", "/../../etc", "llmux.test"),
        (b"//evil.test/x?model=m", "//evil.test/x?model=m", "llmux.test"),
        (b"http://evil.test?model=m", "/?model=m", "evil.test"),
    ],
)
async def test_the_target_is_always_the_configured_backend(target: bytes, path: str, host: str) -> None:
    async with rig() as gateway:
        assert (await gateway.ask(get(target), "GET")).status == 200
        (request,) = gateway.backend.requests
        assert request.target == path
        assert request.header("host") == gateway.backend.address.host_header
        assert request.header("x-forwarded-host") == host


@pytest.mark.fault(5)
async def test_hop_by_hop_fields_are_stripped_both_ways() -> None:
    async with rig() as gateway:
        gateway.backend.play(
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n"
            b"Proxy-Connection: x\r\nProxy-Authenticate: Basic\r\nTE: x\r\nTrailer: x\r\nUpgrade: h2c\r\n"
            b"X-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
        )
        answer = await gateway.ask(
            chat(
                b'{"model": "m"}',
                b"Connection: X-Private, Authorization, Content-Length, Host, close",
                b"connection: x-second",
                b"X-Private: 1",
                b"X-Second: 1",
                b"AUTHORIZATION: 1",
                b"Keep-Alive: 1",
                b"Proxy-Connection: 1",
                b"Proxy-Authorization: 1",
                b"TE: trailers",
                b"Trailer: x",
                b"Upgrade: h2c",
                b"HTTP2-Settings: x",
                b"X-Kept: 1",
            )
        )
        assert answer.headers == [("x-kept", "1"), ("content-length", "2"), ("connection", "close")]
        (request,) = gateway.backend.requests
        assert [name for name, _ in request.headers] == [
            "host",
            "content-type",
            "x-kept",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "content-length",
        ]
        assert request.body == b'{"model": "m"}'


@pytest.mark.fault(7)
async def test_forwarding_fields_cannot_be_forged() -> None:
    async with rig() as gateway:
        await gateway.ask(
            chat(
                b'{"model": "m"}',
                b"X-Forwarded-For: 6.6.6.6",
                b"x-forwarded-for: 7.7.7.7",
                b"X_Forwarded_For: 8.8.8.8",
                b"X-Forwarded-Proto: https",
                b"X-Forwarded-Host: evil",
                b"X-Forwarded-Prefix: /evil",
                b"Forwarded: for=6.6.6.6",
                b"Content_Length: 3",
                b"Transfer_Encoding: chunked",
                b"X_Kept: 1",
            )
        )
        (request,) = gateway.backend.requests
        assert request.header("x-forwarded-for") == "127.0.0.1"
        assert request.header("x-forwarded-proto") == "http"
        assert request.header("x-forwarded-host") == "llmux.test"
        names = {name for name, _ in request.headers}
        assert names.isdisjoint({"forwarded", "x-forwarded-prefix", "x_forwarded_for", "content_length"})
        assert "transfer_encoding" not in names
        assert "x_kept" in names


TRUSTED = GatewaySettings(trusted_proxies=(parse_network("10.0.0.0/8"), parse_network("127.0.0.1")))


@pytest.mark.fault(7)
async def test_a_trusted_proxy_is_believed_and_added() -> None:
    async with rig(settings=TRUSTED) as gateway:
        await gateway.ask(
            chat(
                b'{"model": "m"}',
                b"X-Forwarded-For: 6.6.6.6, 7.7.7.7",
                b"x-forwarded-for: 8.8.8.8",
                b"X-Forwarded-Proto: https",
                b"X-Forwarded-Proto: wss",
                b"X-Forwarded-Host: public.test",
                b"X-Forwarded-Prefix: /llm",
                b"X_Forwarded_For: 9.9.9.9",
                b"Forwarded: for=6.6.6.6",
            )
        )
        (request,) = gateway.backend.requests
        forwarded = [(name, value) for name, value in request.headers if "forwarded" in name]
        assert sorted(forwarded) == [
            ("x-forwarded-for", "6.6.6.6, 7.7.7.7, 8.8.8.8, 127.0.0.1"),
            ("x-forwarded-host", "public.test"),
            ("x-forwarded-prefix", "/llm"),
            ("x-forwarded-proto", "wss"),
        ], "of two, the one of the nearest proxy"


@pytest.mark.fault(7)
async def test_a_trusted_proxy_that_says_nothing_is_a_client() -> None:
    async with rig(settings=TRUSTED) as gateway:
        await gateway.ask(chat())
        await gateway.ask(chat(b'{"model": "m"}', b"Connection: X-Forwarded-For", b"X-Forwarded-For: 6.6.6.6"))
        await gateway.ask(chat(b'{"model": "m"}', b"X-Forwarded-Port: 1"))
        for request in gateway.backend.requests:
            assert request.header("x-forwarded-for") == "127.0.0.1"
            assert request.header("x-forwarded-proto") == "http"
            assert request.header("x-forwarded-host") == "llmux.test"


@pytest.mark.fault(7)
async def test_a_client_from_elsewhere_is_not_believed() -> None:
    elsewhere = GatewaySettings(trusted_proxies=(parse_network("10.0.0.0/8"), parse_network("::1")))
    async with rig(settings=elsewhere) as gateway:
        await gateway.ask(chat(b'{"model": "m"}', b"X-Forwarded-For: 6.6.6.6"))
        assert gateway.backend.requests[0].header("x-forwarded-for") == "127.0.0.1"


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("address", "network", "inside"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("::1", "10.0.0.0/8", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_addresses_in_networks(address: str, network: str, inside: bool) -> None:
    assert in_networks(address, [parse_network(network)]) is inside


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "endless",
    [
        b"GET / HTTP/1.1\r\nX: " + b"x" * 5000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000,
        b"GET /" + b"x" * 5000,
        b"\r\n" * 3000,
    ],
)
async def test_a_head_that_is_too_large(endless: bytes) -> None:
    async with rig(settings=GatewaySettings(max_head_bytes=4096)) as gateway:
        for pieces in ([endless], [endless[i : i + 100] for i in range(0, len(endless), 100)]):
            client = await gateway.client()
            try:
                await client.send(*pieces)
                answer = await client.receive()
            except ConnectionError:
                continue  # the answer came while we were still sending, which is fair
            assert answer.status == 431
            assert await client.rest() == b""
        assert {status for _, status in gateway.observer.done} == {431}
        assert gateway.scheduler.arrivals == []


@pytest.mark.fault(10)
async def test_a_head_just_small_enough() -> None:
    request = chat(b'{"model": "m"}', b"X: " + b"x" * 3800)
    head = request.index(b"\r\n\r\n") + 4
    async with rig(settings=GatewaySettings(max_head_bytes=head)) as gateway:
        assert (await gateway.ask(request)).status == 200
    async with rig(settings=GatewaySettings(max_head_bytes=head - 1)) as gateway:
        assert (await gateway.ask(request)).status == 431


@pytest.mark.fault(11)
async def test_a_declared_body_that_is_too_large_is_refused_before_it_comes() -> None:
    async with rig(settings=GatewaySettings(max_body_bytes=1000)) as gateway:
        client = await gateway.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n")
        assert (await client.receive()).status == 413
        assert await client.rest() == b""


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", b"400\r\n" + b"y" * 1024 + b"\r\n"),
        (b"5\r\nhello\r\n", b"1\r\ny\r\n" * 40),
        (b"5;", b"x" * 400),
        (b"0\r\nX: ", b"x" * 400),
        (b"5\r\nhello\r\n0\r\n", b"X: y\r\n" * 100),
    ],
)
async def test_endless_chunks_extensions_and_trailers(start: bytes, more: bytes) -> None:
    settings = GatewaySettings(max_head_bytes=4096, max_body_bytes=20_000)
    async with rig(settings=settings) as gateway:
        client = await gateway.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + start)
        sent = 0
        reading = asyncio.ensure_future(client.receive())
        with contextlib.suppress(ConnectionError):
            while not reading.done():
                await client.send(more)
                sent += len(more)
                assert sent < 2_000_000
                await asyncio.sleep(0)
        assert (await reading).status in (413, 431)
        assert gateway.gateway.buffered_bytes <= 20_000


@pytest.mark.fault(12)
async def test_all_buffered_bodies_together_are_bounded() -> None:
    settings = GatewaySettings(max_buffered_bytes=250_000)
    body = b'{"model": "m", "x": "' + b"x" * 100_000 + b'"}'
    async with rig(settings=settings) as gateway:
        gateway.scheduler.hold = True
        clients = [await gateway.client() for _ in range(3)]
        for client in clients[:2]:
            await client.send(chat(body))
        await until(lambda: len(gateway.scheduler.waiting) == 2)
        assert 200_000 < gateway.gateway.buffered_bytes <= 250_000
        await clients[2].send(chat(body))
        answer = await clients[2].receive()
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        clients[0].reset()
        await until(lambda: gateway.scheduler.lefts)
        late = await gateway.client()
        await late.send(chat(body))
        await until(lambda: len(gateway.scheduler.waiting) == 2)
        gateway.scheduler.grant()
        assert (await late.receive()).status == 200
        assert (await clients[1].receive()).status == 200


@pytest.mark.fault(12)
async def test_the_body_is_let_go_once_it_has_been_sent() -> None:
    async with rig() as gateway:
        gateway.backend.play(
            lambda connection, _: connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        )
        client = await gateway.client()
        await client.send(chat())
        await client.read_until(b"half")
        assert gateway.gateway.buffered_bytes == 0
        assert gateway.scheduler.granted


@pytest.mark.fault(12, 27)
async def test_a_half_sent_request_is_forgotten_when_its_client_leaves() -> None:
    async with rig() as gateway:
        for part in (
            b"POST / HT",
            chat()[:-3],
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        ):
            for leave in ("reset", "eof"):
                client = await gateway.client()
                await client.send(part)
                await until(lambda: gateway.gateway.connections == 1)
                if leave == "reset":
                    client.reset()
                else:
                    client.writer.write_eof()
                    assert await client.rest() == b""
                await until(lambda: gateway.gateway.connections == 0)
                assert gateway.gateway.buffered_bytes == 0
        assert gateway.observer.done == []


@pytest.mark.fault(11)
async def test_the_answer_to_a_refused_upload_is_not_lost_in_a_reset() -> None:
    """A client that only reads once it has sent everything still gets to know why (RFC 9112, section 9.6)."""
    async with rig(settings=GatewaySettings(max_body_bytes=1000)) as gateway:
        client = await RawClient.open(gateway.port)
        await client.send(chat(b"x" * 4_000_000))
        async with asyncio.timeout(PATIENCE):
            assert (await client.receive()).status == 413
        await client.close()


async def test_head_requests_get_errors_without_a_body() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(get(b"/nowhere", method=b"HEAD"))
        answer = await client.receive("HEAD")
        assert (answer.status, answer.body) == (404, b"")
        await client.send(chat())
        assert (await client.receive()).status == 200


@pytest.mark.fault(13)
@pytest.mark.parametrize("coding", [b"gzip", b"GZIP", b"x-gzip", b"deflate", b"br", b"zstd", b"gzip, gzip"])
async def test_a_compressed_bomb_is_never_inflated(coding: bytes) -> None:
    bomb = gzip.compress(b'{"model": "m", "x": "' + b"x" * 50_000_000 + b'"}')
    async with rig() as gateway:
        tracemalloc.start()
        try:
            answer = await gateway.ask(chat(bomb, b"Content-Encoding: " + coding))
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (415, "unsupported_encoding")
            assert gateway.backend.connections == []
            assert (await gateway.ask(chat(bomb, b"Content-Encoding: " + coding, path=b"/v1/x?model=m"))).status == 200
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert gateway.backend.requests[0].body == bomb
        assert gateway.backend.requests[0].header("content-encoding") == coding.decode()
        assert peak < 5_000_000


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", marks=pytest.mark.fault(16), id="not json"),
        pytest.param(b'{"model": "m", "t": NaN}', marks=pytest.mark.fault(16), id="nan"),
        pytest.param(b'{"model": "m", "t": -Infinity}', marks=pytest.mark.fault(16), id="infinity"),
        pytest.param(b'{"model": "other", "model": "m"}', marks=pytest.mark.fault(17), id="two models"),
        pytest.param(b'{"model": 1}', marks=pytest.mark.fault(18), id="a number"),
        pytest.param(b'{"model": ""}', marks=pytest.mark.fault(18), id="empty"),
        pytest.param(b'{"messages": []}', marks=pytest.mark.fault(18), id="missing"),
        *(
            pytest.param(
                b'{"model": "m", "x": ' + b"[" * depth + b"]" * depth + b"}",
                marks=pytest.mark.fault(19),
                id=f"depth {depth}",
            )
            for depth in (100, 999, 1000, 1001, 5000, 100_000)
        ),
        pytest.param(b'{"model": "m", "x": "\xff"}', marks=pytest.mark.fault(20), id="not utf-8"),
        pytest.param('{"model": "m"}'.encode("utf-16"), marks=pytest.mark.fault(20), id="utf-16"),
        pytest.param('{"model": "m"}'.encode("utf-16-be"), marks=pytest.mark.fault(20), id="utf-16-be"),
        pytest.param('{"model": "m"}'.encode("utf-32"), marks=pytest.mark.fault(20), id="utf-32"),
        pytest.param(b'{"model": "m", "x": "\\ud800"}', marks=pytest.mark.fault(20), id="surrogate"),
        pytest.param(b'{"model": "m", "x": "\xed\xa0\x80"}', marks=pytest.mark.fault(20), id="encoded surrogate"),
        pytest.param(b'{"model": "m", "n": ' + b"9" * 5000 + b"}", marks=pytest.mark.fault(21), id="digits"),
        pytest.param(b'{"model": "m", "n": -0.' + b"9" * 5000 + b"e999}", marks=pytest.mark.fault(21), id="exponent"),
        pytest.param(b'{"model": ' + b"9" * 5000 + b"}", marks=pytest.mark.fault(18, 21), id="digits for a model"),
    ],
)
@pytest.mark.parametrize("rename", [None, "n"])
async def test_a_body_is_relayed_as_backends_read_it_or_refused(body: bytes, rename: str | None) -> None:
    """Never a 500, with or without `send_model_as`; and what goes to the backend is what Python's json reads."""
    async with rig(send_model_as=rename) as gateway:
        client = await gateway.client()
        await client.send(chat(body))
        answer = await client.receive()
        if answer.status == 200:
            (request,) = gateway.backend.requests
            sys.set_int_max_str_digits(0)
            try:
                theirs = json.loads(request.body)
            finally:
                sys.set_int_max_str_digits(4300)
            assert theirs["model"] == (rename or "m")
            assert rename or request.body == body
        else:
            assert answer.status in (400, 404)
            error = json.loads(answer.body)["error"]
            assert error["param"] == "model" or answer.status == 400
            assert gateway.backend.connections == []
        await client.send(chat())
        assert (await client.receive()).status == 200, "the connection is good for more"
