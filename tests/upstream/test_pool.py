"""The pool by itself, on the loop that llmux serves on."""

from __future__ import annotations

import asyncio

import pytest

from llmux.addresses import BackendAddress
from llmux.errors import BackendError
from llmux.upstream import Pool, UpstreamConnection
from llmux.wire.response import ResponseReader
from tests.gateway.peers import OK, PATIENCE, FakeBackend, ending_with, get, until
from tests.ports import nobodys_port

pytestmark = pytest.mark.anyio


class Asker:
    """Asks one thing on a connection that it gets from a pool."""

    def __init__(self) -> None:
        self.connection: UpstreamConnection | None = None
        self.error: Exception | None = None
        self.body = b""
        self.events: list[str] = []

    def connected(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        self.events.append("connected")

    def connect_failed(self, error: Exception) -> None:
        self.error = error
        self.events.append("failed")

    def received(self, data: bytes, response: ResponseReader) -> None:
        self.body += data
        if response.complete:
            self.events.append("complete")

    def chunk_came(self, data: bytes, response: ResponseReader) -> None:
        self.body += data

    def malformed(self, error: BackendError) -> None:
        self.events.append("malformed")

    def lost(self, reason: Exception | None, response: ResponseReader) -> None:
        self.events.append("lost")


async def connected(pool: Pool) -> Asker:
    asker = Asker()
    pool.connect(asker)
    await until(lambda: asker.events)
    assert asker.events == ["connected"]
    return asker


async def ask(asker: Asker) -> None:
    assert asker.connection is not None
    asker.connection.send(get(b"/"), b"", ResponseReader(to_head=False), asker)
    await until(lambda: len(asker.events) == 2)


@pytest.fixture
async def backend() -> FakeBackend:
    made = FakeBackend()
    await made.start()
    return made


async def finish(pool: Pool, backend: FakeBackend) -> None:
    pool.abort()
    async with asyncio.timeout(PATIENCE):
        await pool.closed()
    assert (pool.idle, pool.open) == (0, 0)
    await backend.stop()


async def test_last_in_first_out_and_a_bound(backend: FakeBackend) -> None:
    pool = Pool(backend.address, max_idle=2, idle_seconds=60)
    askers = [await connected(pool) for _ in range(3)]
    assert (pool.idle, pool.open) == (0, 3)
    for asker in askers:
        await ask(asker)
        assert asker.events == ["connected", "complete"]
    assert pool.idle == 2
    await until(lambda: pool.open == 2)
    assert pool.take(0.0) is askers[1].connection
    assert pool.take(0.0) is askers[0].connection
    assert pool.take(0.0) is None
    await finish(pool, backend)


@pytest.mark.fault(33)
async def test_idle_connections_are_not_kept_for_long(backend: FakeBackend) -> None:
    pool = Pool(backend.address, max_idle=8, idle_seconds=400.0)
    for _ in range(3):
        await ask(await connected(pool))
        await ask(await connected(pool))
    now = asyncio.get_running_loop().time()
    pool.prune(now + 300)
    assert pool.idle == 6
    pool.prune(now + 400.5)
    assert pool.idle == 0
    await ask(await connected(pool))
    assert pool.take(now + 6000) is None
    await until(lambda: not backend.live)
    await finish(pool, backend)


@pytest.mark.fault(33)
async def test_a_closed_pool_opens_again(backend: FakeBackend) -> None:
    pool = Pool(backend.address, max_idle=8, idle_seconds=60)
    idle, busy = await connected(pool), await connected(pool)
    await ask(idle)
    pool.close()
    assert pool.idle == 0
    await ask(busy)
    assert busy.events == ["connected", "complete"], "what was under way is not cut"
    assert pool.idle == 0
    await ask(await connected(pool))
    assert pool.idle == 1
    await finish(pool, backend)


@pytest.mark.fault(33)
async def test_an_idle_connection_that_ends_is_forgotten(backend: FakeBackend) -> None:
    pool = Pool(backend.address, max_idle=8, idle_seconds=60)
    await ask(await connected(pool))
    backend.connections[0].close()
    await until(lambda: pool.open == 0)
    assert pool.take(0.0) is None
    await finish(pool, backend)


@pytest.mark.fault(29, 30, 32)
async def test_each_way_to_end_is_told_once(backend: FakeBackend) -> None:
    pool = Pool(backend.address, max_idle=8, idle_seconds=60)
    for answer, event in (
        (ending_with(b""), "lost"),
        (ending_with(OK[:-1]), "lost"),
        (ending_with(b"HTTP/1.1 200 OK\r\n\r\nall"), "complete"),
        (ending_with(b"what?\r\n\r\n"), "malformed"),
        (ending_with(OK), "complete"),
    ):
        backend.play(answer)
        asker = await connected(pool)
        await ask(asker)
        await until(lambda: pool.open == 0)
        assert asker.events == ["connected", event]
    await finish(pool, backend)


async def test_an_aborted_connection_says_nothing_more(backend: FakeBackend) -> None:
    backend.play(b"")
    pool = Pool(backend.address, max_idle=8, idle_seconds=60)
    asker = await connected(pool)
    assert asker.connection is not None
    asker.connection.send(get(b"/"), b"", ResponseReader(to_head=False), asker)
    await until(lambda: backend.requests)
    asker.connection.abort()
    asker.connection.abort()
    await until(lambda: pool.open == 0)
    assert asker.events == ["connected"]
    assert asker.connection.closing
    await finish(pool, backend)


@pytest.mark.fault(28)
async def test_nobody_there() -> None:
    with nobodys_port() as port:
        for address, kind in (
            (BackendAddress.local(port), ConnectionRefusedError),
            (BackendAddress(unix_path="/no"), FileNotFoundError),
        ):
            pool = Pool(address, max_idle=8, idle_seconds=60)
            asker = Asker()
            await pool.connect(asker)
            assert asker.events == ["failed"]
            assert isinstance(asker.error, kind)
            await finish(pool, FakeBackend())


@pytest.mark.fault(25)
@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_an_attempt_leaves_nothing(backend: FakeBackend, turns: int) -> None:
    pool = Pool(backend.address, max_idle=8, idle_seconds=60)
    asker = Asker()
    attempt = pool.connect(asker)
    for _ in range(turns):
        await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.wait([attempt])
    if asker.connection is not None:
        asker.connection.abort()
    await until(lambda: pool.open == 0)
    await until(lambda: not backend.live)
    await finish(pool, backend)


async def test_ending_the_pool_gives_up_attempts(backend: FakeBackend) -> None:
    pool = Pool(backend.address, max_idle=8, idle_seconds=60)
    asker = Asker()
    pool.connect(asker)
    await finish(pool, backend)
    assert asker.events == []
