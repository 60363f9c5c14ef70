"""The scripts, run as llmux runs them: sh -c, a real process, a real port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llmux.testing.hooks import HookScripts, backend_hooks, server_hooks
from tests.eventlog.conftest import wait_until
from tests.hooks.conftest import alive


def sh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def port() -> Iterator[int]:
    """A port for a server to listen at, and that nobody else is given meanwhile."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # who says so too may listen, if we do not
        kept.bind(("127.0.0.1", 0))
        yield int(kept.getsockname()[1])


@pytest.fixture
def hooks(port: int, tmp_path: Path) -> Iterator[HookScripts]:
    made = backend_hooks("al'pha", port=port, directory=tmp_path, load_secs=0.2, tokens=3, sleep_mode=True)
    yield made
    sh(made.sleep)


def pid_of(directory: Path) -> int:
    (file,) = directory.glob("*.pid")
    return int(file.read_text())


def ask(port: int, path: str, body: bytes | None = None) -> str:
    return httpx.request(
        "GET" if body is None else "POST", f"http://127.0.0.1:{port}{path}", content=body, timeout=20, trust_env=False
    ).text


def test_wake_is_ready_to_serve_and_sleep_leaves_nothing(hooks: HookScripts, port: int, tmp_path: Path) -> None:
    assert sh(hooks.alive).returncode != 0
    assert sh(hooks.wake).returncode == 0
    assert sh(hooks.alive).returncode == 0
    answer = json.loads(ask(port, "/v1/chat/completions", b'{"messages": [{"role": "user", "content": "hi"}]}'))
    assert answer["choices"][0]["message"]["content"] == "al'pha heard: hi"
    assert json.loads(ask(port, "/is_sleeping")) == {"is_sleeping": False}
    pid = pid_of(tmp_path)
    assert sh(hooks.sleep).returncode == 0
    assert not alive(pid)
    assert sh(hooks.alive).returncode != 0
    assert not list(tmp_path.glob("*.pid"))


def test_all_of_it_may_be_run_twice(hooks: HookScripts, tmp_path: Path) -> None:
    assert sh(hooks.sleep).returncode == 0
    assert sh(hooks.wake).returncode == 0
    pid = pid_of(tmp_path)
    assert sh(hooks.wake).returncode == 0
    assert pid_of(tmp_path) == pid
    assert sh(hooks.sleep).returncode == 0
    assert sh(hooks.sleep).returncode == 0


def test_a_crashed_server_is_started_anew(hooks: HookScripts, tmp_path: Path) -> None:
    assert sh(hooks.wake).returncode == 0
    pid = pid_of(tmp_path)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))  # or it may look as if it ran
    assert sh(hooks.wake).returncode == 0
    assert pid_of(tmp_path) != pid
    assert sh(hooks.alive).returncode == 0


def test_the_server_has_a_session_of_its_own_and_none_of_our_pipes(hooks: HookScripts, tmp_path: Path) -> None:
    woken = sh(hooks.wake)  # would not return if the server held its output
    assert woken.returncode == 0
    pid = pid_of(tmp_path)
    assert os.getsid(pid) != os.getsid(0)


def test_a_stale_pid_file_is_not_believed(tmp_path: Path, port: int) -> None:
    hooks = backend_hooks("alpha", port=port, directory=tmp_path)
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        (tmp_path / f"backend-{port}.pid").write_text(f"{bystander.pid}\n")
        assert sh(hooks.sleep).returncode == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_server_that_cannot_start_fails_the_wake_and_says_why(tmp_path: Path, port: int) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such weights')", "a-mark"]
    hooks = server_hooks(command, port=port, directory=tmp_path, name="broken", mark="a-mark")
    woken = sh(hooks.wake)
    assert woken.returncode != 0
    assert "no such weights" in woken.stderr


def test_a_server_that_ignores_term_is_killed_in_the_end(tmp_path: Path, port: int) -> None:
    code = (
        "import http.server, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    command = [sys.executable, "-c", code, str(port), "deaf-server"]
    hooks = server_hooks(command, port=port, directory=tmp_path, name="deaf", mark="deaf-server", kill_after_secs=0.5)
    assert sh(hooks.wake).returncode == 0
    assert sh(hooks.sleep).returncode == 0
    assert sh(hooks.alive).returncode != 0


def test_sigterm_ends_the_process_in_mid_stream(hooks: HookScripts, port: int) -> None:
    assert sh(hooks.wake).returncode == 0
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        fault = b'{"kind": "hang"}'
        ask(port, "/_script", fault)
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        wait_until(lambda: "/v1/completions" in ask(port, "/_requests"))
        assert sh(hooks.sleep).returncode == 0
        client.settimeout(20)
        assert client.recv(100) == b""
