"""What is written down of requests: every way in which one can end, each once, and with what is true of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmux.access import Access, Key, Keyring
from llmux.access.keys import digest_of
from llmux.errors import WaitTimeoutError
from llmux.gateway import CLIENT_GONE, Gateway, GatewaySettings
from llmux.gateway.client import ClientConnection
from llmux.gateway.recorded import RecordedClient
from llmux.records import CLIENT_GONE as LEFT
from llmux.records import CUT, Record
from llmux.wire.websocket import accept_of
from tests.gateway.peers import (
    BackendConnection,
    FakeBackend,
    Received,
    Rig,
    TruncatedError,
    chat,
    ending_with,
    get,
    rig,
    until,
)

pytestmark = pytest.mark.anyio

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: 1\n\n\r\n"
USAGE = b'{"usage": {"prompt_tokens": 11, "completion_tokens": 7}}'
COUNTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(USAGE), USAGE)


@dataclass
class Notes:
    """A scribe that keeps everything."""

    begun_with: list[Sequence[bytes]] = field(default_factory=list)
    backends: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def begun(self, record: Record, lines: Sequence[bytes]) -> None:
        self.begun_with.append(lines)

    def forwarded(self, record: Record, lines: Sequence[bytes], backend: str) -> Sequence[bytes]:
        self.backends.append(backend)
        return [*lines, b"x-noted: yes"]

    def done(self, record: Record) -> None:
        self.records.append(record)


def keyring(**names: str) -> Keyring:
    return Keyring([Key(name, digest_of(text.encode())) for name, text in names.items()])


async def only(notes: Notes, made: Rig) -> Record:
    """The one record that there is, once all is over."""
    await until(lambda: notes.records)
    await made.idle()
    (record,) = notes.records
    return record


async def test_a_request() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.backend.play(COUNTED)
        client = await made.client()
        await client.send(chat(b'{"model": "alias"}', b"X-Request-ID: mine", path=b"/v1/chat/completions?q=secret"))
        answer = await client.receive()
        record = await only(notes, made)
    assert (record.client, record.method, record.path) == ("127.0.0.1", "POST", "/v1/chat/completions")
    assert (record.model, record.request_id, record.status, record.said_id) == ("m", 1, 200, "mine")
    assert (record.queued, record.waited, record.switched) == (False, 0.0, False)
    assert (record.tokens, record.ended_early, record.error, record.backend_status) == ((11, 7), None, None, 200)
    assert record.sent > len(answer.body) == len(USAGE)
    assert record.first_byte is not None
    assert 0 < record.first_byte <= record.duration
    assert record.relayed_ns >= record.at_ns
    assert notes.backends == [str(made.backend.address)]
    assert made.backend.requests[0].header("x-noted") == "yes"


async def test_bytes_are_those_of_this_request_alone() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.backend.play(COUNTED)
        client = await made.client()
        await client.send(chat() + chat())
        await client.receive()
        await client.receive()
        await until(lambda: len(notes.records) == 2)
    assert notes.records[0].sent == notes.records[1].sent


async def test_a_stream_whole_to_the_last_byte() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.backend.play(SSE + EVENT + EVENT + b"0\r\n\r\n")
        client = await made.client()
        await client.send(chat(b'{"model": "m"}', b"Connection: close"))
        raw = await client.rest()
        record = await only(notes, made)
    assert record.sent == len(raw)


async def test_one_that_waits() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.scheduler.hold = True
        client = await made.client()
        await client.send(chat())
        await until(lambda: made.scheduler.waiting)
        made.scheduler.grant()
        assert (await client.receive()).status == 200
        record = await only(notes, made)
    assert (record.queued, record.waited, record.switched) == (True, 0.5, True)
    assert record.at_ns <= record.queue_ended_ns


@pytest.mark.parametrize(("waits", "switched"), [(True, True), (True, False), (False, False)])
async def test_one_that_is_refused(waits: bool, switched: bool) -> None:
    notes = Notes()
    error = WaitTimeoutError("waited too long")
    async with rig(scribes=[notes]) as made:
        made.scheduler.hold = waits
        made.scheduler.refuse_with = None if waits else error
        client = await made.client()
        await client.send(chat())
        if waits:
            await until(lambda: made.scheduler.waiting)
            made.scheduler.refuse(error, switched=switched)
        got = await client.receive()
        assert got.status == 504
        assert got.header("x-llmux-switched") == (str(switched).lower() if waits else None)
        record = await only(notes, made)
    assert (record.status, record.error, record.ended_early) == (504, "queue_timeout", None)
    assert (record.queued, record.switched) == (waits, switched)
    assert (record.waited > 0) is waits
    assert notes.backends == []


async def test_a_client_that_leaves_while_it_waits() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.scheduler.hold = True
        client = await made.client()
        await client.send(chat())
        await until(lambda: made.scheduler.waiting)
        client.reset()
        record = await only(notes, made)
    assert (record.status, record.ended_early, record.first_byte) == (CLIENT_GONE, LEFT, None)
    assert record.queued
    assert record.waited > 0
    assert record.sent == 0


async def test_a_client_that_leaves_amid_a_stream() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.backend.play(SSE + EVENT)
        client = await made.client()
        await client.send(chat())
        seen = await client.read_until(b"data: 1")
        client.reset()
        record = await only(notes, made)
    assert (record.status, record.ended_early, record.error) == (200, LEFT, None)
    assert record.sent >= len(seen)


async def test_an_answer_that_is_cut() -> None:
    def die(connection: BackendConnection, request: Received) -> None:
        connection.write(SSE + EVENT)
        connection.close()

    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.backend.play(die)
        client = await made.client()
        await client.send(chat())
        with pytest.raises(TruncatedError):
            await client.receive()
        record = await only(notes, made)
    assert (record.status, record.ended_early, record.error) == (200, CUT, "backend_error")


async def test_one_that_is_aborted_before_its_answer() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.backend.play(lambda connection, request: None)
        client = await made.client()
        await client.send(chat())
        await until(lambda: made.backend.requests)
        made.scheduler.abort("its time was up")
        assert (await client.receive()).status == 503
        record = await only(notes, made)
    assert (record.status, record.ended_early, record.error) == (503, None, "request_aborted")
    assert record.backend_status == 0


async def test_a_backend_that_does_not_answer() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.backend.play(ending_with(b""))
        assert (await made.ask(chat())).status == 502
        record = await only(notes, made)
    assert (record.status, record.error, record.backend_status) == (502, "backend_error", 0)


async def test_what_is_for_no_model() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        assert (await made.ask(chat(b'{"model": "nobody"}'))).status == 404
        record = await only(notes, made)
    assert (record.model, record.status, record.error) == (None, 404, "model_not_found")
    assert not record.for_control
    assert record.request_id is None


async def test_what_is_for_llmux_itself() -> None:
    notes = Notes()
    control = FakeBackend()
    await control.start()
    access = Access(admin_keys=keyring(ops="hunter2"))
    async with rig(scribes=[notes], control=control.address, access=access) as made:
        assert (await made.ask(get(b"/health", b"Authorization: Bearer hunter2"), "GET")).status == 200
        record = await only(notes, made)
        made.gateway.set_control(None)
    await control.stop()
    assert (record.for_control, record.model, record.status, record.key) == (True, None, 200, "ops")
    assert notes.backends == []


async def test_what_is_no_request() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        client = await made.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n")
        assert (await client.receive("GET")).status == 400
        record = await only(notes, made)
        client = await made.client()
        await client.send(chat(b"x" * 200, path=b"/v1/known").replace(b": 200", b": 999999999999"))
        assert (await client.receive()).status == 413
        await until(lambda: len(notes.records) == 2)
    assert (record.status, record.error, record.model, record.client) == (400, "invalid_request", None, "127.0.0.1")
    assert record.sent > 0
    assert (notes.records[1].status, notes.records[1].path) == (413, "/v1/known")
    assert notes.begun_with == []


async def test_names_of_keys_and_never_keys() -> None:
    notes = Notes()
    access = Access(keys=Keyring([Key("alice", digest_of(b"s3cret"), models=frozenset({"other"}))]))
    async with rig(scribes=[notes], access=access) as made:
        for key, status in ((b"s3cret", 403), (b"wrong", 401)):
            assert (await made.ask(chat(b'{"model": "m"}', b"Authorization: Bearer " + key))).status == status
        assert (await made.ask(chat(b'{"model": "m"}', b"X-Api-Key: s3cret", b"X-Api-Key: s3cret"))).status == 400
        await until(lambda: len(notes.records) == 3)
    assert [record.key for record in notes.records] == ["alice", None, None]
    assert "s3cret" not in repr(notes.records)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ([b"X-Forwarded-For: 203.0.113.9"], "203.0.113.9"),
        ([b"X-Forwarded-For: 6.6.6.6, 203.0.113.9, 127.0.0.1"], "203.0.113.9"),  # the first is the client's own word
        ([b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-For: 127.0.0.1"], "203.0.113.9"),
        ([b"X-Forwarded-For: unknown"], "unknown"),
        ([b"X-Forwarded-For: 127.0.0.1"], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
async def test_the_client_behind_a_trusted_proxy(said: list[bytes], address: str) -> None:
    notes = Notes()
    settings = GatewaySettings(trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),))
    async with rig(scribes=[notes], settings=settings) as made:
        assert (await made.ask(chat(b'{"model": "m"}', *said))).status == 200
        assert (await only(notes, made)).client == address


async def test_strangers_cannot_say_where_they_come_from() -> None:
    notes = Notes()
    async with rig(scribes=[notes]) as made:
        await made.ask(chat(b'{"model": "m"}', b"X-Forwarded-For: 203.0.113.9"))
        assert (await only(notes, made)).client == "127.0.0.1"


async def test_a_websocket() -> None:
    def switch(connection: BackendConnection) -> None:
        if b"\r\n\r\n" in connection.raw:
            accept = accept_of(b"dGhlIHNhbXBsZSBub25jZQ==")
            connection.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\nhello"
            )

    notes = Notes()
    async with rig(scribes=[notes]) as made:
        made.backend.on_bytes = switch
        client = await made.client()
        await client.send(
            get(
                b"/v1/realtime?model=m",
                b"Connection: Upgrade",
                b"Upgrade: websocket",
                b"Sec-WebSocket-Version: 13",
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            )
        )
        head = await client.read_until(b"hello")
        await client.close()
        record = await only(notes, made)
    assert (record.status, record.path, record.ended_early) == (101, "/v1/realtime", None)
    assert record.sent == len(head)


async def test_a_stream_that_is_kept_alive_and_then_refused() -> None:
    notes = Notes()
    async with rig(scribes=[notes], settings=GatewaySettings(waiting_keepalive={"m": 0.01})) as made:
        made.scheduler.hold = True
        client = await made.client()
        await client.send(chat(b'{"model": "m", "stream": true}'))
        head = await client.read_until(b": waiting")
        made.scheduler.refuse(WaitTimeoutError("waited too long"))
        client.unread(head)
        assert (await client.receive()).status == 200
        record = await only(notes, made)
    assert (record.status, record.error) == (504, "queue_timeout")


@pytest.mark.parametrize("method", ["begun", "forwarded", "done"])
async def test_what_a_scribe_raises_harms_nobody(method: str) -> None:
    class Broken(Notes):
        def __getattribute__(self, name: str) -> Any:
            if name == method:
                raise RuntimeError
            return super().__getattribute__(name)

    notes = Notes()
    async with rig(scribes=[Broken(), notes]) as made:
        assert (await made.ask(chat())).status == 200
        await only(notes, made)


async def test_without_scribes_nothing_of_it_is_used() -> None:
    def accepted(gateway: Gateway) -> type[object]:
        return type(gateway._accept())

    async with rig() as made:
        await made.ask(chat())
        assert accepted(made.gateway) is ClientConnection
    async with rig(scribes=[Notes()]) as made:
        assert accepted(made.gateway) is RecordedClient
