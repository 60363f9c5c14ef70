"""``llmux init``: writes a configuration and the hooks that it names.

Asks where it is not told and somebody is there to answer. Never writes over a file unless told to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmux.cli.options import DEFAULT_CONFIG, REFUSED, USAGE, fail

if TYPE_CHECKING:
    from llmux.cli.setup import Recipe, Wanted

HEADER = """\
# Written by `llmux init`. What it can say besides: `llmux schema`, or docs/configuration.md.
# The hooks are yours to change: they are in {folder}/.
"""

PLACES = (
    "`devices` and `needs` stand for the groups: they say who may be awake beside whom, and are no sizes of memory."
)


def _recipe_names(incomplete: str) -> list[tuple[str, str]]:
    """For completion in a shell."""
    from llmux.cli.setup import RECIPES

    return [(name, recipe.title) for name, recipe in RECIPES.items() if name.startswith(incomplete)]


def init(
    file: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="The configuration to write.", show_default=True)
    ] = DEFAULT_CONFIG,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="How the models are run; --list lists them.",
            autocompletion=_recipe_names,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME=WHAT",
            help="A model: the name that clients use, and what the recipe asks for. May be repeated.",
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend", metavar="URL", help="Where it listens, for recipes that ask for that; one for each --model."
        ),
    ] = None,
    llama_swap: Annotated[
        Path | None,
        typer.Option("--from-llama-swap", metavar="CONFIG", help="Take the models of a llama-swap configuration."),
    ] = None,
    free_mib: Annotated[
        int | None,
        typer.Option(
            "--free-mib",
            metavar="N",
            min=0,
            help="Free memory that each GPU of a model must have after its sleep, in MiB; 0 = believe the server.",
            show_default="half of the smallest GPU that nvidia-smi finds",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", metavar="", help="Write over files that are there.")] = False,
    list_them: Annotated[bool, typer.Option("--list", metavar="", help="List the recipes.")] = False,
) -> None:
    """Write a configuration, and the hooks for the way in which you run models."""
    from llmux.cli.setup import RECIPES, configuration, half_of_a_gpu, memory_notes

    if list_them:
        _list()
        raise typer.Exit
    if llama_swap is not None:
        from llmux.cli.llama_swap import ConversionError, convert

        if recipe is not None or model:
            fail("--from-llama-swap takes no --recipe and no --model", USAGE)
        try:
            converted = convert(llama_swap)
        except ConversionError as error:
            fail(str(error), USAGE)
        _write(file, converted.configuration, ["process"], force=force)
        for line in converted.notes:
            typer.echo(line, err=True)
        _next(file, list(converted.configuration["models"]), (PLACES,) if "devices" in converted.configuration else ())
        return
    if recipe is None:
        if not sys.stdin.isatty():
            fail(f"say how the models are run: --recipe {'|'.join(RECIPES)}", USAGE)
        recipe = _ask_recipe()
    if recipe not in RECIPES:
        fail(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}", USAGE)
    chosen = RECIPES[recipe]
    wanted = _given(model, backend) if model else _ask_models(chosen)
    if free_mib is None and chosen.measures:
        free_mib = half_of_a_gpu()
    free_mib = free_mib or None
    try:
        made = configuration(chosen, wanted, free_mib=free_mib)
    except ValueError as error:
        fail(str(error), USAGE)
    _write(file, made, [chosen.script], force=force)
    _next(file, list(made["models"]), [*chosen.notes, *memory_notes(chosen, free_mib)])


def _list() -> None:
    from llmux.cli import tables
    from llmux.cli.setup import RECIPES

    table = tables.grid("RECIPE", "HOW", "WHAT TO SAY OF A MODEL, FOR EXAMPLE")
    for name, recipe in RECIPES.items():
        table.add_row(name, recipe.title, recipe.example)
    tables.console().print(table)


# --- what is wanted --------------------------------------------------------------------------------------------------


def _given(models: Sequence[str], backends: Sequence[str] | None) -> list[Wanted]:
    from llmux.cli.setup import Wanted

    if backends and len(backends) != len(models):
        fail(f"{len(models)} --model need {len(models)} --backend, not {len(backends)}", USAGE)
    found: dict[str, Wanted] = {}
    for index, text in enumerate(models):
        name, equals, what = text.partition("=")
        if not equals or not name.strip() or not what.strip():
            fail(f"--model {text!r}: write NAME=WHAT", USAGE)
        if name.strip() in found:
            fail(f"--model {name.strip()!r} is given twice", USAGE)
        found[name.strip()] = Wanted(name.strip(), what.strip(), backends[index] if backends else None)
    return list(found.values())


def _ask_recipe() -> str:
    from llmux.cli.setup import RECIPES

    typer.echo("How do you run models?")
    for number, (name, recipe) in enumerate(RECIPES.items(), start=1):
        typer.echo(f"  {number:2}  {name:13} {recipe.title}")
    while True:
        answer = typer.prompt("Number or name").strip()
        if answer.isdecimal() and 1 <= int(answer) <= len(RECIPES):
            return list(RECIPES)[int(answer) - 1]
        if answer in RECIPES:
            return str(answer)
        typer.echo("One of these, please.")


def _ask_models(recipe: Recipe) -> list[Wanted]:
    from llmux.cli.setup import Wanted

    if not sys.stdin.isatty():
        fail(f"say which models: --model NAME=WHAT, where WHAT is {recipe.what}, such as {recipe.example!r}", USAGE)
    found: dict[str, Wanted] = {}
    typer.echo(f"For each model: the name that clients use, and {recipe.what} (such as: {recipe.example}).")
    somewhere = "http://127.0.0.1:1" if recipe.by_url else None
    while True:
        ends = " (empty: that was all)" if found else ""
        name = typer.prompt(f"Name{ends}", default="", show_default=False).strip()
        if not name and found:
            return list(found.values())
        fault = "It needs one." if not name else "There is one of that name already." if name in found else ""
        fault = fault or _fault(recipe, [*found.values(), Wanted(name, recipe.example, somewhere)])
        if fault:
            typer.echo(fault)
            continue
        others = tuple(found.values())
        model = _ask("  What", recipe, others, partial(Wanted, name, backend=somewhere))
        if recipe.by_url:
            model = _ask(
                "  Where it listens, such as http://gpu01:8000", recipe, others, partial(Wanted, name, model.what)
            )
        found[name] = model


def _ask(question: str, recipe: Recipe, others: Sequence[Wanted], model: Callable[[str], Wanted]) -> Wanted:
    """Ask until the answer makes a `model` that can be had beside the `others`."""
    while True:
        wanted = model(typer.prompt(question).strip())
        fault = _fault(recipe, [*others, wanted])
        if not fault:
            return wanted
        typer.echo(fault)


def _fault(recipe: Recipe, models: Sequence[Wanted]) -> str:
    """What is wrong with what was said of the models; empty if nothing is."""
    from llmux.cli.setup import configuration, unsound

    try:
        return unsound(configuration(recipe, models))
    except ValueError as error:
        return str(error)


# --- what is written -------------------------------------------------------------------------------------------------


def _write(file: Path, made: dict[str, Any], scripts: Sequence[str], *, force: bool) -> None:
    """Write the configuration and its scripts: all or, where one is in the way, none."""
    import json

    import yaml

    from llmux.cli.setup import HOOKS, recipe_file, unsound

    if fault := unsound(made):  # nothing is written that llmux or the shell would not take
        fail(fault, USAGE)
    if file.suffix in (".yaml", ".yml"):
        text = HEADER.format(folder=HOOKS) + yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=1000)
    else:
        text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    folder = file.parent / HOOKS
    texts = {file: text}
    texts |= {folder / f"{script}.sh": recipe_file(script).read_text(encoding="utf-8") for script in scripts}
    try:
        for path, wanted in texts.items():
            if path.exists() and not force and path.read_text(encoding="utf-8", errors="replace") != wanted:
                fail(f"{path} is there already; --force writes over it", REFUSED)
        folder.mkdir(parents=True, exist_ok=True)
        for path, wanted in texts.items():
            path.write_text(wanted, encoding="utf-8")
            if path != file:
                path.chmod(0o755)
            typer.echo(f"wrote {path}")
    except OSError as error:
        if error.filename is None:  # a full disk: for whoever has called all this
            raise
        fail(f"cannot write {error.filename}: {error.strerror}", REFUSED)


def _next(file: Path, models: list[str], notes: Sequence[str]) -> None:
    import shlex

    option = "" if file == DEFAULT_CONFIG else f" -c {shlex.quote(str(file))}"
    typer.echo("")
    for note in notes:
        typer.echo(f"Note: {note}")
    typer.echo(f"Next: llmux check{option}")
    typer.echo(f"      llmux hook run {shlex.quote(models[0])} wake{option}")
    typer.echo(f"      llmux{option}")
