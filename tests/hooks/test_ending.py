"""Deadlines and cancelling: nothing that a hook started outlives its end by force, or it is told who does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from llmux.hooks import run as run_module
from llmux.hooks import survivors
from llmux.messages import Outcome
from tests.hooks.conftest import DEADLINE, Shop, alive, until

pytestmark = pytest.mark.anyio


@pytest.mark.fault(38, 42)
async def test_a_hook_past_its_deadline_gets_sigterm(shop: Shop, tmp_path: Path) -> None:
    shop.new_runner(grace=60)
    result = await shop.run("trap 'echo told; exit 9' TERM; while :; do sleep 0.01; done", timeout=1.0)
    assert (result.outcome, result.exit_code, result.survivors) == (Outcome.TIMEOUT, 9, ())
    assert result.detail == "still running after 1 s, so it was ended by force"
    assert "told" in result.output
    assert result.duration >= 1.0


@pytest.mark.fault(38, 42)
async def test_a_hook_that_ignores_sigterm_is_killed_after_the_grace(shop: Shop) -> None:
    """FAULTS rows 38 and 42."""
    result = await shop.run("trap '' TERM; while :; do sleep 0.05; done", timeout=1.0)
    assert (result.outcome, result.exit_code, result.survivors) == (Outcome.TIMEOUT, -signal.SIGKILL, ())
    assert result.duration >= 1.0 + 0.2


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
    _, ended = shop.start("setsid sh -c 'echo $$ > pid; exec sleep 300' & wait; sleep 300", cwd=tmp_path, timeout=1.5)
    pid = await shop.pid_from(tmp_path / "pid")
    result = await ended
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
        run_id, ended = shop.start(f"sleep 300 & echo $! > pid; {end}", cwd=tmp_path, timeout=5)
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
    _, by_deadline = shop.start("sleep 300 & echo $! > pid; touch 1", cwd=tmp_path, timeout=0.1)
    cancelled, by_cancel = shop.start("touch 2", cwd=tmp_path)
    _, by_kill = shop.start("touch 3", cwd=tmp_path)
    while not all((tmp_path / str(number)).exists() for number in (1, 2, 3)):
        time.sleep(0.01)  # noqa: ASYNC251 - the stall
    time.sleep(0.5)  # noqa: ASYNC251
    shop.runner.cancel(cancelled)
    shop.runner.kill_all()
    for ended in (by_deadline, by_cancel, by_kill):
        assert (await ended).outcome is Outcome.OK
    assert alive(await shop.pid_from(tmp_path / "pid"))


async def test_cancel(shop: Shop) -> None:
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
    script = "trap 'touch told; sleep 0.2; exit' TERM; while :; do sleep 0.01; done"
    run_id, ended = shop.start(script, cwd=tmp_path, timeout=1.0)
    await until((tmp_path / "told").exists)
    shop.runner.cancel(run_id)
    assert (await ended).outcome is Outcome.TIMEOUT


async def test_a_cancelled_hook_that_exits_0_was_still_cancelled(shop: Shop, tmp_path: Path) -> None:
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
    result = await shop.run("kill -STOP $$; sleep 300", timeout=1.0)
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
        result = await shop.run("echo $$; exec sleep 300", timeout=1.0)
    pid = int(result.output)
    shop.leftovers.append(pid)
    assert (result.outcome, result.exit_code, result.survivors) == (Outcome.TIMEOUT, None, (pid,))
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
