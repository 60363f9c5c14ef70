"""An orderly end, and a sudden one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from tests.gateway.peers import OK, RawClient, chat, rig, until

pytestmark = pytest.mark.anyio


async def test_stop_accepting_lets_what_is_under_way_end() -> None:
    async with rig() as gateway:
        gateway.backend.play(lambda c, _: c.write(OK[:-1]), b"")
        idle, used, streaming, waiting, arriving = [await gateway.client() for _ in range(5)]
        await arriving.send(chat()[:30])
        await streaming.send(chat())
        await streaming.read_until(b"{")
        await waiting.send(chat() + chat())
        await until(lambda: len(gateway.backend.requests) == 2)
        gateway.backend.play(OK)
        await used.send(chat())
        assert (await used.receive()).status == 200
        await until(lambda: gateway.gateway.connections == 5)

        gateway.gateway.stop_accepting()
        assert await idle.rest() == b""
        assert await used.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await RawClient.open(gateway.port)
        gateway.backend.connections[0].write(OK[-1:])
        assert await streaming.rest() == b"}", "its head was sent before, but its connection is closed all the same"
        gateway.backend.connections[1].write(OK)
        answer = await waiting.receive()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert await waiting.rest() == b"", "what was pipelined behind is not begun"
        drained = asyncio.ensure_future(gateway.gateway.drained())
        await asyncio.sleep(0.05)
        assert not drained.done()
        await arriving.send(chat()[30:])
        assert (await arriving.receive()).header("connection") == "close"
        await drained
        assert gateway.gateway.connections == 0


async def test_close_aborts_what_is_left() -> None:
    async with rig() as gateway:
        gateway.backend.play(b"")
        clients = [await gateway.client() for _ in range(4)]
        await clients[1].send(chat()[:30])
        await clients[2].send(chat())
        await until(lambda: gateway.backend.requests)
        gateway.scheduler.hold = True
        await clients[3].send(chat())
        await until(lambda: gateway.scheduler.waiting)
        await gateway.gateway.close()
        assert gateway.scheduler.finishes == [1]
        assert gateway.scheduler.lefts == [2]
        for client in clients:
            with pytest.raises(ConnectionResetError):
                await client.rest()


async def test_close_twice() -> None:
    async with rig() as gateway:
        await gateway.gateway.close()
        await gateway.gateway.close()


OUT_OF_DESCRIPTORS = """
    import asyncio, resource, socket, sys
    import uvloop
    from tests.gateway.peers import chat, rig, RawClient, until

    async def main():
        async with rig() as gateway:
            assert (await gateway.ask(chat())).status == 200
            fillers = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            try:
                while True:
                    fillers.append(socket.socket())
            except OSError:
                pass
            # One descriptor for a client, none for the gateway to accept it with.
            fillers.pop().close()
            with socket.socket() as client:
                client.connect(("127.0.0.1", gateway.port))
                client.setblocking(False)
                await asyncio.sleep(0.3)
            for filler in fillers:
                filler.close()
            client = await RawClient.open(gateway.port)
            await client.send(chat())
            answer = await client.receive()
            assert answer.status == 200, answer
            await client.close()
        print("recovered")

    (uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_out_of_descriptors(loop: str) -> None:
    """Row 54: accepting pauses, or drops the clients it cannot take, and goes on when there are descriptors again."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OUT_OF_DESCRIPTORS), loop],
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )
    assert done.stdout == "recovered\n", done.stderr
