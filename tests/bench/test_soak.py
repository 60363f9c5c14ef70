"""The soak's plan, its shadow of who holds memory, and its judge, which must be strict; and a short run of it all."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.docs.documents import ROOT

sys.path.insert(0, str(ROOT))
diary, judge, planned, report, shadow, usage = (
    importlib.import_module(f"bench.soak.{name}") for name in ("diary", "judge", "plan", "report", "shadow", "usage")
)
DEVICES = {"left": frozenset({"gpu0"}), "right": frozenset({"gpu1"}), "both": frozenset({"gpu0", "gpu1"})}


def verdict_on(*ends: Any, log: Any = None, deeds: Any = (), notes: Any = (), waits: float = 60.0) -> Any:
    found = judge.Judge(log or diary.Diary(), notes, deeds, DEVICES, waits=waits, offset=0.0)
    return found.judge(ends)


def end(code: str, at: float, model: str = "left", *, status: int = 503, began: float | None = None) -> Any:
    return judge.End(model, "a question", at if began is None else began, at, "refused", status, code)


def log_of(tmp_path: Path, *entries: dict[str, Any]) -> Any:
    head = {"llmux_event_log": 1, "run": "1", "part": 0, "started": 1000.0, "epoch": 1000.0}
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in (head, *entries)) + '{"at": 1')
    return diary.read_diary(tmp_path / "events.jsonl")


def wake(began: float, ended: float, outcome: str, run_id: int = 1) -> list[dict[str, Any]]:
    run = {"type": "RunHook", "run_id": run_id, "model": "left", "hook": "wake"}
    over = {"type": "HookEnded", "run_id": run_id, "outcome": outcome}
    return [
        {"at": began, "event": {"type": "Arrived"}, "effects": [run]},
        {"at": ended, "event": over, "effects": []},
    ]


def step(at: float, old: str, new: str, model: str = "left") -> dict[str, Any]:
    changed = {"type": "StateChanged", "model": model, "old": old, "new": new, "cause": ""}
    return {"at": at, "event": {"type": "TimerFired"}, "effects": [changed]}


# --- the plan --------------------------------------------------------------------------------------------------------


def test_a_seed_makes_the_same_plan_and_another_seed_another() -> None:
    def made(seed: int) -> Any:
        return planned.plan(seed, 600.0, ["a", "b"], every=5.0, restart_every=120.0)

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_every_kind_of_trouble_comes_in_an_hour_and_none_in_the_last_seconds() -> None:
    made = planned.plan(1, 3600.0, ["a", "b"], every=5.0, restart_every=240.0)
    assert {trouble.kind for trouble in made} == {*planned.KINDS, "kill llmux"}
    assert {trouble.detail for trouble in made if trouble.kind == "fault"} == set(planned.FAULTS)
    assert max(trouble.at for trouble in made) < 3580


# --- the judge -------------------------------------------------------------------------------------------------------


def test_what_nobody_has_caused_is_unexplained() -> None:
    found = verdict_on(end("backend_error", 10.0, status=502), end("no_such_code", 11.0))
    assert len(found.unexplained) == 2


def test_a_killed_backend_explains_what_it_cut_until_its_model_was_put_to_sleep(tmp_path: Path) -> None:
    log = log_of(tmp_path, step(12.0, "sleeping", "asleep"))
    killed = judge.Deed("kill", "left", "", 10.0)
    cut = verdict_on(end("backend_error", 10.5, status=502), end("broken", 12.5, status=0), log=log, deeds=[killed])
    assert not cut.unexplained
    assert cut.table["502 backend_error", "backend killed"] == 1
    before, late, other = end("broken", 9.0), end("broken", 13.5), end("broken", 10.5, "right")
    assert len(verdict_on(before, late, other, log=log, deeds=[killed]).unexplained) == 3


def test_a_fault_of_one_request_explains_one() -> None:
    fault = judge.Deed("fault", "left", "die", 10.0)
    found = verdict_on(end("backend_error", 11.0), end("backend_error", 12.0), deeds=[fault])
    assert len(found.unexplained) == 1
    assert len(verdict_on(end("as scripted", 11.0), deeds=[fault]).unexplained) == 1  # that takes another fault


def test_a_failed_wake_explains_its_refusals_only_if_the_run_took_trouble(tmp_path: Path) -> None:
    log = log_of(tmp_path, *wake(10.0, 11.0, "failed"), *wake(13.0, 14.0, "ok", 2), step(14.0, "waking", "awake"))
    refused = [end("hook_failed", 11.1), end("model_backoff", 12.0)]
    took = shadow.Note(10.2, "left", "wake", "trouble", "fail")
    assert not verdict_on(*refused, log=log, notes=[took]).unexplained
    found = verdict_on(*refused, log=log, notes=[shadow.Note(5.0, "left", "wake", "trouble", "fail")])
    assert len(found.unexplained) == 2
    assert len(found.hooks) == 1
    late = [end("model_backoff", 14.5), end("hook_failed", 13.0), end("hook_failed", 11.1, "both")]
    assert len(verdict_on(*late, log=log, notes=[took]).unexplained) == 3


def test_lost_memory_explains_refusals_of_those_who_share_it_until_it_is_found(tmp_path: Path) -> None:
    sleep = {"type": "RunHook", "run_id": 1, "model": "left", "hook": "sleep"}
    lost = {"type": "SleepFailed", "model": "left", "to_model": "both", "detail": "", "lost": True}
    log = log_of(
        tmp_path,
        {"at": 10.0, "event": {"type": "TimerFired"}, "effects": [sleep]},
        {"at": 11.0, "event": {"type": "HookEnded", "run_id": 1, "outcome": "failed"}, "effects": [lost]},
        step(11.0, "sleeping", "lost"),
        step(15.0, "lost", "asleep"),
    )
    took = shadow.Note(10.2, "left", "sleep", "trouble", "fail")
    sharing = [end("hook_failed", 11.0, "both"), end("device_lost", 14.0, "both"), end("device_lost", 12.0)]
    assert not verdict_on(*sharing, log=log, notes=[took]).unexplained
    wrong = [end("device_lost", 12.0, "right"), end("device_lost", 17.0, "both")]
    assert len(verdict_on(*wrong, log=log, notes=[took]).unexplained) == 2


def test_a_death_that_nobody_caused_is_told_and_explains_nothing(tmp_path: Path) -> None:
    died = {"type": "ModelDied", "model": "left", "detail": "its alive hook failed"}
    log = log_of(tmp_path, {"at": 10.0, "event": {"type": "TimerFired"}, "effects": [died]}, step(12.0, "a", "asleep"))
    found = verdict_on(end("broken", 11.0), log=log)
    assert (len(found.deaths), len(found.unexplained)) == (1, 1)
    took = shadow.Note(9.0, "left", "alive", "trouble", "fail")
    found = verdict_on(end("broken", 11.0), log=log, notes=[took])
    assert (found.deaths, found.unexplained) == ([], [])


def test_a_kill_of_llmux_explains_broken_connections_until_it_listens_again() -> None:
    killed = judge.Deed("kill llmux", "", "", 10.0, 12.0)
    inside = [end("broken", 10.1), end("connect", 11.0, "right")]
    assert not verdict_on(*inside, deeds=[killed]).unexplained
    outside = [end("connect", 13.5), end("backend_error", 11.0)]
    assert len(verdict_on(*outside, deeds=[killed]).unexplained) == 2


def test_a_wait_that_was_too_long_needs_trouble_for_half_of_it() -> None:
    drained = [judge.Deed("drain", "left", "", 0.0, 20.0), judge.Deed("drain", "left", "", 10.0, 31.0)]
    waited = end("queue_timeout", 60.0, status=504, began=0.0)
    assert not verdict_on(waited, deeds=drained).unexplained
    assert len(verdict_on(waited, deeds=drained[:1]).unexplained) == 1


# --- the shadow ------------------------------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path) -> Path:
    for device in ("gpu0", "gpu1"):
        (tmp_path / "held" / device).mkdir(parents=True)
    return tmp_path


def run_hook(box: Path, model: str, hook: str, script: str, devices: str = "gpu0") -> subprocess.CompletedProcess[str]:
    text = shadow.shadowed(script, hook, box=box, model=model, devices=["gpu0", "gpu1"], pid_file=box / f"{model}.pid")
    names = {"LLMUX_MODEL": model, "LLMUX_HOOK": hook, "LLMUX_DEVICES": devices}
    command = ["sh", "-c", text]
    return subprocess.run(command, env={**os.environ, **names}, capture_output=True, text=True, timeout=20, check=False)


def server(box: Path, model: str) -> subprocess.Popen[bytes]:
    """Something that holds the memory, and looks like a simulated backend."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "llmux.testing"])
    (box / f"{model}.pid").write_text(str(process.pid))
    return process


def said(box: Path) -> list[str]:
    return [f"{note.model} {note.what} {note.detail}".strip() for note in shadow.read_notes(box / "shadow.log")]


def test_a_wake_while_another_holds_the_device_is_an_overlap(box: Path) -> None:
    holder = server(box, "a")
    try:
        assert run_hook(box, "a", "wake", "true").returncode == 0
        assert run_hook(box, "b", "wake", "true", "gpu1").returncode == 0  # another device
        assert run_hook(box, "c", "wake", "true").returncode == 0
        assert said(box) == ["a claim gpu0", "b claim gpu1", "c overlap gpu0 a", "c claim gpu0"]
    finally:
        holder.kill()
        holder.wait()


def test_a_server_that_is_gone_or_was_put_to_sleep_holds_nothing(box: Path) -> None:
    holder = server(box, "a")
    run_hook(box, "a", "wake", "true")
    holder.kill()
    holder.wait()
    assert run_hook(box, "b", "wake", "true").returncode == 0
    holder = server(box, "b")
    try:
        assert run_hook(box, "b", "sleep", "true").returncode == 0
        assert run_hook(box, "a", "wake", "true").returncode == 0
    finally:
        holder.kill()
        holder.wait()
    assert said(box) == ["a claim gpu0", "b claim gpu0", "b free", "a claim gpu0"]


def test_a_sleep_that_failed_frees_nothing_and_trouble_is_taken_once(box: Path) -> None:
    (box / "a.sleep.fail").touch()
    run_hook(box, "a", "wake", "true")
    assert run_hook(box, "a", "sleep", "true").returncode == 7
    assert (box / "held" / "gpu0" / "a").exists()
    assert run_hook(box, "a", "sleep", "true").returncode == 0
    assert not (box / "held" / "gpu0" / "a").exists()
    assert said(box) == ["a claim gpu0", "a trouble fail", "a free"]


def test_a_server_stays_where_it_is_though_its_wake_is_told_of_another_device(box: Path) -> None:
    holder = server(box, "a")
    try:
        run_hook(box, "a", "wake", "true")
        run_hook(box, "a", "wake", "true", "gpu1")
        assert said(box) == ["a claim gpu0", "a claim gpu0"]
    finally:
        holder.kill()
        holder.wait()


# --- growth, and all of it -------------------------------------------------------------------------------------------


def test_a_life_that_grows_too_much_is_told_and_how_fast() -> None:
    life = usage.Life(0.0)
    for number in range(40):
        life.take(number * 90.0, {"memory_mib": 50.0 + number, "descriptors": 40.0, "tasks": 5.0})
    assert usage.too_much(life) == ["memory_mib"]
    assert math.isclose(life.grown()["memory_mib"][2], 40.0)
    assert usage.Life(0.0).grown() is None


def test_what_a_life_used_at_its_start_and_its_end_is_shown() -> None:
    life = usage.Life(0.0)
    for number in range(40):
        life.take(number * 90.0, {"memory_mib": 50.0 + number, "descriptors": 40.0, "tasks": 5.0})
    box = SimpleNamespace(lives=[life, usage.Life(0.0)], ports={}, died=[])
    tally = SimpleNamespace(ends=Counter(right=9, lost=1), lost=["an answer"], minutes=Counter({0: 9}))
    chaos = SimpleNamespace(done=Counter(), skipped=Counter(), orders=Counter(), wrong=[])
    result = report.Result(box, tally, chaos, diary.Diary(), [], verdict_on(), 0, 1.0, 7)
    result.faults = result.find_faults()
    out = io.StringIO()
    result.show(Console(width=200, file=out))
    first, *lines = out.getvalue().splitlines()
    assert "requests 10, right 9, refused 0, cut 0, left 0, lost 1, unexplained 0" in first
    used = next(line for line in lines if line.startswith("│ 1 "))
    assert [cell.strip() for cell in used.split("│")[3:6]] == ["52.5 to 87.5", "40.0 to 40.0", "5.0 to 5.0"]
    assert "too short to tell" in next(line for line in lines if line.startswith("│ 2 "))
    assert "lost: an answer" in lines
    assert "life 1 has grown: memory_mib" in lines
    assert lines[-1] == "2 faults"


def test_a_short_soak_loses_nothing_and_explains_everything(tmp_path: Path) -> None:
    told = tmp_path / "result.json"
    command = [
        sys.executable,
        "-m",
        "bench.soak",
        "--minutes=0.4",
        "--seed=10",
        "--clients=6",
        "--trouble-every=2",
        "--margin=5",  # of this little, much may fall into a moment in which the machine does something else
        "--right=0.3",
        f"--json={told}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    result = json.loads(told.read_text()) if told.exists() else {}
    assert done.returncode == 0, done.stdout + done.stderr
    assert (result["lost"], result["unexplained"], result["overlaps"], result["faults"]) == (0, 0, 0, [])
    said = " ".join(done.stdout.split())
    for what in ("requests", "right", "refused", "cut", "left", "lost"):
        assert f", {what} {result[what]}," in said
    assert said.endswith(" no faults")
    assert result["right"] > 0
    assert result["wakes"] > 0
