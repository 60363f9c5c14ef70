"""Commands as typer has them, without what its ways with types show to people: ``--help <bool>``, ``Value error, …``.

Light: imported whenever `llmux` is started, whatever for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


def _no_type(**_context: Any) -> None:
    """In the place of what names an argument's type."""


class _Plain:
    """What commands and groups of them have in common."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the class that this is mixed into
        for param in params:
            if param.param_type_name == "argument":
                param.display_type_rich = _no_type  # its name says it
            elif param.is_flag and param.metavar is None:
                param.metavar = ""
        return params

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]  # as above
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # pydantic's
            raise


class Command(_Plain, TyperCommand):
    pass


class Group(_Plain, TyperGroup):
    pass


class App(typer.Typer):
    """A `typer.Typer` whose commands are such."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=Command, **options)
