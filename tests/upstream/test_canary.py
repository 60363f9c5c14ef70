"""The canary over real connections: how it is sent, how it is judged, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import resource

import pytest

from llmux.addresses import BackendAddress
from llmux.messages import Outcome
from llmux.upstream import Canary, CanaryRun, Pool
from tests.gateway.peers import OK, PATIENCE, BackendConnection, FakeBackend, Received, until
from tests.ports import nobodys_port

pytestmark = [pytest.mark.anyio, pytest.mark.fault(36)]

BODY = json.dumps({"model": "m", "max_tokens": 1}).encode()
CANARY = Canary("/v1/chat/completions", BODY, (("Authorization", "Bearer s3cret"),))


class Bench:
    """A fake backend, a pool of it, and canaries."""

    def __init__(self, backend: FakeBackend, address: BackendAddress | None = None) -> None:
        self.backend = backend
        self.pool = Pool(address or backend.address, max_idle=8, idle_seconds=4.0)

    def send(self, timeout: float | None = 20.0) -> tuple[CanaryRun, asyncio.Future[tuple[Outcome, str]]]:
        future: asyncio.Future[tuple[Outcome, str]] = asyncio.get_running_loop().create_future()

        def ended(outcome: Outcome, seconds: float, detail: str) -> None:
            assert seconds >= 0
            future.set_result((outcome, detail))  # raises if it is called twice

        run = CanaryRun(self.pool, CANARY, timeout, ended)
        assert not future.done()
        return run, future

    async def ask(self, within: float = 20.0) -> tuple[Outcome, str]:
        return await asyncio.wait_for(self.send(within)[1], 20)

    async def close(self) -> None:
        self.pool.abort()
        async with asyncio.timeout(PATIENCE):
            await self.pool.closed()
        await self.backend.stop()


@pytest.fixture
async def bench() -> Bench:
    backend = FakeBackend()
    await backend.start()
    return Bench(backend)


async def test_it_is_an_ordinary_request(bench: Bench) -> None:
    bench.pool.base = b"/base"
    assert await bench.ask() == (Outcome.OK, "")
    request = bench.backend.requests[0]
    assert (request.method, request.target) == ("POST", "/base/v1/chat/completions")
    assert request.body == BODY
    headers = dict(request.headers)
    assert headers["host"] == bench.backend.address.host_header
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(CANARY)
    await bench.close()


async def test_its_connection_serves_the_first_request_afterwards(bench: Bench) -> None:
    await bench.ask()
    assert bench.pool.idle == 1
    await bench.close()


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_a_whole_answer_with_2xx_is_well(bench: Bench, status: int) -> None:
    length = b"" if status == 204 else b"Content-Length: 2\r\n"
    bench.backend.play(b"HTTP/1.1 %d X\r\n%b\r\n%b" % (status, length, b"" if status == 204 else b"{}"))
    assert (await bench.ask())[0] is Outcome.OK
    await bench.close()


@pytest.mark.parametrize("status", [302, 400, 401, 404, 500, 503])
async def test_any_other_status_is_a_failure_and_the_backends_words_are_not_repeated(bench: Bench, status: int) -> None:
    bench.backend.play(b"HTTP/1.1 %d X\r\nContent-Length: 6\r\n\r\nsecret" % status)
    assert await bench.ask() == (Outcome.FAILED, f"the backend answered with status {status}")
    await bench.close()


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (b"", "before it answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "in the middle of its response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "in the middle of its response"),
        (b"what?\r\n\r\n", ""),
    ],
)
async def test_half_an_answer_is_none(bench: Bench, answer: bytes, detail: str) -> None:
    def die(connection: BackendConnection, request: Received) -> None:
        connection.write(answer)
        connection.close()

    bench.backend.script = die
    outcome, said = await bench.ask()
    assert outcome is Outcome.FAILED
    assert detail in said
    await bench.close()


async def test_nobody_listens(bench: Bench) -> None:
    with nobodys_port() as port:
        nowhere = Bench(bench.backend, BackendAddress.local(port))
        outcome, detail = await nowhere.ask()
        assert outcome is Outcome.FAILED
        assert "cannot connect" in detail
        await nowhere.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"])
async def test_a_backend_that_hangs_runs_into_the_deadline(bench: Bench, answer: bytes) -> None:
    bench.backend.script = lambda connection, request: connection.write(answer)
    assert await bench.ask(0.1) == (Outcome.TIMEOUT, "no whole answer within 0.1 s")
    await until(lambda: not bench.backend.live)  # its connection was closed: the backend need not go on
    await bench.close()


async def test_cancelling(bench: Bench) -> None:
    bench.backend.script = lambda connection, request: None
    run, future = bench.send()
    await until(lambda: bench.backend.requests)
    run.cancel()
    assert await asyncio.wait_for(future, 20) == (Outcome.CANCELLED, "cancelled")
    run.cancel()  # again: nothing
    await until(lambda: not bench.backend.live)
    await bench.close()


async def test_cancelling_while_it_connects_and_after_it_has_ended(bench: Bench) -> None:
    run, future = bench.send()
    run.cancel()
    assert (await asyncio.wait_for(future, 20))[0] is Outcome.CANCELLED
    run, future = bench.send()
    assert (await asyncio.wait_for(future, 20))[0] is Outcome.OK
    run.cancel()
    await asyncio.sleep(0)
    await bench.close()


async def test_out_of_descriptors_is_no_fault_of_the_backend(bench: Bench) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)
    _, future = bench.send()
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        done, _ = await asyncio.wait({future}, timeout=PATIENCE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert done
    outcome, detail = future.result()
    assert outcome is Outcome.ERROR
    assert "cannot connect" in detail
    await bench.close()


async def test_the_first_answer_is_taken_once(bench: Bench) -> None:
    bench.backend.script = lambda connection, request: connection.write(OK + OK)
    assert (await bench.ask())[0] is Outcome.OK
    assert bench.pool.idle == 0  # what came unasked must not become the next request's answer
    await bench.close()
