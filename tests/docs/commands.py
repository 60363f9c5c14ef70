"""Every command line in the documents, and why some of them are not run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from tests.docs.documents import ALL_DOCUMENTS, blocks, inline_code

PROGRAMS = """
bash curl docker journalctl kubectl llmux make openssl pip podman printf pytest python python3 sudo systemctl
systemd-analyze useradd wget
"""
"""What text amid a sentence begins with if it is a command. In a block every line is one, whatever it begins with."""

NOT_RUN = {
    "make …": "each takes minutes; continuous integration runs them, and the tests of the demo run `llmux demo`",
    "bash .ci/run": "it would run these tests again",
    ".venv/bin/pytest …": "a test within a test; it is one that runs anyway",
    "pytest --fault 3": "it looks through all tests",
    "pytest --fault 44": "it looks through all tests",
    "LLMUX_FUZZ=5000 …": "it takes minutes; the same tests run with fewer examples",
    "LLMUX_HISTORIES=2000 …": "it takes minutes; the same tests run with fewer histories",
    "python -m tests.simulation …": "it takes minutes; tests/simulation plays some of its seeds",
    "python -m bench.gateways …": "it measures, which takes minutes of a quiet machine",
    "python -m bench.soak …": "it takes as long as one says; tests/bench/test_soak.py runs a short one",
    "LLMUX_SEED=7 …": "a test within a test; it runs with another seed",
    "python bench/event_log.py": "it measures, which takes minutes of a quiet machine",
    "python bench/waiting.py": "it measures, which takes minutes of a quiet machine",
    "python bench/live.py …": "it measures, which takes minutes of a quiet machine",
    "python bench/policies.py …": "it needs recorded traffic, and hours",
    "python bench/devices.py …": "it needs recorded traffic, and hours",
    "python3 -m venv ~/llmux": "installing needs a package index; `make` does the same",
    "~/llmux/bin/pip …": "installing needs a package index; `make` does the same",
    'export PATH="$HOME/llmux/bin:$PATH"': "nothing was installed there",
    "pip install …": "installing needs a package index; the tests have these extras",
    "pip freeze": "`make refresh-constraints` runs it",
    "LLMUX_MYPYC=1 …": "it needs a C compiler and minutes; `make test-compiled` does it",
    "useradd …": "it needs root",
    "python3 -m venv /opt/llmux": "it needs root",
    "/opt/llmux/bin/pip …": "it needs root",
    "install …": "it needs root; test_deployment.py checks what is installed",
    "systemctl …": "it needs systemd, and root",
    "systemd-analyze …": "it needs systemd",
    "journalctl …": "it needs systemd",
    "podman …": "it needs podman, and images from elsewhere",
    "kubectl …": "it needs a cluster",
    'eval "$(llmux completion zsh)"': "zsh is not everywhere; tests/cli/test_completion.py looks at what it gets",
    'echo "http://$node:8000" >"$LLMUX_BACKEND_FILE"': "a line of a hook; tests/e2e/test_reported.py runs one",
    "llmux -c FILE": "the same as `llmux -c config.yaml`",
    "llmux hook run MODEL wake": "the same as `llmux hook run llama wake`",
    "llmux init": "it asks questions; tests/cli/test_init.py answers them",
    "llmux init /etc/llmux/config.yaml": "it asks questions; tests/cli/test_init.py answers them",
    "llmux init --recipe": "named without its recipe; others have it",
    "llmux init --from-llama-swap": "named without its file; the example of llama-swap.md has one",
    "llmux simulate": "named without its traffic; others have it",
    "llmux simulate --from-log": "named without its log; others have it",
    "llmux replay": "named without its log; others have it",
    "llmux replay --check": "named without its log; others have it",
    "llmux switch": "named without its model; others have it",
    "llmux sleep": "named without its model; others have it",
    "llmux look": "named without its model; others have it",
    "llmux free": "named without its model; others have it",
    "llmux drain": "named without its model; others have it",
    "llmux pin": "named without its model; others have it",
    "llmux cancel": "named without its request; others have it",
    "llmux hook run": "named without its hook; others have it",
    "llmux completion": "named without its shell; others have it",
    "llmux backend": "named without its options; others have them",
    "llmux demo": "it needs real models; `make test-demo` runs it",
}
"""A command, or how some begin (with an ellipsis), and why it cannot be run here."""

RUN = {
    "before llmux runs": (
        "llmux check …",
        "llmux hook run …",
        "llmux init --list",
        "llmux schema",
        "llmux completion …",
        'eval "$(llmux completion bash)"',
        "llmux simulate --generate …",
        "openssl …",
        "printf …",
        "/opt/llmux/bin/python -c …",
    ),
    "until Ctrl-C": ("llmux", "llmux serve", "llmux -c …", "llmux --watch", "llmux backend …"),
    "while llmux runs": (
        "llmux status …",
        "llmux models",
        "llmux requests",
        "llmux logs …",
        "llmux switch …",
        "llmux sleep …",
        "llmux pin …",
        "llmux unpin …",
        "llmux drain …",
        "llmux undrain …",
        "llmux free …",
        "llmux cancel …",
        "llmux look …",
        "llmux release …",
        "llmux resume",
        "llmux reload",
        "curl …",
    ),
    "with what llmux has written": ("llmux replay …", "llmux simulate --from-log …", "llmux simulate trace.csv …"),
}
"""What test_commands.py runs, and when. Of each kind, in the order of these rows, then of the documents."""

EXAMPLES = {
    "cli.md": ("test_cli.py", "init.sh"),
    "llama-swap.md": ("test_walkthroughs.py", "take-over.sh"),
    "operations.md": ("test_hooks.py", "llama-server.sh", "vllm.sh"),
    "policies.md": ("test_policies.py", "simulate.sh", "sweep.sh", "own.sh"),
    "quick-start.md": ("test_walkthroughs.py", "toy.sh", "check.sh", "ask.sh"),
    "recipes.md": ("test_walkthroughs.py", "vllm.sh", "ollama.sh", "docker.sh", "systemd.sh", "kubectl.sh", "slurm.sh"),
}
"""Whole examples that another test runs: the document, the test, their names."""


def bare(line: str) -> str:
    """A line without prompt and remark."""
    return re.sub(r"\s+#\s.*", "", line.strip().removeprefix("$ ")).strip()


def in_block(text: str) -> Iterator[str]:
    """The commands of a block. Where some lines have a prompt, the others are what was answered."""
    lines = text.replace("\\\n", " ").splitlines()
    prompted = [line for line in lines if line.startswith("$ ")]
    yield from filter(None, map(bare, prompted or lines))


def is_command(text: str) -> bool:
    """Of text amid a sentence: it has a program and something that this should do."""
    words = [word for word in text.split() if not re.match(r"[A-Z_]+=", word)]
    return len(words) > 1 and Path(words[0]).name in PROGRAMS.split()


@cache
def commands() -> dict[str, str]:
    """Every command that is no part of an example which another test runs, and where it is first."""
    found: dict[str, str] = {}
    for document in ALL_DOCUMENTS:
        ours = [
            block for block in blocks(document, "", "sh") if block.name not in EXAMPLES.get(document.name, ("",))[1:]
        ]
        for block in ours:
            for line in in_block(block.text):
                found.setdefault(line, str(block))
        for text in filter(is_command, inline_code(document)):
            found.setdefault(text, document.name)
    return found


def row_for(command: str, rows: Collection[str]) -> str | None:
    """The row that is this command, else the longest that is its beginning."""
    begun = [row for row in rows if row.endswith(" …") and f"{command} ".startswith(row.removesuffix("…"))]
    return command if command in rows else max(begun, key=len, default=None)
