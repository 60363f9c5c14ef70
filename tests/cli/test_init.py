"""``llmux init``: what it writes is a configuration that llmux takes, with hooks that are there."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llmux.cli.commands import app
from llmux.cli.setup import RECIPES, Wanted, configuration
from llmux.config import Config
from tests.cli.conftest import clean
from tests.cli.test_cli import DEADLINE, LLMUX


def init(folder: Path, *arguments: str, check: int = 0) -> str:
    result = subprocess.run(
        [*LLMUX, "init", *arguments],
        cwd=folder,
        env=clean(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert result.returncode == check, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def test_flags_are_enough(tmp_path: Path) -> None:
    said = init(tmp_path, "--recipe", "ollama", "--model", "small=qwen3:0.6b", "--model", "qwen3:8b=qwen3:8b")
    assert "OLLAMA_KEEP_ALIVE=-1" in said
    assert "Next: llmux check\n" in said
    config = Config.from_file(tmp_path / "config.yaml")
    assert not config.warnings
    small, large = config.models.values()
    assert (small.port, large.port) == (11434, 11434)
    assert (small.send_model_as, large.send_model_as) == ("qwen3:0.6b", None)
    assert small.sleep == "./hooks/ollama.sh sleep qwen3:0.6b"
    assert os.access(tmp_path / "hooks" / "ollama.sh", os.X_OK)
    checked = CliRunner().invoke(app, ["check", "--no-hooks", "-c", str(tmp_path / "config.yaml")])
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("name", RECIPES)
def test_the_example_of_every_recipe_is_sound(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    backend = ["--backend", "http://gpu01:8000"] if recipe.by_url else []
    result = CliRunner().invoke(
        app, ["init", str(tmp_path / "config.yaml"), "--recipe", name, "--model", f"m={recipe.example}", *backend]
    )
    assert result.exit_code == 0, result.output
    Config.from_file(tmp_path / "config.yaml")
    checked = CliRunner().invoke(app, ["check", "--no-hooks", "-c", str(tmp_path / "config.yaml")])
    assert checked.exit_code == 0, checked.output


def test_nothing_is_written_over(tmp_path: Path) -> None:
    flags = ("--recipe", "docker", "--model", "a=a")
    init(tmp_path, *flags)
    init(tmp_path, *flags)  # what is there is what would be written
    script = tmp_path / "hooks" / "docker.sh"
    script.write_text("mine")
    assert "hooks/docker.sh is there already; --force" in init(tmp_path, *flags, check=1)
    (tmp_path / "config.yaml").unlink()
    init(tmp_path, *flags, check=1)
    assert not (tmp_path / "config.yaml").exists(), "all or nothing"
    init(tmp_path, *flags, "--force")
    assert script.read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--recipe vllm|"),
        (("--recipe", "none"), "there is no recipe 'none'"),
        (("--recipe", "vllm"), "--model NAME=WHAT"),
        (("--recipe", "vllm", "--model", "a"), "write NAME=WHAT"),
        (("--recipe", "vllm", "--model", "a=b", "--model", "a=c"), "given twice"),
        (("--recipe", "vllm", "--model", "a='b"), "the shell cannot make sense"),
        (("--recipe", "kubectl", "--model", "a=b app=b"), "where does it listen?"),
        (("--recipe", "kubectl", "--model", "a=b", "--backend", "http://x:1"), "label"),
        (("--recipe", "kubectl", "--model", "a=b c", "--backend", "ftp://x"), "models.a.url"),
        (("--from-llama-swap", "none.yaml"), "cannot read none.yaml"),
    ],
)
def test_bad_usage_is_2_and_writes_nothing(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in init(tmp_path, *arguments, check=2)
    assert not list(tmp_path.iterdir())


def test_it_asks_on_a_terminal(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*LLMUX, "init"], cwd=tmp_path, env=clean() | {"TERM": "dumb"}, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    os.write(master, b"nonsense\nsystemd\nllama\nllama.service\n\n")
    try:
        shown = b""
        while b"Next:" not in shown:
            shown += os.read(master, 4096)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"One of these, please." in shown
    assert Config.from_file(tmp_path / "config.yaml").models["llama"].wake == "./hooks/systemd.sh wake llama.service"


def test_an_answer_that_cannot_be_used_is_asked_for_again(tmp_path: Path) -> None:
    """Where it was given, and what was said before it stands."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*LLMUX, "init", "--recipe", "kubectl"],
        cwd=tmp_path, env=clean() | {"TERM": "dumb"}, stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    answers = ["first", "one app=one", "http://gpu01:8000", "first", "second", "it's app=x", "two", "two app=two"]
    answers += ["gpu02:8000", "http://gpu02:8000", ""]
    os.write(master, "".join(f"{answer}\n" for answer in answers).encode())
    try:
        shown = b""
        while b"Next:" not in shown:
            shown += os.read(master, 4096)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    for words in (b"There is one of that name already.", b"second: the shell cannot make sense", b"models.second.url"):
        assert words in shown
    assert b"second: give the deployment's name" in shown
    models = Config.from_file(tmp_path / "config.yaml").models
    assert {name: model.wake.rpartition(" wake ")[2] for name, model in models.items()} == {
        "first": "one app=one", "second": "two app=two",
    }  # fmt: skip
    assert str(models["second"].url) == "http://gpu02:8000"


def test_the_list_has_every_recipe(tmp_path: Path) -> None:
    listed = init(tmp_path, "--list")
    assert all(name in listed for name in RECIPES)


def test_ports_count_up_where_each_model_has_one() -> None:
    made = configuration(RECIPES["llama.cpp"], [Wanted("a", "a.gguf"), Wanted("b", "b.gguf --x")])
    assert [model["port"] for model in made["models"].values()] == [8001, 8002]


# --- llama-swap ------------------------------------------------------------------------------------------------------

LLAMA_SWAP = r"""
healthCheckTimeout: 300
startPort: 9100
logLevel: debug
macros:
  server: llama-server --host 127.0.0.1 --port ${PORT}
models:
  qwen:
    cmd: |
      # the large one
      ${server} \
        -m "/models/my qwen.gguf" --alias ${MODEL_ID} --chat $HOME
    aliases: [gpt-4o, default]
    ttl: 600
    env: ["CUDA_VISIBLE_DEVICES=0", "NOTE=two words"]
    checkEndpoint: /v1/models
    useModelName: qwen3
    unlisted: true
  box:
    proxy: http://127.0.0.1:9999
    cmd: docker run --rm --name box -p 9999:8080 image ${mystery}
    cmdStop: docker stop box
groups:
  pair: {swap: false, members: [qwen, box]}
"""


def test_llama_swaps_models_are_carried_over(tmp_path: Path) -> None:
    (tmp_path / "swap.yaml").write_text(LLAMA_SWAP)
    said = init(tmp_path, "--from-llama-swap", "swap.yaml")
    config = Config.from_file(tmp_path / "config.yaml")
    qwen, box = config.models["qwen"], config.models["box"]
    assert qwen.wake == (
        "HEALTH=/v1/models CUDA_VISIBLE_DEVICES=0 'NOTE=two words' ./hooks/process.sh wake llama-server "
        "--host 127.0.0.1 --port 9100 -m '/models/my qwen.gguf' --alias qwen --chat '$HOME'"
    ).replace("'NOTE=two words'", "NOTE='two words'")
    assert qwen.sleep == "HEALTH=/v1/models ./hooks/process.sh sleep"
    assert (qwen.port, qwen.aliases, qwen.send_model_as) == (9100, ["gpt-4o", "default"], "qwen3")
    assert config.hook_timeout_secs.wake == 300
    assert box.port == 9999
    assert box.sleep == "docker stop box || true; ./hooks/process.sh sleep"
    for words in ("logLevel", "models.qwen.unlisted", "models.box.${mystery}", "groups.pair: its members (qwen, box)"):
        assert f"not carried over: {words}" in said
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["models"]["qwen"]["idle_sleep_secs"] == 600


@pytest.mark.parametrize("text", ["models: []", "- x", "models: {a: 1}", "a: {", 'models: {a: {cmd: "\'"}}'])
def test_what_is_not_llama_swaps_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "swap.yaml").write_text(text)
    assert "swap.yaml" in init(tmp_path, "--from-llama-swap", "swap.yaml", check=2) or "cmd" in text
