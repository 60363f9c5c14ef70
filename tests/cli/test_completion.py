"""What a shell is told when somebody presses Tab."""

from __future__ import annotations

import subprocess

import pytest

from tests.cli.conftest import Box, clean
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
    for words, expected in ((["llmux", "comp"], "completion"), (["llmux", "switch", "sl"], "slow")):
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _llmux_completion {program}; "
        run = subprocess.run(
            ["bash", "-c", f'{script}\n{line} echo "${{COMPREPLY[@]}}"'],
            env=clean() | box.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
        assert run.stdout.split() == [expected], run.stderr
