"""Every recipe against stand-ins with the routes, the commands and the bad habits of the real thing.

What holds memory is a file with the pid of its holder; a sleep that succeeds must leave none, at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.request import Request, urlopen

import pytest

from llmux.cli.setup import RECIPES, recipe_file
from tests.cli.conftest import clean, until
from tests.docs.documents import ROOT, blocks
from tests.ports import free_port
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
        self.port = free_port()
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
        self.patience = DEADLINE
        self.scripts: dict[str, Path] = {}  # those that are run in the place of what is shipped

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, recipe: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.scripts.get(recipe) or recipe_file(recipe)), *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=self.patience,
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

    def ask(self, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
        """What the server answers."""
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", data), timeout=DEADLINE) as answer:
            read = answer.read()
        return cast(dict[str, object], json.loads(read)) if read else {}

    def holders(self) -> list[str]:
        """Who holds memory now."""
        found = []
        for file in self.fake.glob("*.gpu"):
            with contextlib.suppress(FileNotFoundError):  # it was freed just now
                if lives(int(file.read_text())):
                    found.append(file.stem)
        return sorted(found)

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
    Case("vllm", (), ("m",), ("broken",), holder="m"),
    Case("llama-server", (), ("m",), ("broken",), holder="m"),
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
    assert {recipe.script for recipe in RECIPES.values()} == {case.recipe for case in CASES}


@pytest.mark.parametrize("name", ["llama-server", "vllm"])
def test_the_documented_scripts_are_those_that_are_shipped(name: str) -> None:
    (block,) = [one for one in blocks(ROOT / "docs" / "operations.md") if one.name == f"{name}.sh"]
    assert recipe_file(name).read_text() == block.text


@pytest.mark.parametrize("script", sorted({recipe.script for recipe in RECIPES.values()}))
def test_shellcheck_finds_nothing(script: str) -> None:
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    run = subprocess.run(
        [str(shellcheck), "-s", "sh", str(recipe_file(script))], check=False, capture_output=True, text=True
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


@pytest.mark.parametrize("recipe", ["vllm", "sglang"])
def test_only_the_models_own_gpus_count(bench: Bench, recipe: str) -> None:
    assert bench.run(recipe, "wake", "m").returncode == 0
    (bench.fake / "gpus").write_text("4")
    (bench.fake / "m.gpu-number").write_text("1")

    def free(**environment: str) -> bool:
        return bench.run(recipe, "verify", FREE_MIB="5000", **environment).returncode == 0

    assert not free(), "all of them"
    assert free(GPUS="0")
    assert not free(GPUS="0,1")
    assert free(CUDA_VISIBLE_DEVICES="2")
    assert not free(CUDA_VISIBLE_DEVICES="1")
    assert free(LLMUX_DEVICES="gpu0,gpu3")
    assert not free(LLMUX_DEVICES="gpu1")
    assert free(LLMUX_DEVICES="cuda:2")
    assert not free(LLMUX_DEVICES="rack0-gpu"), "which tells nothing, so all of them"
    assert free(GPUS="0", CUDA_VISIBLE_DEVICES="1", LLMUX_DEVICES="gpu1"), "whoever says GPUS means it"
    assert bench.run(recipe, "verify").returncode != 0, "without FREE_MIB there is nothing to tell"


@pytest.mark.parametrize("recipe", ["process", "vllm", "sglang", "llama-server", "docker"])
def test_what_the_server_prints_is_passed_on(bench: Bench, recipe: str) -> None:
    words = ("some-server",) if recipe == "process" else ()
    woken = bench.run(recipe, "wake", *words, "flood")
    assert woken.returncode == 0
    told = woken.stderr.splitlines()
    assert 0 < len(told) <= 200, "the last lines of what came at once"
    assert bench.run(recipe, "wake", *words, "flood").stderr == "", "what is up already has told everything"


@pytest.mark.parametrize("recipe", ["process", "vllm", "sglang", "llama-server", "docker"])
def test_a_server_that_ends_says_why(bench: Bench, recipe: str) -> None:
    words = ("some-server",) if recipe == "process" else ()
    failed = bench.run(recipe, "wake", *words, "broken")
    assert failed.returncode != 0
    assert re.search(r"has ended; the end of .*:\n(.*\n)*CUDA out of memory\nthe engine could not", failed.stderr)


def test_sglang_is_ended_where_it_does_not_release(bench: Bench) -> None:
    assert bench.run("sglang", "wake", "stuck").returncode == 0
    assert bench.run("sglang", "sleep").returncode == 0
    assert bench.holders() == []
    assert bench.run("sglang", "wake", "stuck").returncode == 0, "anew"


# --- vLLM ------------------------------------------------------------------------------------------------------------


def answers(bench: Bench, prompt: str = "Hi") -> str:
    choices = bench.ask("/v1/completions", {"prompt": prompt})["choices"]
    return str(cast(list[dict[str, object]], choices)[0]["text"])


def requests_under_way_are_answered(bench: Bench) -> bool:
    """Going to sleep breaks off what is under way, unless it is told to wait."""
    assert bench.run("vllm", "wake", "m").returncode == 0
    told: list[str] = []
    asking = threading.Thread(target=lambda: told.append(answers(bench, "long")))
    asking.start()
    until(lambda: bench.ask("/load") == {"server_load": 1}, "it is under way")
    assert bench.run("vllm", "sleep").returncode == 0
    asking.join()
    return told == ["Hi"]


def an_engine_that_died_going_to_sleep_holds_nothing(bench: Bench) -> bool:
    """It has answered 200 (#45520)."""
    assert bench.run("vllm", "wake", "deadly").returncode == 0
    return bench.run("vllm", "sleep").returncode == 0 and bench.holders() == []


def a_dead_engine_that_says_it_sleeps_is_not_believed(bench: Bench) -> bool:
    assert bench.run("vllm", "wake", "undead").returncode == 0
    return bench.run("vllm", "sleep").returncode == 0 and bench.holders() == []


def memory_that_is_kept_asleep_is_freed(bench: Bench) -> bool:
    """It has answered 200, and says that it sleeps (#32714)."""
    assert bench.run("vllm", "wake", "leaky").returncode == 0
    slept = bench.run("vllm", "sleep", FREE_MIB="5000", FREE_TRIES="2", GPUS="0")
    return slept.returncode == 0 and bench.holders() == []


def what_does_not_wake_up_is_started_anew(bench: Bench) -> bool:
    assert bench.run("vllm", "wake", "sleepless").returncode == 0
    assert bench.run("vllm", "sleep").returncode == 0
    assert bench.run("vllm", "wake", "sleepless").returncode != 0
    return bench.run("vllm", "wake", "m").returncode == 0 and answers(bench) == "Hi"


def an_engine_that_died_awake_is_started_anew(bench: Bench) -> bool:
    """Its server answers, but never well again: here because it was asked while it slept (#15483)."""
    assert bench.run("vllm", "wake", "m").returncode == 0
    assert bench.run("vllm", "sleep").returncode == 0
    with contextlib.suppress(OSError):
        bench.ask("/v1/completions", {"prompt": "Hi"})
    assert bench.run("vllm", "alive").returncode != 0
    try:
        bench.patience = DEADLINE / 3
        return bench.run("vllm", "wake", "m").returncode == 0 and answers(bench) == "Hi"
    except subprocess.TimeoutExpired:
        return False


def weights_that_were_dropped_are_read_again(bench: Bench) -> bool:
    for _ in range(2):
        assert bench.run("vllm", "wake", "m").returncode == 0
        if answers(bench) != "Hi" or bench.run("vllm", "alive").returncode != 0:
            return False
        assert bench.run("vllm", "sleep", SLEEP_LEVEL="2").returncode == 0
        assert bench.holders() == []
        assert bench.run("vllm", "sleep").returncode == 0, "which is no reason to forget how it was put to sleep"
    return True


RELOAD = """post collective_rpc -H 'Content-Type: application/json' -d '{"method": "reload_weights"}' &&"""

HABITS = [
    (requests_under_way_are_answered, "&mode=wait", ""),
    (an_engine_that_died_going_to_sleep_holds_nothing, "asleep || stop", "true"),
    (a_dead_engine_that_says_it_sleeps_is_not_believed, "sleeping && healthy; }", "sleeping; }"),
    (memory_that_is_kept_asleep_is_freed, 'if [ "$waits" -eq "${FREE_TRIES:-40}" ]; then stop; fi', "break"),
    (what_does_not_wake_up_is_started_anew, "        stop\n        exit 1", "        exit 1"),
    (an_engine_that_died_awake_is_started_anew, "if running && dead; then stop; fi", ""),
    (weights_that_were_dropped_are_read_again, RELOAD, "true &&"),
    (weights_that_were_dropped_are_read_again, "post reset_prefix_cache", "true"),
    (weights_that_were_dropped_are_read_again, "if ! asleep; then", "if true; then"),
]


@pytest.mark.parametrize("habit", dict.fromkeys(habit for habit, _, _ in HABITS), ids=lambda habit: habit.__name__)
def test_vllm(bench: Bench, habit: Callable[[Bench], bool]) -> None:
    assert habit(bench)


@pytest.mark.parametrize(("habit", "safeguard", "instead"), HABITS)
def test_vllm_without_its_safeguard(bench: Bench, habit: Callable[[Bench], bool], safeguard: str, instead: str) -> None:
    """What the tests above would say of a script that lacks it."""
    text = recipe_file("vllm").read_text()
    assert text.count(safeguard) == 1
    script = bench.scripts["vllm"] = bench.folder / "vllm.sh"
    script.write_text(text.replace(safeguard, instead))
    script.chmod(0o755)
    assert not habit(bench)


# --- others ----------------------------------------------------------------------------------------------------------


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
