"""What a command must not load, since whoever waits for it pays for it; and that whoever does not wait for typer is
understood as typer would have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmux.cli import commands
from llmux.cli.serving import LogFormat, ServeOptions, plainly

CONFIG = """
models:
  a: {port: 8001, wake: "true", sleep: "true", alive: "false"}
"""

PROBE = """
import sys
from llmux.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *[name for name in ("llmux.app", "llmux.driver", "llmux.gateway", "uvicorn") if name in sys.modules])
"""


@pytest.mark.parametrize("given", ["--help", "-c {} --generate poisson --seconds 20 --no-bound"])
def test_simulating_does_not_load_the_server(tmp_path: Path, given: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    command = [sys.executable, "-c", PROBE, "simulate", *given.format(config).split()]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.splitlines()[-1] == "LOADED"


SERVING = """
import os, sys
def hook(event, _):
    if event == "socket.bind":
        print(*sys.modules)
        import llmux.app
        print(*sys.modules, flush=True)
        os._exit(0)
sys.addaudithook(hook)
from llmux.cli import main
main()
"""
"""Prints what is loaded when the first socket is bound, and when all is loaded that serving a model needs."""

#: Other commands, the control plane, tests, drawings and exporters; and what other formats and options need.
NOT_FOR_SERVING = {
    *("typer", "click", "rich", "pygments", "matplotlib", "httpx", "starlette", "uvicorn", "prometheus_client"),
    *("watchfiles", "opentelemetry", "jsonschema", "anyio"),
    *("llmux.sim", "llmux.report", "llmux.testing", "llmux.demo", "llmux.cli.commands", "llmux.control.app"),
}


@pytest.mark.parametrize("serve", [[], ["serve"]])
def test_serving_loads_nothing_that_it_does_not_need_at_first(tmp_path: Path, serve: list[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"models": {"a": {"port": 8001, "wake": "true", "sleep": "true", "alive": "false"}}}')
    command = [sys.executable, "-c", SERVING, *serve, "-c", str(config), "-p", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    bound, serving = (set(line.split()) for line in ended.stdout.splitlines())
    assert {"structlog", "pydantic", "llmux.serve"} <= bound
    assert not {"yaml", "llmux.gateway", "llmux.core"} & bound
    assert not NOT_FOR_SERVING & serving


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("", ServeOptions()),
        ("serve", ServeOptions()),
        ("-c a.yaml -p 80", ServeOptions(config=Path("a.yaml"), port=80)),
        ("--config a.yaml serve --port 0", ServeOptions(config=Path("a.yaml"), port=0)),
        ("-c a.yaml serve -c b.yaml", ServeOptions(config=Path("b.yaml"))),
        ("-v --watch --host ::1", ServeOptions(verbose=True, watch=True, host="::1")),
        ("serve --verbose --log-format json", ServeOptions(verbose=True, log_format=LogFormat.JSON)),
        ("-v serve --watch", ServeOptions(verbose=True, watch=True)),
    ],
)
def test_what_is_plain_is_understood_as_typer_understands_it(
    arguments: str, meant: ServeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[ServeOptions] = []

    def run(options: ServeOptions) -> int:
        heard.append(options)
        return 0

    monkeypatch.setattr(commands, "run", run)
    assert CliRunner().invoke(commands.app, arguments.split()).exit_code == 0
    assert heard == [plainly(arguments.split())] == [meant]


@pytest.mark.parametrize(
    "arguments",
    [
        *("--help", "-h", "--version", "status", "serve serve", "serve --help", "-c", "-c -p 1", "-p many", "-p 70000"),
        *("--log-format xml", "--config=a.yaml", "-ca.yaml", "-vv", "--nonsense", "-- serve", "hook sleep a"),
    ],
)
def test_what_is_not_plain_is_left_to_typer(arguments: str) -> None:
    assert plainly(arguments.split()) is None
