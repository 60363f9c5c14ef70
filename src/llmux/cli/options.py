"""The options and the exit statuses that several commands share, and how they find the llmux that they are about.

Light: imported whenever `llmux` is started, whatever for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from llmux.cli.serving import DEFAULT_CONFIG as DEFAULT_CONFIG
from llmux.cli.start import INTERRUPTED as INTERRUPTED

if TYPE_CHECKING:
    from llmux.cli.connection import Server

DONE, REFUSED, USAGE = 0, 1, 2
"""Exit statuses: it was done; it could not be; what was asked for makes no sense."""


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """For completion in a shell: the names and aliases of the models of the llmux that is meant, if it answers."""
    models = _answer(context, "/models", "models")
    names = [name for model in models for name in (model["name"], *model["aliases"])]
    return [name for name in names if name.startswith(incomplete)]


def request_ids(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """For completion in a shell: the ids of the requests of the llmux that is meant, each with what it is."""
    requests = _answer(context, "/requests?limit=100", "requests")
    ids = [(str(one["id"]), f"{one['model']}, {'served' if one['granted'] else 'waits'}") for one in requests]
    return [(number, what) for number, what in ids if number.startswith(incomplete)]


def _answer(context: typer.Context, path: str, name: str) -> list[Any]:
    """What the llmux has that the options before the cursor name; nothing if it does not answer. Nobody who is typing
    wants to hear why."""
    import os

    from llmux.cli.connection import CallError, Server, UsageError, environment_key, find

    said = context.params
    try:
        place = find(said.get("url") or os.environ.get("LLMUX_URL"), said.get("config"))
        found = Server(place, said.get("admin_key") or environment_key()).get(path, timeout=1.0)[name]
    except (CallError, UsageError, KeyError, TypeError):
        return []
    return found if isinstance(found, list) else []


UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LLMUX_URL",
        metavar="URL",
        help="Where llmux listens.",
        show_default="what the configuration file says, or http://127.0.0.1:3000",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--admin-key",
        envvar="LLMUX_ADMIN_KEY",
        metavar="KEY",
        help="One of `admin_keys`. Better in the environment: others can see a command line.",
        show_default=False,
    ),
]
WhichConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The llmux of this configuration file.",
        show_default="config.yaml, if there is one",
    ),
]
ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration file, YAML or JSON.", show_default=True),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Its name, or an alias.", autocompletion=model_names, show_default=False)
]


def fail(message: str, status: int = REFUSED, *, code: str = "", as_json: bool = False) -> NoReturn:
    """Say on stderr what went wrong, with `as_json` on stdout, too, and exit. `code` is what the server has called it,
    if it was the server; else the exit status has a name."""
    typer.echo(f"llmux: {message}", err=True)
    if as_json:
        import json

        code = code or {USAGE: "usage", INTERRUPTED: "interrupted"}.get(status, "failed")
        typer.echo(json.dumps({"error": {"message": message, "code": code}}, ensure_ascii=False))
    raise typer.Exit(status)


@contextmanager
def server(url: str | None, key: str | None, config: Path | None, *, as_json: bool) -> Iterator[Server]:
    """The llmux that the options name. What goes wrong with it ends the command with a message."""
    from llmux.cli.connection import CallError, RefusedError, Server, UsageError, find
    from llmux.hooks.output import printable

    try:
        yield Server(find(url, config), key or None)
    except UsageError as error:
        fail(printable(str(error)), USAGE, as_json=as_json)
    except RefusedError as error:
        fail(printable(str(error)), code=error.code, as_json=as_json)
    except CallError as error:
        fail(printable(str(error)), code="unreachable", as_json=as_json)
    except BrokenPipeError:
        fail("nobody reads the output any more")


@dataclass(frozen=True, slots=True)
class Call:
    """What the options of every command for a running llmux said: which one is meant, and how to answer."""

    url: str | None
    admin_key: str | None
    config: Path | None
    as_json: bool

    def server(self) -> AbstractContextManager[Server]:
        """See `server`."""
        return server(self.url, self.admin_key, self.config, as_json=self.as_json)

    def fail(self, message: str, status: int = REFUSED, *, code: str = "") -> NoReturn:
        """See `fail`."""
        fail(message, status, code=code, as_json=self.as_json)


_CALL = tuple(
    Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("as_json", False, JsonOption),
        ("url", None, UrlOption),
        ("admin_key", None, KeyOption),
        ("config", None, WhichConfigOption),
    )
)


def for_running(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command for a running llmux of a function that wants a `Call` before its own arguments and options: the
    options that make the call are put after them."""

    @wraps(command)
    def run(*, as_json: bool, url: str | None, admin_key: str | None, config: Path | None, **own: object) -> None:
        command(Call(url, admin_key, config, as_json), **own)

    whole = signature(command, eval_str=True)
    _, *own = whole.parameters.values()
    run.__signature__ = whole.replace(parameters=[*own, *_CALL])  # type: ignore[attr-defined]  # what typer reads
    return run


def print_json(value: Any) -> None:
    """Print `value` as JSON."""
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
