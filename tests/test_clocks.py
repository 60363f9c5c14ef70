"""The wall clock may jump; nothing that llmux decides, waits for or measures may notice (row 56)."""

from __future__ import annotations

import ast
import itertools
import time
from pathlib import Path

import httpx
import pytest

import llmux
from llmux import Config, ModelConfig, PolicyConfig, build_app
from llmux.core import CoreEvent
from llmux.messages import Effect, Grant, SwitchEnded
from llmux.testing import SimulatedBackend

pytestmark = pytest.mark.fault(56)

#: Where the wall clock is read, and that is only written down for people: module to the function's name.
STAMPS = {
    ("accesslog.py", "done"),  # of a line
    ("control/admin/handlers.py", "__init__"),  # when llmux started
    ("control/admin/handlers.py", "_state"),  # when it was asked
    ("control/listing.py", "__init__"),  # `created` of the list of models
    ("eventlog/recorder.py", "__init__"),  # when the run began
    ("gateway/recorded.py", "_complete"),  # those of traces, which other programs' clocks are compared with
    ("gateway/recorded.py", "_waited_until_now"),
    ("gateway/recorded.py", "record_of"),
    ("telemetry/tracing.py", "_switch_ended"),
    ("telemetry/tracing.py", "_switch_started"),
    ("state.py", "_save"),  # when it was saved
    ("state.py", "save"),  # the same, of what operators ordered
    ("telemetry/telemetry.py", "config_taken"),  # a metric that is a time stamp
    ("testing/_answers.py", "_frame"),  # `created` of a simulated completion
}
WALL = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}


def test_the_wall_clock_is_read_for_time_stamps_only() -> None:
    root = Path(llmux.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    match node:
                        case ast.Call(func=ast.Attribute(value=ast.Name(id="time" | "datetime" | "date"), attr=attr)):
                            if attr in WALL:
                                found.add((path.relative_to(root).as_posix(), function.name))
    assert found == STAMPS


@pytest.mark.anyio
async def test_jumps_back_and_forth_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jumps = itertools.cycle([0.0, 1e9, 1.0, 4e9, 5e5])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    seen: list[CoreEvent | Effect] = []
    async with SimulatedBackend("m").serving() as (_, port):
        model = ModelConfig(port=port, wake="true", sleep="true", alive="false")
        config = Config(
            models={"a": model, "b": model},
            port=0,
            policy=PolicyConfig(request_timeout_secs=60, min_active_secs=0.01),
            alive_interval_secs=0,
            event_log=str(tmp_path / "events.jsonl"),
            state_dir=str(tmp_path),
        )
        app, switcher = await build_app(config)
        switcher.subscribe(lambda now, message: seen.append(message))
        async with (
            app.serving() as (host, bound),
            httpx.AsyncClient(base_url=f"http://{host}:{bound}", timeout=30) as client,
        ):
            for name in "abab":
                answer = await client.post("/v1/completions", json={"model": name, "prompt": "x"})
                assert answer.status_code == 200
            await app.reload(config.model_copy(update={"max_queue": 5}))
            assert (await client.get("/ready")).status_code == 200
    waits = [message.waited for message in seen if isinstance(message, Grant)]
    durations = [message.duration for message in seen if isinstance(message, SwitchEnded)]
    assert len(durations) == 4
    assert all(0 <= seconds < 30 for seconds in [*waits, *durations])
