"""What stands around the gateway in its tests: a client that writes raw bytes, a backend that plays scripts, a
scheduler that does as it is told, and a rig that puts them together and checks the books afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import h11

from llmux.access import Access
from llmux.addresses import BackendAddress
from llmux.errors import LlmuxError, RequestAbortedError
from llmux.gateway import Backend, Gateway, GatewaySettings, Limit
from llmux.messages import Failure, Prospects
from llmux.ports import Requester
from llmux.records import Scribe
from llmux.upstream import Dial
from llmux.wire.rewrite import Params

PATIENCE = 30.0
"""Seconds that anything awaited may take before a test fails."""

RESET = struct.pack("ii", 1, 0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for `condition` to hold."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  (any condition at all; most have no event to wait for)
            await asyncio.sleep(0.002)


class SteadyLoop:
    """The running loop, with a clock that does not go on while nothing else does: at most by one step each time that
    the loop comes round. By it, what has a deadline is late only if it was not done though there was time to do it, and
    not because the process stood still, as it may on a busy machine."""

    STEP = 0.01

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time()
        self._step()

    def _step(self) -> None:
        self._now += self.STEP
        self._next = self._loop.call_later(self.STEP, self._step)

    def stop(self) -> None:
        self._next.cancel()

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return self._loop.call_later(when - self._now, callback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


# --- the backend ------------------------------------------------------------------------------------------------------


@dataclass
class Received:
    """A request as a backend got it; h11 has checked that it is one, whole."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

Script = Callable[["BackendConnection", Received], object]


def ending_with(data: bytes) -> Script:
    """Answer with `data`, then close."""

    def script(connection: BackendConnection, request: Received) -> None:
        connection.write(data)
        connection.close()

    return script


class BackendConnection(asyncio.Protocol):
    """Records what comes, and hands every whole request to its backend's script."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.raw = bytearray()
        self.requests: list[Received] = []
        self.lost = asyncio.Event()
        self.paused = False
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self._head: h11.Request | None = None
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.backend.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self.raw += data
        if self.backend.on_bytes is not None:
            self.backend.on_bytes(self)
            return
        self._parser.receive_data(data)
        while True:
            event = self._parser.next_event()
            if isinstance(event, h11.Request):
                self._head = event
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._got()
            else:
                return

    def _got(self) -> None:
        assert self._head is not None
        request = Received(
            self._head.method.decode(),
            self._head.target.decode(),
            [(key.decode(), value.decode("latin-1")) for key, value in self._head.headers],
            bytes(self._body),
        )
        self._body.clear()
        # The script answers in bytes of its own, so h11 only needs to be told that an answer was sent.
        if self._parser.our_state is h11.SEND_RESPONSE:
            self._parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            self._parser.send(h11.EndOfMessage())
        if self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE:
            self._parser.start_next_cycle()
        self.requests.append(request)
        self.backend.requests.append(request)
        self.backend.script(self, request)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()


class FakeBackend:
    """Listens on a real socket. `script` is called with each request; by default it answers 200 at once."""

    started: ClassVar[set[FakeBackend]] = set()
    """Those that were not stopped yet."""

    def __init__(self) -> None:
        self.connections: list[BackendConnection] = []
        self.requests: list[Received] = []
        self.script: Script = lambda connection, request: connection.write(OK)
        self.on_bytes: Callable[[BackendConnection], object] | None = None  # instead of parsing them
        self.address = BackendAddress()
        self._server: asyncio.Server | None = None

    async def start(self, *, unix_path: str = "", tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self.started.add(self)
        if unix_path:
            self._server = await loop.create_unix_server(lambda: BackendConnection(self), unix_path)
            self.address = BackendAddress(unix_path=unix_path)
        else:
            self._server = await loop.create_server(lambda: BackendConnection(self), "127.0.0.1", port, ssl=tls)
            port = self._server.sockets[0].getsockname()[1]
            self.address = BackendAddress(host="127.0.0.1", port=port, tls=tls is not None)

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        self.started.discard(self)
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self.live:
            connection.transport.abort()
        for connection in self.connections:
            await connection.lost.wait()

    @property
    def live(self) -> list[BackendConnection]:
        return [connection for connection in self.connections if not connection.lost.is_set()]

    def play(self, *scripts: bytes | Script) -> None:
        """Answer the first request with the first of `scripts`, the next with the next one, and the last for ever."""
        left = list(scripts)

        def script(connection: BackendConnection, request: Received) -> None:
            step = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(step, bytes):
                connection.write(step)
            else:
                step(connection, request)

        self.script = script


# --- the scheduler ----------------------------------------------------------------------------------------------------


@dataclass
class FakeScheduler:
    """Grants at once, unless `hold` or `refuse_with` says otherwise. Keeps books."""

    names: dict[str, str] = field(default_factory=lambda: {"m": "m", "alias": "m", "other": "other"})
    hold: bool = False
    refuse_with: LlmuxError | None = None
    waiting: dict[int, Requester] = field(default_factory=dict)
    granted: dict[int, Requester] = field(default_factory=dict)
    arrivals: list[tuple[int, str]] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    lefts: list[int] = field(default_factory=list)
    finishes: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # of connections
    verdicts: list[tuple[Failure, int]] = field(default_factory=list)  # all failures, with how many in a row
    moved: list[str] = field(default_factory=list)
    seconds: float = 14.2  # that those who wait are told
    held: str = ""  # why nobody gets on

    def resolve(self, name: str) -> str | None:
        return self.names.get(name)

    def arrived(self, model: str, requester: Requester, level: int = 0) -> int:
        request_id = len(self.arrivals) + 1
        self.levels.append(level)
        self.arrivals.append((request_id, model))
        if self.refuse_with is not None:
            requester.refused(self.refuse_with)
        elif self.hold:
            self.waiting[request_id] = requester
        else:
            self.granted[request_id] = requester
            requester.granted(0.0, False)
        return request_id

    def left(self, request_id: int) -> None:
        del self.waiting[request_id]
        self.lefts.append(request_id)

    def finished(self, request_id: int) -> None:
        del self.granted[request_id]
        self.finishes.append(request_id)

    def backend_failed(self, model: str, failure: Failure, in_a_row: int) -> None:
        self.verdicts.append((failure, in_a_row))
        if failure is not Failure.ANSWER:
            self.failures.append(model)

    def backend_moved(self, model: str) -> None:
        self.moved.append(model)

    def prospects(self, model: str) -> Prospects:
        places = {request_id: ahead for ahead, request_id in enumerate(self.waiting)}
        return Prospects(places, self.seconds, held=self.held)

    def grant(self) -> None:
        """Grant everything that waits."""
        while self.waiting:
            request_id, requester = self.waiting.popitem()
            self.granted[request_id] = requester
            requester.granted(0.5, True)

    def refuse(self, error: LlmuxError, *, switched: bool = False) -> None:
        """Refuse everything that waits."""
        while self.waiting:
            _, requester = self.waiting.popitem()
            requester.refused(error, switched)

    def abort(self, reason: str) -> None:
        """Abort everything that was granted."""
        for requester in list(self.granted.values()):
            requester.aborted(RequestAbortedError(reason))


@dataclass
class FakeObserver:
    waits: list[tuple[str, float]] = field(default_factory=list)
    done: list[tuple[str | None, int]] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    tokens: list[tuple[str, int, int]] = field(default_factory=list)

    def queue_waited(self, model: str, seconds: float) -> None:
        self.waits.append((model, seconds))

    def request_done(self, model: str | None, status: int, seconds_to_first_byte: float) -> None:
        assert seconds_to_first_byte >= 0
        self.done.append((model, status))

    def tokens_used(self, model: str, prompt: int, answer: int) -> None:
        self.tokens.append((model, prompt, answer))

    def limit_hit(self, limit: Limit) -> None:
        self.limits.append(limit)


# --- the client -------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]
    http_version: str

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


class TruncatedError(Exception):
    """The connection ended before the response did. `body` is what came of it."""

    def __init__(self, body: bytes, cause: BaseException | None) -> None:
        super().__init__(repr(body[-200:]), cause)
        self.body = body
        self.cause = cause


class RawClient:
    """Writes the bytes it is given, and reads responses through h11, which is strict about them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._rest = b""

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int | None = None) -> RawClient:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit = 1 << 16 if receive_buffer is None else receive_buffer
        return cls(*await asyncio.open_connection(sock=sock, limit=limit))

    async def send(self, *pieces: bytes) -> None:
        """Write each of `pieces` by itself, letting the gateway's loop run in between."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0)

    async def receive(self, method: str = "POST", *, interim: list[int] | None = None) -> Answer:
        """The next response.

        Raises:
            TruncatedError: it was not whole.
        """
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        head: h11.Response | None = None
        body = bytearray()
        parser.receive_data(self._rest) if self._rest else None
        self._rest = b""
        while True:
            try:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    async with asyncio.timeout(PATIENCE):
                        parser.receive_data(await self.reader.read(1 << 16))
                    continue
            except (h11.RemoteProtocolError, ConnectionError) as error:
                raise TruncatedError(bytes(body), error) from error
            if isinstance(event, h11.InformationalResponse):
                if interim is not None:
                    interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                self._rest = parser.trailing_data[0]
                return Answer(
                    head.status_code,
                    [(key.decode(), value.decode("latin-1")) for key, value in head.headers],
                    bytes(body),
                    [(key.decode(), value.decode("latin-1")) for key, value in event.headers],
                    head.http_version.decode(),
                )
            else:
                raise TruncatedError(bytes(body), None)

    async def read_until(self, marker: bytes) -> bytes:
        """Raw bytes up to and including `marker`."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(marker)

    def unread(self, data: bytes) -> None:
        """Have `receive` begin with `data`, which was read before."""
        self._rest += data

    async def rest(self) -> bytes:
        """Everything until the connection ends; a reset raises ConnectionError."""
        async with asyncio.timeout(PATIENCE):
            return self._rest + await self.reader.read(-1)

    def reset(self) -> None:
        """Leave as a client does that is killed."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


def chat(
    body: bytes = b'{"model": "m"}', *extra: bytes, path: bytes = b"/v1/chat/completions", method: bytes = b"POST"
) -> bytes:
    """A request as a client writes it."""
    head = [
        method + b" " + path + b" HTTP/1.1",
        b"Host: llmux.test",
        b"Content-Type: application/json",
        *extra,
        b"Content-Length: %d" % len(body),
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def get(path: bytes, *extra: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: llmux.test", *extra]) + b"\r\n\r\n"


# --- all together -----------------------------------------------------------------------------------------------------


@dataclass
class Rig:
    gateway: Gateway
    scheduler: FakeScheduler
    observer: FakeObserver
    backend: FakeBackend
    port: int
    clients: list[RawClient] = field(default_factory=list)

    async def client(self, **options: Any) -> RawClient:
        client = await RawClient.open(self.port, **options)
        self.clients.append(client)
        return client

    async def ask(self, request: bytes, method: str = "POST") -> Answer:
        """One request on a connection of its own."""
        client = await self.client()
        await client.send(request)
        return await client.receive(method)

    async def idle(self) -> None:
        """Wait until the gateway does nothing any more, and look at the books."""
        await until(lambda: not self.scheduler.granted and not self.scheduler.waiting)
        await until(lambda: not self.gateway.buffered_bytes)


@contextlib.asynccontextmanager
async def rig(
    *,
    settings: GatewaySettings | None = None,
    send_model_as: str | None = None,
    params: Params | None = None,
    keep_aliases: bool = False,
    base: str = "",
    backend: FakeBackend | None = None,
    address: BackendAddress | None = None,
    others: Mapping[str, Backend] | None = None,
    control: BackendAddress | Dial | None = None,
    access: Access | None = None,
    tls: ssl.SSLContext | None = None,
    scribes: Sequence[Scribe] = (),
    steady: bool = False,
) -> AsyncIterator[Rig]:
    """A gateway with the model `m` behind `backend`. At the end everything must be given back: grants, waiters,
    buffered bytes, connections on both sides. With `steady`, its deadlines are those of a `SteadyLoop`, as they must be
    where something has to be done before a short one."""
    if backend is None:
        backend = FakeBackend()
        await backend.start()
    if address is None:
        address = backend.address
    if base:
        address = BackendAddress(host=address.host, port=address.port, base=base)
    scheduler, observer = FakeScheduler(), FakeObserver()
    gateway = Gateway(
        scheduler=scheduler,
        backends={
            "m": Backend("m", address, send_model_as, params=params, keep_aliases=keep_aliases),
            **(others or {}),
        },
        control=control,
        settings=settings or GatewaySettings(),
        observer=observer,
        access=access,
        tls=tls,
        scribes=scribes,
    )
    clock = SteadyLoop() if steady else None
    if clock is not None:
        gateway._shared.loop = cast(asyncio.AbstractEventLoop, clock)
    await gateway.start("127.0.0.1", 0)
    made = Rig(gateway, scheduler, observer, backend, gateway.addresses[0][1])
    try:
        try:
            yield made
        finally:
            for client in made.clients:
                await client.close()
        await made.idle()
        assert sorted(scheduler.finishes) == sorted(set(scheduler.finishes))
        ended = {*scheduler.finishes, *scheduler.lefts}
        assert len(ended) == len(scheduler.finishes) + len(scheduler.lefts)
    except BaseException:
        # The test has failed, so it does not stop what else it has started; and uvloop does not close under that.
        async with asyncio.timeout(PATIENCE):
            for other in list(FakeBackend.started):
                await other.stop()
        raise
    finally:
        async with asyncio.timeout(PATIENCE):
            await gateway.close()
            await backend.stop()
        if clock is not None:
            clock.stop()
    assert gateway.connections == 0
    assert not scheduler.granted
    assert not scheduler.waiting
