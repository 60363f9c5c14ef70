"""Every recipe against stand-ins with the routes, the commands and the bad habits of the real thing.

What holds memory is a file with the pid of its holder; a sleep that succeeds must leave none, at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmux.cli.setup import RECIPES, recipe_file
from tests.cli.conftest import clean, until
from tests.docs.documents import ROOT, blocks
from tests.recipes.backends import TABBY_KEY

SHIMS = Path(__file__).with_name("shims")
BACKENDS = Path(__file__).with_name("backends.py")
DEADLINE = 60.0

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("curl", "flock", "setsid")) or not Path("/proc/self/stat").exists(),
    reason="the scripts need curl, flock and setsid, and the stand-ins a /proc",
)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Bench:
    """A folder with one recipe in it, a PATH with the stand-ins, and one free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.fake = folder / "fake"
        self.fake.mkdir()
        self.environment = clean() | {
            "PATH": f"{SHIMS}{os.pathsep}{os.environ['PATH']}",
            "FAKE": str(self.fake),
            "FAKE_PORT": str(self.port),
            "FAKE_PYTHON": sys.executable,
            "FAKE_BACKENDS": str(BACKENDS),
            "LLMUX_PORT": str(self.port),
            "POLL_SECS": "0.1",
        }
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, recipe: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(recipe_file(recipe)), *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )

    def serve(self, kind: str) -> None:
        """Start a server that is there whatever is awake."""
        command = [sys.executable, str(BACKENDS), kind, str(self.port), str(self.fake), kind]
        self.started.append(subprocess.Popen(command))

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return True
            return False

        until(answers, f"{kind} listens")

    def holders(self) -> list[str]:
        """Who holds memory now."""
        return sorted(file.stem for file in self.fake.glob("*.gpu") if lives(int(file.read_text())))

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        for file in [*self.fake.glob("*.gpu"), *self.fake.glob("*.pid"), *self.folder.glob("run/*.pid")]:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@dataclass(frozen=True)
class Case:
    """A recipe and what it is given. `broken`: arguments of a wake that must fail. `serve`: the server that is there
    already. `url`: that the backend is known by its URL."""

    recipe: str
    arguments: tuple[str, ...]
    wake: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    serve: str = ""
    holder: str = ""
    url: bool = False

    def prepare(self, bench: Bench) -> dict[str, str]:
        if self.serve:
            bench.serve(self.serve)
        return {"BACKEND_URL": bench.url} if self.url else {"TABBY_ADMIN_KEY": TABBY_KEY}

    def __str__(self) -> str:
        return self.recipe


CASES = [
    Case("process", (), ("some-server", "m"), ("some-server", "broken"), holder="m"),
    Case("sglang", (), ("m",), ("broken",), holder="m"),
    Case("ollama", ("llama3",), broken=("none",), serve="ollama", holder="llama3:latest"),
    Case("tabbyapi", ("m",), broken=("broken",), serve="tabby", holder="m"),
    Case("docker", ("m",), broken=("broken",), holder="m"),
    Case("podman-criu", ("m",), broken=("broken",), holder="m"),
    Case("systemd", ("m",), broken=("broken",), holder="m"),
    Case("kubectl", ("llama", "app=llama"), holder="llama", url=True),
    Case("slurm", ("llama",), ("--gpus=1", "s.sh"), ("broken.sh",), holder="llama"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_model_sleeps_and_wakes_as_often_as_one_likes(case: Case, bench: Bench) -> None:
    environment = case.prepare(bench)

    def hook(hook: str) -> int:
        words = (hook, *case.arguments, *(case.wake if hook == "wake" else ()))
        result = bench.run(case.recipe, *words, **environment)
        if hook != "alive":
            assert result.returncode == 0, result.stderr
        return result.returncode

    assert hook("alive") != 0
    hook("sleep")
    for _ in range(2):
        hook("wake")
        assert bench.holders() == [case.holder]
        assert hook("alive") == 0
        holder = (bench.fake / f"{case.holder}.gpu").read_text()
        hook("wake")
        assert (bench.fake / f"{case.holder}.gpu").read_text() == holder, "it was up already"
        hook("sleep")
        assert bench.holders() == [] or case.recipe == "sglang", "its memory is free when the hook says so"
        assert hook("alive") != 0
        hook("sleep")


@pytest.mark.parametrize("case", [case for case in CASES if case.broken], ids=str)
def test_a_wake_that_cannot_succeed_fails(case: Case, bench: Bench) -> None:
    environment = case.prepare(bench)
    words = case.broken if not case.arguments or not case.wake else (*case.arguments, *case.broken)
    result = bench.run(case.recipe, "wake", *words, **environment)
    assert result.returncode != 0
    assert result.stderr, "and says why"
    assert bench.holders() == []
    again = case.arguments if case.wake else case.broken
    assert bench.run(case.recipe, "sleep", *again, **environment).returncode == 0, "llmux cleans up with it"


def test_every_recipe_is_tested() -> None:
    tried = {case.recipe for case in CASES} | {"llama-server", "vllm"}  # these by tests/docs/test_hooks.py
    assert {recipe.script for recipe in RECIPES.values()} == tried


@pytest.mark.parametrize("name", ["llama-server", "vllm"])
def test_the_documented_scripts_are_those_that_are_shipped(name: str) -> None:
    (block,) = [one for one in blocks(ROOT / "docs" / "operations.md") if one.name == f"{name}.sh"]
    assert recipe_file(name).read_text() == block.text


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", sorted({recipe.script for recipe in RECIPES.values()}))
def test_shellcheck_finds_nothing(script: str) -> None:
    run = subprocess.run(
        ["shellcheck", "-s", "sh", str(recipe_file(script))], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


# --- bad habits, one by one ------------------------------------------------------------------------------------------


def test_sglang_waits_for_its_memory(bench: Bench) -> None:
    readings = bench.folder / "readings"
    readings.write_text("9000\\n100\n9000\\n6000\n")
    meter = bench.folder / "bin" / "nvidia-smi"
    meter.parent.mkdir()
    meter.write_text(f"#!/bin/sh\nprintf \"$(head -n 1 '{readings}')\"\nsed -i 1d '{readings}'\n")
    meter.chmod(0o755)
    path = f"{meter.parent}{os.pathsep}{bench.environment['PATH']}"
    assert bench.run("sglang", "wake", "m").returncode == 0
    assert bench.run("sglang", "sleep", FREE_MIB="5000", PATH=path).returncode == 0
    assert readings.read_text() == "", "it has looked until there was enough"


def test_sglang_is_ended_where_it_does_not_release(bench: Bench) -> None:
    assert bench.run("sglang", "wake", "stuck").returncode == 0
    assert bench.run("sglang", "sleep").returncode == 0
    assert bench.holders() == []
    assert bench.run("sglang", "wake", "stuck").returncode == 0, "anew"


def test_ollama_keeps_its_models_apart(bench: Bench) -> None:
    bench.serve("ollama")
    for model in ("llama3", "qwen:7b"):
        assert bench.run("ollama", "wake", model).returncode == 0
    assert bench.run("ollama", "sleep", "llama3").returncode == 0
    assert bench.holders() == ["qwen:7b"]
    assert bench.run("ollama", "alive", "qwen:7b").returncode == 0


def test_a_server_that_cannot_be_asked_is_not_taken_to_be_asleep(bench: Bench) -> None:
    """Elsewhere than on this machine, no answer may be the network's fault."""
    for recipe, arguments in (("ollama", ["llama3"]), ("tabbyapi", ["m"])):
        assert bench.run(recipe, "sleep", *arguments, TABBY_ADMIN_KEY="x").returncode == 0, "nobody is here"
        environment = {"BACKEND_URL": bench.url, "TABBY_ADMIN_KEY": "x"}
        assert bench.run(recipe, "sleep", *arguments, **environment).returncode != 0
    (bench.fake / "squeue-fails").touch()
    assert bench.run("slurm", "sleep", "llama", BACKEND_URL=bench.url).returncode != 0
    (bench.fake / "kube-fails").touch()
    assert bench.run("kubectl", "sleep", "llama", "app=llama", BACKEND_URL=bench.url).returncode != 0


def test_tabbyapi_says_why_and_shows_no_key(bench: Bench) -> None:
    bench.serve("tabby")
    failed = bench.run("tabbyapi", "wake", "broken", TABBY_ADMIN_KEY=TABBY_KEY)
    assert failed.returncode != 0
    assert "Insufficient VRAM" in failed.stderr
    wrong = bench.run("tabbyapi", "sleep", "m", TABBY_ADMIN_KEY="wrong")
    assert wrong.returncode != 0, "a server that does not let us in may hold anything"
    assert TABBY_KEY not in failed.stdout + failed.stderr


@pytest.mark.parametrize(("recipe", "tool"), [("docker", "docker"), ("systemd", "systemctl")])
def test_a_stop_that_fails_is_a_sleep_that_failed(bench: Bench, recipe: str, tool: str) -> None:
    assert bench.run(recipe, "wake", "m").returncode == 0
    (bench.fake / "stop-fails").touch()
    assert bench.run(recipe, "sleep", "m").returncode != 0
    assert bench.holders() == ["m"]
    assert bench.run(recipe, "alive", "m").returncode == 0, "so it goes back to work"


def test_a_container_that_is_not_there(bench: Bench) -> None:
    for hook in ("wake", "sleep", "alive"):
        result = bench.run("docker", hook, "missing")
        assert result.returncode != 0
        assert "No such container" in result.stderr


def test_podman_is_an_engine_and_a_paused_container_is_woken(bench: Bench) -> None:
    assert bench.run("docker", "wake", "m", ENGINE="podman").returncode == 0
    (bench.fake / "m.state").write_text("paused\n")
    assert bench.run("docker", "alive", "m").returncode != 0
    assert bench.run("docker", "wake", "m").returncode == 0
    assert bench.run("docker", "alive", "m").returncode == 0


def test_a_checkpoint_is_kept_and_one_that_fails_is_a_stop(bench: Bench) -> None:
    for _ in range(2):
        assert bench.run("podman-criu", "wake", "m").returncode == 0
        assert bench.run("podman-criu", "sleep", "m").returncode == 0
    assert bench.run("podman-criu", "wake", "m").returncode == 0
    assert (bench.fake / "m.history").read_text() == "restored\nrestored\n"
    (bench.fake / "criu-fails").touch()
    assert bench.run("podman-criu", "sleep", "m").returncode == 0
    assert bench.holders() == []


def test_a_unit_that_has_failed_is_started_again(bench: Bench) -> None:
    assert bench.run("systemd", "wake", "m", SYSTEMD_SCOPE="--user").returncode == 0
    assert (bench.fake / "user").exists()
    os.kill(int((bench.fake / "m.gpu").read_text()), signal.SIGKILL)
    until(lambda: not bench.holders(), "it was killed")
    assert bench.run("systemd", "alive", "m").returncode != 0
    assert bench.run("systemd", "wake", "m").returncode == 0


def test_kubectl_takes_a_namespace_and_a_rollout_that_fails_is_a_failed_wake(bench: Bench) -> None:
    environment = {"BACKEND_URL": bench.url, "KUBE_NAMESPACE": "models"}
    assert bench.run("kubectl", "wake", "llama", "app=llama", **environment).returncode == 0
    calls = (bench.fake / "kubectl.calls").read_text().splitlines()
    assert all(call.startswith("--namespace=models ") for call in calls)
    (bench.fake / "rollout-fails").touch()
    assert bench.run("kubectl", "wake", "llama", "app=llama", **environment).returncode != 0


def test_a_job_is_submitted_once(bench: Bench) -> None:
    words = ("llama", "--nodelist", "n1", "s.sh")
    file = bench.folder / "reported"
    for _ in range(2):
        file.write_text("")
        environment = {"BACKEND_URL": bench.url, "LLMUX_BACKEND_FILE": str(file)}
        assert bench.run("slurm", "wake", *words, **environment).returncode == 0
        assert file.read_text() == "", "it is where the file says"
    assert (bench.fake / "history").read_text() == "submitted\n"


def test_a_job_tells_on_which_node_it_is(bench: Bench) -> None:
    file = bench.folder / "reported"
    for node in ("127.0.0.1", "localhost"):
        (bench.fake / "next-node").write_text(f"{node}\n")
        for _ in range(2):  # a model that is up already tells it once more
            file.write_text("")
            result = bench.run("slurm", "wake", "llama", "s.sh", LLMUX_BACKEND_FILE=str(file))
            assert result.returncode == 0, result.stderr
            assert file.read_text() == f"http://{node}:{bench.port}\n"
        assert bench.run("slurm", "alive", "llama").returncode == 0
        assert bench.run("slurm", "wake", "llama", "s.sh", LLMUX_BACKEND_FILE="").returncode != 0, "it cannot be told"
        assert bench.run("slurm", "sleep", "llama").returncode == 0
        assert bench.holders() == []
