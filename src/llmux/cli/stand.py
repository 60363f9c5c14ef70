"""The orders that stand until they are taken back: ``llmux release`` and ``resume``, ``drain`` and ``undrain``, ``pin``
and ``unpin``."""

from __future__ import annotations

from typing import Annotated

import typer

from llmux.cli.operate import interruptible, order_about, tell
from llmux.cli.options import (
    JsonOption,
    KeyOption,
    ModelArgument,
    UrlOption,
    WhichConfigOption,
    fail,
    server,
)


def release(
    refuse: Annotated[
        bool, typer.Option("--refuse", metavar="", help="Refuse requests meanwhile (503), instead of holding them.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Give the devices away: drain everything, put it to sleep, and wake nothing until `llmux resume`."""
    from llmux.cli.connection import RefusedError
    from llmux.cli.progress import describe_release, with_progress
    from llmux.cli.tables import duration
    from llmux.hooks.output import printable

    with server(url, admin_key, config) as llmux:
        try:
            answer = interruptible(
                lambda: with_progress(
                    llmux,
                    None,
                    "putting everything to sleep",
                    lambda: llmux.post(f"/release?refuse={str(refuse).lower()}"),
                    describe_release,
                )
            )
        except RefusedError as error:
            stands = "\nllmux is released all the same, and wakes nothing until `llmux resume`."
            fail(printable(str(error)) + (stands if error.code in ("hook_failed", "device_lost") else ""))
        took = f" ({duration(answer['secs'])})" if answer["secs"] >= 0.05 else ""
        fate = "refused" if refuse else "held"
        tell(answer, f"everything is asleep{took}; requests are {fate} until `llmux resume`", as_json=as_json)


def resume(
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Take the devices back after `llmux release`: models are woken for those who ask for them."""
    with server(url, admin_key, config) as llmux:
        tell(llmux.post("/resume"), "models are woken again when they are asked for", as_json=as_json)


def drain(
    model: ModelArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Take a model out of use: let it finish, put it to sleep, and hold its requests until `llmux undrain`."""
    order_about(model, "drain", "is asleep, and its requests wait", url, admin_key, config, as_json=as_json)


def undrain(
    model: ModelArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Put a drained model back into use."""
    order_about(model, "undrain", "is given requests again", url, admin_key, config, as_json=as_json)


def pin(
    model: ModelArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Once it is awake, do not put a model to sleep for others, until `llmux unpin`. Does not wake it."""
    order_about(model, "pin", "is pinned", url, admin_key, config, as_json=as_json)


def unpin(
    model: ModelArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Let a pinned model be put to sleep for others again."""
    order_about(model, "unpin", "is not pinned any more", url, admin_key, config, as_json=as_json)
