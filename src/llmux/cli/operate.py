"""The commands for a running llmux: what it does, and orders to it, by its admin API.

Exit status: 0 for done, 1 for refused (the message is llmux's own) or not reached, 2 for bad usage.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmux.cli.options import (
    INTERRUPTED,
    JsonOption,
    KeyOption,
    ModelArgument,
    UrlOption,
    WhichConfigOption,
    fail,
    print_json,
    server,
)

if TYPE_CHECKING:
    from llmux.cli.connection import RefusedError, Server


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", metavar="", help="Go on showing it as it changes, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Show all models: state, queue, what waking and sleeping cost; and whether llmux is ready, and why not."""
    from llmux.cli import tables

    with server(url, admin_key, config) as llmux:
        if watch:
            from llmux.cli.watch import watch_status

            watch_status(llmux, as_json=as_json)
            return
        state = llmux.get("/state")
        if as_json:
            print_json(state)
        else:
            tables.console().print(tables.status(state, llmux.url))


def models(
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """List the models: aliases, state, devices, usual wake and sleep times, how often they are asked for."""
    from llmux.cli import tables

    with server(url, admin_key, config) as llmux:
        found = llmux.get("/models")["models"]
        if as_json:
            print_json(found)
        else:
            tables.console().print(tables.models(found))


def requests(
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """List the requests that wait or are served, with the ids that `llmux cancel` wants."""
    from llmux.cli import tables

    with server(url, admin_key, config) as llmux:
        found = llmux.get("/requests")["requests"]
        if as_json:
            print_json(found)
            return
        table = tables.grid("ID", "MODEL", "STATE", "AGE", right=("ID", "AGE"))
        for one in found:
            state = "served" if one["granted"] else "waits"
            table.add_row(str(one["id"]), tables.text(one["model"]), state, tables.duration(one["age_secs"]))
        tables.console().print(table)


def switch(
    model: ModelArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Wake a model now, whoever waits, and return once it is awake. What is in its way is drained and put to sleep."""
    order_about(model, "switch", "is awake", url, admin_key, config, as_json=as_json)


def sleep(
    model: ModelArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Drain a model and put it to sleep; return once it sleeps."""
    order_about(model, "sleep", "is asleep", url, admin_key, config, as_json=as_json)


def free(
    model: ModelArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Give your word that a lost or unconfirmed model holds no memory: others may be woken there at once."""
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Are you sure that {model} holds no memory? Others will be woken there.", abort=True, err=True)
    order_about(model, "free", "counts as asleep", url, admin_key, config, as_json=as_json)


def look(
    model: ModelArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Look at a lost model now instead of later: alive, then verify, then sleep."""
    order_about(model, "look", "is not lost", url, admin_key, config, as_json=as_json)


def cancel(
    request_id: Annotated[int, typer.Argument(metavar="ID", min=0, help="As `llmux requests` has it.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """End a request: one that waits is refused, one that is served is cut off."""
    with server(url, admin_key, config) as llmux:
        tell(llmux.post(f"/requests/{request_id}/cancel"), f"request {request_id} was ended", as_json=as_json)


def reload(
    as_json: JsonOption = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Have llmux read its configuration file again. A file with faults changes nothing; they are shown."""
    from llmux.cli.connection import RefusedError
    from llmux.cli.progress import with_progress
    from llmux.hooks.output import printable

    with server(url, admin_key, config) as llmux:
        try:
            answer = interruptible(
                lambda: with_progress(llmux, None, "reading the configuration again", lambda: llmux.post("/reload"))
            )
        except RefusedError as error:
            # The server tells all faults of the file in one line, each with the file's name before it.
            message = printable(str(error))
            file = message.partition(": ")[0]
            fail(message.replace(f"; {file}", f"\n  {file}") + "\nNothing was changed.")
        tell(answer, "the configuration was read again", as_json=as_json)


def order_about(
    model: str, order: str, done: str, url: str | None, key: str | None, config: Any, *, as_json: bool
) -> None:
    from llmux.cli.connection import RefusedError, model_path
    from llmux.cli.progress import with_progress
    from llmux.cli.tables import duration
    from llmux.hooks.output import printable

    words = {
        "switch": f"{model}: waiting for its turn",
        "look": f"looking at {model}",
        "drain": f"draining {model}",
    }.get(order, f"{model}: {order}")
    with server(url, key, config) as llmux:
        try:
            answer = interruptible(
                lambda: with_progress(llmux, model, words, lambda: llmux.post(model_path(model, order)))
            )
        except RefusedError as error:
            hint = f"\n`llmux logs {model}` shows what its hooks printed." if error.code == "hook_failed" else ""
            fail(printable(f"{error}{hint}{meant(llmux, model, error)}"))
        took = f" ({duration(answer['secs'])})" if answer["secs"] >= 0.05 else ""
        tell(answer, f"{model} {done}{took}", as_json=as_json)


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


def interruptible(order: Any) -> Any:
    try:
        return order()
    except KeyboardInterrupt:
        fail("the order stands, and is carried out all the same; `llmux status` shows how it gets on", INTERRUPTED)


def tell(answer: Any, words: str, *, as_json: bool) -> None:
    from llmux.hooks.output import printable

    if as_json:
        print_json(answer)
    else:
        typer.echo(printable(words))
