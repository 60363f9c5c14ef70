"""The ordinary way through: what a backend gets, and what a client gets back."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest
import trustme

from llmux.addresses import BackendAddress
from llmux.errors import BackoffError
from llmux.gateway import Backend, GatewaySettings
from llmux.ports import Streaming
from tests.gateway.peers import FakeBackend, RawClient, TruncatedError, chat, ending_with, get, rig, until

pytestmark = pytest.mark.anyio


@pytest.mark.fault(5)
async def test_request_and_response_pass_unchanged_but_for_hop_by_hop_fields() -> None:
    body = b'{"model": "m", "x": "\xc3\xa9"}'
    async with rig() as gateway:
        gateway.backend.play(
            b"HTTP/1.1 201 Made Up\r\nX-Answer: a, b\r\nSet-Cookie: 1\r\nSet-Cookie: 2\r\n"
            b"Content-Length: 5\r\n\r\nhello"
        )
        client = await gateway.client()
        await client.send(chat(body, b"Authorization: Bearer k", b"X-Odd:  spaced ", path=b"/v1/x?a=%20b&c"))
        answer = await client.receive()
        assert (answer.status, answer.body) == (201, b"hello")
        assert answer.headers == [
            ("x-answer", "a, b"),
            ("set-cookie", "1"),
            ("set-cookie", "2"),
            ("content-length", "5"),
        ]
        (request,) = gateway.backend.requests
        assert (request.method, request.target, request.body) == ("POST", "/v1/x?a=%20b&c", body)
        assert request.headers == [
            ("host", gateway.backend.address.host_header),
            ("content-type", "application/json"),
            ("authorization", "Bearer k"),
            ("x-odd", "spaced"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "llmux.test"),
            ("content-length", str(len(body))),
        ]
        assert gateway.observer.done == [("m", 201)]
        assert gateway.observer.waits == [("m", 0.0)]


async def test_both_connections_are_kept_and_used_again() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        for _ in range(5):
            await client.send(chat())
            assert (await client.receive()).header("connection") is None
        assert len(gateway.backend.connections) == 1
        assert gateway.gateway.connections == 1


async def test_http10_client_gets_a_close_unless_it_asks_for_more() -> None:
    body = b'{"model": "m"}'
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(
            b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        answer = await client.receive()
        assert answer.header("connection") == "keep-alive"
        await client.send(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = await client.receive()
        assert answer.header("connection") == "close"
        assert await client.rest() == b""
        assert gateway.backend.requests[0].header("x-forwarded-host") is None


async def test_connection_close_is_obeyed() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(chat(b'{"model": "m"}', b"Connection: close"))
        assert (await client.receive()).header("connection") == "close"
        assert await client.rest() == b""
        assert len(gateway.backend.live) == 1, "the backend's connection has nothing to do with the client's"


@pytest.mark.fault(3)
async def test_chunked_request_reaches_the_backend_with_a_length() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        await client.send(
            b"POST /v1/c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\nTrailer: X-T\r\n\r\n",
            b'8;ext=1\r\n{"model"\r\n',
            b'6\r\n: "m"}\r\n0\r\nX-T: 1\r\nAuthorization: forged\r\n\r\n',
        )
        assert (await client.receive()).status == 200
        (request,) = gateway.backend.requests
        assert request.body == b'{"model": "m"}'
        assert request.header("content-length") == "14"
        assert request.header("transfer-encoding") is None
        assert request.header("x-t") is None
        assert request.header("authorization") is None


async def test_chunked_response_passes_with_its_trailers() -> None:
    chunks = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    async with rig() as gateway:
        gateway.backend.play(chunks)
        client = await gateway.client()
        for _ in range(2):
            await client.send(chat())
            answer = await client.receive()
            assert answer.body == b"hello world"
            assert answer.trailers == [("x-sum", "1")]
            assert answer.header("x-sum") is None
        assert len(gateway.backend.connections) == 1


@pytest.mark.parametrize("whole", [True, False])
async def test_chunks_that_come_one_at_a_time(whole: bool) -> None:
    """Most of them are not parsed, but count like all others: as events, for the tokens, for how the end is told."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    usage = b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 40}}\n\n'
    events = [b"data: %04d\n\n" % number for number in range(40)] + [usage, b"data: [DONE]\n\n"]
    async with rig() as gateway:
        gateway.backend.play(head)
        client = await gateway.client()
        await client.send(chat())
        got = await client.read_until(b"\r\n\r\n")
        (requester,) = gateway.scheduler.granted.values()
        (connection,) = gateway.backend.connections
        for number, event in enumerate(events, 1):
            chunk = b"%x\r\n%b\r\n" % (len(event), event)
            connection.write(chunk)
            assert await client.read_until(b"\n\n\r\n") == chunk
            got += chunk
            assert isinstance(requester, Streaming)
            assert requester.events == number
        client.unread(got)
        if whole:
            connection.write(b"0\r\n\r\n")
            assert (await client.receive()).body == b"".join(events)
            assert gateway.observer.tokens == [("m", 3, 40)]
            await client.send(chat())  # on the same connections
            await client.read_until(b"\r\n\r\n")
            assert len(gateway.backend.connections) == 1
        else:
            connection.close()
            with pytest.raises(TruncatedError) as ended:
                await client.receive()
            assert ended.value.body.startswith(b"".join(events) + b'data: {"error":{')
            assert gateway.observer.tokens == []


async def test_chunked_response_is_decoded_for_http10() -> None:
    async with rig() as gateway:
        gateway.backend.play(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
        )
        client = await gateway.client()
        await client.send(b'POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 14\r\n\r\n{"model": "m"}')
        raw = await client.rest()
        head, _, body = raw.partition(b"\r\n\r\n")
        assert body == b"hello world"
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        assert b"x-sum" not in raw.lower()


async def test_response_that_ends_with_its_connection() -> None:
    async with rig() as gateway:
        gateway.backend.play(ending_with(b"HTTP/1.1 200 OK\r\n\r\nall of it"))
        client = await gateway.client()
        await client.send(chat())
        answer = await client.receive()
        assert (answer.body, answer.header("connection")) == (b"all of it", "close")
        assert gateway.scheduler.failures == []


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("method", "response", "length"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", "5000"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\nETag: x\r\n\r\n", "12"),
    ],
)
async def test_responses_without_a_body(method: bytes, response: bytes, length: str | None) -> None:
    async with rig() as gateway:
        gateway.backend.play(response)
        client = await gateway.client()
        for _ in range(2):
            await client.send(get(b"/upstream/m/thing", method=method))
            answer = await client.receive(method.decode())
            assert (answer.body, answer.header("content-length")) == (b"", length)
        assert len(gateway.backend.connections) == 1


@pytest.mark.fault(32)
async def test_interim_responses_are_dropped() -> None:
    async with rig() as gateway:
        gateway.backend.play(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )
        client = await gateway.client()
        await client.send(chat())
        interim: list[int] = []
        answer = await client.receive(interim=interim)
        assert (answer.status, answer.body, interim) == (200, b"ok", [])
        assert answer.header("link") is None


async def test_expect_is_answered_here() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        head, _, body = chat(b'{"model": "m"}', b"Expect: 100-Continue").partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.receive()).status == 200
        assert gateway.backend.requests[0].header("expect") is None


async def test_expect_is_not_answered_when_the_body_is_already_there() -> None:
    async with rig() as gateway:
        client = await gateway.client()
        interim: list[int] = []
        await client.send(chat(b'{"model": "m"}', b"Expect: 100-continue"))
        assert (await client.receive(interim=interim)).status == 200
        assert interim == []


async def test_expect_of_a_body_that_is_too_large_is_refused_at_once() -> None:
    async with rig(settings=GatewaySettings(max_body_bytes=10)) as gateway:
        client = await gateway.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n")
        interim: list[int] = []
        assert (await client.receive(interim=interim)).status == 413
        assert interim == []


@pytest.mark.fault(4)
async def test_pipelined_requests_are_served_in_order_and_one_at_a_time() -> None:
    async with rig() as gateway:
        gateway.backend.script = lambda connection, request: connection.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + request.target[-1:].encode()
        )
        client = await gateway.client()
        await client.send(
            chat(path=b"/1")
            + chat(path=b"/2")
            + b"POST /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n"
            + b'{"model": "m"}\r\n0\r\n\r\n'
            + get(b"/nowhere")
            + get(b"/upstream/m/4")
        )
        answers = [await client.receive() for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 404, 200]
        assert [answer.body for answer in answers if answer.status == 200] == [b"1", b"2", b"3", b"4"]
        assert len(gateway.backend.connections) == 1
        assert [status for _, status in gateway.observer.done] == [200, 200, 200, 404, 200]


@pytest.mark.fault(12)
async def test_pipelined_bytes_are_bounded() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        request = chat(b'{"model": "m", "x": "' + b"x" * 20_000 + b'"}')
        client.writer.write(request)
        await until(lambda: gateway.scheduler.waiting)
        for _ in range(1000):
            client.writer.write(request)
        blocked = client.writer.transport.get_write_buffer_size
        size = -1
        while blocked() != size:  # until the kernel's buffers are full
            size = blocked()
            await asyncio.sleep(0.05)
        assert blocked() > 1 << 20
        gateway.scheduler.hold = False
        gateway.scheduler.grant()
        for _ in range(1001):
            assert (await client.receive()).status == 200


async def test_a_request_waits_for_its_grant() -> None:
    async with rig() as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        await client.send(chat())
        await until(lambda: gateway.scheduler.waiting)
        assert gateway.backend.connections == []
        gateway.scheduler.grant()
        assert (await client.receive()).status == 200
        assert gateway.observer.waits == [("m", 0.5)]


@pytest.mark.parametrize("later", [False, True])
async def test_a_refusal_is_told_and_the_connection_lives_on(later: bool) -> None:
    async with rig() as gateway:
        refusal = BackoffError("it failed", retry_after=2.1)
        gateway.scheduler.hold = later
        gateway.scheduler.refuse_with = None if later else refusal
        client = await gateway.client()
        await client.send(chat())
        if later:
            await until(lambda: gateway.scheduler.waiting)
            gateway.scheduler.refuse(refusal)
        answer = await client.receive()
        assert (answer.status, answer.header("retry-after")) == (503, "3")
        assert answer.header("content-type") == "application/json"
        assert json.loads(answer.body) == {
            "error": {"message": "it failed", "type": "llmux_error", "param": None, "code": "model_backoff"}
        }
        gateway.scheduler.hold, gateway.scheduler.refuse_with = False, None
        await client.send(chat())
        assert (await client.receive()).status == 200
        assert gateway.scheduler.finishes == [2]


@pytest.mark.fault(11)
async def test_a_large_body_arrives_whole() -> None:
    body = b'{"model": "m", "x": "' + bytes(range(97, 123)) * 200_000 + b'"}'
    async with rig() as gateway:
        gateway.backend.script = lambda connection, request: connection.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.body), request.body)
        )
        client = await gateway.client()
        await client.send(chat(body))
        assert (await client.receive()).body == body


async def test_base_path_and_unix_socket(tmp_path: Path) -> None:
    backend = FakeBackend()
    await backend.start(unix_path=str(tmp_path / "backend.sock"))
    async with rig(backend=backend) as gateway:
        assert (await gateway.ask(chat())).status == 200
        assert backend.requests[0].header("host") == "localhost"
    async with rig(base="/proxied/v2") as gateway:
        assert (await gateway.ask(chat(path=b"/v1/chat?x"))).status == 200
        assert gateway.backend.requests[0].target == "/proxied/v2/v1/chat?x"


async def test_tls_backend_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    backend = FakeBackend()
    await backend.start(tls=context)
    async with rig(backend=backend) as gateway:
        answer = await gateway.ask(chat())
        assert answer.status == 502, "its certificate is not trusted"
        assert b"certificate" in answer.body or b"SSL" in answer.body
        assert gateway.scheduler.failures == ["m"]
        assert backend.requests == []
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
    backend = FakeBackend()
    await backend.start(tls=context)
    async with rig(backend=backend) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(chat(b'{"model": "m", "x": "' + b"x" * 300_000 + b'"}'))
            assert (await client.receive()).status == 200
        assert len(backend.connections) == 1


@pytest.mark.fault(9)
async def test_routing_order_and_control_plane() -> None:
    other, control = FakeBackend(), FakeBackend()
    await other.start()
    await control.start()
    async with rig(others={"other": Backend("other", other.address)}) as gateway:
        client = await gateway.client()

        async def goes_to(request: bytes) -> tuple[int, str | None]:
            before = {name: len(b.requests) for name, b in backends.items()}
            await client.send(request)
            answer = await client.receive()
            grown = [name for name, b in backends.items() if len(b.requests) > before[name]]
            return answer.status, grown[0] if grown else None

        backends = {"m": gateway.backend, "other": other, "control": control}
        assert await goes_to(get(b"/health")) == (404, None), "no control plane yet"
        gateway.gateway.set_control(control.address)
        assert await goes_to(chat(b'{"model": "m"}', path=b"/upstream/other/v1/x?model=m")) == (200, "other")
        assert other.requests[-1].target == "/v1/x?model=m"
        assert await goes_to(chat(b'{"model": "m"}', path=b"/v1/x?model=other")) == (200, "m")
        assert await goes_to(get(b"/v1/x?model=other")) == (200, "other")
        assert await goes_to(chat(b'{"model": "alias"}')) == (200, "m")
        assert gateway.backend.requests[-1].body == b'{"model": "m"}', "the name that the backend knows"
        assert await goes_to(chat(b'{"api_base": "http://x", "x": {"model": "other"}, "model": "m"}')) == (200, "m")
        assert await goes_to(chat(b'{"model": "nope"}')) == (404, None)
        assert await goes_to(chat(b"{}")) == (404, None)
        assert await goes_to(chat(b"{")) == (400, None)
        for path in (
            b"/v1/models",
            b"/models",
            b"/v1/models/a%2Fb",
            b"/models/a/b",
            b"/metrics",
            b"/health",
            b"/ready",
        ):
            assert await goes_to(get(path)) == (200, "control")
        for path in (b"/ui", b"/ui/x.js?model=m", b"/admin/switch"):
            assert await goes_to(get(path)) == (200, "control")
        assert await goes_to(chat(b'{"model": "m"}', path=b"/admin/switch")) == (200, "control")
        assert await goes_to(get(b"/uix")) == (404, None)
        assert await goes_to(get(b"/metrics2")) == (404, None)
        models = [model for model, _ in gateway.observer.done]
        assert set(models) == {"m", "other", None}
        assert models.count(None) == 6, "errors of no model; the control plane is not told of"
    await other.stop()
    await control.stop()


@pytest.mark.fault(18, 22)
async def test_messages_of_unroutable_requests() -> None:
    async with rig() as gateway:
        answer = await gateway.ask(chat(b'{"model": "$(touch /tmp/x)\\n\'"}'))
        error = json.loads(answer.body)["error"]
        assert answer.status == 404
        assert error["message"].startswith("Model not found: $(touch")
        assert "\n" not in error["message"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        answer = await gateway.ask(chat(b"[]", path=b"/v1/embeddings"))
        assert answer.status == 404
        assert json.loads(answer.body)["error"]["message"] == "No model specified in request"


async def test_send_model_as() -> None:
    async with rig(send_model_as="org/real-name") as gateway:
        assert (await gateway.ask(chat(b'{"model":"alias", "n": 1}'))).status == 200
        assert gateway.backend.requests[-1].body == b'{"model":"org/real-name", "n": 1}'
        assert gateway.backend.requests[-1].header("content-length") == "33"
        assert (await gateway.ask(chat(b'{"model":"x"}', path=b"/upstream/m/v1"))).status == 200
        assert gateway.backend.requests[-1].body == b'{"model":"x"}'


@pytest.mark.fault(23)
async def test_multipart_is_routed_and_passes_byte_for_byte() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\xff\r\n'
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
    )
    request = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    async with rig() as gateway:
        assert (await gateway.ask(request + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))).status == 200
        assert gateway.backend.requests[0].body == body
        assert gateway.backend.requests[0].header("content-type") == "multipart/form-data; boundary=b"


@pytest.mark.fault(13)
async def test_compressed_bodies_need_a_model_in_the_target() -> None:
    body = b"\x1f\x8b not looked into"
    async with rig() as gateway:
        assert (await gateway.ask(chat(body, b"Content-Encoding: gzip"))).status == 415
        for path in (b"/v1/x?model=m", b"/upstream/m/v1/x"):
            assert (await gateway.ask(chat(body, b"Content-Encoding: gzip", path=path))).status == 200
            assert gateway.backend.requests[-1].body == body
            assert gateway.backend.requests[-1].header("content-encoding") == "gzip"
        assert (await gateway.ask(chat(b'{"model": "m"}', b"Content-Encoding: identity"))).status == 200


async def test_control_plane_is_relayed_without_the_scheduler() -> None:
    control = FakeBackend()
    await control.start()
    async with rig(control=control.address) as gateway:
        gateway.scheduler.hold = True
        assert (await gateway.ask(get(b"/health"), "GET")).status == 200
        await control.stop()
        assert (await gateway.ask(get(b"/health"), "GET")).status == 502
        assert gateway.scheduler.arrivals == []
        assert gateway.scheduler.failures == []
        assert gateway.observer.done == []


async def test_listens_on_given_sockets_and_several_addresses() -> None:
    import socket

    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    async with rig() as gateway:
        await gateway.gateway.start(sockets=[bound])
        ports = [address[1] for address in gateway.gateway.addresses]
        assert ports == [gateway.port, bound.getsockname()[1]]
        client = await RawClient.open(ports[1])
        await client.send(chat())
        assert (await client.receive()).status == 200
        await client.close()


async def test_port_in_use_is_an_error() -> None:
    async with rig() as gateway:
        with pytest.raises(OSError, match="in use"):
            await gateway.gateway.start("127.0.0.1", gateway.port)


async def test_peer_checks_can_fail() -> None:
    """The client of these tests does notice a response that ends early."""
    backend = FakeBackend()
    await backend.start()
    backend.play(ending_with(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"))
    client = await RawClient.open(backend.address.port)
    await client.send(chat())
    with pytest.raises(TruncatedError):
        await client.receive()
    await client.close()
    await backend.stop()
    assert BackendAddress.local(1).port == 1
