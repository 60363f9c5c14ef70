"""``llmux logs``: what hooks did and printed."""

from __future__ import annotations

from typing import Annotated

import typer

from llmux.cli.options import KeyOption, UrlOption, WhichConfigOption, fail, model_names, server


def logs(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Only of this model.", autocompletion=model_names, show_default="all models"
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", metavar="", help="Go on with what happens: output, states, switches."),
    ] = False,
    last: Annotated[
        int | None,
        typer.Option("--last", "-n", min=0, metavar="N", help="Only the last N runs.", show_default="20 of each hook"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a line of JSON for each.")] = False,
    url: UrlOption = None,
    admin_key: KeyOption = None,
    config: WhichConfigOption = None,
) -> None:
    """Show the hooks' runs with what they printed, the newest last."""
    with server(url, admin_key, config, as_json=as_json) as llmux:
        from llmux.cli.connection import RefusedError
        from llmux.cli.operate import meant
        from llmux.cli.watch import show_logs
        from llmux.hooks.output import printable

        try:
            show_logs(llmux, model, follow=follow, last=last, as_json=as_json)
        except RefusedError as error:
            fail(printable(f"{error}{meant(llmux, model or '', error)}"), code=error.code, as_json=as_json)
