"""The real process: starting, stopping, crashing, and what it must never do. Numbers are rows of the fault table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmux.testing import SimulatedBackend
from llmux.testing.hooks import backend_hooks
from tests.e2e.conftest import DEADLINE, Server, llmux_process
from tests.gateway.peers import RawClient, chat
from tests.ports import free_port

pytestmark = pytest.mark.anyio


def chat_body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


async def write(path: Path, content: dict[str, Any]) -> Path:
    await asyncio.to_thread(path.write_text, json.dumps(content))
    return path


async def lines(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return (await asyncio.to_thread(path.read_text)).split("\n")[:-1]
    return []


async def noted(path: Path, line: str) -> None:
    """Wait until a hook has written that line."""
    async with asyncio.timeout(DEADLINE):
        while line not in await lines(path):  # noqa: ASYNC110  # a file has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where the hooks of a test write down that they ran."""
    return tmp_path / "journal"


def noting(journal: Path, then: str = "true") -> str:
    return f'echo "$LLMUX_HOOK $LLMUX_MODEL" >> {journal}; {then}'


@contextlib.asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
        yield client


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmux", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE, cwd=cwd)


# --- starting -------------------------------------------------------------------------------------------------------


@pytest.mark.fault(57)
async def test_57_a_bad_file_is_reported_whole_and_nothing_is_run(tmp_path: Path, journal: Path) -> None:
    config = tmp_path / "config.yaml"
    await asyncio.to_thread(
        config.write_text,
        f"""\
models:
  llama:
    port: 80001
    wake: {noting(journal)!r}
    sleep: [7]
    alive: "true"
    wke: x
prot: 3000
""",
    )
    done = await asyncio.to_thread(run, "-c", str(config))
    assert done.returncode == 2
    for line, what in ((3, "models.llama.port"), (5, "models.llama.sleep"), (7, "models.llama.wke"), (8, "prot")):
        assert f"config.yaml:{line}: {what}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not journal.exists()


@pytest.mark.fault(57)
async def test_57_a_missing_file_says_so(tmp_path: Path) -> None:
    done = await asyncio.to_thread(run, cwd=tmp_path)
    assert done.returncode == 2
    assert "config.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault(57)
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("models:\n  a: {port: 1, wake: W, sleep: W, alive: W, wke: W}\n", 2),
        ("models:\n  a: {port: 1, wake: W, sleep: W, alive: W}\nport: PORT\nport: PORT\n", 4),
        ("models:\n  a: {port: one, wake: W, sleep: W, alive: W}\n", 2),
        ("models:\n  a: {port: 1, wake: W, sleep: W, alive: W\n", 3),
        ("models:\n  a: {port: 1, wake: W, sleep: W, alive: W}\npolicy: {name: fifo, patience: 1}\n", 3),
        ("models:\n  a: {port: 1, wake: W, sleep: W, alive: W, needs: 1GiB}\n", 2),
    ],
    ids=["unknown key", "twice", "type", "yaml", "policy", "needs"],
)
async def test_57_whatever_is_wrong_has_its_line_and_comes_before_binding(
    tmp_path: Path, journal: Path, text: str, line: int
) -> None:
    """The port is in use, which would be status 1: so nothing was bound before the file was found bad."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        path = tmp_path / "config.yaml"
        await asyncio.to_thread(path.write_text, text.replace("W", json.dumps(noting(journal))).replace("PORT", port))
        done = await asyncio.to_thread(run, "-c", str(path), "-p", port)
    assert done.returncode == 2
    assert f"config.yaml:{line}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not journal.exists()


@pytest.mark.fault(58)
async def test_58_a_port_in_use_is_one_line_and_no_hook_runs(tmp_path: Path, journal: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        hook = noting(journal)
        models = {"a": {"port": 1, "wake": hook, "sleep": hook, "alive": hook}}
        config = await write(tmp_path / "config.json", {"models": models, "port": port})
        done = await asyncio.to_thread(run, "-c", str(config))
    assert done.returncode == 1
    assert len(done.stderr.strip().split("\n")) == 1
    assert str(port) in done.stderr
    assert not journal.exists()


async def test_a_relative_script_is_found_beside_the_file(tmp_path: Path, journal: Path) -> None:
    script = tmp_path / "scripts" / "wake.sh"
    await asyncio.to_thread(script.parent.mkdir)
    await asyncio.to_thread(script.write_text, f"#!/bin/sh\n{noting(journal)}\n")
    await asyncio.to_thread(script.chmod, 0o755)
    async with SimulatedBackend("a").serving() as (_, port):
        models = {"a": {"port": port, "wake": "./scripts/wake.sh", "sleep": "true", "alive": "false"}}
        config = await write(tmp_path / "config.json", {"models": models})
        async with (
            llmux_process("-c", str(config), "-p", "0", cwd=Path("/")) as server,
            client_of(server) as client,
        ):
            response = await client.post("/v1/chat/completions", json=chat_body("a"))
    assert response.status_code == 200
    assert await lines(journal) == ["wake a"]


@pytest.mark.fault(22)
async def test_22_a_models_name_is_never_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    name = f"x$(touch {canary})`touch {canary}`;touch {canary}"
    async with SimulatedBackend("a").serving() as (_, port):
        models = {name: {"port": port, "wake": "true", "sleep": "true", "alive": "false"}}
        config = await write(tmp_path / "config.json", {"models": models})
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            known = await client.post("/v1/chat/completions", json=chat_body(name))
            unknown = await client.post("/v1/chat/completions", json=chat_body(name + "\n"))
    assert known.status_code == 200
    assert unknown.status_code == 404
    assert not canary.exists()


async def test_two_on_one_state_dir_are_kept_apart_and_a_crash_leaves_no_lock(tmp_path: Path, journal: Path) -> None:
    model = {"port": 1, "wake": "true", "sleep": "true", "alive": noting(journal, "false")}
    content = {"models": {"a": model}, "state_dir": "state", "on_exit": "leave", "alive_interval_secs": 0}
    config = await write(tmp_path / "config.json", content)
    async with llmux_process("-c", str(config), "-p", "0") as server:
        await server.wait_for("models_found")
        other = await asyncio.to_thread(run, "-c", str(config), "-p", "0")
        assert other.returncode == 1
        assert other.stderr.splitlines()[-1] == (
            f"llmux: cannot start: {tmp_path / 'state'} is in use by another llmux (process {server.process.pid}): "
            "stop that one, or give this one a `state_dir` of its own"
        )
        assert await lines(journal) == ["alive a"]  # the first one's
        await server.stop(signal.SIGKILL)
    async with llmux_process("-c", str(config), "-p", "0") as server:
        await server.wait_for("models_found")
        assert await server.stop() == 0


# --- stopping -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def one_model(folder: Path, backend: SimulatedBackend, **config: Any) -> AsyncIterator[Server]:
    """An llmux with model `a` of `backend`, and model `b` that never comes up in time."""
    journal = folder / "journal"
    async with backend.serving() as (_, port):
        models = {
            "a": {"port": port, "wake": noting(journal), "sleep": noting(journal), "alive": "false"},
            "b": {
                "port": port,
                "wake": noting(journal, "sleep 600 & wait"),
                "sleep": noting(journal),
                "alive": "false",
            },
        }
        path = await write(folder / "config.json", {"models": models, "alive_interval_secs": 0, **config})
        async with llmux_process("-c", str(path), "-p", "0") as server:
            yield server


@pytest.mark.fault(59)
async def test_59_sigterm_when_idle(tmp_path: Path) -> None:
    async with one_model(tmp_path, SimulatedBackend("a")) as server:
        assert await server.stop(signal.SIGTERM) == 0


@pytest.mark.fault(59)
async def test_59_sigterm_lets_a_stream_finish_and_refuses_what_is_new(tmp_path: Path) -> None:
    backend = SimulatedBackend("a", tokens=30, tokens_per_second=40)
    async with one_model(tmp_path, backend) as server, client_of(server) as client:
        body = chat_body("a", stream=True)
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            chunks = response.aiter_lines()
            await anext(chunks)
            server.process.send_signal(signal.SIGTERM)
            await server.wait_for("stopping")
            with pytest.raises(httpx.ConnectError):
                async with httpx.AsyncClient() as newcomer:
                    await newcomer.get(f"{server.url}/health")
            rest = [line async for line in chunks if line]
        assert rest[-1] == "data: [DONE]"
        assert await asyncio.wait_for(server.process.wait(), DEADLINE) == 0
    assert await lines(tmp_path / "journal") == ["wake a"]


@pytest.mark.fault(59)
async def test_59_sigterm_while_draining_refuses_those_who_wait(tmp_path: Path) -> None:
    backend = SimulatedBackend("a", tokens=30, tokens_per_second=40)
    fifo = {"name": "fifo"}  # break-even would let the stream end first
    async with one_model(tmp_path, backend, policy=fifo) as server, client_of(server) as client:
        body = chat_body("a", stream=True)
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            chunks = response.aiter_lines()
            await anext(chunks)
            waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat_body("b")))
            await server.wait_for("switch_started", 2)
            server.process.send_signal(signal.SIGTERM)
            refused = await waiting
            rest = [line async for line in chunks if line]
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert rest[-1] == "data: [DONE]"
        assert await asyncio.wait_for(server.process.wait(), DEADLINE) == 0


@pytest.mark.fault(59)
async def test_59_sigterm_while_waking_ends_the_hook_within_the_grace(tmp_path: Path) -> None:
    async with (
        one_model(tmp_path, SimulatedBackend("a"), shutdown_grace_secs=0.2) as server,
        client_of(server) as client,
    ):
        waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat_body("b")))
        await noted(tmp_path / "journal", "wake b")
        assert await server.stop(signal.SIGTERM) == 0
        assert (await waiting).status_code == 503
        await none_is_left(b"LLMUX_MODEL=b", folder=tmp_path)
    assert await lines(tmp_path / "journal") == ["wake b", "sleep b"], "what was woken by half is cleaned up"


@pytest.mark.fault(59)
async def test_59_on_exit_sleep(tmp_path: Path) -> None:
    async with one_model(tmp_path, SimulatedBackend("a"), on_exit="sleep") as server, client_of(server) as client:
        assert (await client.post("/v1/chat/completions", json=chat_body("a"))).status_code == 200
        assert await server.stop(signal.SIGTERM) == 0
    assert await lines(tmp_path / "journal") == ["wake a", "sleep a"]


@pytest.mark.fault(60)
async def test_60_a_second_signal_ends_at_once_and_leaves_no_hook_behind(tmp_path: Path) -> None:
    async with one_model(tmp_path, SimulatedBackend("a"), shutdown_grace_secs=600) as server:
        async with client_of(server) as client:
            waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat_body("b")))
            await server.wait_for("switch_started")
            server.process.send_signal(signal.SIGTERM)
            await server.wait_for("stopping")
            assert await server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
            with contextlib.suppress(httpx.HTTPError):
                await waiting
        await none_is_left(b"LLMUX_MODEL=b", folder=tmp_path)


async def none_is_left(marker: bytes, folder: Path) -> None:
    """What was killed may take its time to be gone, where others have the processors."""
    async with asyncio.timeout(DEADLINE):
        while await asyncio.to_thread(processes_with, marker, folder):  # noqa: ASYNC110  # not our children
            await asyncio.sleep(0.01)


def processes_with(marker: bytes, folder: Path) -> list[int]:
    """Processes whose environment has `marker`, from hooks of the configuration in `folder`. Linux only."""
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if marker in file.read().split(b"\0") and os.readlink(f"/proc/{entry}/cwd") == str(folder):
                    found.append(int(entry))
    return found


# --- crashes --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def real_processes(folder: Path, ports: tuple[int, int], **config: Any) -> AsyncIterator[Path]:
    """A configuration whose models are processes that its hooks start and stop; they are stopped at the end."""
    journal = folder / "journal"
    hooks = {
        name: await asyncio.to_thread(backend_hooks, name, port=port, directory=folder, tokens_per_second=500)
        for name, port in zip("ab", ports, strict=True)
    }
    models = {
        name: {
            "port": port,
            "wake": f"{noting(journal)}\n{hooks[name].wake}",
            "sleep": f"{noting(journal)}\n{hooks[name].sleep}",
            "alive": hooks[name].alive,
        }
        for name, port in zip("ab", ports, strict=True)
    }
    try:
        yield await write(folder / "config.json", {"models": models, **config})
    finally:
        for hook in hooks.values():
            await asyncio.to_thread(subprocess.run, ["/bin/sh", "-c", hook.sleep], check=True)


@pytest.fixture
def two_ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.mark.fault(62)
async def test_62_after_kill_and_restart_the_holder_is_found_before_anybody_is_woken(
    tmp_path: Path, two_ports: tuple[int, int]
) -> None:
    async with real_processes(tmp_path, two_ports) as config:
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert (await client.post("/v1/chat/completions", json=chat_body("a"))).status_code == 200
            await server.stop(signal.SIGKILL)
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            answer = await client.post("/v1/chat/completions", json=chat_body("b"))
            assert answer.json()["model"] == "b"
        assert await lines(tmp_path / "journal") == ["wake a", "sleep a", "wake b"]


@pytest.mark.fault(62)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_62_a_wake_hook_that_outlives_llmux_is_ended_and_its_model_may_hold_memory(tmp_path: Path) -> None:
    """Its alive hook says no, as nothing serves yet; were that believed, two models would be loaded."""
    journal, loading = tmp_path / "journal", tmp_path / "loading"
    async with SimulatedBackend(["a", "b"]).serving() as (_, port):
        hooks = {"port": port, "wake": noting(journal), "sleep": noting(journal), "alive": "false"}
        slow = hooks | {"wake": noting(journal, f"touch {loading}; while :; do sleep 0.05; done")}
        config = await write(tmp_path / "config.json", {"models": {"a": hooks, "b": slow}})
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat_body("b")))
            async with asyncio.timeout(DEADLINE):
                while not await asyncio.to_thread(loading.exists):  # noqa: ASYNC110  # a file has no event
                    await asyncio.sleep(0.01)
            await server.stop(signal.SIGKILL)
            with contextlib.suppress(httpx.HTTPError):
                await waiting
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            told = server.events("hook_left_running")
            assert [(line["model"], line["hook"]) for line in told] == [("b", "wake")]
            assert not processes_with(b"LLMUX_MODEL=b", folder=tmp_path)
            assert (await client.post("/v1/chat/completions", json=chat_body("a"))).status_code == 200
    assert await lines(journal) == ["wake b", "sleep b", "wake a"]


@pytest.mark.fault(34)
async def test_34_a_killed_backend_is_noticed_and_woken_again(tmp_path: Path, two_ports: tuple[int, int]) -> None:
    async with (
        real_processes(tmp_path, two_ports, alive_interval_secs=0) as config,  # the request finds it, and nobody before
        llmux_process("-c", str(config), "-p", "0") as server,
        client_of(server) as client,
    ):
        assert (await client.post("/v1/chat/completions", json=chat_body("a"))).status_code == 200
        pid = int(await asyncio.to_thread((tmp_path / f"backend-{two_ports[0]}.pid").read_text))
        os.kill(pid, signal.SIGKILL)
        lost = await client.post("/v1/chat/completions", json=chat_body("a"))
        assert lost.status_code == 502
        await server.wait_for("model_died")
        again = await client.post("/v1/chat/completions", json=chat_body("a"))
        assert again.status_code == 200
        assert await lines(tmp_path / "journal") == ["wake a", "wake a"]
        assert 'llmux_model_deaths_total{model="a"} 1.0' in (await client.get("/metrics")).text


# --- failures as clients see them -------------------------------------------------------------------------------------


@pytest.mark.fault(37)
async def test_37_a_failed_wake_is_503_with_a_time_to_come_back(tmp_path: Path) -> None:
    models = {"a": {"port": 9, "wake": "echo secret >&2; exit 3", "sleep": "true", "alive": "false"}}
    config = await write(tmp_path / "config.json", {"models": models})
    async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
        response = await client.post("/v1/chat/completions", json=chat_body("a"))
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        error = response.json()["error"]
        assert error["code"] == "hook_failed"
        assert "exit code 3" in error["message"]
        assert "secret" not in response.text
        failed = await server.wait_for("hook_failed")
        assert failed["exit_code"] == 3
        assert "secret" in failed["stderr"]


@pytest.mark.fault(37)
async def test_37_a_hook_that_is_not_there_or_not_executable_is_told_in_words_and_without_its_path(
    tmp_path: Path,
) -> None:
    await asyncio.to_thread((tmp_path / "private.sh").write_text, "#!/bin/sh\n")
    plain = {"port": 9, "sleep": "true", "alive": "false"}
    models = {"a": plain | {"wake": "./private.sh"}, "b": plain | {"wake": "./private-gone.sh"}}
    config = await write(tmp_path / "config.json", {"models": models})
    async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
        for name, says in (("a", "not executable"), ("b", "not found")):
            response = await client.post("/v1/chat/completions", json=chat_body(name))
            assert response.status_code == 503
            assert says in response.json()["error"]["message"]
            assert "private" not in response.text
        await server.wait_for("hook_failed", 2)
        failed = {line["model"]: line for line in server.events("hook_failed")}
        assert "private.sh" in failed["a"]["stderr"]
        assert "private-gone.sh" in failed["b"]["stderr"]


@pytest.mark.fault(38)
async def test_38_a_hanging_wake_is_ended_by_force(tmp_path: Path) -> None:
    wake = "trap '' TERM; while :; do sleep 0.1; done"
    models = {"a": {"port": 9, "wake": wake, "sleep": "true", "alive": "false"}}
    config = await write(tmp_path / "config.json", {"models": models, "hook_timeout_secs": {"wake": 0.2}})
    async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
        response = await client.post("/v1/chat/completions", json=chat_body("a"))
        assert response.status_code == 503
        assert "still running after 0.2 s" in response.json()["error"]["message"]


@pytest.mark.fault(44)
async def test_44_a_device_whose_owner_is_unknown_is_never_given_away(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    alive = f"test ! -e {tmp_path}/dead"
    async with SimulatedBackend("a").serving() as (_, port):
        models = {
            "a": {"port": port, "wake": noting(journal), "sleep": f"touch {tmp_path}/dead; exit 1", "alive": alive},
            "b": {"port": port, "wake": noting(journal), "sleep": "true", "alive": "false"},
        }
        config = await write(tmp_path / "config.json", {"models": models})
        async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
            assert (await client.post("/v1/chat/completions", json=chat_body("a"))).status_code == 200
            refused = await client.post("/v1/chat/completions", json=chat_body("b"))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "hook_failed")
            later = await client.post("/v1/chat/completions", json=chat_body("b"))
            assert (later.status_code, later.json()["error"]["code"]) == (503, "device_lost")
            ready = await client.get("/ready")
            assert ready.status_code == 503
            assert 'llmux_device_lost{device="default"} 1' in (await client.get("/metrics")).text
            assert (await client.get("/health")).status_code == 200
    assert await lines(journal) == ["wake a"]


@pytest.mark.fault(67)
async def test_67_ten_thousand_unknown_models_make_no_series(tmp_path: Path) -> None:
    models = {"a": {"port": 9, "wake": "true", "sleep": "true", "alive": "false"}}
    config = await write(tmp_path / "config.json", {"models": models})
    async with llmux_process("-c", str(config), "-p", "0") as server, client_of(server) as client:
        before = (await client.get("/metrics")).text.count("\n")
        asking = await RawClient.open(server.port)
        for start in range(0, 10_000, 50):
            await asking.send(b"".join(chat(b'{"model": "no-%d"}' % number) for number in range(start, start + 50)))
            for _ in range(50):
                assert (await asking.receive()).status == 404
        await asking.close()
        metrics = (await client.get("/metrics")).text
        assert "no-" not in metrics
        assert metrics.count("\n") - before < 10


@pytest.mark.fault(60)
async def test_60_a_second_signal_starts_no_last_sleep(tmp_path: Path) -> None:
    """A sleep hook that is killed while llmux ends must not be followed by another one, which nobody would end."""
    async with SimulatedBackend("a").serving() as (_, port):
        models = {
            "a": {"port": port, "wake": "true", "sleep": "sleep 600 & wait", "alive": "false"},
            "b": {"port": port, "wake": "true", "sleep": "true", "alive": "false"},
        }
        config = await write(tmp_path / "config.json", {"models": models, "on_exit": "sleep"})
        async with llmux_process("-c", str(config), "-p", "0") as server:
            async with client_of(server) as client:
                assert (await client.post("/v1/chat/completions", json=chat_body("a"))).status_code == 200
                waiting = asyncio.create_task(client.post("/v1/chat/completions", json=chat_body("b")))
                await server.wait_for("switch_started", 2)
                server.process.send_signal(signal.SIGTERM)
                await server.wait_for("stopping")
                assert await server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
                with contextlib.suppress(httpx.HTTPError):
                    await waiting
            await none_is_left(b"LLMUX_MODEL=a", folder=tmp_path)


async def test_a_cleaner_of_temporary_folders_finds_nothing_to_remove(tmp_path: Path) -> None:
    """As `systemd-tmpfiles` would in the folder of an llmux that has run for weeks."""
    path, folder = tmp_path / "config.json", tmp_path / "tmp"
    await write(path, {"models": {"a": {"port": 1, "wake": "true", "sleep": "true", "alive": "false"}}})
    await asyncio.to_thread(folder.mkdir)
    async with llmux_process("-c", str(path), "-p", "0", TMPDIR=str(folder)) as server, client_of(server) as client:
        assert (await client.get("/ready")).status_code == 200
        assert await asyncio.to_thread(os.listdir, folder) == []
        assert await server.stop() == 0
