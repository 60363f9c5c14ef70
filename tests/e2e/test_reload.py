"""Another configuration while the real process serves: SIGHUP, `--watch`, good files and bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from llmux.testing import SimulatedBackend
from tests.e2e.conftest import DEADLINE, Server, listening, llmux_process, metric
from tests.e2e.test_process import chat_body, client_of, lines, noting, run, write
from tests.ports import nobodys_port

pytestmark = [pytest.mark.anyio, pytest.mark.fault(61)]


def model(port: int, journal: Path, **more: Any) -> dict[str, Any]:
    return {"port": port, "wake": noting(journal), "sleep": noting(journal), "alive": "false", **more}


@contextlib.asynccontextmanager
async def serving(path: Path, models: dict[str, Any], *arguments: str, **config: Any) -> AsyncIterator[Server]:
    """An llmux with these models; alive hooks run only once each."""
    await write(path, {"models": models, "alive_interval_secs": 0, **config})
    async with llmux_process("-c", str(path), "-p", "0", *arguments) as server:
        yield server


async def reload(server: Server, path: Path, models: dict[str, Any], **config: Any) -> dict[str, Any]:
    await write(path, {"models": models, "alive_interval_secs": 0, **config})
    count = len(server.events("config_reloaded"))
    server.process.send_signal(signal.SIGHUP)
    return await server.wait_for("config_reloaded", count + 1)


async def ask(client: httpx.AsyncClient, name: str) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat_body(name))


async def test_a_stream_lives_on_and_its_model_finishes_and_sleeps_when_it_is_removed(tmp_path: Path) -> None:
    """Three reloads under one stream: nothing of note, another model comes, and the one that streams is removed."""
    journal, path = tmp_path / "journal", tmp_path / "config.json"
    backend = SimulatedBackend("a", tokens=200, tokens_per_second=4)
    async with backend.serving() as (_, port), SimulatedBackend("b").serving() as (_, other):
        a, b = model(port, journal), model(other, journal)
        async with serving(path, {"a": a}) as server, client_of(server) as client:
            body = chat_body("a", stream=True)
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                chunks = response.aiter_lines()
                await anext(chunks)
                told = await reload(server, path, {"a": a}, max_queue=7)
                assert (told["added"], told["removed"], told["changed"]) == ("", "", "max_queue")
                assert (await reload(server, path, {"a": a, "b": b}))["added"] == "b"
                names = [entry["id"] for entry in (await client.get("/v1/models")).json()["data"]]
                assert names == ["a", "b"]
                sleeps = noting(journal, "echo new")
                assert (await reload(server, path, {"b": b | {"sleep": sleeps}}))["removed"] == "a"
                refused = await ask(client, "a")
                assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
                waiting = asyncio.create_task(ask(client, "b"))
                assert await lines(journal) == ["wake a"]  # the stream is not over
                backend.tokens_per_second = 1e6
                rest = [line async for line in chunks if line]
            assert rest[-1] == "data: [DONE]"
            assert sum('"content"' in line for line in rest) >= 190
            answer = await waiting
            assert (answer.status_code, answer.json()["model"]) == (200, "b")
            await server.wait_for("model_removed")
            assert await lines(journal) == ["wake a", "sleep a", "wake b"]
            scrape = (await client.get("/metrics")).text
            assert 'model="a"' not in scrape
            assert 'to="a"' not in scrape
            assert 'llmux_requests_total{model="b",status="200"} 1.0' in scrape


async def test_a_device_that_is_renamed_is_nobody_elses_before_its_model_sleeps(tmp_path: Path) -> None:
    journal, path, done = tmp_path / "journal", tmp_path / "config.json", tmp_path / "done"
    async with SimulatedBackend("a").serving() as (_, port), SimulatedBackend("b").serving() as (_, other):
        slow = noting(journal, f"until test -e {done}; do sleep 0.02; done; echo slept >> {journal}")
        models = {"a": model(port, journal, sleep=slow), "b": model(other, journal)}
        async with serving(path, models, devices={"gpu0": 10}) as server, client_of(server) as client:
            assert (await ask(client, "a")).status_code == 200
            await reload(server, path, models, devices={"gpu1": 10})
            waiting = asyncio.create_task(ask(client, "b"))
            async with asyncio.timeout(DEADLINE):
                while True:
                    states = {one["name"]: one for one in (await client.get("/ready")).json()["models"]}
                    if states["b"]["waiting"] == 1 and "sleep a" in await lines(journal):
                        break
                    await asyncio.sleep(0.01)
            assert (states["a"]["state"], states["b"]["state"]) == ("sleeping", "asleep")
            assert await lines(journal) == ["wake a", "sleep a"]
            done.touch()
            assert (await waiting).status_code == 200
            assert await lines(journal) == ["wake a", "sleep a", "slept", "wake b"]


async def test_a_bad_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    journal, path = tmp_path / "journal", tmp_path / "config.yaml"
    async with SimulatedBackend("a").serving() as (_, port):
        good = {"models": {"a": model(port, journal)}}
        await write(path, good)
        async with llmux_process("-c", str(path), "-p", "0") as server, client_of(server) as client:
            assert (await ask(client, "a")).status_code == 200
            took_over = await metric(server, "llmux_config_last_reload_success_timestamp_seconds")
            text = f"models:\n  a: {json.dumps(model(port, journal, prot=1))}\n  b: {{port: 99999}}\nprot: 1\n"
            await asyncio.to_thread(path.write_text, text)
            server.process.send_signal(signal.SIGHUP)
            told = await server.wait_for("config_reload_failed")
            assert told["cause"] == "SIGHUP"
            for line, what in ((2, "models.a.prot"), (3, "models.b.port"), (3, "models.b.wake"), (4, "prot")):
                assert any(f"config.yaml:{line}: {what}" in problem for problem in told["problems"]), told
            assert await metric(server, "llmux_config_last_reload_successful") == 0
            assert (await ask(client, "a")).status_code == 200
            assert (await ask(client, "b")).status_code == 404

            await write(path, good | {"policy": {"name": "no_such_module:Policy"}})  # sound, but it cannot be made
            server.process.send_signal(signal.SIGHUP)
            told = await server.wait_for("config_reload_failed", 2)
            assert "no_such_module" in told["problems"][0]
            assert (await ask(client, "a")).status_code == 200

            await write(path, good | {"port": 4444})
            server.process.send_signal(signal.SIGHUP)
            await server.wait_for("config_reloaded")
            assert await metric(server, "llmux_config_last_reload_successful") == 1
            assert await metric(server, "llmux_config_last_reload_success_timestamp_seconds") > took_over
        assert not server.events("config_needs_restart")  # -p has the last word on the port
    assert await lines(journal) == ["wake a"]


@pytest.mark.fault(59)
async def test_a_file_that_cannot_be_read_to_its_end_holds_up_neither_requests_nor_the_stop(tmp_path: Path) -> None:
    """As on a network file system whose server is gone; played by a pipe that nobody writes to."""
    journal, path = tmp_path / "journal", tmp_path / "config.json"
    async with (
        SimulatedBackend("a").serving() as (_, port),
        serving(path, {"a": model(port, journal)}) as server,
        client_of(server) as client,
    ):
        await asyncio.to_thread(path.unlink)
        os.mkfifo(path)
        server.process.send_signal(signal.SIGHUP)
        with await asyncio.to_thread(path.open, "wb"):  # from now on, llmux reads
            assert (await ask(client, "a")).status_code == 200
            assert await server.stop(signal.SIGTERM) == 0
        assert server.events("stopped")


async def test_what_needs_a_restart_is_said_each_time_and_stays_as_it_was(tmp_path: Path) -> None:
    journal, path = tmp_path / "journal", tmp_path / "config.json"
    async with serving(path, {"a": model(9, journal)}) as server, client_of(server) as client:
        for count in (1, 2):
            await reload(server, path, {"a": model(9, journal)}, host="0.0.0.0", event_log="events.jsonl")
            told = await server.wait_for("config_needs_restart", count)
            assert told["keys"] == "host, event_log"
        assert (await client.get("/health")).status_code == 200
        assert not (tmp_path / "events.jsonl").exists()


async def test_a_reload_amid_a_switch_keeps_those_who_wait_and_their_hooks(tmp_path: Path) -> None:
    """While b wakes, its wake hook and the policy change: who waits keeps waiting, and the next wake is the new one."""
    journal, path, gate = tmp_path / "journal", tmp_path / "config.json", tmp_path / "gate"
    async with SimulatedBackend("a").serving() as (_, port), SimulatedBackend("b").serving() as (_, other):
        a = model(port, journal)
        b = model(other, journal, wake=noting(journal, f"until test -e {gate}; do sleep 0.05; done"))
        async with serving(path, {"a": a, "b": b}, event_log="events.jsonl") as server, client_of(server) as client:
            assert (await ask(client, "a")).status_code == 200
            waiting = [asyncio.create_task(ask(client, "b")) for _ in range(3)]
            await server.wait_for("hook_completed", 2)  # wake a, sleep a
            changed = b | {"wake": noting(journal, f"echo new >> {journal}")}
            told = await reload(
                server, path, {"a": a, "b": changed}, policy={"name": "round-robin"}, event_log="events.jsonl"
            )
            assert told["changed"] == "policy.name, models.b.wake"
            assert not any(task.done() for task in waiting)
            await asyncio.to_thread(gate.touch)
            assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200, 200]
            assert (await ask(client, "a")).status_code == 200
            assert (await ask(client, "b")).status_code == 200
            assert await server.stop() == 0
        wakes = ["wake a", "sleep a", "wake b", "sleep b", "wake a", "sleep a", "wake b", "new"]
        assert await lines(journal) == wakes
        checked = await asyncio.to_thread(run, "replay", "--check", str(tmp_path / "events.jsonl"))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        told_story = await asyncio.to_thread(run, "replay", str(tmp_path / "events.jsonl"))
        assert "the configuration changes: models a, b, policy round-robin" in told_story.stdout


async def test_an_awake_model_is_asked_where_it_was_woken_until_it_is_woken_anew(tmp_path: Path) -> None:
    journal, path = tmp_path / "journal", tmp_path / "config.json"
    said = f'echo "$LLMUX_HOOK $LLMUX_MODEL $LLMUX_PORT" >> {journal}'
    hooks = {"wake": said, "sleep": said, "alive": "false"}
    old, new, third = (
        SimulatedBackend("old", strict_model=True),
        SimulatedBackend("new", strict_model=True),
        SimulatedBackend("b"),
    )
    async with old.serving() as (_, was), new.serving() as (_, will_be), third.serving() as (_, other):
        models = {"a": {"port": was, "send_model_as": "old", **hooks}, "b": {"port": other, **hooks}}
        async with serving(path, models) as server, client_of(server) as client:
            assert (await ask(client, "a")).json()["model"] == "old"
            await reload(server, path, models | {"a": {"port": will_be, "send_model_as": "new", **hooks}})
            assert (await ask(client, "a")).json()["model"] == "old"
            assert (await ask(client, "b")).json()["model"] == "b"
            assert (await ask(client, "a")).json()["model"] == "new"
    assert await lines(journal) == [
        f"wake a {was}",
        f"sleep a {was}",
        f"wake b {other}",
        f"sleep b {other}",
        f"wake a {will_be}",
    ]


async def test_a_wrong_address_is_mended_at_once(tmp_path: Path) -> None:
    """Nobody listens where the old file said: then the new address counts without a wake, and no request is lost."""
    journal, path = tmp_path / "journal", tmp_path / "config.json"
    with nobodys_port() as wrong:
        async with (
            SimulatedBackend("a").serving() as (_, port),
            serving(path, {"a": model(wrong, journal, alive="true")}) as server,
            client_of(server) as client,
        ):
            assert (await ask(client, "a")).status_code == 502
            await reload(server, path, {"a": model(port, journal, alive="true")})
            assert (await ask(client, "a")).status_code == 200
    assert await lines(journal) == ["wake a"]


async def test_one_hundred_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    journal, path = tmp_path / "journal", tmp_path / "config.json"
    async with SimulatedBackend("a").serving() as (_, port):
        models = {"a": model(port, journal)}
        async with serving(path, models) as server, client_of(server) as client:
            assert (await ask(client, "a")).status_code == 200

            async def counts() -> tuple[int, float]:
                return (await client.get("/metrics")).text.count("\n"), await metric(server, "llmux_tasks")

            for count in range(100):
                if count == 2:
                    before = await counts()
                more = {f"m{count}-{number}": model(port, journal) for number in range(3)}
                await reload(server, path, models | more)
                await reload(server, path, models)
                await server.wait_for("model_removed", 3 * (count + 1))
            assert await counts() == before
            assert (await ask(client, "a")).status_code == 200
    assert await lines(journal) == ["wake a"]


@pytest.mark.parametrize("how", ["written", "replaced", "link"])
async def test_watch(tmp_path: Path, how: str) -> None:
    """A file that is written anew, one that an editor puts in its place, and a mounted ConfigMap's links."""
    journal, folder = tmp_path / "journal", tmp_path / "etc"
    path = folder / "config.json"

    def content(name: str) -> str:
        return json.dumps({"models": {name: model(9, journal)}})

    def prepare() -> None:
        folder.mkdir()
        if how == "link":
            for name in ("one", "two"):
                (folder / f"..{name}").mkdir()
                (folder / f"..{name}" / "config.json").write_text(content(name))
            (folder / "..data").symlink_to("..one")
            path.symlink_to("..data/config.json")
        else:
            path.write_text(content("one"))

    def change() -> None:
        if how == "written":
            path.write_text(content("two"))
        elif how == "replaced":
            (folder / ".config.json.swp").write_text(content("two"))
            (folder / ".config.json.swp").rename(path)
        else:
            (folder / "..data_tmp").symlink_to("..two")
            (folder / "..data_tmp").rename(folder / "..data")

    await asyncio.to_thread(prepare)
    async with llmux_process("-c", str(path), "-p", "0", "--watch") as server, client_of(server) as client:
        await asyncio.to_thread(change)
        told = await server.wait_for("config_reloaded")
        assert (told["cause"], told["added"], told["removed"]) == ("the file changed", "two", "one")
        assert [entry["id"] for entry in (await client.get("/v1/models")).json()["data"]] == ["two"]
        await asyncio.to_thread(path.write_text, "{")
        await server.wait_for("config_reload_failed")
        await asyncio.to_thread(path.write_text, content("three"))
        assert (await server.wait_for("config_reloaded", 2))["added"] == "three"
        assert await asyncio.wait_for(server.stop(), DEADLINE) == 0


async def test_what_switches_cost_survives_a_restart(tmp_path: Path) -> None:
    journal, path, state = tmp_path / "journal", tmp_path / "config.json", tmp_path / "var" / "llmux"
    async with SimulatedBackend("a").serving() as (_, port):
        models = {name: model(port, journal) for name in "ab"}
        async with serving(path, models, state_dir=str(state)) as server, client_of(server) as client:
            for name in "aba":
                assert (await ask(client, name)).status_code == 200
            known = {line for line in (await client.get("/metrics")).text.splitlines() if "_cost_ema_seconds{" in line}
            assert len(known) == 3
            assert await server.stop() == 0
        assert (state / "costs.json").stat().st_mode & 0o777 == 0o600
        async with serving(path, models, state_dir=str(state)) as server, client_of(server) as client:
            told = server.events("state_loaded")[0]
            assert (told["path"], told["pairs"]) == (str(state / "costs.json"), 3)
            assert known <= set((await client.get("/metrics")).text.splitlines())
            await server.stop(signal.SIGKILL)
        await asyncio.to_thread((state / "costs.json").write_text, '{"llmux_state": 1, "costs": ')
        async with serving(path, models, state_dir=str(state)) as server, client_of(server) as client:
            told = server.events("state_unreadable")[0]
            assert told["aside"] == str(state / "costs.json.unreadable")
            assert (await ask(client, "a")).status_code == 200


async def test_an_operator_may_order_it(tmp_path: Path) -> None:
    journal, path = tmp_path / "journal", tmp_path / "config.json"
    async with (
        SimulatedBackend(["a", "b"]).serving() as (_, port),
        serving(path, {"a": model(port, journal)}) as server,
        client_of(server) as client,
    ):
        path.write_text(json.dumps({"models": {"a": model(port, journal), "b": model(port, journal)}}))
        assert (await client.post("/admin/v1/reload")).json()["done"] is True
        assert (await ask(client, "b")).status_code == 200
        path.write_text(json.dumps({"models": {"a": {"port": "none"}}}))
        refused = await client.post("/admin/v1/reload")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "reload_refused")
        assert "models.a.port" in refused.json()["error"]["message"]
        assert (await ask(client, "b")).status_code == 200
        path.write_text(json.dumps({"models": {f"m{number:03}": {"port": "none"} for number in range(100)}}))
        told = (await client.post("/admin/v1/reload")).json()["error"]["message"]
        assert [number for number in range(100) if f"models.m{number:03}.port" not in told] == [], "all are told of"


EAGER = """
import os, signal, sys
from llmux.cli import main
def hook(event, arguments):
    if event == "import" and arguments[0] in ("llmux.cli.start", "pydantic") or event == "socket.bind":
        os.kill(os.getpid(), signal.SIGHUP)
sys.addaudithook(hook)
main()
"""
"""An llmux that is told to reload before it has loaded anything, while it loads, and as it binds."""


@pytest.mark.parametrize("serve", [[], ["serve"]])
async def test_61_who_has_it_reload_before_it_serves_does_not_end_it(tmp_path: Path, serve: list[str]) -> None:
    path = tmp_path / "config.json"
    await write(path, {"models": {"a": model(1, tmp_path / "journal")}})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EAGER, *serve, "-c", str(path), "-p", "0"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with listening(process) as server:
        told = await server.wait_for("config_reloaded")
        assert told["cause"] == "SIGHUP"
        assert await server.stop() == 0


async def test_61_tls_that_comes_by_a_reload_counts_at_the_next_start(tmp_path: Path) -> None:
    path, issued = tmp_path / "config.json", trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    models = {"a": model(1, tmp_path / "journal")}
    async with serving(path, models) as server, client_of(server) as client:
        told = await reload(server, path, models, tls={"cert": "cert.pem", "key": "key.pem"})
        assert told["changed"] == ""
        assert (await server.wait_for("config_needs_restart"))["keys"] == "tls"
        assert (await client.get("/health")).status_code == 200
        assert await server.stop() == 0


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
@pytest.mark.fault(65)
async def test_61_keys_that_a_reload_takes_away_are_missed_where_others_reach_the_port(
    tmp_path: Path, host: str, warned: bool
) -> None:
    path = tmp_path / "config.json"
    await asyncio.to_thread((tmp_path / "key").write_text, "a-key-0123456789abcdef")
    models, keys = {"a": model(1, tmp_path / "journal")}, {"api_keys": {"k": {"file": "key"}}}
    async with serving(path, models, "--host", host, **keys) as server:
        assert (await reload(server, path, models, **keys, max_queue=7))["changed"] == "max_queue"
        assert (await reload(server, path, models))["changed"] == "api_keys, max_queue"
        await reload(server, path, models, **keys)
        assert len(server.events("public_bind")) == warned
        assert await server.stop() == 0
