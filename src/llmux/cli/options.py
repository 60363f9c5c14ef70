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


def model_names(incomplete: str) -> list[str]:
    """For completion in a shell: the names of the models of the llmux that the environment names, if it answers."""
    import os

    from llmux.cli.connection import CallError, Server, UsageError, environment_key, find

    try:
        server = Server(find(os.environ.get("LLMUX_URL"), None), environment_key())
        models = server.get("/models", timeout=1.0)["models"]
    except (CallError, UsageError):
        return []
    return [model["name"] for model in models if model["name"].startswith(incomplete)]


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


def fail(message: str, status: int = REFUSED) -> NoReturn:
    """Say on stderr what went wrong, and exit."""
    typer.echo(f"llmux: {message}", err=True)
    raise typer.Exit(status)


@contextmanager
def server(url: str | None, key: str | None, config: Path | None) -> Iterator[Server]:
    """The llmux that the options name. What goes wrong with it ends the command with a message."""
    from llmux.cli.connection import CallError, Server, UsageError, find
    from llmux.hooks.output import printable

    try:
        yield Server(find(url, config), key or None)
    except UsageError as error:
        fail(printable(str(error)), USAGE)
    except CallError as error:
        fail(printable(str(error)))
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
        return server(self.url, self.admin_key, self.config)


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
