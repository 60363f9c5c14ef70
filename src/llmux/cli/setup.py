"""What `llmux init` knows: the recipes, and what a configuration made of one looks like.

Writes nothing, and runs nothing but nvidia-smi, to see what GPUs there are.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

HOOKS = "hooks"
"""The folder beside the configuration file into which scripts are copied."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to run models.

    `what` is what the user says of each model, `example` an example of it. `wake` is what follows ``wake`` in the hook:
    ``{what}`` all of it, ``{name}`` its first words, `names` in number, which also follow ``sleep`` and ``alive``.
    `port` is that of the first model; `shared` says that all models have it. `by_url` asks for the backend's URL
    instead. `sends_name` sends the backend the first word of `what` as the model's name. `wake_secs` is a deadline for
    the wake hook where the default is too short. `measures` says that the script has a verify hook, which asks the GPU
    for free memory. `notes` are for whoever sets it up.
    """

    title: str
    script: str
    what: str
    example: str
    wake: str = "{what}"
    names: int = 0
    port: int = 8001
    shared: bool = False
    by_url: bool = False
    sends_name: bool = False
    wake_secs: int | None = None
    measures: bool = False
    notes: tuple[str, ...] = ()


RECIPES: dict[str, Recipe] = {
    "vllm": Recipe(
        "vLLM, sleep mode: servers stay up, wake in a second or two (0.17 or newer)",
        "vllm",
        "the model's Hugging Face id, then options of vllm serve",
        "Qwen/Qwen3-8B --gpu-memory-utilization 0.85",
        sends_name=True,
        measures=True,
        notes=(
            "A sleeping server keeps its weights in host memory: see that there is enough for all, or put "
            "SLEEP_LEVEL=2 before the sleep hook.",
        ),
    ),
    "vllm-process": Recipe(
        "vLLM, a process for each model that is started and stopped",
        "process",
        "the model's Hugging Face id, then options of vllm serve",
        "Qwen/Qwen3-8B --max-model-len 16384",
        wake='vllm serve {what} --host 127.0.0.1 --port "$LLMUX_PORT"',
        sends_name=True,
    ),
    "sglang": Recipe(
        "SGLang, servers stay up and release their memory",
        "sglang",
        "the model's Hugging Face id, then options of sglang.launch_server",
        "Qwen/Qwen3-8B --mem-fraction-static 0.8",
        sends_name=True,
        measures=True,
    ),
    "llama.cpp": Recipe(
        "llama.cpp, a llama-server for each model",
        "llama-server",
        "the GGUF file, then options of llama-server",
        "models/qwen3-8b-q4_k_m.gguf --n-gpu-layers 999 --ctx-size 16384",
    ),
    "ollama": Recipe(
        "Ollama, models of one server",
        "ollama",
        "the model's name as in `ollama list`",
        "qwen3:8b",
        wake="{name}",
        names=1,
        port=11434,
        shared=True,
        sends_name=True,
        notes=("Start Ollama with OLLAMA_KEEP_ALIVE=-1, or it unloads models by itself.",),
    ),
    "tabbyapi": Recipe(
        "TabbyAPI, models of one server",
        "tabbyapi",
        "the model's folder name",
        "Qwen3-8B-exl3",
        wake="{name}",
        names=1,
        port=5000,
        shared=True,
        sends_name=True,
        notes=("Put TABBY_ADMIN_KEY into llmux's environment: the hooks need it.",),
    ),
    "docker": Recipe(
        "docker, a container for each model",
        "docker",
        "the container's name",
        "llama",
        wake="{name}",
        names=1,
        notes=(
            "Make the containers first, each with its port published on 127.0.0.1 and without a restart policy: "
            "docker create --name llama --gpus all -p 127.0.0.1:8001:8000 ...",
        ),
    ),
    "podman-criu": Recipe(
        "podman with CRIU, containers that sleep as checkpoints",
        "podman-criu",
        "the container's name",
        "llama",
        wake="{name}",
        names=1,
        notes=("Needs root, CRIU, and for a GPU its CUDA plugin.",),
    ),
    "systemd": Recipe(
        "systemd, a unit for each model",
        "systemd",
        "the unit's name",
        "llama.service",
        wake="{name}",
        names=1,
        notes=(
            "Whoever runs llmux must be allowed to start and stop the units (polkit, or SYSTEMD_SCOPE=--user).",
            "Set TimeoutStartSec and TimeoutStopSec in the units where 90 seconds are too short.",
        ),
    ),
    "kubectl": Recipe(
        "Kubernetes, a deployment for each model",
        "kubectl",
        "the deployment's name, then the label that selects its pods",
        "llama app=llama",
        wake="{name}",
        names=2,
        by_url=True,
        notes=("KUBE_NAMESPACE in llmux's environment names the namespace.",),
    ),
    "slurm": Recipe(
        "Slurm, a job for each model",
        "slurm",
        "the job's name, then arguments of sbatch",
        "llama --gpus=1 serve-llama.sh",
        names=1,
        wake_secs=3600,
        notes=(
            'The job serves on all addresses of its node: --host 0.0.0.0 --port "$LLMUX_PORT". llmux finds out where.',
            "A wake includes the time in Slurm's queue: see hook_timeout_secs.",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that the user wants: its name, and what the recipe asks for. `backend` is its URL, if asked for."""

    name: str
    what: str
    backend: str | None = None


def memory_notes(recipe: Recipe, free_mib: int | None) -> tuple[str, ...]:
    """What there is to be said of free memory."""
    if not recipe.measures:
        return ()
    if free_mib is None:
        return ("The servers are believed when they say that their memory is free; --free-mib N has the GPU asked.",)
    return (
        f"After a sleep, each GPU must have {free_mib} MiB of free memory, which are FREE_MIB in the sleep and verify "
        "hooks: set it to what the next model needs.",
        "Put GPUS=0 (numbers as nvidia-smi has them) before the hooks of a model that does not have all GPUs.",
    )


def half_of_a_gpu() -> int | None:
    """Half of the memory of the smallest GPU here, in MiB; None where there is none to be asked. A server that has not
    let go of its memory holds more than that, unless it was told to take less."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(query, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
        return min(int(line) for line in asked.stdout.split()) // 2 or None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def recipe_file(script: str) -> Path:
    """The file of a recipe's script, as it is installed."""
    return Path(str(files("llmux.recipes").joinpath(f"{script}.sh")))


def configuration(recipe: Recipe, models: Sequence[Wanted], *, free_mib: int | None = None) -> dict[str, Any]:
    """The configuration, as its file will have it. With `free_mib`, nobody is woken before each GPU of the model that
    went to sleep has so much free memory, in MiB.

    Raises:
        ValueError: what is said of a model is not what the recipe asks for, or it cannot measure.
    """
    if free_mib is not None and not recipe.measures:
        able = ", ".join(name for name, one in RECIPES.items() if one.measures)
        raise ValueError(f"--free-mib is for {able}: whatever the others run is gone when it sleeps")
    made = {}
    for index, model in enumerate(models):
        words = model.what.split()
        if len(words) < max(1, recipe.names):
            raise ValueError(f"{model.name}: give {recipe.what}, such as: {recipe.example}")
        if recipe.by_url and model.backend is None:
            raise ValueError(f"{model.name}: where does it listen? Give --backend http://HOST:PORT for each model")
        made[model.name] = _model(recipe, model, words, index)
        if free_mib is not None:
            script = f"FREE_MIB={free_mib} ./{HOOKS}/{recipe.script}.sh"
            made[model.name] |= {"sleep": f"{script} sleep", "verify": f"{script} verify"}
    return {"models": made, "port": 3000}


def unsound(made: dict[str, Any]) -> str:
    """What llmux, or the shell that runs the hooks, would not take of a configuration; empty if nothing."""
    from pydantic import ValidationError

    from llmux.cli.trial import syntax_fault
    from llmux.config import Config
    from llmux.config.faults import message_of

    try:
        Config.model_validate(made)
    except ValidationError as error:
        faults = "\n".join(f"  {'.'.join(map(str, one['loc']))}: {message_of(one)}" for one in error.errors())
        return f"that would be no configuration that llmux takes:\n{faults}"
    for name, model in made["models"].items():
        for hook in ("wake", "sleep", "alive"):
            if fault := syntax_fault(model[hook]):
                return f"{name}: the shell cannot make sense of what you say of it: {fault}"
    return ""


def _model(recipe: Recipe, model: Wanted, words: list[str], index: int) -> dict[str, Any]:
    name = " ".join(words[: recipe.names])
    script = f"./{HOOKS}/{recipe.script}.sh"
    if model.backend is not None:
        script = f"BACKEND_URL={model.backend} {script}"
    fields: dict[str, Any] = {}
    if model.backend is not None:
        fields["url"] = model.backend
    else:
        fields["port"] = recipe.port if recipe.shared else recipe.port + index
    if recipe.sends_name and words[0] != model.name:
        fields["send_model_as"] = words[0]
    fields["wake"] = f"{script} wake {recipe.wake.format(what=model.what, name=name)}".strip()
    fields["sleep"] = f"{script} sleep {name}".strip()
    fields["alive"] = f"{script} alive {name}".strip()
    if recipe.wake_secs is not None:
        fields["hook_timeout_secs"] = {"wake": recipe.wake_secs}
    return fields
