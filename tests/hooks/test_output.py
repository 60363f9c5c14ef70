"""What hooks print: never waited for, always read, bounded, and safe to show."""

from __future__ import annotations

import asyncio
import os
import resource
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.hooks import HookRunner
from llmux.hooks.output import LINE_BYTES, Lines, Tail, printable
from llmux.hooks.starting import KEPT
from llmux.messages import Hook, Outcome
from tests.hooks.conftest import Shop, alive, descriptors, until

pytestmark = pytest.mark.anyio


@pytest.mark.fault(39)
async def test_a_daemon_that_holds_the_pipe_does_not_hold_up_the_result(shop: Shop, tmp_path: Path) -> None:
    """FAULTS row 39."""
    result = await shop.run("sleep 300 & echo $! > pid; echo ready", cwd=tmp_path)
    pid = await shop.pid_from(tmp_path / "pid")
    assert (result.outcome, result.output) == (Outcome.OK, "ready\n")
    assert alive(pid)
    assert (shop.runner.running, shop.runner.background) == (0, 1)


@pytest.mark.fault(39)
async def test_a_daemons_later_output_is_read_to_its_end(shop: Shop, tmp_path: Path) -> None:
    """FAULTS row 39: a megabyte is sixteen times what the pipe holds, so it ends only if somebody reads."""
    os.mkfifo(tmp_path / "go")
    before = len(descriptors())
    result = await shop.run(
        "(read line < go; head -c 1000000 /dev/zero | tr '\\0' x; echo; echo all said; touch done) &", cwd=tmp_path
    )
    assert (result.outcome, result.output) == (Outcome.OK, "")
    await asyncio.to_thread((tmp_path / "go").write_text, "\n")
    await until((tmp_path / "done").exists)
    await until(lambda: shop.runner.background == 0)
    assert len(descriptors()) == before
    assert [line for _, _, line in shop.lines] == ["x" * LINE_BYTES + "…", "all said"]
    assert result.output == ""


async def test_all_that_the_leader_wrote_is_in_the_result(shop: Shop) -> None:
    for _ in range(20):
        result = await shop.run("head -c 60000 /dev/zero | tr '\\0' x; echo last >&2; sleep 5 >/dev/null 2>&1 &")
        assert len(result.output) == 60005
        assert result.stderr == "last\n"


async def test_a_hook_may_close_its_output_and_go_on(shop: Shop) -> None:
    result = await shop.run("echo bye; exec >&- 2>&-; sleep 0.1; exit 3")
    assert (result.exit_code, result.output) == (3, "bye\n")


@pytest.mark.fault(41)
async def test_a_flood_is_bounded_and_starves_nobody(shop: Shop) -> None:
    """FAULTS row 41."""
    shop.new_runner(lines_per_second=10)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    def left_out() -> int:
        return sum(int(line[1:].split()[0]) for _, _, line in shop.lines if line != "y")

    ticker = asyncio.create_task(tick())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run_id, ended = shop.start("yes & yes >&2 & yes")
    await until(lambda: ticks > 50 and left_out() > 10_000)
    shop.runner.cancel(run_id)
    result = await ended
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ticker.cancel()
    assert result.outcome is Outcome.CANCELLED
    assert 65000 < len(result.output) <= 65536
    assert set(result.output) == {"y", "\n"}
    assert grown < 32 * 1024  # KiB
    passed = [line for _, _, line in shop.lines if line == "y"]
    notices = [line for _, _, line in shop.lines if line != "y"]
    assert len(passed) <= 2 * 10 * (result.duration + 1)
    assert all(line.endswith("lines left out]") for line in notices)


async def test_garbage_is_made_safe(shop: Shop) -> None:
    result = await shop.run("head -c 300000 /dev/urandom; printf '\\033]0;owned\\007\\r\\n\\377\\n'")
    assert result.outcome is Outcome.OK
    assert result.output.endswith("\\x1b]0;owned\\x07\n\ufffd\n")
    for text in (result.output, *(line for _, _, line in shop.lines)):
        assert {unicodedata.category(character) for character in text if character not in "\t\n"}.isdisjoint(
            {"Cc", "Cs", "Zl", "Zp"}
        )


async def test_lines_reach_the_observer_while_the_hook_runs(shop: Shop) -> None:
    run_id, ended = shop.start("printf 'loading 1%%\\rloading 2%%\\rno end'; sleep 300", model="gemma", hook=Hook.SLEEP)
    await until(lambda: len(shop.lines) == 2)
    assert shop.lines == [("gemma", Hook.SLEEP, "loading 1%"), ("gemma", Hook.SLEEP, "loading 2%")]
    shop.runner.cancel(run_id)
    await ended
    assert shop.lines[2:] == [("gemma", Hook.SLEEP, "no end")]


async def test_an_observer_that_raises_stops_nothing(shop: Shop) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    fault = ValueError("of the observer")

    class Faulty(list[tuple[str, Hook, str]]):
        def append(self, _: object) -> None:
            raise fault

    shop.lines = Faulty()
    result = await shop.run("echo one; echo two")
    assert (result.outcome, result.output) == (Outcome.OK, "one\ntwo\n")
    assert reported == [fault, fault]


@pytest.mark.fault(39)
async def test_wait_closed_lets_go_of_daemons(shop: Shop, tmp_path: Path) -> None:
    before = len(descriptors())
    await shop.run("sleep 300 & echo $! > pid", cwd=tmp_path)
    pid = await shop.pid_from(tmp_path / "pid")
    assert shop.runner.background == 1
    await shop.runner.wait_closed()
    assert shop.runner.background == 0
    assert len(descriptors()) == before - KEPT, "its own, too, go at the end"
    assert alive(pid)


# --- the parts ---------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40)), st.integers(1, 50))
def test_a_tail_is_the_end_of_all_that_was_written(chunks: list[bytes], limit: int) -> None:
    tail = Tail(limit)
    for chunk in chunks:
        tail.write(chunk)
    end = b"".join(chunks)[-limit:].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert tail.text() == printable(end.decode("utf-8", "replace"))


@given(st.lists(st.text(alphabet="ab\r\n\t\x1bé", max_size=12)))
def test_lines_do_not_depend_on_how_they_were_cut_into_chunks(chunks: list[str]) -> None:
    seen: list[str] = []
    lines = Lines(seen.append, 1000)
    whole = "".join(chunks).encode()
    for chunk in chunks:
        lines.write(chunk.encode())
    lines.flush()
    assert seen == [printable(line.decode()) for line in whole.replace(b"\r", b"\n").split(b"\n") if line]


@given(st.lists(st.integers(1, 30), min_size=1), st.integers(1, 20))
def test_lines_past_the_cap_are_counted(sizes: list[int], cap: int) -> None:
    seen: list[str] = []
    lines = Lines(seen.append, cap)
    for size in sizes:
        lines.write(b"line\n" * size)
    lines.flush()
    dropped = sum(int(line[1:].split()[0]) for line in seen if line.startswith("["))
    assert seen.count("line") + dropped == sum(sizes)
    assert seen.count("line") >= min(cap, sum(sizes))


def test_a_line_without_end_is_cut_and_takes_no_memory() -> None:
    seen: list[str] = []
    lines = Lines(seen.append, 10)
    for _ in range(1000):
        lines.write(b"z" * 10_000)
    lines.write(b"\nnext\n")
    assert seen == ["z" * LINE_BYTES + "…", "next"]


@given(st.text())
def test_printable_text_drives_no_terminal_and_stays_itself(text: str) -> None:
    safe = printable(text)
    assert printable(safe) == safe
    assert all(c in "\t\n" or unicodedata.category(c) not in {"Cc", "Cs", "Zl", "Zp"} for c in safe)
    if text.isprintable():
        assert safe == text


def test_direction_marks_and_invisible_characters_are_shown() -> None:
    assert printable("a\u202eb\u200bc\x9bd\x7f") == "a\\u202eb\\u200bc\\x9bd\\x7f"


@pytest.mark.fault(39)
async def test_who_keeps_a_hooks_output_is_told_of_once_it_is_sure(shop: Shop, tmp_path: Path) -> None:
    told: list[tuple[str, Hook]] = []
    held_after = 0.1
    shop.runner = HookRunner(on_held=lambda model, hook: told.append((model, hook)), held_after=held_after)

    async def let_go_of_in_time(script: str, model: str) -> None:
        """Whom it leaves behind has no hold of its output before it counts; if it has, on a busy machine, once more."""
        while True:
            told.clear()
            begun = time.monotonic()
            await shop.run(script, model=model)
            await until(lambda: shop.runner.background == 0)
            if time.monotonic() < begun + held_after:
                return

    await shop.run("true", model="clean")
    await let_go_of_in_time(f"setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $! > {tmp_path}/one", "detached")
    await let_go_of_in_time("sleep 0.01 & exit 0", "brief")
    await shop.run(f"sleep 300 & echo $! > {tmp_path}/two; exit 1", model="failed")
    await shop.run(f"sleep 300 & echo $! > {tmp_path}/three", model="careless")
    for name in ("one", "two", "three"):
        await shop.pid_from(tmp_path / name)
    await until(lambda: ("careless", Hook.WAKE) in told)
    assert told == [("careless", Hook.WAKE)]
