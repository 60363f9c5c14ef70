"""What a shell is told when somebody presses Tab."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.cli.conftest import Box, clean, until
from tests.cli.test_cli import DEADLINE, LLMUX, llmux


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    result = llmux("completion", shell)
    assert result.returncode == 0
    assert f"complete_{shell}" in result.stdout
    assert "llmux" in result.stdout


def test_an_unknown_shell_is_2() -> None:
    assert llmux("completion", "tcsh").returncode == 2


def test_bash_completes_commands_and_models(box: Box) -> None:
    script = llmux("completion", "bash").stdout
    program = box.folder / "llmux"
    program.write_text(f"#!/bin/sh\nexec '{LLMUX[0]}' -c '{LLMUX[2]}' \"$@\"\n")
    program.chmod(0o755)
    (box.folder / "config.yaml").write_text("models: {own: {aliases: [mine], wake: 7}, other: {}}\nfaulty: yes")
    for words, expected in (
        (["llmux", "comp"], ["completion"]),
        (["llmux", "switch", "sl"], ["slow"]),
        (["llmux", "pin", "gp"], ["gpt"]),
        (["llmux", "hook", "run", "o"], ["own", "other"]),
        (["llmux", "hook", "run", "-c", "served.yaml", "g"], ["good", "gpt"]),
        (["llmux", "hook", "run", "-c", "none.yaml", "g"], []),
        (["llmux", "init", "--recipe", "vllm-"], ["vllm-process"]),
        (["llmux", "cancel", ""], []),
    ):
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _llmux_completion {program}; "
        command = ["bash", "-c", f'{script}\n{line} echo "${{COMPREPLY[@]}}"']

        def offered(command: list[str] = command) -> list[str]:
            run = subprocess.run(
                command,
                cwd=box.folder,
                env=clean() | box.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE,
            )
            return run.stdout.split()

        # An llmux that does not answer within a second, as on a busy machine, is taken not to be there.
        until(lambda offered=offered, expected=expected: offered() == expected, " ".join(words))  # type: ignore[misc]


def test_ids_of_requests_complete(box: Box) -> None:
    with ThreadPoolExecutor() as asking:
        asked = asking.submit(
            httpx.post, f"{box.server.url}/v1/completions", json={"model": "slow"}, timeout=DEADLINE
        )  # fmt: skip
        until(lambda: box.run("requests").stdout != "no requests\n", "the request waits")
        words: list[str] = []

        def offered() -> bool:
            words[:] = box.run("cancel", _LLMUX_COMPLETE="complete_fish", _TYPER_COMPLETE_ARGS="llmux cancel ",
                               _TYPER_COMPLETE_FISH_ACTION="get-args").stdout.split()  # fmt: skip
            return words[1:] == ["slow,", "waits"]

        until(offered, "it is offered")
        assert box.run("cancel", words[0]).returncode == 0
        assert asked.result(DEADLINE).status_code == 503
