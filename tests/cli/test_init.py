"""``llmux init``: what it writes is a configuration that llmux takes, with hooks that are there."""

from __future__ import annotations

import hashlib
import itertools
import os
import pty
import subprocess
from pathlib import Path
from random import Random

import pytest
import yaml
from typer.testing import CliRunner

from llmux.cli.commands import app
from llmux.cli.llama_swap_groups import Group, left_awake, places
from llmux.cli.setup import RECIPES, Wanted, configuration
from llmux.config import Config
from llmux.config.checks import Claim, find_faults
from tests.cli.conftest import clean
from tests.cli.test_cli import DEADLINE, LLMUX


def init(folder: Path, *arguments: str, check: int = 0, **environment: str) -> str:
    result = subprocess.run(
        [*LLMUX, "init", *arguments],
        cwd=folder,
        env=clean() | environment,
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
        (("--recipe", "ollama", "--model", "a=b", "--free-mib", "1000"), "--free-mib is for vllm, sglang"),
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


def test_free_memory_is_asked_for(tmp_path: Path) -> None:
    flags = ("--recipe", "vllm", "--model", "a=org/a")
    meter = tmp_path / "bin" / "nvidia-smi"
    meter.parent.mkdir()
    meter.write_text("#!/bin/sh\nprintf '24576\\n49140\\n'\n")
    meter.chmod(0o755)

    def hooks(*more: str, path: str) -> tuple[str, str | None, str]:
        said = init(tmp_path, *flags, *more, "--force", PATH=path)
        model = Config.from_file(tmp_path / "config.yaml").models["a"]
        return model.sleep, model.verify, said

    none = "/nowhere"
    sleep, verify, said = hooks(path=none)
    assert (sleep, verify) == ("./hooks/vllm.sh sleep", None)
    assert "--free-mib N" in said
    sleep, verify, said = hooks(path=str(meter.parent))
    assert sleep == "FREE_MIB=12288 ./hooks/vllm.sh sleep"
    assert verify == "FREE_MIB=12288 ./hooks/vllm.sh verify"
    assert "12288 MiB" in said
    assert hooks("--free-mib", "20000", path=none)[1] == "FREE_MIB=20000 ./hooks/vllm.sh verify"
    assert hooks("--free-mib", "0", path=str(meter.parent))[1] is None
    meter.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert hooks(path=str(meter.parent))[1] is None


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
    assert [line for line in said.splitlines() if line.startswith(("not carried over", "different"))] == [
        "not carried over: models.box.${mystery}: nothing says what it stands for; see the hooks",
        "not carried over: models.qwen.unlisted: llmux has nothing of that name",
        "not carried over: logLevel: llmux says more with --verbose",
    ], "the same in each run"
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["models"]["qwen"]["idle_sleep_secs"] == 600
    assert config.devices == {"place": 2}
    assert qwen.needs == box.needs == {"place": 1}


@pytest.mark.parametrize("text", ["models: []", "- x", "models: {a: 1}", "a: {", 'models: {a: {cmd: "\'"}}'])
def test_what_is_not_llama_swaps_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "swap.yaml").write_text(text)
    assert "swap.yaml" in init(tmp_path, "--from-llama-swap", "swap.yaml", check=2) or "cmd" in text


def converted(folder: Path, text: str) -> tuple[Config, list[str]]:
    """What becomes of a configuration of llama-swap, and what is said of it."""
    (folder / "swap.yaml").write_text(text)
    said = init(folder, "--from-llama-swap", "swap.yaml")
    notes = [line for line in said.splitlines() if line.startswith(("not carried over: ", "different: "))]
    return Config.from_file(folder / "config.yaml"), notes


def test_what_llmux_has_under_another_name_is_carried_over(tmp_path: Path) -> None:
    config, notes = converted(
        tmp_path,
        r"""
globalTTL: 900
sendLoadingState: true
apiKeys: [sk-plain, "${env.SWAP_KEY}"]
macros: {temp: 0.7, ctx: 4096}
hooks: {on_startup: {preload: [small, gpt, small]}}
models:
  small:
    cmd: small --port ${PORT}
    ttl: 0
    aliases: [s]
    concurrencyLimit: 4
    sendLoadingState: false
    metadata: {port: "${PORT}", temperature: "${temp}", note: "${MODEL_ID} with ${ctx}", list: [1, "${ctx}"]}
    filters:
      stripParams: "temperature, top_p,model"
      setParams: {model: x, top_k: 3, seed: "${ctx}"}
      setParamsByID: {x: {}}
  large: {cmd: large, proxy: "http://127.0.0.1:9001", aliases: [gpt], ttl: -1, name: Large}
""",
    )
    small, large = config.models["small"], config.models["large"]
    assert (config.idle_sleep_secs, small.idle_sleep_secs, large.idle_sleep_secs) == (900, 0, None)
    assert (config.waiting_keepalive_secs, small.waiting_keepalive_secs) == (1, 0)
    assert small.max_in_flight == 4
    assert small.metadata == {"port": 5800, "temperature": 0.7, "note": "small with 4096", "list": [1, 4096]}
    assert (small.strip_params, small.set_params) == (["temperature", "top_p"], {"top_k": 3, "seed": 4096})
    assert config.preload == ["small"], "the last that llama-swap loads"
    assert config.devices is None, "one at a time, as llmux has it anyway"
    assert config.api_keys["key1"].sha256 == hashlib.sha256(b"sk-plain").hexdigest()
    assert config.api_keys["key2"].env == "SWAP_KEY"
    assert notes == [
        "not carried over: models.large.name: llmux tells clients what `metadata` says",
        "different: models.small.concurrencyLimit: one more request waits, instead of being refused; see `max_queue`",
        "not carried over: models.small.filters.setParamsByID: llmux has nothing of that name",
        "different: sendLoadingState: those who wait get comments in their stream, which clients do not show",
        "different: hooks.on_startup.preload: llama-swap unloads large for the next one, so it is left out",
    ]


GROUPS = """
models:
  a1: {cmd: x}
  a2: {cmd: x}
  b1: {cmd: x}
  b2: {cmd: x}
  c: {cmd: x}
  ear: {cmd: x}
  eye: {cmd: x, ttl: 60}
groups:
  a: {swap: false, members: [a1, a2]}
  b: {swap: false, members: [b1, b2]}
  ears: {swap: false, exclusive: false, persistent: true, members: [ear, eye]}
"""


def test_groups_become_places(tmp_path: Path) -> None:
    config, notes = converted(tmp_path, GROUPS)
    assert notes == []
    assert config.devices == {"place": 2, "place-b1": 2, "place-b2": 2}
    assert [name for name, model in config.models.items() if model.pinned] == ["ear"], "the other one sleeps when idle"
    assert config.models["ear"].needs == {}
    config, notes = converted_anew(tmp_path, GROUPS.replace("persistent: true", "swap: true"))
    assert config.models["ear"].needs == config.models["eye"].needs == {"ears": 1}
    assert notes == [
        f"different: groups.ears: llama-swap unloads its models when it loads one of {name}, and then loads them "
        "beside it for the next request; here they stay awake"
        for name in ("a", "b", "(default)")
    ]
    _, notes = converted_anew(tmp_path, "routing: {router: {use: matrix}, scheduler: {}}" + GROUPS)
    assert notes == ["not carried over: routing.router.settings.matrix: declare `devices`, and what each model `needs`"]
    newer = GROUPS.replace("groups:\n", "routing: {router: {settings: {groups: {").replace("]}\n", "]},\n") + "}}}}\n"
    config, _ = converted_anew(tmp_path, newer)
    assert config.devices == {"place": 2, "place-b1": 2, "place-b2": 2}
    for wrong in (GROUPS + "  d: {members: [a1]}\n", GROUPS + "  d: {members: [nobody]}\n"):
        (tmp_path / "swap.yaml").write_text(wrong)
        assert "is no model, or is in two groups" in init(tmp_path, "--from-llama-swap", "swap.yaml", check=2)


def converted_anew(folder: Path, text: str) -> tuple[Config, list[str]]:
    (folder / "config.yaml").unlink()
    return converted(folder, text)


@pytest.mark.parametrize("seed", range(4))
def test_who_fits_together_is_who_llama_swap_runs_together(seed: int) -> None:
    chance = Random(seed)  # noqa: S311  # the same groups in each run
    for _ in range(100):
        check_groups(
            [
                Group(
                    f"g{index}",
                    tuple(f"g{index}m{member}" for member in range(chance.randint(1, 3))),
                    swap=chance.random() < 0.5,
                    exclusive=chance.random() < 0.7,
                    persistent=chance.random() < 0.3,
                )
                for index in range(chance.randint(1, 4))
            ]
        )


def check_groups(groups: list[Group]) -> None:
    models = [member for group in groups for member in group.members]
    made = places(groups, dict.fromkeys(models, False))

    def fit(*together: str) -> bool:
        if made.devices is None:
            return len(set(together)) == 1
        return all(
            sum(made.needs[one].get(device, 0) for one in together) <= size for device, size in made.devices.items()
        )

    for one, other in itertools.combinations(models, 2):
        reached = any({one, other} <= set(left_awake(order, groups)) for order in ((one, other), (other, one)))
        assert fit(one, other) == reached
    # What llama-swap can have loaded at once, whatever the order, fits as a whole.
    for order in (models, models[::-1], sorted(models, key=lambda name: name[::-1])):
        assert fit(*left_awake(order, groups))
    if made.devices is not None:
        claims = {name: Claim([], made.needs[name], name in made.pinned) for name in models}
        assert not list(find_faults(claims, made.devices))
