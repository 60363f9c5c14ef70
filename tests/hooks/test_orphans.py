"""Hooks that a killed llmux has left running: found, ended, and never mistaken for anybody else's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmux.hooks import HookRunner
from llmux.messages import Hook, Outcome
from tests.hooks.conftest import Shop, alive

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.fault(62),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

#: Starts hooks of an owner, one for each further pair of arguments, and is killed, or waits for its end.
LLMUX = """\
import asyncio, os, signal, sys
from llmux.hooks import HookRunner, HookSpec
from llmux.messages import Hook

async def main(owner, end, *hooks):
    runner = HookRunner(owner=owner)
    await runner.end_orphans()
    for number, (hook, script) in enumerate(zip(hooks[::2], hooks[1::2])):
        runner.start(
            number, "llama", Hook(hook), HookSpec(script), timeout=60, variables={}, on_end=lambda *_: None
        )
    print("started", flush=True)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


MINE = f"mine-{os.getpid()}"  # other runs of these tests have owners of their own


@pytest.fixture
async def runner(shop: Shop) -> HookRunner:
    shop.runner = HookRunner(owner=MINE, grace=0.5)
    return shop.runner


async def left_behind(owner: str, end: str, *hooks: str) -> subprocess.Popen[bytes]:
    process = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", LLMUX, owner, end, *hooks], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert await asyncio.to_thread(said.readline) == b"started\n"
    if end == "killed":
        await asyncio.to_thread(process.wait)
    return process


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("hook", ["wake", "sleep"])
async def test_it_is_ended_and_its_alive_hook_is_no_answer_once(
    shop: Shop, runner: HookRunner, tmp_path: Path, hook: str, deaf: bool
) -> None:
    trap = "trap '' TERM; " if deaf else ""
    script = f"{trap}cd {tmp_path}; sleep 300 & echo $! > child; echo $$ > shell; while :; do sleep 0.02; done"
    await left_behind(MINE, "killed", hook, script)
    child, shell = await shop.pid_from(tmp_path / "child"), await shop.pid_from(tmp_path / "shell")
    (orphan,) = await runner.end_orphans()
    assert (orphan.model, orphan.hook, orphan.pid, orphan.survivors) == ("llama", hook, shell, ())
    assert not alive(child)
    assert not alive(shell)
    doubted = await shop.run("exit 1", hook=Hook.ALIVE)
    assert (doubted.outcome, doubted.exit_code) == (Outcome.ERROR, None)
    assert f"a {hook} hook" in doubted.detail
    assert (await shop.run("exit 1", hook=Hook.ALIVE)).outcome is Outcome.FAILED, "the next time it is asked"
    assert await runner.end_orphans() == ()


async def test_a_server_that_it_has_started_is_told_of_and_left_alone(
    shop: Shop, runner: HookRunner, tmp_path: Path
) -> None:
    """Also one that keeps the hook's output: it is not taken for the hook. The sleep hook is there for it."""
    served = f"cd {tmp_path}; setsid sh -c 'echo $$ > server; exec sleep 300' &"
    await left_behind(MINE, "killed", "wake", f"{served} wait")
    server = await shop.pid_from(tmp_path / "server")
    (orphan,) = await runner.end_orphans()
    assert orphan.survivors == (server,)
    assert alive(server)
    assert await runner.end_orphans() == (), "a server is no hook"


async def test_whose_hook_is_none_of_our_business_goes_on(shop: Shop, runner: HookRunner, tmp_path: Path) -> None:
    script = f"cd {tmp_path}; echo $$ > {{}}; while :; do sleep 0.02; done"
    await left_behind(f"other-{MINE}", "killed", "wake", script.format("other"))
    await left_behind(MINE, "killed", "alive", script.format("alive"))
    living = await left_behind(MINE, "lives", "wake", script.format("living"))
    try:
        pids = [await shop.pid_from(tmp_path / name) for name in ("other", "alive", "living")]
        assert await runner.end_orphans() == ()
        assert all(map(alive, pids))
        assert (await shop.run("exit 1", hook=Hook.ALIVE)).outcome is Outcome.FAILED
    finally:
        living.kill()
        await asyncio.to_thread(living.wait)


async def test_nobodys_hooks_are_not_looked_for(shop: Shop, tmp_path: Path) -> None:
    await left_behind("", "killed", "wake", f"echo $$ > {tmp_path}/pid; while :; do sleep 0.02; done")
    pid = await shop.pid_from(tmp_path / "pid")
    assert await shop.new_runner().end_orphans() == ()
    assert alive(pid)


@pytest.mark.parametrize("last", ["sleep 300", "exec sleep 300", "exec sh -c 'sleep 300; true'"])
async def test_a_shell_that_has_given_itself_up_for_its_last_command_is_found(
    shop: Shop, runner: HookRunner, tmp_path: Path, last: str
) -> None:
    """Most shells do so unasked, and what runs then has the shell's pid."""
    await left_behind(MINE, "killed", "wake", f"echo $$ > {tmp_path}/pid; {last}")
    pid = await shop.pid_from(tmp_path / "pid")
    (orphan,) = await runner.end_orphans()
    assert (orphan.pid, orphan.survivors) == (pid, ())
    assert not alive(pid)
