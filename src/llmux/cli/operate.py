"""The commands for a running llmux: what it does, and orders to it, by its admin API.

Exit status: 0 for done, 1 for refused (the message is llmux's own) or not reached, 2 for bad usage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmux.cli.options import (
    INTERRUPTED,
    USAGE,
    Call,
    ModelArgument,
    for_running,
    print_json,
    request_ids,
)

if TYPE_CHECKING:
    from llmux.cli.connection import RefusedError, Server


@for_running
def status(
    call: Call,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", metavar="", help="Go on showing it as it changes, until Ctrl-C.")
    ] = False,
) -> None:
    """Show all models: state, queue, what waking and sleeping cost; and whether llmux is ready, and why not."""
    from llmux.cli import tables

    with call.server() as llmux:
        if watch:
            from llmux.cli.watch import watch_status

            watch_status(llmux, as_json=call.as_json)
            return
        state = llmux.get("/state")
        if call.as_json:
            print_json(state)
        else:
            tables.console().print(tables.status(state, llmux.url))


@for_running
def models(call: Call) -> None:
    """List the models: aliases, state, devices, usual wake and sleep times, how often they are asked for."""
    from llmux.cli import tables

    with call.server() as llmux:
        found = llmux.get("/models")["models"]
        if call.as_json:
            print_json(found)
        else:
            tables.console().print(tables.models(found))


@for_running
def requests(call: Call) -> None:
    """List the requests that wait or are served: how far they are, whose they are, and the ids that `llmux cancel`
    wants."""
    from llmux.cli import tables

    with call.server() as llmux:
        found = llmux.get("/requests")["requests"]
        if call.as_json:
            print_json(found)
            return
        if found:
            tables.console().print(tables.requests(found))
        else:
            typer.echo("no requests")


@for_running
def switch(call: Call, model: ModelArgument) -> None:
    """Wake a model now, whoever waits, and return once it is awake. What is in its way is drained and put to sleep."""
    order_about(call, model, "switch", "is awake")


@for_running
def sleep(call: Call, model: ModelArgument) -> None:
    """Drain a model and put it to sleep; return once it sleeps."""
    order_about(call, model, "sleep", "is asleep")


@for_running
def free(
    call: Call,
    model: ModelArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")] = False,
) -> None:
    """Give your word that a lost or unconfirmed model holds no memory: others may be woken there at once."""
    if not yes:
        if not sys.stdin.isatty():
            call.fail(
                f"others would be woken where {model} may be, and nobody is there to be asked: make sure that it holds "
                "no memory, then give --yes",
                USAGE,
            )
        typer.confirm(f"Are you sure that {model} holds no memory? Others will be woken there.", abort=True, err=True)
    order_about(call, model, "free", "counts as asleep")


@for_running
def look(call: Call, model: ModelArgument) -> None:
    """Look at a lost model now instead of later: alive, then verify, then sleep."""
    order_about(call, model, "look", "is not lost")


@for_running
def cancel(
    call: Call,
    request_id: Annotated[
        int,
        typer.Argument(
            metavar="ID", min=0, help="As `llmux requests` has it.", autocompletion=request_ids, show_default=False
        ),
    ],
) -> None:
    """End a request: one that waits is refused, one that is served is cut off."""
    with call.server() as llmux:
        tell(call, llmux.post(f"/requests/{request_id}/cancel"), f"request {request_id} was ended")


@for_running
def reload(call: Call) -> None:
    """Have llmux read its configuration file again. A file with faults changes nothing; they are shown."""
    from llmux.cli.connection import RefusedError
    from llmux.cli.progress import with_progress
    from llmux.hooks.output import printable

    with call.server() as llmux:
        try:
            answer = interruptible(
                call,
                lambda: with_progress(llmux, None, "reading the configuration again", lambda: llmux.post("/reload")),
            )
        except RefusedError as error:
            # The server tells all faults of the file in one line, each with the file's name before it.
            message = printable(str(error))
            file = message.partition(": ")[0]
            told = message.replace(f"; {file}", f"\n  {file}") + "\nNothing was changed."
            call.fail(told, code=error.code)
        tell(call, answer, "the configuration was read again")


def order_about(call: Call, model: str, order: str, done: str) -> None:
    """Give an order about a model, wait until it is carried out, and say so: that the model is `done`."""
    from llmux.cli.connection import RefusedError, model_path
    from llmux.cli.progress import with_progress
    from llmux.hooks.output import printable

    words = {
        "switch": f"{model}: waiting for its turn",
        "look": f"looking at {model}",
        "drain": f"draining {model}",
    }.get(order, f"{model}: {order}")
    with call.server() as llmux:
        try:
            answer = interruptible(
                call, lambda: with_progress(llmux, model, words, lambda: llmux.post(model_path(model, order)))
            )
        except RefusedError as error:
            hint = f"\n`llmux logs {model}` shows what its hooks printed." if error.code == "hook_failed" else ""
            call.fail(printable(f"{error}{hint}{meant(llmux, model, error)}"), code=error.code)
        tell(call, answer, f"{model} {done}{took(answer)}")


def took(answer: Any) -> str:
    """How long an order took, to be put behind what was done; empty if that was no time to speak of."""
    from llmux.cli.tables import duration

    return f" ({duration(answer['secs'])})" if answer["secs"] >= 0.05 else ""


def meant(llmux: Server, model: str, error: RefusedError) -> str:
    """A line that names the models whose names are much like one that there is none of; empty if there are none."""
    from difflib import get_close_matches

    from llmux.cli.connection import CallError

    if error.code != "model_not_found":
        return ""
    try:
        found = llmux.get("/models")["models"]
    except CallError:
        return ""
    names = [name for one in found for name in (one["name"], *one["aliases"])]
    close = get_close_matches(model, names, n=3, cutoff=0.5)
    if not close:
        close = [name for name in names if model and model.lower() in name.lower()][:3]
    if close:
        return f"\nDid you mean {' or '.join(close)}?"
    return f"\nThere are: {', '.join(one['name'] for one in found)}" if 0 < len(found) <= 20 else ""


def interruptible(call: Call, order: Callable[[], Any]) -> Any:
    """What `order` gives; Ctrl-C ends the command, and not the order."""
    try:
        return order()
    except KeyboardInterrupt:
        call.fail("the order stands, and is carried out all the same; `llmux status` shows how it gets on", INTERRUPTED)


def tell(call: Call, answer: Any, words: str) -> None:
    """Show what came of an order: the answer, or in words."""
    from llmux.hooks.output import printable

    if call.as_json:
        print_json(answer)
    else:
        typer.echo(printable(words))
