"""How a run is judged: by its shell's exit, or by the reason why there was none."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmux.hooks import HookRunner, HookSpec
from llmux.messages import Hook, Outcome
from tests.hooks.conftest import Shop, descriptors, until

pytestmark = pytest.mark.anyio


async def test_exit_0_is_ok(shop: Shop) -> None:
    result = await shop.run("echo ready; echo warming >&2; sleep 0.05")
    assert (result.outcome, result.exit_code, result.detail) == (Outcome.OK, 0, "")
    assert set(result.output.splitlines()) == {"ready", "warming"}
    assert result.stderr == "warming\n"
    assert result.duration >= 0.05
    assert result.survivors == ()


@pytest.mark.parametrize("code", [1, 3, 125, 128, 255])
async def test_any_other_exit_code_is_a_failure(shop: Shop, code: int) -> None:
    result = await shop.run(f"echo no such model >&2; exit {code}")
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, code)
    assert result.detail == f"exit code {code}"
    assert result.last_line == "no such model"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
async def test_death_by_signal_is_a_failure(shop: Shop, number: signal.Signals) -> None:
    # SIGPIPE also shows that hooks do not inherit Python's ignoring it
    result = await shop.run(f"ulimit -c 0; kill -{number.value} $$; sleep 60")
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, -number)
    assert result.detail == f"ended by {number.name}"


async def test_death_by_a_signal_without_a_name(shop: Shop) -> None:
    result = await shop.run(f"kill -{signal.SIGRTMIN + 3} $$; sleep 60")
    assert (result.outcome, result.detail) == (Outcome.FAILED, f"ended by signal {signal.SIGRTMIN + 3}")


async def test_a_program_that_is_not_there_is_127_and_says_so(shop: Shop) -> None:
    result = await shop.run("no-such-program --serve")
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 127)
    assert result.detail == "exit code 127 (a command of it was not found)"
    assert "no-such-program" in result.last_line


async def test_a_script_that_may_not_be_executed_is_126_and_says_so(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "wake.sh").write_text("#!/bin/sh\n")
    result = await shop.run("./wake.sh", cwd=tmp_path)
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 126)
    assert result.detail == "exit code 126 (a command of it is not executable, or its folder is not there)"
    assert "wake.sh" in result.last_line


async def test_it_runs_in_its_directory(shop: Shop, tmp_path: Path) -> None:
    place = tmp_path / "it's $(odd) `here`"
    place.mkdir()
    result = await shop.run("pwd", cwd=place)
    assert result.output == f"{place}\n"


async def test_a_directory_that_is_not_there_is_a_failure_and_nothing_runs(shop: Shop, tmp_path: Path) -> None:
    result = await shop.run(f"touch {tmp_path}/ran", cwd=tmp_path / "gone")
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 126)
    assert result.detail == "exit code 126 (a command of it is not executable, or its folder is not there)"
    assert "gone" in result.last_line
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("script", ["", "# only a comment", "\n\ntrue\n", "cat <<END\nhello\nEND"])
async def test_scripts_of_any_shape_run_in_a_directory(shop: Shop, tmp_path: Path, script: str) -> None:
    assert (await shop.run(script, cwd=tmp_path)).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("script", "env"),
    [("echo \0", {}), ("echo \ud800", {}), ("true", {"A=B": "1"}), ("true", {"A": "\0"}), (": " + "x" * 200_000, {})],
    ids=["NUL", "surrogate", "variable's name", "variable's value", "too long"],
)
async def test_what_cannot_be_started_is_an_error_and_never_raises(
    shop: Shop, script: str, env: dict[str, str]
) -> None:
    run_id, ended = shop.start(script, env=env)
    assert shop.runner.running == 1
    shop.runner.cancel(run_id)
    shop.runner.kill_all()
    await shop.runner.wait_closed()
    result = ended.result()
    assert (result.outcome, result.exit_code) == (Outcome.ERROR, None)
    assert result.detail.startswith("could not be started: ")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """As long as it lasts, this process has no descriptors left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 3, hard))
    filler: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while len(filler) < 1000:
                filler.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in filler:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.fault(54)
async def test_54_where_no_descriptors_are_left_a_hook_has_those_that_are_kept(shop: Shop) -> None:
    await shop.run("true")  # whatever the loop opens once is open
    before = len(descriptors())
    with no_descriptors():
        for _ in range(3):
            assert (await shop.run("echo on; echo off >&2")).outcome is Outcome.OK
    assert len(descriptors()) == before


@pytest.mark.fault(54)
async def test_54_a_hook_for_which_there_is_no_room_begins_once_there_is(shop: Shop) -> None:
    told: list[tuple[str, Hook, str]] = []
    shop.runner = HookRunner(on_scarce=lambda *what: told.append(what), retry_after=0.01)
    await shop.run("true")
    before = len(descriptors())
    shop.runner._reserve.give()
    with no_descriptors():
        run_id, ended = shop.start("true", timeout=5.0)
        waiting = shop.runner._running[run_id]
        await until(lambda: shop.runner._running[run_id] is not waiting)  # it was tried again
        assert not ended.done()
        cancelled, end = shop.start("true")
        shop.runner.cancel(cancelled)
        assert (await end).outcome is Outcome.CANCELLED
    result = await ended
    assert (result.outcome, result.exit_code) == (Outcome.OK, 0)
    assert [reason for _, _, reason in told] == ["[Errno 24] Too many open files"] * 2, "once for each"
    await until(lambda: len(descriptors()) == before)


@pytest.mark.fault(54)
async def test_54_a_hook_that_waits_for_room_keeps_nobody_from_ending(shop: Shop) -> None:
    shop.runner = HookRunner()
    await shop.run("true")
    shop.runner._reserve.give()
    with no_descriptors():
        _, ended = shop.start("true")
        shop.runner.kill_all()
        assert (await ended).outcome is Outcome.CANCELLED
        await shop.runner.wait_closed()


async def test_an_exit_status_taken_by_the_kernel_is_an_error(shop: Shop) -> None:
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        result = await shop.run("exit 0")
    finally:
        signal.signal(signal.SIGCHLD, old)
    assert (result.outcome, result.exit_code) == (Outcome.ERROR, None)
    assert "SIGCHLD" in result.detail


async def test_a_callback_that_raises_leaves_the_runner_in_order(shop: Shop) -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context.get("exception")))
    fault = ValueError("of the caller")

    def on_end(run_id: int, result: object) -> None:
        raise fault

    for script in ("true", "\0"):
        shop.runner.start(7, "llama", Hook.WAKE, HookSpec(script), timeout=None, variables={}, on_end=on_end)
        await shop.runner.wait_closed()
        assert shop.runner.running == 0
    assert reported == [fault, fault]


async def test_many_quick_hooks_leave_neither_descriptors_nor_zombies(shop: Shop) -> None:
    await asyncio.gather(*(shop.run("true") for _ in range(20)))
    before = descriptors()
    for _ in range(50):
        results = await asyncio.gather(*(shop.run("exit 5") for _ in range(20)))
        assert {result.exit_code for result in results} == {5}
    assert (shop.runner.running, shop.runner.background) == (0, 0)
    assert descriptors() == before
    with contextlib.suppress(ChildProcessError):  # there may be children, of other tests, but none that has exited
        assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None  # noqa: ASYNC222 - WNOHANG does not wait


@pytest.mark.parametrize("end", ["closed", "forgotten"])
async def test_a_runner_that_is_done_with_keeps_no_descriptors(end: str) -> None:
    before = descriptors()
    runner = HookRunner()
    assert descriptors() != before, "some are kept for hooks"
    if end == "closed":
        await runner.wait_closed()
    else:
        del runner
        gc.collect()
    assert descriptors() == before


def test_it_works_in_a_process_without_standard_streams(tmp_path: Path) -> None:
    program = """
        import asyncio, sys
        from llmux.hooks import HookRunner, HookSpec
        from llmux.messages import Hook

        async def main():
            ended = asyncio.get_running_loop().create_future()
            HookRunner().start(1, "m", Hook.WAKE, HookSpec("cat; echo out; echo err >&2"), timeout=None, variables={},
                               on_end=lambda _, result: ended.set_result(result))
            result = await ended
            with open(sys.argv[1], "w") as file:
                print(result.outcome, sorted(result.output.split()), result.stderr, file=file)

        asyncio.run(main())
    """
    report = tmp_path / "report"
    command = [sys.executable, "-c", textwrap.dedent(program), str(report)]
    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=True, timeout=60)
    assert report.read_text() == "ok ['err', 'out'] err\n\n"


def test_a_runner_can_be_made_where_no_loop_runs() -> None:
    assert HookRunner().running == 0
