"""Deadlines and cancelling: nothing that a hook started outlives its end by force, or it is told who does."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmux.hooks import run as run_module
from llmux.hooks import survivors
from llmux.messages import Outcome
from tests.hooks.conftest import DEADLINE, Shop, alive, until

pytestmark = pytest.mark.anyio


@pytest.mark.fault(38, 42)
async def test_a_hook_past_its_deadline_gets_sigterm(shop: Shop, tmp_path: Path) -> None:
    shop.new_runner(grace=60)
    script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    result = await shop.run_past_its_deadline(script)
    assert (result.outcome, result.exit_code, result.survivors) == (Outcome.TIMEOUT, 9, ())
    said = re.fullmatch(r"still running after (\S+) s, so it was ended by force", result.detail)
    assert said is not None
    assert "told" in result.output
    assert result.duration >= float(said[1]) >= 0.25


@pytest.mark.fault(38, 42)
async def test_a_hook_that_ignores_sigterm_is_killed_after_the_grace(shop: Shop) -> None:
    """FAULTS rows 38 and 42."""
    result = await shop.run_past_its_deadline("trap '' TERM; echo ready; while :; do sleep 0.05; done")
    assert (result.outcome, result.exit_code, result.survivors) == (Outcome.TIMEOUT, -signal.SIGKILL, ())
    assert result.duration >= 0.25 + 0.2


@pytest.mark.fault(38, 40)
async def test_the_whole_group_is_ended(shop: Shop, tmp_path: Path) -> None:
    """FAULTS row 40."""
    script = "sleep 300 & echo $! > polite; (trap '' TERM; touch ready; exec sleep 300) & echo $! > deaf; wait"
    run_id, ended = shop.start(script, cwd=tmp_path)
    polite, deaf = await shop.pid_from(tmp_path / "polite"), await shop.pid_from(tmp_path / "deaf")
    await until((tmp_path / "ready").exists)
    shop.runner.cancel(run_id)
    result = await ended
    assert (result.outcome, result.survivors) == (Outcome.CANCELLED, ())
    assert not alive(polite)
    assert not alive(deaf)


@pytest.mark.fault(38, 40, 42)
async def test_children_have_the_grace_even_if_the_leader_goes_at_once(shop: Shop, tmp_path: Path) -> None:
    shop.new_runner(grace=60)
    child = "trap 'sleep 0.3; touch freed; exit' TERM; touch ready; while :; do sleep 0.01; done"
    run_id, ended = shop.start(f"({child}) & wait", cwd=tmp_path)
    await until((tmp_path / "ready").exists)
    shop.runner.cancel(run_id)
    result = await ended
    assert (result.outcome, result.exit_code) == (Outcome.CANCELLED, -signal.SIGTERM)
    assert (tmp_path / "freed").exists()


@pytest.mark.fault(40)
async def test_who_left_the_session_is_reported_and_left_alone(shop: Shop, tmp_path: Path) -> None:
    """FAULTS row 40: a daemon made by setsid is for the sleep hook to end."""
    script = "setsid sh -c 'echo $$ > pid; echo ready; exec sleep 300' & wait; sleep 300"
    result = await shop.run_past_its_deadline(script, cwd=tmp_path)
    pid = await shop.pid_from(tmp_path / "pid")
    assert (result.outcome, result.survivors) == (Outcome.TIMEOUT, (pid,))
    assert result.detail.endswith(f"; still alive: {pid}")
    assert alive(pid)


@pytest.mark.fault(40)
async def test_who_left_only_the_group_is_killed(shop: Shop, tmp_path: Path) -> None:
    """A shell with job control puts each job into a group of its own."""
    program = "import os, time; os.setpgid(0, 0); print(os.getpid(), flush=True); time.sleep(300)"
    run_id, ended = shop.start(f"{sys.executable} -c '{program}' > pid & wait", cwd=tmp_path)
    pid = await shop.pid_from(tmp_path / "pid")
    assert os.getpgid(pid) == pid
    shop.runner.cancel(run_id)
    result = await ended
    assert (result.outcome, result.survivors) == (Outcome.CANCELLED, ())
    assert not alive(pid)


@pytest.mark.fault(39)
async def test_what_an_ended_hook_left_behind_lives_on(shop: Shop, tmp_path: Path) -> None:
    """Starting a daemon is what a wake hook is for; not even the second SIGTERM of llmux ends it."""
    pids = []
    for end in ("true", "exit 4"):
        (tmp_path / "pid").unlink(missing_ok=True)
        run_id, ended = shop.start(f"sleep 300 & echo $! > pid; {end}", cwd=tmp_path)
        assert (await ended).outcome in (Outcome.OK, Outcome.FAILED)
        pids.append(await shop.pid_from(tmp_path / "pid"))
        shop.runner.cancel(run_id)
        await shop.run("true")
    shop.runner.kill_all()
    assert (await shop.run("true")).outcome is Outcome.CANCELLED  # nothing is started any more
    assert all(alive(pid) for pid in pids)


async def test_no_deadline(shop: Shop) -> None:
    assert (await shop.run("sleep 0.3", timeout=None)).outcome is Outcome.OK


async def test_an_exit_in_time_counts_even_if_the_loop_was_stalled(shop: Shop, tmp_path: Path) -> None:
    _, by_deadline = shop.start("sleep 300 & echo $! > pid; echo $$ > 1", cwd=tmp_path, timeout=0.1)
    cancelled, by_cancel = shop.start("echo $$ > 2", cwd=tmp_path)
    _, by_kill = shop.start("echo $$ > 3", cwd=tmp_path)
    begun = time.monotonic()

    def exited(file: Path) -> bool:
        return file.exists() and file.read_text().endswith("\n") and not alive(int(file.read_text()))

    while not (all(exited(tmp_path / name) for name in "123") and time.monotonic() > begun + 0.1):
        time.sleep(0.01)  # noqa: ASYNC251 - the stall
    shop.runner.cancel(cancelled)
    shop.runner.kill_all()
    for ended in (by_deadline, by_cancel, by_kill):
        assert (await ended).outcome is Outcome.OK
    assert alive(await shop.pid_from(tmp_path / "pid"))


async def test_cancel(shop: Shop) -> None:
    shop.new_runner(grace=60)
    run_id, ended = shop.start("sleep 300")
    shop.runner.cancel(run_id)
    shop.runner.cancel(run_id)
    assert not ended.done()
    result = await ended
    assert (result.outcome, result.exit_code, result.detail) == (Outcome.CANCELLED, -signal.SIGTERM, "cancelled")
    shop.runner.cancel(run_id)
    shop.runner.cancel(999_999_999)


async def test_a_second_cancel_does_not_prolong_the_grace(shop: Shop) -> None:
    run_id, ended = shop.start("trap '' TERM; while :; do sleep 0.02; done")
    shop.runner.cancel(run_id)
    while not ended.done():
        shop.runner.cancel(run_id)
        await asyncio.sleep(0.05)
    assert (await ended).exit_code in (-signal.SIGKILL, -signal.SIGTERM)


async def test_cancelling_a_hook_that_is_past_its_deadline_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.new_runner(grace=60)
    go = tmp_path / "go"
    script = "trap 'echo told; until [ -e go ]; do sleep 0.01; done; exit' TERM; while :; do sleep 0.01; done"

    def told() -> bool:
        return any(line == "told" for _, _, line in shop.lines)

    for timeout in (0.25, 1.0, 5.0, 25.0):
        run_id, ended = shop.start(script, cwd=tmp_path, timeout=timeout)
        await until(lambda ended=ended: told() or ended.done())  # type: ignore[misc]  # mypy infers no default's type
        if told():
            break  # else it had not even set its trap when its time was over
    shop.runner.cancel(run_id)
    go.touch()
    assert (await ended).outcome is Outcome.TIMEOUT


async def test_a_cancelled_hook_that_exits_0_was_still_cancelled(shop: Shop, tmp_path: Path) -> None:
    shop.new_runner(grace=60)
    run_id, ended = shop.start("trap 'exit 0' TERM; touch ready; while :; do sleep 0.01; done", cwd=tmp_path)
    await until((tmp_path / "ready").exists)
    shop.runner.cancel(run_id)
    result = await ended
    assert (result.outcome, result.exit_code) == (Outcome.CANCELLED, 0)


@pytest.mark.fault(60)
async def test_kill_all_waits_for_no_grace(shop: Shop, tmp_path: Path) -> None:
    shop.new_runner(grace=3600)
    ends = []
    for number in range(3):
        script = f"trap '' TERM; sleep 300 & echo $! > pid{number}; while :; do sleep 0.05; done"
        ends.append(shop.start(script, cwd=tmp_path))
    children = [await shop.pid_from(tmp_path / f"pid{number}") for number in range(3)]
    shop.runner.cancel(ends[0][0])
    assert shop.runner.running == 3
    shop.runner.kill_all()
    for _, ended in ends:
        result = await ended
        assert (result.outcome, result.exit_code, result.survivors) == (Outcome.CANCELLED, -signal.SIGKILL, ())
    assert not any(map(alive, children))
    await shop.runner.wait_closed()


async def test_a_stopped_hook_is_killed(shop: Shop) -> None:
    result = await shop.run_past_its_deadline("echo ready; kill -STOP $$; sleep 300")
    assert (result.outcome, result.exit_code) == (Outcome.TIMEOUT, -signal.SIGKILL)


@pytest.mark.fault(40)
async def test_a_leader_that_even_sigkill_does_not_end_is_given_up_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a driver holds it in the kernel, played by signals that do not arrive."""
    monkeypatch.setattr(run_module, "KILL_WAIT", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(survivors, "KILL_PATIENCE", 0.05)
        patch.setattr(os, "killpg", lambda pid, number: None)
        patch.setattr(os, "kill", lambda pid, number: None)
        run_id, ended = shop.start("echo $$; exec sleep 300")
        await until(lambda: bool(shop.lines))
        pid = int(shop.lines[0][2])
        shop.leftovers.append(pid)
        shop.runner.cancel(run_id)
        result = await ended
    assert (result.outcome, result.exit_code, result.survivors) == (Outcome.CANCELLED, None, (pid,))
    assert (shop.runner.running, shop.runner.background) == (0, 1)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: shop.runner.background == 0)  # it was reaped, after all
    assert not alive(pid)


@pytest.mark.fault(40)
async def test_a_search_for_survivors_that_hangs_is_not_waited_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(session: int, marker: str, patience: float) -> tuple[int, ...]:
        release.wait(60)
        return (1,)

    monkeypatch.setattr(run_module, "KILL_WAIT", 0.1)
    monkeypatch.setattr(run_module, "sweep", hang)
    try:
        result = await shop.run("sleep 300", timeout=0.05)
    finally:
        release.set()
    assert (result.outcome, result.survivors) == (Outcome.TIMEOUT, ())


async def test_without_proc_the_group_is_what_can_be_ended(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survivors, "PROC", tmp_path)
    run_id, ended = shop.start("trap '' TERM; sleep 300 & echo $! > pid; trap - TERM; wait", cwd=tmp_path)
    pid = await shop.pid_from(tmp_path / "pid")
    shop.runner.cancel(run_id)
    assert (await ended).outcome is Outcome.CANCELLED
    assert not alive(pid)


@pytest.mark.fault(38, 40)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_who_is_looked_for_too_late_is_killed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that looks was kept from running for longer than killing may take, as when a laptop sleeps."""
    late = itertools.chain([0.0], itertools.repeat(100.0))
    monkeypatch.setattr(survivors, "time", SimpleNamespace(monotonic=lambda: next(late), sleep=time.sleep))
    monkeypatch.setattr(survivors, "KILL_PATIENCE", 1.0)
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as process:
        try:
            assert survivors.sweep(process.pid, "NAME=nobody", 0.5) == ()
            assert process.wait(DEADLINE) == -signal.SIGKILL
        finally:
            process.kill()


async def test_wait_closed_waits_for_the_last_hook(shop: Shop) -> None:
    _, ended = shop.start("sleep 0.2")
    await shop.runner.wait_closed()
    assert ended.done()


@pytest.mark.fault(60)
async def test_60_killing_all_ends_whole_groups_before_it_returns(shop: Shop, tmp_path: Path) -> None:
    """The process may end right after it: nobody would look for survivors then."""
    _, ended = shop.start(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    child = await shop.pid_from(tmp_path / "child")
    shop.runner.kill_all()
    end = time.monotonic() + DEADLINE
    while alive(child):  # without the loop, which would have survivors looked for
        assert time.monotonic() < end, "it was not killed"
    assert (await ended).outcome is Outcome.CANCELLED
