"""What the gateway tells the scheduler about backends that fail requests: which failures count, and how many in a row.

FAULTS rows 34 and 36. What is made of it is for the core: tests/core/test_ownership.py."""

from __future__ import annotations

import pytest

from llmux.addresses import BackendAddress
from llmux.gateway import Backend, GatewaySettings, Timeouts
from llmux.messages import Failure
from tests.gateway.peers import (
    OK,
    BackendConnection,
    FakeBackend,
    Received,
    Rig,
    TruncatedError,
    chat,
    ending_with,
    get,
    rig,
)
from tests.ports import nobodys_port

pytestmark = [pytest.mark.anyio, pytest.mark.fault(36)]


def answer(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status


async def ask(gateway: Rig, *scripts: bytes) -> None:
    for script in scripts:
        gateway.backend.play(script)
        await gateway.ask(chat())


async def test_server_errors_are_counted_until_an_answer_is_good() -> None:
    async with rig() as gateway:
        await ask(gateway, answer(500), answer(502), answer(503), answer(200), answer(504), answer(500))
        assert gateway.scheduler.verdicts == [(Failure.ANSWER, count) for count in (1, 2, 3, 1, 2)]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 501, 505])
async def test_what_the_client_did_wrong_counts_neither_way(status: int) -> None:
    async with rig() as gateway:
        await ask(gateway, answer(status), answer(500), answer(status), answer(500))
        assert gateway.scheduler.verdicts == [(Failure.ANSWER, 1), (Failure.ANSWER, 2)]


async def test_a_silent_backend_counts() -> None:
    settings = GatewaySettings(timeouts=Timeouts(response=0.05, between_bytes=0.05))
    async with rig(settings=settings, steady=True) as gateway:
        gateway.backend.script = lambda connection, request: None
        assert (await gateway.ask(chat())).status == 504
        gateway.backend.script = lambda connection, request: connection.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
        )
        with pytest.raises(TruncatedError):
            await gateway.ask(chat())
        assert gateway.scheduler.verdicts == [(Failure.ANSWER, 1), (Failure.ANSWER, 2)]


async def test_nonsense_counts_and_a_broken_connection_too() -> None:
    async with rig() as gateway:
        gateway.backend.script = ending_with(b"what?\r\n\r\n")
        await gateway.ask(chat())
        gateway.backend.script = ending_with(b"")
        await gateway.ask(chat())
        assert gateway.scheduler.verdicts == [(Failure.ANSWER, 1), (Failure.LOST, 2)]


@pytest.mark.fault(28, 34)
async def test_refusals_are_told_apart() -> None:
    with nobodys_port() as port:
        for address in (BackendAddress.local(port), BackendAddress(unix_path="/nonexistent/socket")):
            async with rig(address=address) as gateway:
                for _ in range(3):
                    await gateway.ask(chat())
                assert gateway.scheduler.verdicts == [(Failure.REFUSED, count) for count in (1, 2, 3)]


async def test_closing_a_backend_forgets_what_it_failed() -> None:
    async with rig() as gateway:
        await ask(gateway, answer(500), answer(500))
        gateway.gateway.close_backend("m")
        await ask(gateway, answer(500))
        assert [count for _, count in gateway.scheduler.verdicts] == [1, 2, 1]


async def test_models_are_counted_apart_and_the_control_plane_not_at_all() -> None:
    failing = FakeBackend()
    await failing.start()
    failing.play(answer(500))
    async with rig(others={"other": Backend("other", failing.address)}, control=failing.address) as gateway:
        await ask(gateway, answer(500))
        await gateway.ask(chat(b'{"model": "other"}'))
        await gateway.ask(get(b"/health"))
        assert len(failing.requests) == 2
        assert [count for _, count in gateway.scheduler.verdicts] == [1, 1]
    await failing.stop()


async def test_a_client_that_leaves_says_nothing_about_the_backend() -> None:
    async with rig() as gateway:
        gateway.backend.script = lambda connection, request: None
        client = await gateway.client()
        await client.send(chat())
        client.reset()
        await gateway.idle()
        gateway.backend.play(OK)
        await gateway.ask(chat())
        assert gateway.scheduler.verdicts == []


def stream(connection: BackendConnection, request: Received) -> None:
    connection.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    connection.reset()


async def test_a_good_beginning_is_no_good_answer() -> None:
    async with rig() as gateway:
        for _ in range(3):
            gateway.backend.script = stream
            with pytest.raises((TruncatedError, ConnectionError)):
                await gateway.ask(chat())
        assert gateway.scheduler.verdicts == [(Failure.LOST, count) for count in (1, 2, 3)]
