"""The scripts of docs/operations.md are run, against servers that stand in for llama-server and vLLM."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import httpx
import pytest
import yaml

from llmux import Config, build_app
from llmux.hooks import BACKEND_VARIABLE
from llmux.messages import ModelState
from tests.docs.documents import ROOT, code, rows, write_examples

OPERATIONS = ROOT / "docs" / "operations.md"
TOOLS = ("curl", "flock", "setsid")

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"the scripts need {', '.join(TOOLS)}"
)

#: Takes the options that the scripts give, and answers as the server would, after a moment of loading.
STAND_IN = """\
#!{python}
import sys
from llmux.testing import SimulatedBackend, run_backend
if "broken" in sys.argv or "models/broken.gguf" in sys.argv:
    sys.exit("cannot load this")
port = int(sys.argv[sys.argv.index("--port") + 1])
run_backend(SimulatedBackend("m", load_secs=0.2, sleep_mode="--enable-sleep-mode" in sys.argv), port=port)
"""


@dataclass
class Scripts:
    """A folder with the examples in it, and a PATH with the stand-ins."""

    folder: Path
    environment: dict[str, str]
    port: int
    model: str

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [f"./{script}", *arguments],
            cwd=self.folder,
            env=self.environment | {"LLMUX_PORT": str(self.port)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def hook(self, script: str, hook: str, **environment: str) -> int:
        """Run a hook by hand, and tell its exit status."""
        arguments = (hook, self.model) if hook == "wake" else (hook,)
        return self.run(script, *arguments, **environment).returncode

    def server(self) -> int:
        """The pid of the server."""
        (file,) = (self.folder / "run").glob(f"*-{self.port}.pid")
        return int(file.read_text())

    def gone(self) -> bool:
        """Whether no server listens."""
        try:
            self.ask("GET", "/health")
        except OSError:
            return True
        return False

    def ask(self, method: str, path: str, body: bytes | None = None) -> None:
        with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", body, method=method), timeout=10):
            pass


@pytest.fixture
def scripts(tmp_path: Path, free_ports: tuple[int, int]) -> Iterator[Scripts]:
    write_examples(OPERATIONS, tmp_path)
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name in ("llama-server", "vllm"):
        (stand_ins / name).write_text(STAND_IN.format(python=sys.executable))
        (stand_ins / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}"}
    yield Scripts(tmp_path, environment, free_ports[0], "models/m.gguf")
    for file in tmp_path.glob("run/*.pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.killpg(int(file.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("script", ["llama-server.sh", "vllm.sh"])
def test_hooks_may_be_run_at_any_time(scripts: Scripts, script: str) -> None:
    assert scripts.hook(script, "alive") != 0
    assert scripts.hook(script, "sleep") == 0, "nothing runs, so nothing is held"
    assert scripts.hook(script, "wake") == 0
    server = scripts.server()
    assert scripts.hook(script, "alive") == 0
    assert scripts.hook(script, "wake") == 0
    assert scripts.server() == server, "it was up already"
    assert os.getsid(server) == server, "a session of its own"
    for descriptor, access in ((0, "/dev/null"), (1, "run/"), (2, "run/")):
        assert access in os.readlink(f"/proc/{server}/fd/{descriptor}")
    for _ in range(2):
        assert scripts.hook(script, "sleep") == 0
        assert scripts.hook(script, "alive") != 0
    assert scripts.gone() == (script == "llama-server.sh")
    assert scripts.hook(script, "wake") == 0
    assert scripts.hook(script, "alive") == 0


@pytest.mark.parametrize("script", ["llama-server.sh", "vllm.sh"])
def test_a_server_that_dies_fails_the_wake(scripts: Scripts, script: str) -> None:
    run = scripts.run(script, "wake", "models/broken.gguf")
    assert run.returncode != 0
    log = re.search(r"has ended; the end of (\S+):\ncannot load this\n", run.stderr)
    assert log is not None
    assert "cannot load this" in (scripts.folder / log[1]).read_text()
    assert scripts.hook(script, "sleep") == 0


@pytest.mark.parametrize("script", ["llama-server.sh", "vllm.sh"])
def test_a_killed_server_is_noticed_and_started_again(scripts: Scripts, script: str) -> None:
    assert scripts.hook(script, "wake") == 0
    server = scripts.server()
    os.kill(server, signal.SIGKILL)
    assert scripts.hook(script, "sleep") == 0
    assert scripts.hook(script, "alive") != 0
    assert scripts.hook(script, "wake") == 0
    assert scripts.server() != server


def test_a_vllm_that_does_not_go_to_sleep_is_stopped(scripts: Scripts) -> None:
    assert scripts.hook("vllm.sh", "wake") == 0
    scripts.ask("POST", "/_script", b'{"kind": "status", "path": "/sleep"}')
    assert scripts.hook("vllm.sh", "sleep") == 0
    assert scripts.gone()
    assert scripts.hook("vllm.sh", "sleep") == 0


def test_vllm_waits_for_its_memory(scripts: Scripts) -> None:
    readings = scripts.folder / "readings"
    readings.write_text("9000\\n100\n9000\\n500\n9000\\n6000\n")  # of two GPUs, one time after the other
    meter = scripts.folder / "bin" / "nvidia-smi"
    meter.write_text(f"#!/bin/sh\nprintf \"$(head -n 1 '{readings}')\"\nsed -i 1d '{readings}'\n")
    meter.chmod(0o755)
    assert scripts.hook("vllm.sh", "wake") == 0
    assert scripts.hook("vllm.sh", "sleep", FREE_MIB="5000") == 0
    assert readings.read_text() == "", "it has looked until there was enough"


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["llama-server", "vllm"])
async def test_llmux_switches_with_them(
    scripts: Scripts, name: str, free_ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration beside the scripts, with ports that are free here and no GPU to measure."""
    file = scripts.folder / f"{name}.yaml"
    data = yaml.safe_load(re.sub(r"FREE_MIB=\d+ ", "", file.read_text()))
    first, second = data["models"]
    data["models"][first]["port"], data["models"][second]["port"] = free_ports
    data.update(port=0, on_exit="sleep")
    monkeypatch.setenv("PATH", scripts.environment["PATH"])
    monkeypatch.chdir(scripts.folder)
    app, switcher = await build_app(Config(**data))
    async with app.serving() as (host, port), httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30) as client:
        for model in (first, second, first):
            answer = await client.post("/v1/completions", json={"model": model, "prompt": "Hi"})
            assert answer.status_code == 200
            other = second if model == first else first
            assert switcher.model_states() == {model: ModelState.AWAKE, other: ModelState.ASLEEP}
        assert switcher.estimated_switch_cost(first, second) is not None
    assert ModelState.AWAKE not in switcher.model_states().values()


@pytest.mark.anyio
async def test_the_variables_are_those_described(tmp_path: Path) -> None:
    names = [name for row in rows(OPERATIONS, "variable", "value") for name in code(row[0])]
    inherited = {name for name in os.environ if name.startswith("LLMUX_")}  # such as those that steer these tests
    hooks = {
        hook: f"env | grep ^LLMUX_ | cut -d= -f1 | sort > '{tmp_path}/{hook}'" for hook in ("wake", "sleep", "alive")
    }
    hooks["alive"] += "; false"
    model = {"port": 1, **hooks}  # whose alive hook is asked once: another run might be ended as it writes
    app, switcher = await build_app(Config.model_validate({"models": {"a": model}, "alive_interval_secs": 0}))
    async with app.serving(port=0):
        await switcher.force_switch("a")
        await switcher.force_sleep("a")
    for hook in hooks:
        seen = set((tmp_path / hook).read_text().split())
        told = set(names) if hook == "wake" else set(names) - {BACKEND_VARIABLE}
        assert seen - (inherited - set(names)) == told
