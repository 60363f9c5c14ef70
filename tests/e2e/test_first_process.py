"""llmux as the first process of a container that has no init: whatever hooks leave behind ends up with it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import DEADLINE, listening

pytestmark = pytest.mark.anyio

#: A space of processes of its own, in which the command is the first; with rights only there, where it is not root's.
ALONE = (
    "unshare",
    *(() if os.geteuid() == 0 else ("--map-root-user",)),
    *("--pid", "--fork", "--mount-proc", "--kill-child"),
)


def possible() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not possible(), reason="needs Linux, and the right to make a space of processes")
async def test_it_reaps_the_servers_of_hooks_and_hears_of_its_hooks_all_the_same(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    await asyncio.to_thread(
        config.write_text,
        """
models:
  # As many write it: the server is gone once nobody has its number, which a dead one keeps until it is reaped.
  a:
    port: 1
    wake: setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $! >pid
    sleep: kill "$(cat pid)"; while kill -0 "$(cat pid)" 2>/dev/null; do sleep 0.02; done
    alive: "false"
  # Children that end together with the hook.
  b:
    port: 1
    wake: for i in 1 2 3 4 5 6 7 8; do (setsid true &) >/dev/null 2>&1; done; exit 3
    sleep: for i in 1 2 3 4 5 6 7 8; do (setsid true &) >/dev/null 2>&1; done
    alive: "false"
port: 0
""",
    )
    process = await asyncio.create_subprocess_exec(
        *(*ALONE, sys.executable, "-m", "llmux", "-c", str(config)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with (
        listening(process) as server,
        httpx.AsyncClient(base_url=f"{server.url}/admin/v1/models", timeout=DEADLINE) as admin,
    ):
        for _ in range(10):
            for order in ("/a/switch", "/a/sleep"):
                answer = await admin.post(order)
                assert answer.status_code == 200, answer.text
        assert "exit code 3" in (await admin.post("/b/switch")).text
        async with asyncio.timeout(DEADLINE):
            while await asyncio.to_thread(zombies_below, process.pid):  # noqa: ASYNC110  # the kernel tells nobody
                await asyncio.sleep(0.02)


def zombies_below(parent: int) -> list[int]:
    """The dead children of the children of `parent` that nobody has reaped."""
    parents, dead = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, above = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            except OSError:  # gone meanwhile
                continue
            parents[int(entry.name)] = int(above)
            if state == "Z":
                dead.append(int(entry.name))
    return [pid for pid in dead if parents.get(parents[pid]) == parent]
