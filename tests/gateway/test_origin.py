"""What a request tells of where it came from, while it waits and while it is served."""

from __future__ import annotations

import pytest

from llmux.access import Access, Key, Keyring, digest_of
from llmux.addresses import parse_network
from llmux.gateway import GatewaySettings
from llmux.ports import Origin, Requester, Traceable
from tests.gateway.peers import OK, BackendConnection, Received, Rig, chat, get, rig, until

pytestmark = pytest.mark.anyio

MOST = 1000
ACCESS = Access(keys=Keyring([Key("alice", digest_of(b"s3cret"))]))
PROXIES = GatewaySettings(trusted_proxies=(parse_network("127.0.0.0/8"),))


def told(requesters: dict[int, Requester], most: int = MOST) -> Origin:
    """What the only one of them tells."""
    (requester,) = requesters.values()
    assert isinstance(requester, Traceable)
    return requester.origin(most)


async def waiting(gateway: Rig, request: bytes) -> Origin:
    """What a request tells while it waits; it is served then."""
    gateway.scheduler.hold = True
    client = await gateway.client()
    await client.send(request)
    await until(lambda: gateway.scheduler.waiting)
    found = told(gateway.scheduler.waiting)
    gateway.scheduler.grant()
    assert (await client.receive()).status == 200
    return found


async def test_address_path_and_key() -> None:
    async with rig(access=ACCESS) as gateway:
        found = await waiting(gateway, chat(b'{"model": "m"}', b"Authorization: Bearer s3cret"))
        assert found[:3] == ("127.0.0.1", "alice", "/v1/chat/completions")
    async with rig() as gateway:
        found = await waiting(gateway, get(b"/upstream/m/x%0a?secret=1", b"Authorization: Bearer s3cret"))
        assert found == Origin("127.0.0.1", None, "/upstream/m/x%0a", None)


async def test_a_trusted_proxy_is_believed_and_nobody_else() -> None:
    forwarded = chat(b'{"model": "m"}', b"X-Forwarded-For: 203.0.113.9")
    async with rig(settings=PROXIES) as gateway:
        assert (await waiting(gateway, forwarded)).client == "203.0.113.9"
    async with rig() as gateway:
        assert (await waiting(gateway, forwarded)).client == "127.0.0.1"


@pytest.mark.parametrize(
    ("request_", "stream"),
    [
        (chat(b'{"model": "m", "stream": true}'), True),
        (chat(b'{"model": "m", "stream": false}'), False),
        (chat(b'{"model": "m"}'), False),
        (chat(b'{"model": "m", "stream": true, "x": "' + b"x" * MOST + b'"}'), None),
        (chat(b"name", path=b"/upstream/m/x"), None),
        (get(b"/upstream/m/x"), None),
    ],
    ids=["asked for", "not wanted", "not asked for", "too large to be looked at", "no JSON", "no body"],
)
async def test_whether_a_stream_was_asked_for(request_: bytes, stream: bool | None) -> None:
    async with rig() as gateway:
        found = await waiting(gateway, request_)
        assert found.stream is stream
        assert found.looked_at == (0 if stream is None else len(request_.partition(b"\r\n\r\n")[2]))


@pytest.mark.parametrize(
    ("kind", "stream"),
    [("text/event-stream", True), ("application/x-ndjson", True), ("application/json", False)],
)
async def test_the_answer_says_whether_it_is_a_stream(kind: str, stream: bool) -> None:
    """Whatever the body said: it is gone by then."""
    began: list[BackendConnection] = []

    def begin(connection: BackendConnection, request: Received) -> None:
        connection.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 2\r\n\r\n{{".encode())
        began.append(connection)

    async with rig() as gateway:
        gateway.backend.script = begin
        client = await gateway.client()
        await client.send(chat(b'{"model": "m"}'))
        await client.read_until(b"{")
        found = told(gateway.scheduler.granted)
        assert (found.stream, found.looked_at) == (stream, 0)
        began[0].write(b"}")
        await gateway.idle()


async def test_nothing_is_known_once_it_was_sent_on_and_nothing_has_come_back() -> None:
    asked: list[BackendConnection] = []
    async with rig() as gateway:
        gateway.backend.script = lambda connection, request: asked.append(connection)
        client = await gateway.client()
        await client.send(chat(b'{"model": "m", "stream": true}'))
        await until(lambda: asked)
        assert told(gateway.scheduler.granted).stream is None
        asked[0].write(OK)
        assert (await client.receive()).status == 200
