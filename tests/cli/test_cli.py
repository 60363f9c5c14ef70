"""The command line as a user meets it: a process, its exit status, what it prints, what it leaves undone."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

from llmux.cli.commands import demo
from llmux.demo import DemoOptions
from tests.ports import free_port

LLMUX = (sys.executable, "-c", "from llmux.cli import main; main()")
DEADLINE = 30.0


def llmux(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LLMUX, *arguments], cwd=cwd, check=False, text=True, capture_output=True, timeout=DEADLINE)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """One model, whose hooks leave a mark when they run. Its backend is nowhere."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
models:
  only:
    port: 1
    wake: echo wake >> {tmp_path}/hooks
    sleep: echo sleep >> {tmp_path}/hooks
    alive: echo alive >> {tmp_path}/hooks; exit 1
port: 0
""",
        encoding="utf-8",
    )
    return path


def hooks_run(config: Path) -> list[str]:
    log = config.parent / "hooks"
    return log.read_text().split() if log.exists() else []


class Server:
    """A serving process, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self.process = process
        self._log = log
        self.lines: list[str] = []
        self.url = re.findall(r"http://[\w.]+:\d+", self.wait_for("listening"))[0]

    def wait_for(self, text: str) -> str:
        """The first line from here on that has `text` in it."""
        for line in self._log:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"no line with {text!r} in:\n{''.join(self.lines)}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@contextmanager
def serving(*arguments: str, cwd: Path | None = None, prefix: tuple[str, ...] = ()) -> Iterator[Server]:
    process = subprocess.Popen(
        [*prefix, *LLMUX, *arguments], cwd=cwd, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        assert process.stderr is not None
        yield Server(process, process.stderr)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


# --- without serving -------------------------------------------------------------------------------------------------


def test_version() -> None:
    result = llmux("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"llmux \d+\.\d+\S*\n", result.stdout)


def test_the_version_does_not_wait_for_what_only_serving_needs() -> None:
    script = (
        "import sys\n"
        "from llmux.cli import main\n"
        "sys.argv = ['llmux', '--version']\n"
        "try: main()\n"
        "finally: print([name for name in sys.modules if name in "
        "('pydantic', 'uvloop', 'starlette', 'uvicorn', 'prometheus_client', 'structlog', 'asyncio')])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], check=False, text=True, capture_output=True, timeout=DEADLINE
    )
    assert result.stdout.splitlines()[1] == "[]"


def test_serving_starts_without_the_first_scrapes_and_the_tests_imports() -> None:
    script = "import sys, llmux.serve, llmux.app, llmux.control.app, llmux.control.server; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], check=True, text=True, capture_output=True)
    assert not {"prometheus_client", "llmux.testing", "llmux.demo", "httpx"} & set(result.stdout.split())


def test_help_names_every_command() -> None:
    result = llmux("--help")
    assert result.returncode == 0
    for word in ("serve", "schema", "demo", "backend", "--config", "--port", "--verbose", "--version"):
        assert word in result.stdout


def test_help_begins_with_what_comes_first() -> None:
    words = [line.split()[1] for line in llmux("--help").stdout.splitlines() if line.startswith("│ ")]
    places = [words.index(command) for command in ("serve", "init", "check", "demo", "simulate", "status")]
    assert places == sorted(places)


@pytest.mark.parametrize("command", ["", "check", "hook run", "replay", "init", "demo", "simulate"])
def test_help_shows_no_types_of_flags_and_arguments(command: str) -> None:
    result = llmux(*command.split(), "--help")
    assert result.returncode == 0
    types = {"<bool>", "<str>", "<list[Path]>", "<float>", "<int>", "<int", "<path>"}
    assert not types & set(result.stdout.split())


def test_a_wrong_choice_is_told_in_plain_words() -> None:
    result = llmux("hook", "run", "llama", "wak")
    assert result.returncode == 2
    assert "'wak' is not one of" in result.stderr
    assert "Value error" not in result.stderr


def test_the_schema_is_json_and_knows_the_contracts_keys() -> None:
    result = llmux("schema")
    assert result.returncode == 0
    assert {"models", "policy", "port", "host"} <= set(json.loads(result.stdout)["properties"])


def test_the_demos_defaults_are_those_of_its_options() -> None:
    offered = {name: parameter.default for name, parameter in inspect.signature(demo).parameters.items()}
    assert DemoOptions(dir=offered.pop("folder"), serve=offered.pop("stay"), **offered) == DemoOptions()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("-p", "70000"),
        ("-p", "many"),
        ("serve", "-p", "-1"),
        ("--log-format", "xml"),
        ("-c",),
        ("serve", "extra"),
        ("-p", "1", "schema"),
        ("backend", "--nonsense"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = llmux(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [("-c", "{}"), ("serve", "--config", "{}")])
def test_a_bad_config_is_refused_with_all_its_faults(arguments: tuple[str, ...], config: Path) -> None:
    text = config.read_text().replace("port: 1", "prot: 1").replace("port: 0", "port: none\npolcy: {}")
    config.write_text(text, encoding="utf-8")
    result = llmux(*(argument.format(config) for argument in arguments))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for fault in ("models.only.prot", "polcy", "port"):
        assert fault in result.stderr
    assert re.search(rf"{re.escape(str(config))}:\d+", result.stderr)
    assert hooks_run(config) == []


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    result = llmux(cwd=tmp_path)
    assert result.returncode == 2
    assert "config.yaml" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("{name: 'no_such_module:Policy'}", "'no_such_module:Policy' cannot be imported"),
        ("{name: 'llmux.policy:FifoPolicy', speed: 1}", "could not be made: .*no arguments"),
    ],
)
def test_a_policy_that_cannot_be_made_is_a_bad_config(policy: str, told: str, config: Path) -> None:
    config.write_text(config.read_text().rstrip("\n") + f"\npolicy: {policy}\n", encoding="utf-8")
    line = config.read_text().count("\n")
    result = llmux("-c", str(config))
    assert result.returncode == 2
    assert re.search(rf"{re.escape(str(config))}:{line}: policy.name: policy .*{told}", result.stderr)
    assert "Traceback" not in result.stderr
    assert hooks_run(config) == []


def test_a_port_in_use_is_one_line_and_no_hook_runs(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = llmux("-c", str(config), "-p", str(port))
    assert result.returncode == 1
    assert re.fullmatch(rf"llmux: cannot listen on 127\.0\.0\.1:{port}: .*in use\n", result.stderr)
    assert hooks_run(config) == []


def test_an_address_of_another_machine_is_refused(config: Path) -> None:
    result = llmux("-c", str(config), "--host", "192.0.2.1")  # RFC 5737: nobody's
    assert result.returncode == 1
    assert result.stderr.startswith("llmux: cannot listen on 192.0.2.1:0: ")
    assert result.stderr.count("\n") == 1


# --- serving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("-c", "{}"), ("serve", "-c", "{}"), ("-c", "{}", "serve"), ()])
def test_it_serves_and_stops(arguments: tuple[str, ...], config: Path) -> None:
    with serving(*(argument.format(config) for argument in arguments), cwd=config.parent) as server:
        assert get(f"{server.url}/health").json()["status"] == "ok"
        assert [model["id"] for model in get(f"{server.url}/v1/models").json()["data"]] == ["only"]
        assert "llmux_request_queue_depth" in get(f"{server.url}/metrics").text
        assert server.stop() == 0


@pytest.mark.parametrize("before", [True, False])
def test_the_port_of_the_command_line_wins(config: Path, before: bool) -> None:
    port = str(free_port())
    config.write_text(config.read_text().replace("port: 0", "port: 1"), encoding="utf-8")
    arguments = (
        ("-p", port, "serve", "-c", str(config)) if before else ("-p", "1", "serve", "-c", str(config), "-p", port)
    )
    with serving(*arguments) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        assert server.stop(signal.SIGINT) == 0


def test_the_host_of_the_command_line_wins(config: Path) -> None:
    with serving("-c", str(config), "--host", "localhost") as server:
        port = server.url.rpartition(":")[2]
        assert get(f"http://localhost:{port}/health").status_code == 200


def test_a_public_address_is_warned_about(config: Path) -> None:
    with serving("-c", str(config), "--host", "0.0.0.0") as server:
        assert "set `api_keys`" in server.wait_for("public_bind")
        assert server.stop() == 0


def test_the_log_is_json_lines_unless_on_a_terminal(config: Path) -> None:
    with serving("-c", str(config)) as server:
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopped")
    events = [json.loads(line) for line in server.lines]
    assert all({"event", "level", "timestamp"} <= event.keys() for event in events)


def test_text_on_request_and_more_of_it(config: Path) -> None:
    with serving("-c", str(config), "--log-format", "text", "-v") as server:
        assert "[debug" in server.wait_for("hook_failed")  # the alive hook's "no"
        with pytest.raises(json.JSONDecodeError):
            json.loads(server.lines[0])


def test_it_serves_without_stderr(config: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *LLMUX, "-c", str(config), "-p", str(port)]
    )
    try:
        response = eventually_get(f"http://127.0.0.1:{port}/metrics")
        dropped = re.search(r"^llmux_log_dropped_total (\S+)$", response.text, re.MULTILINE)
        assert dropped is not None
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_it_serves_when_the_logs_disk_is_full(config: Path) -> None:
    port = free_port()
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = subprocess.Popen([*LLMUX, "-c", str(config), "-p", str(port)], stderr=full)
    try:
        eventually_get(f"http://127.0.0.1:{port}/health")
        response = get(f"http://127.0.0.1:{port}/metrics")
        dropped = re.search(r"^llmux_log_dropped_total (\S+)$", response.text, re.MULTILINE)
        assert dropped is not None
        assert float(dropped[1]) >= 1
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=DEADLINE)


def eventually_get(url: str) -> httpx.Response:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return get(url)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_a_second_signal_ends_at_once(config: Path, tmp_path: Path) -> None:
    """Its wake hook would take for ever, and so would the request that waits for it."""
    config.write_text(
        config.read_text()
        .replace(f"echo wake >> {tmp_path}/hooks", f"echo $$ > {tmp_path}/pid; trap '' TERM; sleep 1000 & wait; wait")
        .replace("port: 0", "port: 0\nshutdown_grace_secs: 1000\nhook_timeout_secs: {wake: null}"),
        encoding="utf-8",
    )
    pid_file = tmp_path / "pid"
    with serving("-c", str(config)) as server:
        client = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
        body = b'{"model": "only"}'
        client.sendall(b"POST /v1/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        deadline = time.monotonic() + DEADLINE
        while not (pid_file.exists() and pid_file.read_text().strip()):
            assert time.monotonic() < deadline, "the wake hook did not start"
            time.sleep(0.02)
        hook = int(pid_file.read_text())
        server.process.send_signal(signal.SIGTERM)
        server.wait_for('"stopping"')
        assert server.stop() == 128 + signal.SIGTERM
        client.close()
    deadline = time.monotonic() + DEADLINE
    while group_alive(hook):
        assert time.monotonic() < deadline, "the hook's processes outlived llmux"
        time.sleep(0.02)


def group_alive(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def test_the_simulated_backend_is_a_command() -> None:
    process = subprocess.Popen([*LLMUX, "backend", "--port", "0", "--model", "m"], text=True, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        url = re.findall(r"http://\S+:\d+", process.stderr.readline())[0]
        assert get(f"{url}/v1/models").json()["data"][0]["id"] == "m"
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
