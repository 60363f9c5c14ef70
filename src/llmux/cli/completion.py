"""``llmux completion``: the script with which a shell completes llmux's commands, options and models."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from llmux.cli.start import COMPLETE_VARIABLE


class Shell(enum.StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", show_default=False)],
) -> None:
    """Print the completion script of a shell: `eval "$(llmux completion bash)"` in ~/.bashrc, and so on."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer has no better door

    typer.echo(get_completion_script(prog_name="llmux", complete_var=COMPLETE_VARIABLE, shell=shell.value))


def prepare() -> None:
    """Let llmux answer a shell that asks what could come next."""
    from typer.completion import completion_init  # type: ignore[attr-defined]  # typer has no better door

    completion_init()
