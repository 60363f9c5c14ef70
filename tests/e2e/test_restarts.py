"""llmux ends, as asked or not, and is started again: what it has left in doubt is not given away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmux.testing import SimulatedBackend
from tests.e2e.conftest import DEADLINE, llmux_process
from tests.e2e.test_process import chat_body, client_of, lines, noting, run, write

pytestmark = pytest.mark.anyio


def models(folder: Path, port: int, **more: str) -> dict[str, Any]:
    """Model `a`, of which `more` says what differs, and model `b`. The alive hooks know nothing."""
    journal = folder / "journal"
    plain = {"port": port, "wake": noting(journal), "sleep": noting(journal), "alive": "false"}
    return {"a": plain | more, "b": plain}


def only_if(flag: Path, journal: Path) -> str:
    return noting(journal, f"test ! -e {flag}")


async def owners(folder: Path) -> dict[str, str]:
    """What is written of them; nothing as long as nothing is."""
    if not await asyncio.to_thread((folder / "state" / "owners.json").exists):
        return {}
    saved = json.loads(await asyncio.to_thread((folder / "state" / "owners.json").read_text))
    models: dict[str, str] = saved["models"]
    return models


async def ask(client: httpx.AsyncClient, name: str) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat_body(name))


@pytest.mark.fault(44, 62)
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_lost_model_is_not_forgotten_by_a_restart(tmp_path: Path, end: signal.Signals) -> None:
    journal, held = tmp_path / "journal", tmp_path / "held"
    async with SimulatedBackend(["a", "b"]).serving() as (_, port):
        sleep = only_if(held, journal)
        content = {"models": models(tmp_path, port, sleep=sleep, verify=sleep), "alive_interval_secs": 0}
        config = await write(tmp_path / "config.json", content | {"state_dir": "state"})
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert (await ask(client, "a")).status_code == 200
            held.touch()
            assert (await ask(client, "b")).status_code == 503
            told = await server.wait_for("model_lost")
            assert told["devices"] == "default"
            assert 0 < told["next_look_secs"] <= 10
            if end is signal.SIGKILL:  # it is written at once, but by a thread
                async with asyncio.timeout(DEADLINE):
                    while await owners(tmp_path) != {"a": "lost"}:  # noqa: ASYNC110  # a file has no event
                        await asyncio.sleep(0.01)
            await server.stop(end)
            if end is signal.SIGTERM:
                assert [line["models"] for line in server.events("memory_may_be_held")] == ["a (lost)"]
        await asyncio.to_thread(journal.write_text, "")
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert server.events("owners_loaded")[0]["models"] == "a (lost)"
            refused = await ask(client, "b")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "hook_failed")
            assert (await client.get("/ready")).status_code == 503
            done = ["verify a", "sleep a", "sleep a", "sleep a"]
            assert (await lines(journal))[: len(done)] == done  # then it is looked at now and then
            await server.stop()
        await asyncio.to_thread(held.unlink)
        await asyncio.to_thread(journal.write_text, "")
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert (await ask(client, "b")).status_code == 200  # its verify hook's word is enough
            assert await lines(journal) == ["verify a", "wake b"]
            await server.stop()
            assert await owners(tmp_path) == {"b": "awake"}


@pytest.mark.fault(60, 62)
async def test_a_model_that_was_being_woken_at_a_second_signal_is_slept_first(tmp_path: Path) -> None:
    """What the hook has started loads on, unknown to any hook but its own, and holds no memory yet."""
    journal = tmp_path / "journal"
    async with SimulatedBackend(["a", "b"]).serving() as (_, port):
        slow = noting(journal, "exec sleep 600")
        content = {"models": models(tmp_path, port, wake=slow, verify=noting(journal)), "alive_interval_secs": 0}
        config = await write(tmp_path / "config.json", content | {"state_dir": "state"})
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            waiting = asyncio.create_task(ask(client, "a"))
            await server.wait_for("switch_started")
            server.process.send_signal(signal.SIGTERM)
            await server.wait_for("stopping")
            assert await server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
            with contextlib.suppress(httpx.HTTPError):
                await waiting
            assert [line["models"] for line in server.events("memory_may_be_held")] == ["a (waking)"]
        await asyncio.to_thread(journal.write_text, "")
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert (await ask(client, "b")).status_code == 200
        assert await lines(journal) == ["sleep a", "verify a", "wake b"]


@pytest.mark.fault(62)
async def test_what_was_put_to_sleep_is_not_doubted(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with SimulatedBackend(["a", "b"]).serving() as (_, port):
        content = {"models": models(tmp_path, port), "alive_interval_secs": 0, "on_exit": "sleep"}
        config = await write(tmp_path / "config.json", content | {"state_dir": "state"})
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert (await ask(client, "a")).status_code == 200
            assert await server.stop() == 0
            assert server.events("exit_sleeps")[0]["models"] == "a"
            assert not server.events("memory_may_be_held")
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert (await ask(client, "b")).status_code == 200
        assert await lines(journal) == ["wake a", "sleep a", "wake b"]


@pytest.mark.fault(59)
async def test_the_last_sleeps_are_bounded_and_all_is_told_before_the_end(tmp_path: Path) -> None:
    async with SimulatedBackend(["a", "b"]).serving() as (_, port):
        content = {
            "models": models(tmp_path, port, sleep="trap '' TERM; sleep 600 & wait; sleep 600"),
            "on_exit": "sleep",
            "on_exit_timeout_secs": 0.3,
            "hook_timeout_secs": {"sleep": None},
        }
        config = await write(tmp_path / "config.json", content)
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert (await ask(client, "a")).status_code == 200
            assert await server.stop() == 0  # within the deadline of the test
            told = [line["event"] for line in server.lines]
        assert told[told.index("stopping") :] == [
            "stopping",
            "exit_sleeps",
            "hook_cancelled",
            "memory_may_be_held",
            "stopped",
        ]
        assert server.events("stopping")[0]["at_most_secs"] > 30.3
        assert server.events("exit_sleeps")[0]["at_most_secs"] == pytest.approx(0.3)
        (held,) = server.events("memory_may_be_held")
        assert held["models"] == "a (unconfirmed)"
        assert "no `state_dir`" in held["message"]


@pytest.mark.fault(59)
async def test_what_is_waited_for_is_said_at_once(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with SimulatedBackend(["a", "b"]).serving() as (_, port):
        slow = noting(journal, "exec sleep 600")
        content = {"models": models(tmp_path, port, wake=slow), "shutdown_grace_secs": 0.3}
        config = await write(tmp_path / "config.json", content)
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            waiting = asyncio.create_task(ask(client, "a"))
            await server.wait_for("switch_started")
            assert await server.stop() == 0
            assert (await waiting).status_code == 503
            (waits,) = server.events("stop_waits")
            assert (waits["requests"], waits["hooks"], waits["at_most_secs"]) == (0, "wake of a", 0.3)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (
            {"event_log": "no/such/folder/e.jsonl"},
            "cannot start: `event_log` {}/no/such/folder/e.jsonl cannot be written:",
        ),
        ({"access_log": "no/such/a.jsonl"}, "cannot start: `access_log` {}/no/such/a.jsonl cannot be written:"),
        ({"state_dir": "config.json"}, "cannot start: `state_dir` {}/config.json cannot be used: it is not a folder"),
        ({"state_dir": "config.json/x"}, "cannot start: `state_dir` {}/config.json/x cannot be used: Not a directory"),
    ],
)
async def test_a_place_that_cannot_be_used_is_named_and_no_hook_runs(
    tmp_path: Path, extra: dict[str, str], says: str
) -> None:
    content = {"models": models(tmp_path, 1, alive=noting(tmp_path / "journal")), "port": 0, **extra}
    config = await write(tmp_path / "config.json", content)
    done = await asyncio.to_thread(run, "-c", str(config))
    assert done.returncode == 1
    assert says.format(tmp_path) in done.stderr.splitlines()[-1]
    assert not (tmp_path / "journal").exists()
