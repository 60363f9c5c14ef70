"""``llmux replay`` as a user meets it, and the event log of the real process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

from llmux import Config
from llmux.core import ConfigChanged, CoreSettings, ModelSpec
from llmux.eventlog import entries, observed
from llmux.eventlog.format import PolicyNote, event_line, gap_line, header_line
from llmux.eventlog.story import Teller
from llmux.messages import Arrived, HookEnded
from llmux.testing import SimulatedBackend
from tests.e2e.conftest import DEADLINE, llmux_process
from tests.eventlog.conftest import events, header, records, turns

KEY, PROMPT, SAID, SECRET = "sk-canary-key", "canary-prompt", "canary-that-a-hook-printed", "canary-environment"


def replay(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmux", "replay", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, encoding="utf-8", timeout=DEADLINE)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_story(tmp_path: Path) -> None:
    log = turns().write(tmp_path / "log")
    done = replay(log, "--model", "b", "--last", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(Teller("b").tell(entries([log])))[-3:]
    assert "wake of a ends" in done.stdout  # it ends the switch from b


@pytest.mark.parametrize("last", [(), ("--last", "1")])
def test_the_story_of_a_model_that_is_not_in_it(tmp_path: Path, last: tuple[str, ...]) -> None:
    done = replay(turns().write(tmp_path / "log"), "--model", "bb", *last)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "llmux: there is no model 'bb' in it; there is a, b\n"


def test_the_story_of_a_model_that_a_later_configuration_brings(tmp_path: Path) -> None:
    log = turns()
    later = CoreSettings(models=(ModelSpec("a"), ModelSpec("late")))
    log.lines.append(event_line(100.0, ConfigChanged(later), []))
    done = replay(log.write(tmp_path / "log"), "--model", "late")
    assert done.returncode == 0, done.stderr
    header, only = done.stdout.splitlines()
    assert header.startswith("== run ")
    assert "the configuration changes: models a, late" in only


def test_equal(tmp_path: Path) -> None:
    log = turns().write(tmp_path / "log")
    done = replay("--check", log)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"equal: {len(turns().lines) - 1} events, ")


def test_equal_as_far_as_it_can_be_checked(tmp_path: Path) -> None:
    log = turns()
    log.lines.insert(4, gap_line(1.0, 2))
    done = replay("--check", log.write(tmp_path / "log"))
    assert done.returncode == 0
    assert "2 events are missing" in done.stdout
    assert f"not checked: {len(log.lines) - 5} events" in done.stdout


def test_different(tmp_path: Path) -> None:
    log = turns()
    log.lines = [line.replace(b'"waited":4.0', b'"waited":4.5') for line in log.lines]
    done = replay("--check", log.write(tmp_path / "log"))
    assert done.returncode == 1
    number = next(n for n, line in enumerate(log.lines, 1) if b'"waited":4.5' in line)
    assert f"different: at {tmp_path / 'log'}:{number}, after {number - 2} events" in done.stdout
    assert '"waited":4.5' in done.stdout
    assert '"waited":4.0' in done.stdout
    assert "wake of a ends: ok after 4.000 s" in done.stdout
    assert "recorded by llmux 1.2.3" in done.stdout


@pytest.mark.parametrize("check", [(), ("--check",)])
def test_unreadable(tmp_path: Path, check: tuple[str, ...]) -> None:
    log = turns()
    log.lines[3] = b'{"at": "noon"}'
    done = replay(*check, log.write(tmp_path / "log"))
    assert done.returncode == 2
    assert f"{tmp_path / 'log'}:4: " in done.stderr
    missing = replay(*check, tmp_path / "missing")
    assert missing.returncode == 2
    assert "No such file" in missing.stderr
    assert "Traceback" not in done.stderr + missing.stderr


def test_nothing_to_check(tmp_path: Path) -> None:
    log = turns()
    log.lines[0] = header_line(header(part=3))
    done = replay("--check", log.write(tmp_path / "log"))
    assert done.returncode == 2
    assert "begins in the middle of a run" in done.stdout
    assert "nothing could be checked" in done.stderr


def test_a_file_cannot_have_anything_imported(tmp_path: Path) -> None:
    """A log from a stranger names a class, and llmux would call it."""
    log = turns()
    canary = tmp_path / "canary"
    policy = PolicyNote("subprocess:Popen", {"args": ["touch", str(canary)]})
    log.lines[0] = header_line(msgspec.structs.replace(header(), policy=policy))
    path = log.write(tmp_path / "log")
    done = replay("--check", path)
    assert done.returncode == 2
    assert "--trust-policy" in done.stderr
    assert not canary.exists()
    trusted = replay("--check", path, "--trust-policy")
    assert trusted.returncode == 2
    assert "is no policy" in trusted.stderr


# --- the process ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_killed_process_leaves_a_log_that_replays(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    talk = f"echo {SAID}; echo {SAID} >&2"
    async with SimulatedBackend("a").serving() as (_, port):
        models = {
            "a": {"port": port, "wake": talk, "sleep": talk, "alive": "false"},
            "b": {"port": port, "wake": talk, "sleep": talk, "alive": "false"},
            "c": {"port": port, "wake": f"{talk}; exit 3", "sleep": "true", "alive": "false"},
        }
        config = {"models": models, "event_log": log.name, "policy": {"name": "drain-first", "max_wait_secs": 1}}
        await asyncio.to_thread((tmp_path / "config.json").write_text, json.dumps(config))
        arguments = ("-c", str(tmp_path / "config.json"), "-p", "0")
        async with llmux_process(*arguments, cwd=Path("/"), LLMUX_CANARY=SECRET) as server:
            async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:

                async def ask(model: str) -> int:
                    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
                    headers = {"Authorization": f"Bearer {KEY}"}
                    response = await client.post("/v1/chat/completions", json=body, headers=headers)
                    return response.status_code

                for models_asked in ("aab", "bba", "aca", "b"):
                    statuses = await asyncio.gather(*map(ask, models_asked))
                    assert statuses == [503 if model == "c" else 200 for model in models_asked]
            async with asyncio.timeout(DEADLINE):
                while await asyncio.to_thread(lambda: log.read_bytes().count(b'"Finished"')) < 9:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # another process writes the file, and tells nobody
            server.process.send_signal(signal.SIGKILL)
            await server.process.wait()
    done = await asyncio.to_thread(replay, "--check", log)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("equal: ")
    text = await asyncio.to_thread(log.read_text)
    for canary in (KEY, PROMPT, SAID, SECRET, "Bearer", "/v1/"):
        assert canary not in text
    found = await asyncio.to_thread(records, log)
    assert sum(isinstance(event, Arrived) for event in events(found)) == 10
    failed = [event for event in events(found) if isinstance(event, HookEnded) and event.exit_code == 3]
    assert len(failed) == 1
    day = await asyncio.to_thread(observed, log)
    assert [arrival.model for arrival in day.arrivals].count("c") == 1
    assert set(day.hooks.wakes) == {"a", "b", "c"}


@pytest.mark.anyio
async def test_stopping_writes_everything(tmp_path: Path) -> None:
    models = {"a": {"port": 1, "wake": "true", "sleep": "true", "alive": "false"}}
    config = tmp_path / "config.json"
    await asyncio.to_thread(config.write_text, json.dumps({"models": models, "event_log": "log"}))
    async with llmux_process("-c", str(config), "-p", "0") as server:
        assert await server.stop() == 0
    lines = await asyncio.to_thread((tmp_path / "log").read_text)
    assert lines.splitlines()[-1].endswith('{"type":"Stopped"}]}')


@pytest.mark.anyio
async def test_a_log_that_cannot_be_opened_is_a_failure_to_start(tmp_path: Path) -> None:
    models = {"a": {"port": 1, "wake": f"touch {tmp_path}/ran", "sleep": "true", "alive": f"touch {tmp_path}/ran"}}
    config = tmp_path / "config.json"
    await asyncio.to_thread(config.write_text, json.dumps({"models": models, "event_log": "missing/log"}))
    command = [sys.executable, "-m", "llmux", "-c", str(config), "-p", "0"]
    done = await asyncio.to_thread(
        subprocess.run, command, check=False, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 1
    assert "missing/log" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


# --- the configuration ----------------------------------------------------------------------------------------------


def test_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("models: {}\nevent_log: logs/events.jsonl\nevent_log_max_bytes: 1MiB\nevent_log_keep: 7\n")
    config = Config.from_file(path)
    assert config.event_log_path == tmp_path / "logs" / "events.jsonl"
    assert (config.event_log_max_bytes, config.event_log_keep) == (2**20, 7)
    assert Config(models={}, event_log="/x").event_log_path == Path("/x")
    assert Config(models={}, event_log="x").event_log_path == Path("x")
    assert Config(models={}).event_log_path is None


@pytest.mark.parametrize("name", ["", ".", "a/..", "a\0b", "a\nb"])
def test_what_is_no_file(name: str) -> None:
    with pytest.raises(ValueError, match="event_log"):
        Config(models={}, event_log=name)


def test_files_in_any_order(tmp_path: Path) -> None:
    lines = turns().lines
    paths = [tmp_path / "log", tmp_path / "log.1"]
    paths[1].write_bytes(b"\n".join(lines[:5]) + b"\n")
    paths[0].write_bytes(b"\n".join([header_line(header(part=1)), *lines[5:]]))
    assert next(entry.file for entry in entries(paths)) == os.fspath(paths[1])
    assert replay("--check", *paths).returncode == 0


def test_the_log_in_the_documents(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "event-log.md").read_text(encoding="utf-8")
    lines = text.partition("```jsonl\n")[2].partition("```")[0]
    (tmp_path / "log").write_text(lines, encoding="utf-8")
    told = replay(tmp_path / "log")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [
        "== run 5c1f begins: llmux 3.0.0, policy fifo, models llama ==",
        "2026-01-01 00:00:09.250  request 1 for llama arrives → switch 3 from idle to llama begins; run wake of llama",
        "2026-01-01 00:00:15.500  wake of llama ends: ok after 6.250 s → grant request 1 after 6.250 s",
        "2026-01-01 00:00:16.750  request 1 for llama ends",
        "2026-01-01 00:00:19.750  -- 12 events are missing --",
    ]
