"""Those who wait, as the real process treats them: turned away, forgotten, shown. Numbers are fault rows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmux.testing import SimulatedBackend
from tests.e2e.conftest import DEADLINE, Server, llmux_process, metric
from tests.gateway.peers import RawClient, chat

pytestmark = pytest.mark.anyio


async def configuration(folder: Path, **content: Any) -> str:
    path = folder / "config.json"
    await asyncio.to_thread(path.write_text, json.dumps({"port": 0, "alive_interval_secs": 0, **content}))
    return str(path)


def model(port: int, **hooks: str) -> dict[str, Any]:
    return {"port": port, "wake": "true", "sleep": "true", "alive": "false"} | hooks


async def models(server: Server) -> dict[str, dict[str, Any]]:
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
        return {one["name"]: one for one in (await client.get("/ready")).json()["models"]}


async def until_waiting(server: Server, name: str, count: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await models(server))[name]["waiting"] != count:  # noqa: ASYNC110  # seen from outside, as here
            await asyncio.sleep(0.01)


async def exists(path: Path) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)


@pytest.mark.fault(52)
async def test_52_one_too_many_is_429_with_a_time_to_come_back_and_a_place_that_is_left_is_free(tmp_path: Path) -> None:
    go = tmp_path / "go"
    async with SimulatedBackend("m", tokens_per_second=1e6).serving() as (_, port):
        slow = model(port, wake=f"until [ -e {go} ]; do sleep 0.02; done")
        config = await configuration(tmp_path, models={"m": slow}, max_queue=2)
        async with llmux_process("-c", config) as server:
            waiting = [await RawClient.open(server.port) for _ in range(2)]
            for number, client in enumerate(waiting):
                await client.send(chat())
                await until_waiting(server, "m", number + 1)
            late = await RawClient.open(server.port)
            await late.send(chat())
            refused = await late.receive()
            assert refused.status == 429
            assert int(refused.header("retry-after") or "0") >= 1
            assert json.loads(refused.body)["error"]["code"] == "queue_full"
            waiting.pop().reset()
            await until_waiting(server, "m", 1)
            await late.send(chat())  # on the same connection: it was refused, not sent away
            await until_waiting(server, "m", 2)
            await asyncio.to_thread(go.touch)
            for client in (*waiting, late):
                assert (await client.receive()).status == 200
                await client.close()


@pytest.mark.fault(42)
async def test_42_who_waits_is_shown_while_a_hook_takes_its_time_to_end(tmp_path: Path) -> None:
    """It has had its time and got SIGTERM; until it is gone, nothing is woken, and nobody is forgotten."""
    told, end = tmp_path / "told", tmp_path / "end"
    wake = f"trap 'touch {told}; until [ -e {end} ]; do sleep 0.02; done; exit 1' TERM; while :; do sleep 0.02; done"
    for time in (0.3, 2.0, 15.0):  # on a machine so busy that it has not even begun to listen, it has more
        slow = model(1, wake=wake) | {"hook_timeout_secs": {"wake": time}}
        async with llmux_process("-c", await configuration(tmp_path, models={"m": slow})) as server:
            client = await RawClient.open(server.port)
            await client.send(chat())
            failed = asyncio.create_task(server.wait_for("hook_failed"))
            asked = asyncio.create_task(exists(told))
            await asyncio.wait([failed, asked], return_when=asyncio.FIRST_COMPLETED)
            failed.cancel()
            if not asked.done():
                asked.cancel()
                await client.close()
                continue
            shown = (await models(server))["m"]
            assert (shown["waiting"], shown["state"]) == (1, "waking")
            await asyncio.to_thread(end.touch)
            answer = await client.receive()
            assert answer.status == 503
            assert answer.header("retry-after")
            await client.close()
            break
    assert end.exists()


@pytest.mark.fault(24)
async def test_24_who_leaves_while_others_are_served_makes_nobody_sleep(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    async with SimulatedBackend(["m", "other"], tokens=1000, tokens_per_second=20.0).serving() as (_, port):
        hooks = {"wake": f"echo wake $LLMUX_MODEL >> {journal}", "sleep": f"echo sleep $LLMUX_MODEL >> {journal}"}
        config = await configuration(
            tmp_path, models={"m": model(port, **hooks), "other": model(port, **hooks)}, policy={"name": "fifo"}
        )
        async with llmux_process("-c", config) as server:
            streaming = await RawClient.open(server.port)
            body = {"model": "m", "messages": [], "max_tokens": 1000, "stream": True}
            await streaming.send(chat(json.dumps(body).encode()))
            await streaming.read_until(b"data: ")
            leaving = await RawClient.open(server.port)
            await leaving.send(chat(b'{"model": "other", "messages": []}'))
            await until_waiting(server, "other", 1)
            assert (await models(server))["m"]["state"] == "draining"
            leaving.reset()
            await until_waiting(server, "other", 0)
            assert (await models(server))["m"]["state"] == "awake"
            await streaming.read_until(b"data: ")
            streaming.reset()
            assert (await asyncio.to_thread(journal.read_text)).splitlines() == ["wake m"]


@pytest.mark.fault(53)
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_53_hundreds_of_requests_leave_no_descriptor_no_thread_and_no_task_behind(tmp_path: Path) -> None:
    """Answered, cut off by their clients, and refused ones; `python -m bench.soak` does it for hours."""
    async with (
        SimulatedBackend("m", tokens_per_second=1e6).serving() as (_, port),
        llmux_process("-c", await configuration(tmp_path, models={"m": model(port)})) as server,
    ):
        process = Path(f"/proc/{server.process.pid}")

        async def some() -> None:
            clients = [await RawClient.open(server.port) for _ in range(20)]
            for client in clients:
                await client.send(chat())
            for number, client in enumerate(clients):
                if number % 4 == 0:
                    client.reset()
                else:
                    assert (await client.receive()).status == 200
            for client in clients[1::4]:
                await client.send(chat(b'{"model": "unknown"}'))
                assert (await client.receive()).status == 404
            for client in clients:
                await client.close()

        def links() -> list[str]:
            """What its descriptors are for, but of those that it closes while we look."""
            found = []
            for link in (process / "fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    found.append(os.readlink(link))
            return found

        def taken() -> tuple[int, int]:
            """What is not for connections, which come and go when it suits them; and threads."""
            return sum(not link.startswith("socket:") for link in links()), len(os.listdir(process / "task"))

        def sockets() -> int:
            return sum(link.startswith("socket:") for link in links())

        await some()
        running = await metric(server, "llmux_tasks")
        (files, threads), first = await asyncio.to_thread(taken), await asyncio.to_thread(sockets)
        for _ in range(20):
            await some()
        async with asyncio.timeout(DEADLINE):
            while await asyncio.to_thread(sockets) > first + 32:  # noqa: ASYNC110  # idle ones to the backend
                await asyncio.sleep(0.05)
        async with asyncio.timeout(DEADLINE):
            while await metric(server, "llmux_tasks") > running:  # noqa: ASYNC110  # one that is about to end
                await asyncio.sleep(0.05)
        left = await asyncio.to_thread(taken)
        assert (left[0] <= files, left[1] <= threads) == (True, True), f"{left}, not {files, threads}"
