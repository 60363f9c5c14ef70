"""Clients that take their time: every phase has its deadline, and only that one."""

from __future__ import annotations

import asyncio

import pytest

from llmux.gateway import GatewaySettings, Timeouts
from tests.gateway.peers import PATIENCE, RawClient, chat, rig, until

pytestmark = pytest.mark.anyio


async def drip(client: RawClient, data: bytes) -> None:
    """One byte at a time, until the gateway has had enough."""
    try:
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("timeouts", "slow", "fast"),
    [
        (Timeouts(head=0.4), b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1000, b""),
        (Timeouts(head=0.4), b"\r\n" * 1000, b""),
        (Timeouts(body=0.4), b"x" * 1000, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"),
        (Timeouts(body=0.4), b"1\r\nx\r\n" * 200, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
async def test_slow_requests(timeouts: Timeouts, slow: bytes, fast: bytes) -> None:
    async with rig(settings=GatewaySettings(timeouts=timeouts)) as gateway:
        client = await gateway.client()
        await client.send(fast)
        dripping = asyncio.ensure_future(drip(client, slow))
        answer = await client.receive()
        assert answer.status == 408
        assert await client.rest() == b""
        dripping.cancel()
        assert gateway.observer.done == [(None, 408)]
        assert gateway.observer.limits == [f"timeouts_secs.{'head' if timeouts.head == 0.4 else 'body'}"]
        assert gateway.gateway.buffered_bytes == 0


@pytest.mark.fault(14)
async def test_idle_connections_end_silently() -> None:
    async with rig(settings=GatewaySettings(timeouts=Timeouts(keep_alive=0.2)), steady=True) as gateway:
        fresh, used = await gateway.client(), await gateway.client()
        await used.send(chat())
        assert (await used.receive()).status == 200
        assert await fresh.rest() == b""
        assert await used.rest() == b""


async def test_a_queued_request_has_no_deadline_here() -> None:
    hasty = Timeouts(keep_alive=0.1, head=0.1, body=0.1, connect=0.1, response=0.1, between_bytes=0.1, write=0.1)
    async with rig(settings=GatewaySettings(timeouts=hasty), steady=True) as gateway:
        gateway.scheduler.hold = True
        client = await gateway.client()
        await client.send(chat())
        await asyncio.sleep(0.6)  # longer than two looks at the deadlines
        assert gateway.scheduler.waiting
        gateway.scheduler.grant()
        assert (await client.receive()).status == 200


async def test_no_deadlines_at_all() -> None:
    never = Timeouts(keep_alive=None, head=None, body=None, connect=None, response=None, between_bytes=None, write=None)
    async with rig(settings=GatewaySettings(timeouts=never)) as gateway:
        client = await gateway.client()
        await client.send(chat()[:30])
        await asyncio.sleep(0.3)
        await client.send(chat()[30:])
        assert (await client.receive()).status == 200


@pytest.mark.fault(15)
async def test_a_client_that_reads_nothing_is_given_up() -> None:
    async with rig(settings=GatewaySettings(timeouts=Timeouts(write=0.3))) as gateway:
        gateway.backend.play(b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 30_000_000)
        client = await gateway.client(receive_buffer=4096)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a full transport
        await client.send(chat())
        await until(lambda: gateway.scheduler.finishes == [1])
        await gateway.backend.connections[0].lost.wait()
        await until(lambda: gateway.gateway.connections == 0)
        assert gateway.observer.limits == ["timeouts_secs.write"]


@pytest.mark.fault(15)
async def test_a_client_that_reads_slowly_is_not() -> None:
    hasty = Timeouts(write=0.3, between_bytes=0.3)
    async with rig(settings=GatewaySettings(timeouts=hasty), steady=True) as gateway:
        gateway.backend.play(b"HTTP/1.1 200 OK\r\nContent-Length: 6000000\r\n\r\n" + b"x" * 6_000_000)
        client = await gateway.client(receive_buffer=4096)
        await client.send(chat())
        left = 6_000_000
        await client.read_until(b"\r\n\r\n")
        for _ in range(20):  # a while, with something read well within each deadline
            left -= len(await client.reader.readexactly(20_000))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE):
            assert len(await client.reader.readexactly(left)) == left
