"""The orders that stand until they are taken back: ``llmux release`` and ``resume``, ``drain`` and ``undrain``, ``pin``
and ``unpin``."""

from __future__ import annotations

from typing import Annotated

import typer

from llmux.cli.operate import interruptible, order_about, tell, took
from llmux.cli.options import Call, ModelArgument, for_running


@for_running
def release(
    call: Call,
    refuse: Annotated[
        bool, typer.Option("--refuse", metavar="", help="Refuse requests meanwhile (503), instead of holding them.")
    ] = False,
) -> None:
    """Give the devices away: drain everything, put it to sleep, and wake nothing until `llmux resume`."""
    from llmux.cli.connection import RefusedError
    from llmux.cli.progress import describe_release, with_progress
    from llmux.hooks.output import printable

    with call.server() as llmux:
        try:
            answer = interruptible(
                call,
                lambda: with_progress(
                    llmux,
                    None,
                    "putting everything to sleep",
                    lambda: llmux.post(f"/release?refuse={str(refuse).lower()}"),
                    describe_release,
                ),
            )
        except RefusedError as error:
            stands = "\nllmux is released all the same, and wakes nothing until `llmux resume`."
            told = printable(str(error)) + (stands if error.code in ("hook_failed", "device_lost") else "")
            call.fail(told, code=error.code)
        fate = "refused" if refuse else "held"
        tell(call, answer, f"everything is asleep{took(answer)}; requests are {fate} until `llmux resume`")


@for_running
def resume(call: Call) -> None:
    """Take the devices back after `llmux release`: models are woken for those who ask for them."""
    with call.server() as llmux:
        tell(call, llmux.post("/resume"), "models are woken again when they are asked for")


@for_running
def drain(call: Call, model: ModelArgument) -> None:
    """Take a model out of use: let it finish, put it to sleep, and hold its requests until `llmux undrain`."""
    order_about(call, model, "drain", "is asleep, and its requests wait")


@for_running
def undrain(call: Call, model: ModelArgument) -> None:
    """Put a drained model back into use."""
    order_about(call, model, "undrain", "is given requests again")


@for_running
def pin(call: Call, model: ModelArgument) -> None:
    """Once it is awake, do not put a model to sleep for others, until `llmux unpin`. Does not wake it."""
    order_about(call, model, "pin", "is pinned")


@for_running
def unpin(call: Call, model: ModelArgument) -> None:
    """Let a pinned model be put to sleep for others again."""
    order_about(call, model, "unpin", "is not pinned any more")
