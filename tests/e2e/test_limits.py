"""Limits of the real process: memory, descriptors, a log that nobody can write. Numbers are rows of the fault table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from llmux.testing import SimulatedBackend
from tests.e2e.conftest import DEADLINE, Server, listening, llmux_process, metric
from tests.gateway.peers import RawClient
from tests.ports import free_port

pytestmark = pytest.mark.anyio

MIB = 1 << 20


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # most conditions have no event
            await asyncio.sleep(0.02)


async def configuration(folder: Path, **content: Any) -> str:
    path = folder / "config.json"
    await asyncio.to_thread(path.write_text, json.dumps({"port": 0, **content}))
    return str(path)


def memory(pid: int, field: str) -> int:
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{field}:"))


async def waiting(server: Server, model: str) -> int:
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
        models = (await client.get("/ready")).json()["models"]
    return next(int(one["waiting"]) for one in models if one["name"] == model)


@pytest.mark.fault(11, 12)
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_12_many_bodies_at_the_cap_are_held_up_to_the_budget_and_no_further(tmp_path: Path) -> None:
    cap, budget, clients = 2 * MIB, 48 * MIB, 200
    config = await configuration(
        tmp_path,
        models={"a": {"port": 1, "wake": "sleep 600", "sleep": "true", "alive": "false"}},
        max_body_bytes=cap,
        max_buffered_bytes=budget,
        shutdown_grace_secs=0,
    )
    start = b'{"model": "a", "x": "'
    body = start + b"x" * (cap - len(start) - 2) + b'"}'
    head = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % cap
    async with llmux_process("-c", config) as server:
        before = memory(server.process.pid, "VmRSS")
        refused: list[tuple[bytes, bytes]] = []

        async def ask() -> None:
            client = await RawClient.open(server.port)
            held.append(client)
            with contextlib.suppress(ConnectionError):
                client.writer.write(head + body)
                answer = await client.reader.readuntil(b"\r\n\r\n")  # those who wait get none
                refused.append((answer, await client.reader.read(MIB)))

        held: list[RawClient] = []
        tasks = [asyncio.create_task(ask()) for _ in range(clients)]
        await until(lambda: len(refused) >= clients - budget // cap)
        async with asyncio.timeout(DEADLINE):  # until the last of those that are held has said all
            while await waiting(server, "a") + len(refused) < clients:
                pass
        peak = memory(server.process.pid, "VmHWM")
        for answer, error in refused:
            assert answer.startswith(b"HTTP/1.1 503 "), answer
            assert b"\r\nRetry-After: " in answer
            assert json.loads(error)["error"]["code"] == "overloaded"
        assert await metric(server, "llmux_buffered_bytes") <= budget
        assert await metric(server, 'llmux_limit_hits_total{limit="max_buffered_bytes"}') == len(refused)
        # All 200 would be 400 MiB. A growing body is copied now and then, and freed memory is not given back at once.
        assert peak - before < 2 * budget, f"{(peak - before) / MIB:.0f} MiB"
        for client in held:
            client.reset()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(DEADLINE):
            while await metric(server, "llmux_buffered_bytes") > 1000:  # the scrape itself is a request
                pass
        await server.stop(signal.SIGTERM, signal.SIGTERM)


@contextlib.asynccontextmanager
async def limited(descriptors: int, *arguments: str) -> AsyncIterator[Server]:
    """The real process, with no more descriptors than that."""
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        f'ulimit -n {descriptors}; exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "llmux",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with listening(process) as server:
        yield server


@pytest.mark.fault(54)
async def test_54_out_of_descriptors_accepting_pauses_hooks_run_and_all_goes_on(tmp_path: Path) -> None:
    async with SimulatedBackend("a").serving() as (_, first), SimulatedBackend("b").serving() as (_, second):
        hooks = {"wake": "echo up; echo up >&2", "sleep": "true", "alive": "false"}
        models = {"a": {"port": first, **hooks}, "b": {"port": second, **hooks}}
        config = await configuration(tmp_path, models=models, timeouts_secs={"keep_alive": None})
        async with limited(64, "-c", config) as server:
            # More than there are descriptors for, and all of them want something.
            clients: list[RawClient] = []
            for number in range(90):
                client = await RawClient.open(server.port)
                body = b'{"model": "%b", "messages": []}' % (b"a" if number % 2 else b"b")
                await client.send(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                clients.append(client)
            await server.wait_for("accepting_paused")
            # Nobody is thrown away: each is served as those before it leave, by models that hooks have woken.
            for client in clients:
                assert (await client.receive()).status == 200
                await client.close()
            assert await metric(server, 'llmux_limit_hits_total{limit="descriptors"}') >= 2
            assert await metric(server, "llmux_client_connections") <= 5
            assert await server.stop() == 0
            assert {line["model"] for line in server.events("hook_completed")} == {"a", "b"}
            assert not server.events("hook_failed")
            assert not server.events("internal_error")
            assert len(server.events("accepting_paused")) == 1, "one line, however often it happened"


@pytest.mark.fault(54)
async def test_54_strangers_who_never_begin_tls_do_not_keep_hooks_from_running(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    backend = SimulatedBackend("a", tokens=200, tokens_per_second=4)
    async with backend.serving() as (_, first), SimulatedBackend("b").serving() as (_, second):
        hooks = {"wake": "true", "sleep": "true", "alive": "true"}
        models = {"a": {"port": first, **hooks}, "b": {"port": second, **hooks}}
        tls = {"cert": "cert.pem", "key": "key.pem"}
        config = await configuration(tmp_path, models=models, tls=tls, alive_interval_secs=0.1)
        async with limited(64, "-c", config) as server:

            def question(model: bytes) -> bytes:
                body = b'{"model": "%b", "messages": []}' % model
                head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                return head % len(body) + body

            known = RawClient(
                *await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname="localhost")
            )
            # All at once, and the first takes its time: whoever is idle for a second would make room for others.
            await known.send(b"".join(map(question, (b"a", b"b", b"a", b"b"))))
            await server.wait_for("model_activated")
            strangers = [await RawClient.open(server.port) for _ in range(200)]
            await server.wait_for("accepting_paused")
            assert len(server.events("model_activated")) == 1
            backend.tokens_per_second = 1e6
            for _ in range(4):
                assert (await known.receive()).status == 200
            for one in (known, *strangers):
                await one.close()
            assert await server.stop() == 0
            assert not server.events("hook_failed")
            assert not server.events("hook_start_delayed")
            assert len(server.events("model_activated")) == 4


async def refused_to_start(folder: Path, limits: str) -> subprocess.CompletedProcess[str]:
    """llmux where a shell has set such limits; 77 is the exit status if it could not. No hook may have run."""
    hook = f"touch {folder}/ran; false"
    models = {"a": {"port": 1, "wake": hook, "sleep": hook, "alive": hook}}
    config = await configuration(folder, models=models, state_dir="state")
    command = ["/bin/sh", "-c", f"{{ {limits}; }} || exit 77; exec {sys.executable} -m llmux -c {config}"]
    done = await asyncio.to_thread(
        subprocess.run, command, check=False, capture_output=True, text=True, timeout=DEADLINE
    )
    assert not (folder / "ran").exists()
    assert not (folder / "state").exists()
    return done


@pytest.mark.fault(54)
@pytest.mark.parametrize("descriptors", [12, 24, 39])
async def test_54_with_too_few_descriptors_to_serve_llmux_says_so_and_no_hook_runs(
    tmp_path: Path, descriptors: int
) -> None:
    done = await refused_to_start(tmp_path, f"ulimit -n {descriptors}")
    assert done.returncode == 1
    assert done.stderr == (
        f"llmux: cannot start: this process may have {descriptors} file descriptors, and needs 40 at least: raise that "
        "with `ulimit -n 1024`, or with LimitNOFILE= in systemd\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere stacks have another size")
async def test_with_too_few_threads_to_serve_llmux_says_so_and_no_hook_runs(tmp_path: Path) -> None:
    # Room for a few stacks. How many processes there may be cannot be limited for root.
    done = await refused_to_start(tmp_path, "ulimit -s 1000000 && ulimit -v 4000000")
    if done.returncode == 77:
        pytest.skip(f"the limits of this machine cannot be set so: {done.stderr}")
    assert done.returncode == 1
    told = r"llmux: cannot start: this process may have [1-4] threads besides its first, and needs 8 at least: .*\n"
    assert re.fullmatch(told, done.stderr), done.stderr


@pytest.mark.fault(54)
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_54_idle_connections_hold_nobody_up_and_nothing_spins(tmp_path: Path) -> None:
    models = {"a": {"port": 1, "wake": "true", "sleep": "true", "alive": "false"}}
    config = await configuration(tmp_path, models=models)
    async with limited(64, "-c", config) as server:
        idle = [await RawClient.open(server.port) for _ in range(60)]
        await server.wait_for("accepting_paused")
        used = cpu_ticks(server.process.pid)
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
            assert (await client.get("/health")).status_code == 200  # whoever was idle for a second made room
        assert cpu_ticks(server.process.pid) - used < os.sysconf("SC_CLK_TCK") // 2
        for one in idle:
            await one.close()
        assert await server.stop() == 0


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.fault(55)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "2>/dev/full >/dev/full <&-"])
async def test_55_a_log_that_cannot_be_written_stops_nothing_and_is_counted(
    tmp_path: Path, full_disk: Path, where: str
) -> None:
    own = free_port()
    async with SimulatedBackend("a").serving() as (_, port):
        config = await configuration(
            tmp_path,
            models={"a": {"port": port, "wake": "echo up; echo up >&2", "sleep": "true", "alive": "false"}},
            port=own,
            event_log=str(full_disk),
        )
        command = f"exec {sys.executable} -m llmux -v -c {config} {where}"
        process = await asyncio.to_thread(subprocess.Popen, ["/bin/sh", "-c", command])
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}", timeout=DEADLINE) as client:
                async with asyncio.timeout(DEADLINE):
                    while True:
                        with contextlib.suppress(httpx.TransportError):
                            await client.get("/health")
                            break
                        await asyncio.sleep(0.05)
                for _ in range(20):
                    answer = await client.post("/v1/chat/completions", json={"model": "a", "messages": []})
                    assert answer.status_code == 200
                scrape = (await client.get("/metrics")).text
            dropped = next(line for line in scrape.splitlines() if line.startswith("llmux_log_dropped_total "))
            assert float(dropped.split()[1]) > 5
            assert "\nllmux_event_log_dropped_total " in scrape
        finally:
            process.terminate()
            assert await asyncio.to_thread(process.wait, DEADLINE) == 0
