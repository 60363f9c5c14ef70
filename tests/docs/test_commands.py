"""Every command that the documents show is run, against a real llmux where it needs one, unless it cannot be here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from llmux.testing import SimulatedBackend
from tests.docs.commands import EXAMPLES, NOT_RUN, RUN, bare, commands, in_block, is_command, row_for
from tests.docs.documents import ROOT, blocks
from tests.docs.test_walkthroughs import with_llmux
from tests.e2e.conftest import DEADLINE, llmux_process

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in ("bash", "curl")), reason="needs bash and curl"),
]

ROWS = [*NOT_RUN, *(row for rows in RUN.values() for row in rows)]

# `stuck` loses its device when it should sleep; `unsure` is found awake.
CONFIG = """
devices: {gpu0: 1GiB, gpu1: 1GiB, gpu2: 1GiB}
models:
  llama: {port: PORT, aliases: [whisper], needs: {gpu0: 1GiB}, HOOKS}
  small: {port: PORT, needs: {gpu0: 1GiB}, HOOKS}
  stuck: {port: PORT, needs: {gpu1: 1GiB}, wake: "true", sleep: test -e free, alive: "false"}
  unsure: {port: PORT, needs: {gpu2: 1GiB}, wake: "true", sleep: rm -f unsure, alive: test -e unsure}
port: 0
event_log: events.jsonl
""".replace("HOOKS", "wake: touch $LLMUX_MODEL, sleep: rm -f $LLMUX_MODEL, alive: test -e $LLMUX_MODEL")

TRACE = "arrival_s,model,prompt_tokens,output_tokens\n0,llama,10,20\n1.5,small,10,20\n"


class Terminal:
    """A folder with what a reader would have in it, and a shell there."""

    def __init__(self, folder: Path, port: int = 1) -> None:
        self.folder = folder
        self.environment = with_llmux(folder) | {"HOME": str(folder), "KEY": "a key", "PYTHONUNBUFFERED": "1"}
        self.words = {
            "MODEL": "llama",
            "SHELL": "bash",
            "/etc/llmux": str(folder),
            "/opt/llmux/bin/python": sys.executable,
            "8001": "0",
            "mistral": "small",
        }
        (folder / "config.yaml").write_text(CONFIG.replace("PORT", str(port)))
        (folder / "trace.csv").write_text(TRACE)
        (folder / "a.wav").write_bytes(b"RIFF")
        (folder / ".config/fish/completions").mkdir(parents=True)

    async def start(self, command: str, stdin: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("bash", "-c", re.sub(rf"(?<!\w)({'|'.join(map(re.escape, self.words))})(?!\w)", self.meant, command)),
            cwd=self.folder,
            env=self.environment,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    def meant(self, match: re.Match[str]) -> str:
        return self.words[match[1]]

    async def run(self, command: str) -> str:
        """Its output, once it has ended well."""
        async with asyncio.timeout(DEADLINE):
            yes, ours = os.pipe()
            os.write(ours, b"y\n")  # now: it may have ended before anything could be written to it
            os.close(ours)
            process = await self.start(command, yes)
            os.close(yes)
            told, _ = await process.communicate()
        assert process.returncode == 0, f"{command}: {told.decode()}"
        return told.decode()

    async def until(self, command: str, sign: str) -> None:
        """Run it until its output has the sign; then Ctrl-C ends it, and well."""
        process = await self.start(f"exec {command}")
        assert process.stdout is not None
        told = ""
        try:
            async with asyncio.timeout(DEADLINE):
                while sign not in told:
                    line = await process.stdout.readline()
                    assert line, f"{command}: {told}"
                    told += line.decode()
                os.killpg(process.pid, signal.SIGINT)
                rest, _ = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        assert process.returncode == 0, f"{command}: {told}{rest.decode()}"


def kind(name: str) -> list[str]:
    """The commands to run then, in the order of their rows, then of the documents."""
    rows = RUN[name]
    found = {command: row_for(command, ROWS) for command in commands()}
    return sorted(
        [command for command, row in found.items() if row in rows], key=lambda it: rows.index(found[it] or "")
    )


# --- the tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "where"), list(commands().items()))
def test_every_command_is_run_or_has_a_reason_not_to_be(command: str, where: str) -> None:
    assert row_for(command, ROWS), f"{where}: neither run nor excused in tests/docs/commands.py"


def test_every_row_is_of_a_command() -> None:
    assert set(ROWS) - {row_for(command, ROWS) for command in commands()} == set()


def test_whole_examples_are_run_elsewhere() -> None:
    for page, (test, *names) in EXAMPLES.items():
        source = (ROOT / "tests/docs" / test).read_text()
        assert page in source
        assert set(names) <= {block.name for block in blocks(ROOT / "docs" / page, "sh")}
        if page != "recipes.md":  # there, all that the page has
            assert not [name for name in names if name.removesuffix(".sh") not in source]


def test_what_is_a_command() -> None:
    assert bare("  $ llmux status   # how it is") == "llmux status"
    assert list(in_block("$ llmux status\nready\n")) == ["llmux status"]
    assert list(in_block("curl -s \\\n  here\nnew --command\n")) == ["curl -s    here", "new --command"]
    assert is_command("A=1 ~/llmux/bin/pip install .")
    assert not is_command("llmux")
    assert row_for("made up", ROWS) is None
    assert row_for("llmux simulate --made-up", ROWS) is None


# --- the commands ---------------------------------------------------------------------------------------------------


async def test_before_llmux_runs(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    told = {command: await terminal.run(command) for command in kind("before llmux runs")}
    assert re.fullmatch(r"[0-9a-f]{64}\n", told["openssl rand -hex 32"])
    assert "complete" in (tmp_path / ".config/fish/completions/llmux.fish").read_text()


async def test_until_ctrl_c(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    for command in kind("until Ctrl-C"):
        await terminal.until(command, "http://")


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Terminal, httpx.AsyncClient]]:
    """A terminal beside a llmux with a backend, and a client of that llmux."""
    (folder / "unsure").touch()
    backend = SimulatedBackend("llama", tokens_per_second=2000)
    async with backend.serving() as (_, port):
        terminal = Terminal(folder, port)
        async with llmux_process(cwd=folder) as server:
            terminal.environment["LLMUX_URL"] = server.url
            terminal.words["http://localhost:3000"] = server.url
            terminal.words["…"] = f"{server.url}/v1/audio/transcriptions"
            async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
                yield terminal, client
            assert await server.stop() == 0


async def lose(client: httpx.AsyncClient) -> None:
    """Have `stuck` fail to sleep, for good."""
    await client.post("/admin/v1/models/stuck/switch")
    assert (await client.post("/admin/v1/models/stuck/sleep")).status_code == 503


async def held(client: httpx.AsyncClient, waiting: list[asyncio.Task[httpx.Response]]) -> str:
    """The id of a request that waits, since its model is drained."""
    await client.post("/admin/v1/models/small/drain")
    waiting.append(asyncio.create_task(client.post("/v1/completions", json={"model": "small", "prompt": "Hi"})))
    for _ in range(1000):
        requests = (await client.get("/admin/v1/requests")).json()["requests"]
        if requests:
            return str(requests[0]["id"])
        await asyncio.sleep(0.02)
    raise AssertionError("the request does not come")


async def test_while_llmux_runs_and_with_what_it_has_written(tmp_path: Path) -> None:
    told: dict[str, str] = {}
    waiting: list[asyncio.Task[httpx.Response]] = []
    async with running(tmp_path) as (terminal, client):
        losing = asyncio.create_task(lose(client))
        for command in kind("while llmux runs"):
            sub = command.split()[1]
            if sub == "look":
                await losing
                (tmp_path / "free").touch()
            elif sub == "cancel":
                terminal.words["ID"] = await held(client, waiting)
            terminal.words["MODEL"] = {"free": "unsure", "look": "stuck"}.get(sub, "llama")
            if command.endswith(("--watch", "-f")):
                await terminal.until(command, "llama")
            else:
                yes = " --yes" if sub == "free" else ""  # it asks, but only on a terminal
                told[command] = await terminal.run(command + yes)
        assert [(await task).json()["error"]["code"] for task in waiting] == ["request_cancelled"]
    told |= {command: await terminal.run(command) for command in kind("with what llmux has written")}
    assert re.search(r"unsure +unconfirmed", told["llmux status"])
    assert "llama is awake" in told["llmux switch MODEL"]
    assert "stuck" in told["llmux look MODEL"]
    assert "wake" in told["llmux replay --model llama --last 20 events.jsonl"]
    assert len(told) > 20
